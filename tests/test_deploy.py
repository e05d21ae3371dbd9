"""What lies in deploy/, and the Dockerfile, fits the server: options, ports, files and the names of figures.

That the image and the compose file run cannot be tried here; HAProxy is, in test_deploy_haproxy.py.
"""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from chatsvc import __version__
from chatsvc.net.server import DRAIN
from chatsvc.options import Options
from chatsvc.settings import ROWS, Settings
from deploy import healthcheck
from tests.service import ROOT, Service, Valkey

DEPLOY = ROOT / "deploy"
#: What `docker compose` takes when nothing is set.
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def text(name: str) -> str:
    return (DEPLOY / name).read_text()


def settings(environ: dict[str, Any], *arguments: str) -> Settings:
    """What a server makes of them; it refuses what it does not know, but not variables."""
    known = {row.variable for row in ROWS}
    assert {name.removesuffix("_FILE") for name in environ} <= known
    options = Options({name: str(value) for name, value in environ.items()})
    options.parseOptions(list(arguments))  # type: ignore[no-untyped-call]
    return options.settings()


def environment_file(name: str) -> dict[str, str]:
    lines = [line for line in text(name).splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def compose(**environ: str) -> dict[str, Any]:
    """The compose file as it is with these variables."""
    filled = _VARIABLE.sub(lambda found: environ.get(found[1], found[2]), text("docker-compose.yml"))
    loaded = yaml.safe_load(filled)
    assert isinstance(loaded, dict)
    return loaded


def listening(of: Settings, kind: str) -> list[str]:
    """The ports of some kind of endpoint."""
    return [
        endpoint.split(":")[-1] for endpoint in of.listen if re.fullmatch(rf"{re.escape(kind)}:\d+", endpoint)
    ]


# -- the image -------------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.M)


def image_environment() -> dict[str, str]:
    pairs = dict(word.split("=", 1) for line in instructions("ENV") for word in line.split())
    return {name: value for name, value in pairs.items() if name.startswith("CHATSVC_")}


def test_the_image_is_made_of_files_that_are_there_and_let_in() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    sources = [source for line in copied for source in line]
    assert sorted(sources) == sorted(let_in)
    assert all((ROOT / source).exists() for source in sources)
    # All that the wheel is built from.
    packages = configparser.ConfigParser()
    packages.read(ROOT / "setup.cfg")
    needed = {name.split(".")[0] for name in packages["options"]["packages"].split()}
    assert needed | {"setup.cfg", "pyproject.toml"} <= set(sources)
    assert any(fnmatch.fnmatch("a/__pycache__", rule) for rule in rules)


def test_stages_that_are_copied_from_exist() -> None:
    stages = {line.split()[-1] for line in instructions("FROM") if " AS " in line}
    used = {found for line in instructions("COPY") for found in re.findall(r"--from=(\S+)", line)}
    assert used == stages


def test_the_image_runs_the_plugin_as_nobody() -> None:
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [
        ["twistd", "-n", "--pidfile=", "chatsvc"]
    ]
    assert instructions("USER") == ["10001:10001"]
    assert instructions("VOLUME") == ["/data"]
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    found = settings(image_environment())
    assert str(found.data_dir) == "/data"
    assert listening(found, "tcp") == instructions("EXPOSE")
    assert found.http == f"tcp:{healthcheck.PORT}:interface=127.0.0.1"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bytes]]]:
    """A server on the port that the health check asks; the test says what it answers, once."""
    given: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = given.pop() if self.path == "/readyz" else (404, b"")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(healthcheck, "PORT", server.server_address[1])
        Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield given
        finally:
            server.shutdown()


@pytest.mark.parametrize(("status", "said", "exits"), [(200, "ready", 0), (503, "The store is away.", 1)])
def test_the_health_check_says_what_the_server_says(
    answers: list[tuple[int, bytes]],
    capsys: pytest.CaptureFixture[str],
    status: int,
    said: str,
    exits: int,
) -> None:
    answers.append((status, said.encode() + b"\n"))
    assert healthcheck.main() == exits
    assert capsys.readouterr().out == f"{said}\n"


def test_the_health_check_fails_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(healthcheck, "PORT", 1)
    assert healthcheck.main() == 1
    assert "does not answer" in capsys.readouterr().out


# -- compose ---------------------------------------------------------------------------------------

COMPOSE = compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = ("server", "server-2")


def published(service: dict[str, Any]) -> dict[str, str]:
    """The ports outside, with those inside."""
    return dict(port.rsplit(":", 1) for port in service.get("ports", ()))


@pytest.mark.parametrize("node", NODES)
def test_nodes_get_settings_that_they_understand(node: str) -> None:
    found = settings(image_environment() | SERVICES[node]["environment"])
    assert found.redis is not None
    assert found.redis.safe == "redis://redis:6379/0"
    assert "redis" in SERVICES
    assert found.http == f"tcp:{healthcheck.PORT}"
    (port,) = listening(found, "tcp")
    assert set(published(SERVICES[node]).values()) <= {port}


def test_ports_of_the_clients() -> None:
    assert set(published(SERVICES["server"])) == {"8080", "20706"}
    # Whoever reaches the port of the PROXY protocol can claim any address.
    inside = [port for service in SERVICES.values() for port in published(service).values()]
    (proxied,) = listening(settings(SERVICES["server"]["environment"]), "haproxy:tcp")
    assert proxied not in inside


def test_haproxy_passes_on_to_the_nodes() -> None:
    configuration = text("haproxy.cfg")
    (proxied,) = listening(settings(SERVICES["server"]["environment"]), "haproxy:tcp")
    servers = re.findall(r"^ +server (\S+) (\S+)$", configuration, re.M)
    assert servers == 2 * [(node, f"{node}:{proxied}") for node in NODES]
    assert "default-server send-proxy-v2 " in configuration
    assert f"check port {healthcheck.PORT} " in configuration
    (bound,) = published(SERVICES["haproxy"]).values()
    assert f"    bind :{bound}\n" in configuration


def test_sentinels_are_those_of_the_compose_file() -> None:
    environ = environment_file("sentinel.env")
    filled = compose(**environ)["services"]
    found = settings(filled["server"]["environment"])
    assert found.redis is not None
    profile = environ["COMPOSE_PROFILES"]
    in_profile = {name for name, service in filled.items() if profile in service.get("profiles", ())}
    assert {host for host, _ in found.redis.hosts} == {name for name in in_profile if "sentinel" in name}
    assert f"sentinel monitor {found.redis.service} PRIMARY 6379 2" in text("sentinel.conf").splitlines()
    # One more than are waited for, or the loss of any store would stop all writing.
    assert len(in_profile & {"redis-2", "redis-3"}) == found.replica_acks + 1
    primary = filled["redis"]["networks"]["store"]["ipv4_address"]
    assert {filled[name]["environment"]["PRIMARY"] for name in in_profile} == {primary}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_shut_in(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert int(service["ulimits"]["nofile"]["hard"]) > 0
    assert "privileged" not in service
    # Nothing of the host is there to be written.
    assert all(volume.endswith((":/data", ":ro")) for volume in service.get("volumes", ()))
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith("./"):
            assert (DEPLOY / source).is_file()
        else:
            assert source in COMPOSE["volumes"]
            assert target == "/data"  # where the images of both declare theirs: what lies there survives


def test_nobody_but_servers_and_sentinels_reaches_the_store() -> None:
    assert COMPOSE["networks"]["store"]["internal"] is True
    for name in ("redis", "redis-2", "redis-3"):
        assert list(SERVICES[name]["networks"]) == ["store"]
        assert "ports" not in SERVICES[name]
    assert SERVICES["server"]["depends_on"] == {"redis": {"condition": "service_healthy"}}


# -- the store -------------------------------------------------------------------------------------


def test_a_server_finds_nothing_wrong_with_redis_conf(
    valkey: Callable[..., Valkey], service: Callable[..., Service]
) -> None:
    # The last word is the tests': where it listens.
    own = ("--bind", "127.0.0.1", "--unixsocket", "valkey.sock")
    store = valkey("--include", str(DEPLOY / "redis.conf"), *own).start()
    with service("--redis", f"unix://{store.socket_path}").running() as server:
        assert [line for line in server.log().splitlines() if "#warn" in line] == []
    told = store.ask("CONFIG GET append*", "CONFIG GET maxmemory*", "CONFIG GET save")
    for name, value in (("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")):
        assert f"{name}\r\n${len(value)}\r\n{value}\r\n".encode() in told


# -- systemd ---------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """The assignments of chatsvc.service."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text("chatsvc.service"), re.M):
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_a_server_with_its_settings(tmp_path: Path) -> None:
    (start,) = unit()["ExecStart"]
    arguments = start.split(" chatsvc ", 1)[1].replace("/etc/chatsvc", str(DEPLOY)).split()
    environ = dict(line.replace("%S", str(tmp_path)).split("=", 1) for line in unit()["Environment"])
    found = settings(environ, *arguments)
    assert found.data_dir == tmp_path / unit()["StateDirectory"][0]
    assert found.http == f"tcp:{healthcheck.PORT}:interface=127.0.0.1"
    assert tomllib.loads(text("chatsvc.toml"))["listen"] == list(found.listen)


def test_the_unit_lets_the_server_end_in_order() -> None:
    assert unit()["Type"] == ["notify"]
    assert unit()["KillMode"] == ["mixed"]  # the store gets no SIGTERM beside the server
    assert int(unit()["TimeoutStopSec"][0]) > DRAIN
    assert unit()["ExecReload"] == ['/bin/sh -c "kill -HUP $MAINPID"']


def test_the_unit_shuts_the_server_in() -> None:
    settings = unit()
    assert settings["User"] == ["chatsvc"]
    assert settings["CapabilityBoundingSet"] == [""]
    assert settings["NoNewPrivileges"] == ["yes"]
    # Everything is read-only but its state.
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["StateDirectory"] == ["chatsvc"]
    assert not {"ReadWritePaths", "AmbientCapabilities"} & set(settings)
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= set(settings)


def test_the_unit_lets_the_server_speak_tls() -> None:
    # It was tried: "Cannot allocate write+execute memory for ffi.callback()".
    assert "MemoryDenyWriteExecute" not in unit()


def run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "chatsvc.service"
    copy.write_text(text("chatsvc.service").replace("/opt/chatsvc/bin/twistd", sys.executable))
    run("systemd-analyze", "verify", "--man=no", str(copy))


# -- scripts, figures and the document -------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_scripts_are_shell(name: str) -> None:
    run("sh", "-n", str(DEPLOY / name))


ALERTS = [rule for group in yaml.safe_load(text("alerts.yml"))["groups"] for rule in group["rules"]]
DASHBOARD = json.loads(text("grafana-dashboard.json"))
FIGURES = (ROOT / "docs" / "metrics.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for rule in ALERTS]


def test_figures_that_are_used_exist() -> None:
    # docs/metrics.md is held to the server's own list by test_metrics.py.
    rows = dict(re.findall(r"^\| `(chatsvc_\w+)` \| (\w+) \|", FIGURES, re.M))
    exist = {
        name + suffix
        for name, kind in rows.items()
        for suffix in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }
    used = {name for expr in expressions() for name in re.findall(r"\b(?:chatsvc|process)_\w+", expr)}
    of_the_library = {name for name in used if name.startswith("process_")}
    assert used - of_the_library <= exist
    assert of_the_library <= {
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
    }


def test_every_alarm_is_explained() -> None:
    named = re.findall(r"\bChatsvc\w+", OPERATIONS.partition("### Alarms")[2].partition("\n## ")[0])
    assert {rule["alert"] for rule in ALERTS} == set(named)


def test_panels_have_room() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_prometheus_understands_what_it_gets(tmp_path: Path) -> None:
    run("promtool", "check", "config", str(DEPLOY / "prometheus.yml"))
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(expressions())
    ]
    copy = tmp_path / "rules.yml"
    copy.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run("promtool", "check", "rules", str(copy))


def test_prometheus_asks_the_nodes() -> None:
    (job,) = yaml.safe_load(text("prometheus.yml"))["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    assert targets == [f"{node}:{healthcheck.PORT}" for node in NODES]
    assert all(f'job="{job["job_name"]}"' in rule["expr"] for rule in ALERTS if "up{" in rule["expr"])
