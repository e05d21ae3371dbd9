"""Options: each value from each source, what goes first, and sentences for whatever is wrong."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins
from twisted.python import usage

from chatsvc import __version__
from chatsvc.kinds import rate, show_rate, show_size, size
from chatsvc.options import Options
from chatsvc.settings import ROWS, Row, Settings
from chatsvc.store.url import StoreUrl
from chatsvc.wire.limits import GIB, JSON_CEILING, KIB, MIB, PAYLOAD_CEILING, Limits, Rate

SECRET = "hunter2"
#: Another value than the default for each option, as written and as read.
OTHER: dict[str, tuple[str, object]] = {
    "listen": ("tcp:1:interface=127.0.0.1", ("tcp:1:interface=127.0.0.1",)),
    "port": ("2", ("tcp:2",)),
    "data-dir": ("/somewhere", Path("/somewhere")),
    "redis": (f"redis://:{SECRET}@store", StoreUrl(kind="tcp", host="store", password=SECRET)),
    "durability": ("everysec", "everysec"),
    "replica-acks": ("2", 2),
    "workers": ("3", 3),
    "http": ("tcp:9090:interface=127.0.0.1", "tcp:9090:interface=127.0.0.1"),
    "web": ("tcp:8081:interface=127.0.0.1", "tcp:8081:interface=127.0.0.1"),
    "web-origin": ("https://Example.org:8443", ("https://example.org:8443",)),
    "config": ("/dev/null", Path("/dev/null")),
    "bcrypt-cost": ("4", 4),
    "bcrypt-threads": ("2", 2),
    "bcrypt-queue": ("8", 8),
    "registration": ("invite", "invite"),
    "max-json": ("1MiB", MIB),
    "max-payload": ("0", 0),
    "max-avatar": ("64 kib", 64 * KIB),
    "max-answer-bytes": ("4096", 4096),
    "max-answer-messages": ("1", 1),
    "max-unfinished": ("1GiB", GIB),
    "max-unfinished-unbound": ("32MiB", 32 * MIB),
    "frame-timeout": ("0.5", 0.5),
    "unbound-idle": ("90", 90.0),
    "unbound-per-address": ("1000", 1000),
    "read-ahead": ("1", 1),
    "send-buffer": ("1MiB", MIB),
    "send-timeout": ("1.25", 1.25),
    "max-inline": ("0", 0),
    "min-free-store": ("1GiB", GIB),
    "min-free-files": ("0", 0),
    "max-connections": ("100", 100),
    "connections-per-address": ("none", None),
    "connections-per-user": ("7", 7),
    "devices-per-user": ("3", 3),
    "passwords-per-address": ("1", 1),
    "quota": ("10MiB", 10 * MIB),
    "accept-rate": ("none", None),
    "connection-rate": ("1,1/s", Rate(1, 1.0)),
    "registration-rate": ("3,10/h", Rate(3, 10 / 3600)),
    "account-failures": ("6,12/h", Rate(6, 12 / 3600)),
    "address-failures": ("7,1/day", Rate(7, 1 / 86400)),
    "token-rate": ("1,1/min", Rate(1, 1 / 60)),
    "message-rate": ("100,20/s", Rate(100, 20.0)),
    "people-rate": ("none", None),
    "request-rate": ("5,5/s", Rate(5, 5.0)),
    "stranger-rate": ("20,20/day", Rate(20, 20 / 86400)),
}


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    """In a fresh environment Twisted imports all its plugins to know the types of endpoints; some warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(getPlugins(IStreamServerEndpointStringParser))


#: Options that are only allowed together with others.
TOGETHER = {"replica-acks": {"CHATSVC_REDIS": "redis://store"}}
each_row = pytest.mark.parametrize("row", [row for row in ROWS if not row.flag], ids=lambda row: row.name)


def parse_into(options: Options, *arguments: str) -> Settings:
    options.parseOptions(arguments)  # type: ignore[no-untyped-call]
    return options.settings()


def parsed(*arguments: str, **environ: str) -> Settings:
    return parse_into(Options(environ), *arguments)


def refusal(*arguments: str, **environ: str) -> str:
    with pytest.raises(usage.UsageError) as refused:
        parsed(*arguments, **environ)
    return str(refused.value)


def value_of(settings: Settings, row: Row) -> Any:
    return getattr(settings.limits if row.field in Limits.__struct_fields__ else settings, row.field)


def test_without_options_everything_has_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed() == Settings(
        listen=("tcp:8080",),
        data_dir=tmp_path / "chatsvc-data",
        redis=None,
        durability="always",
        replica_acks=0,
        bcrypt_cost=12,
        bcrypt_threads=None,
        bcrypt_queue=64,
        workers=1,
        http=None,
        web=None,
        web_origin=None,
        config=None,
        limits=Limits(),
    )


def test_every_setting_and_every_limit_has_an_option() -> None:
    fields = {*Settings.__struct_fields__, *Limits.__struct_fields__} - {"limits"}
    assert {row.field for row in ROWS} - {"unlimited"} == fields


@pytest.mark.parametrize("way", ["--unlimited", "CHATSVC_UNLIMITED", "true", '"yes"'])
def test_unlimited_lifts_all_rates_and_caps_at_once(way: str, tmp_path: Path) -> None:
    config = tmp_path / "chatsvc.toml"
    config.write_text(f"unlimited = {way}")
    arguments = {"--unlimited": [way], "CHATSVC_UNLIMITED": []}.get(way, ["--config", str(config)])
    limits = parsed(*arguments, **{way: "yes"} if way.isupper() else {}).limits
    lifted = {row.field for row in ROWS if row.lifted}
    assert {name for name in Limits.__struct_fields__ if getattr(limits, name) is None} == lifted
    assert all(
        getattr(limits, name) == getattr(Limits(), name) for name in {*Limits.__struct_fields__} - lifted
    )


def test_a_cap_that_is_named_is_not_lifted() -> None:
    limits = parsed("--unlimited", "--message-rate", "5,1/s", CHATSVC_QUOTA="1GiB").limits
    assert (limits.message_rate, limits.quota, limits.people_rate) == (Rate(5, 1.0), GIB, None)
    assert parsed(CHATSVC_UNLIMITED="no") == parsed()
    assert "allowed is yes or no" in refusal(CHATSVC_UNLIMITED="1")


@given(st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1), st.sampled_from(["s", "min", "h", "day"]))
def test_a_rate_that_is_shown_can_be_read_again(burst: int, count: int, period: str) -> None:
    read = rate().read(f"{burst},{count}/{period}")
    shown = rate().read(show_rate(read))
    assert shown.burst == burst
    assert shown.per_second == pytest.approx(read.per_second)


@pytest.mark.parametrize(
    "text", ["0,1/s", "1,0/s", "1", "1/s", "1,1", "1,1/ms", "1, 1/s", "-1,1/s", "1,1.5/s"]
)
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    assert "allowed is a rate such as 60,10/s" in refusal(f"--message-rate={text}")


@each_row
def test_each_option_is_set_by_the_command_line(row: Row) -> None:
    text, expected = OTHER[row.name]
    assert value_of(parsed(), row) != expected
    assert value_of(parsed(f"--{row.name}", text, **TOGETHER.get(row.name, {})), row) == expected


@each_row
def test_each_option_is_set_by_a_variable_or_a_file(row: Row, tmp_path: Path) -> None:
    text, expected = OTHER[row.name]
    file = tmp_path / "value"
    file.write_text(f" {text}\n")
    variable = f"CHATSVC_{row.name.replace('-', '_').upper()}"
    more = TOGETHER.get(row.name, {})
    assert value_of(parsed(**more, **{variable: f" {text}\n"}), row) == expected
    assert value_of(parsed(**more, **{f"{variable}_FILE": str(file)}), row) == expected


@each_row
def test_the_command_line_goes_before_the_environment(row: Row) -> None:
    text, expected = OTHER[row.name]
    environ = {row.variable: "nonsense"} | TOGETHER.get(row.name, {})
    assert value_of(parsed(f"--{row.name}", text, **environ), row) == expected


@each_row
def test_a_wrong_value_is_named_with_where_it_came_from(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("\0")
    for message, source in (
        (refusal(f"--{row.name}", "\0"), f"--{row.name} "),
        (refusal(**{row.variable: "\0"}), f"{row.variable} "),
        (refusal(**{f"{row.variable}_FILE": str(file)}), f"{row.variable}_FILE "),
    ):
        assert message.startswith(source)
        assert row.kind.allowed in message
        assert row.secret or repr("\0") in message


@each_row
def test_an_empty_value_is_refused_on_the_command_line_and_in_a_file(row: Row, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text(" \n")
    assert row.kind.allowed in refusal(f"--{row.name}=")
    assert "which is empty" in refusal(**{f"{row.variable}_FILE": str(file)})


@each_row
def test_an_empty_variable_counts_as_not_set(row: Row) -> None:
    assert parsed(**{row.variable: " ", f"{row.variable}_FILE": ""}) == parsed()


@each_row
def test_a_variable_and_its_file_together_are_refused(row: Row) -> None:
    message = refusal(**{row.variable: OTHER[row.name][0], f"{row.variable}_FILE": "/run/secret"})
    assert f"{row.variable} and {row.variable}_FILE are both set" in message
    assert SECRET not in message


def test_unknown_variables_are_ignored_and_unknown_options_are_not() -> None:
    assert parsed(CHATSVC_SOMETHING_ELSE="1", CHATSVC_MAX_JSON_FILES="x") == parsed()
    assert "--max-jsons" in refusal("--max-jsons", "1MiB")
    refusal("8080")


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSVC_BCRYPT_COST", "5")
    assert parse_into(Options()).bcrypt_cost == 5


@pytest.mark.parametrize(
    ("arguments", "environ", "listen"),
    [
        (["--port", "0"], {}, ("tcp:0",)),
        (["--port", "65535"], {}, ("tcp:65535",)),
        (["--port", "1", "--listen", "tcp:2", "--listen", "tcp6:3"], {}, ("tcp:2", "tcp6:3", "tcp:1")),
        ([], {"CHATSVC_LISTEN": "tcp:1 unix:/run/a\n tcp:2"}, ("tcp:1", "unix:/run/a", "tcp:2")),
        ([], {"CHATSVC_LISTEN": "tcp:1", "CHATSVC_PORT": "2 3"}, ("tcp:1", "tcp:2", "tcp:3")),
        (["--port", "1"], {"CHATSVC_LISTEN": "tcp:2"}, ("tcp:1",)),
        (["--listen", "tcp:1"], {"CHATSVC_PORT": "2"}, ("tcp:1",)),
        (["--listen", "haproxy:tcp:80"], {}, ("haproxy:tcp:80",)),
    ],
)
def test_addresses_add_up_within_a_source(
    arguments: list[str], environ: dict[str, str], listen: tuple[str, ...]
) -> None:
    assert parsed(*arguments, **environ).listen == listen


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("8080", "Unknown endpoint type"),
        ("http:8080", "Unknown endpoint type"),
        ("tcp", "port"),
        ("tcp:http", "'http'"),
        ("tcp:65536", "from 0 to 65535"),
        ("tcp:-1", "from 0 to 65535"),
        ("tcp:port=70000:interface=127.0.0.1", "from 0 to 65535"),
        ("ssl:70000", "from 0 to 65535"),
        ("tcp:80:color=red", "color"),
        ("tcp:80\\", "Twisted says"),
        ("ssl:443:privateKey=/nonexistent/key.pem", "No such file or directory: '/nonexistent/key.pem'"),
        ("systemd:domain=INET:name=chat", "chat"),
        ("haproxy:http:80", "Unknown endpoint type"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_at_once(endpoint: str, said: str) -> None:
    message = refusal("--listen", "tcp:0", "--listen", endpoint)
    assert message.startswith(f"--listen cannot be {endpoint!r}; allowed is a Twisted endpoint such as ")
    assert said in message


def test_a_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    assert "allowed is a Twisted endpoint" in refusal("--listen", f"ssl:443:privateKey={key}")


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8080 ", "0x50", "1e3", "٣"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert refusal("--port", port).startswith(
        f"--port cannot be {port!r}; allowed is a whole number from 0 to"
    )


@pytest.mark.parametrize(
    ("option", "least", "most", "beyond"),
    [
        ("bcrypt-cost", "4", "16", ["3", "17", "-4", "12.0"]),
        ("max-json", "16KiB", str(JSON_CEILING), ["16383", "16MiB", "1G", "1MB", "MiB", "1.5MiB", "1  MiB"]),
        ("max-payload", "0", str(PAYLOAD_CEILING), ["-1", "2GiB", "9" * 5000]),
        ("max-avatar", "0", str(JSON_CEILING), ["16MiB"]),
        ("max-answer-messages", "1", "100000", ["0", "100001", "1KiB"]),
        ("unbound-per-address", "1", "1000000", ["0"]),
        ("read-ahead", "1", "10000", ["0"]),
        ("send-buffer", "4KiB", "1GiB", ["0", "4095"]),
        ("frame-timeout", "0.1", "86400", ["0", "0.09", "86401", "inf", "nan", "1m", "1e3", "-1", ".5"]),
    ],
)
def test_ranges_hold_at_both_ends(option: str, least: str, most: str, beyond: list[str]) -> None:
    row = next(row for row in ROWS if row.name == option)
    for text in (least, most):
        assert value_of(parsed(f"--{option}", text), row) == row.kind.read(text)
    for text in beyond:
        assert refusal(f"--{option}={text}").endswith(f"; allowed is {row.kind.allowed}.")


@pytest.mark.parametrize("durability", ["never", "ALWAYS", "always everysec"])
def test_durability_is_one_of_two_words(durability: str) -> None:
    assert "always or everysec" in refusal("--durability", durability)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max-unfinished-unbound", "8MiB"],
            "--max-json (16777215) cannot be over --max-unfinished-unbound (8MiB).",
        ),
        (
            ["--max-unfinished", "32MiB"],
            "--max-unfinished-unbound (64MiB) cannot be over --max-unfinished (32MiB).",
        ),
    ],
)
def test_limits_that_would_stop_a_frame_for_ever_are_refused(arguments: list[str], message: str) -> None:
    assert refusal(*arguments) == message


def test_limits_that_fit_together_are_taken() -> None:
    limits = parsed("--max-unfinished=1MiB", "--max-unfinished-unbound=1MiB", "--max-json=1MiB").limits
    assert (limits.json, limits.unfinished_unbound, limits.unfinished) == (MIB, MIB, MIB)


def test_replicas_of_a_store_of_its_own_are_refused() -> None:
    assert refusal("--replica-acks", "1") == (
        "--replica-acks needs --redis: the server's own store has no replicas."
    )
    assert parsed("--replica-acks", "1", "--redis", "redis://store").replica_acks == 1


@pytest.mark.parametrize("source", ["--redis", "CHATSVC_REDIS", "CHATSVC_REDIS_FILE"])
def test_a_wrong_store_address_is_refused_without_its_password(source: str, tmp_path: Path) -> None:
    address = f"redis://:{SECRET}@store:port"
    file = tmp_path / "redis"
    file.write_text(address)
    given = {"--redis": address, "CHATSVC_REDIS": address, "CHATSVC_REDIS_FILE": str(file)}[source]
    message = refusal(source, given) if source.startswith("--") else refusal(**{source: given})
    assert message.startswith(f"{source} is not valid; allowed is a redis://")
    assert "The port has to be a whole number" in message
    assert SECRET not in message


def test_no_password_shows_in_options_or_settings() -> None:
    options = Options({})
    settings = parse_into(options, "--redis", f"redis://:{SECRET}@store")
    assert settings.redis is not None
    assert settings.redis.password == SECRET
    assert SECRET not in f"{options} {options!r} {dict(options)} {settings!r}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "'/nonexistent', which cannot be read" in refusal(CHATSVC_REDIS_FILE="/nonexistent")
    assert "which cannot be read" in refusal(CHATSVC_REDIS_FILE=str(tmp_path))
    (tmp_path / "latin").write_bytes(b"redis://:\xff@store")
    assert "which is not UTF-8 text" in refusal(CHATSVC_REDIS_FILE=str(tmp_path / "latin"))


def test_the_last_of_several_values_counts() -> None:
    assert parsed("--bcrypt-cost", "5", "--bcrypt-cost", "6").bcrypt_cost == 6


def test_a_relative_data_directory_is_where_the_server_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed("--data-dir", "data").data_dir == tmp_path / "data"


def test_help_explains_every_option_and_the_environment() -> None:
    text = re.sub(r"\s+", " ", str(Options({})))
    for row in ROWS:
        assert f"--{row.name}{'' if row.flag else '='} " in text
        assert f"{row.meaning} Allowed: {row.kind.allowed}. Default: " in text
    for word in ("CHATSVC_MAX_JSON", "CHATSVC_REDIS_FILE", "CHATSVC_LISTEN"):
        assert word in text


def test_version_is_that_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"chatsvc {__version__}\n"


def test_zsh_completes_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    output = BytesIO()
    options = Options({})
    monkeypatch.setattr(options, "_shellCompFile", output)
    with pytest.raises(SystemExit):
        parse_into(options, "--_shell-completion", "zsh:2")
    script = output.getvalue().decode()
    assert "*--listen=[" in script
    assert ":data-dir:_directories" in script


@each_row
def test_the_default_reads_as_itself(row: Row) -> None:
    if row.default:
        assert parsed(f"--{row.name}", row.default) == parsed()


@given(st.integers(0, 2**40))
def test_sizes_are_shown_as_they_are_read(number: int) -> None:
    assert size(0, 2**40).read(show_size(number)) == number
