"""The file of ``--config``: what may stand there, what goes before it, and what is read again.

What goes before what else is tested in tests/test_options.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chatsvc.options import Options
from chatsvc.settings import ROWS, Row, decode, encode
from chatsvc.wire.limits import MIB
from tests.service import ROOT
from tests.test_options import OTHER, TOGETHER, parsed, refusal, value_of

SET_BY_FILE = [row for row in ROWS if row.name != "config" and not row.flag]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chatsvc.toml"


def test_a_file_may_be_empty(file: Path) -> None:
    file.write_text("# Nothing is set yet.\n")
    assert parsed("--config", str(file)) == parsed(CHATSVC_CONFIG=str(file))
    assert parsed("--config", str(file)).limits == parsed().limits


@pytest.mark.parametrize("row", SET_BY_FILE, ids=lambda row: row.name)
def test_a_file_sets_each_option_and_everything_else_goes_before_it(row: Row, file: Path) -> None:
    text, expected = OTHER[row.name]
    file.write_text(f"{row.name} = {json.dumps(text)}\n")
    more = TOGETHER.get(row.name, {})
    assert value_of(parsed("--config", str(file), **more), row) == expected
    file.write_text(f'{row.name} = "nonsense"\n')
    assert value_of(parsed("--config", str(file), **more, **{row.variable: text}), row) == expected
    assert value_of(parsed("--config", str(file), f"--{row.name}", text, **more), row) == expected


@pytest.mark.parametrize(
    ("toml", "field", "expected"),
    [
        ("bcrypt-cost = 5", "bcrypt_cost", 5),
        ('listen = ["tcp:1", "unix:/run/a"]', "listen", ("tcp:1", "unix:/run/a")),
        ('listen = "tcp:1"\nport = [2, 3]', "listen", ("tcp:1", "tcp:2", "tcp:3")),
    ],
)
def test_numbers_and_lists_are_written_as_toml_has_them(
    file: Path, toml: str, field: str, expected: Any
) -> None:
    file.write_text(toml)
    assert getattr(parsed("--config", str(file)), field) == expected


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("max-jsn = 1", "has the key 'max-jsn'; allowed are listen, port, data-dir,"),
        ('config = "other.toml"', "has the key 'config'"),
        ("[limits]\nmax-json = 1", "has the key 'limits'"),
        ('max-json = "many"', ": max-json cannot be 'many'; allowed is a number of bytes"),
        ('listen = ["tcp:1", "nowhere"]', ": listen cannot be 'nowhere'"),
        ("max-json = [1]", ": max-json has to be a string or a number; allowed is a number of bytes"),
        ("workers = true", ": workers has to be a string or a number"),
        ("listen = [[]]", ": listen has to be a string, a number or a list of them"),
        ('redis = "redis://:hunter2@store:port"', ": redis is not valid; allowed is a redis://"),
        ("max-json = ", "is not valid TOML: "),
        ("frame-timeout = inf", ": frame-timeout cannot be 'inf'"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(file: Path, toml: str, why: str) -> None:
    file.write_text(toml)
    message = refusal("--config", str(file))
    assert message.startswith(str(file))
    assert why in message
    assert "hunter2" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "--config names '/nonexistent', which cannot be read" in refusal("--config", "/nonexistent")
    (tmp_path / "latin").write_bytes(b"\xff")
    assert "which is not UTF-8 text" in refusal("--config", str(tmp_path / "latin"))


def test_the_readmes_file_is_one(file: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    without_certificate = re.sub(r', "ssl:[^"]*"', "", example)
    assert without_certificate != example
    file.write_text(without_certificate)
    assert parsed("--config", str(file)).workers > 1


def test_files_are_read_again_and_the_rest_stays_as_it_was(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = tmp_path / "value"
    value.write_text("1MiB")
    file.write_text("bcrypt-cost = 5")
    options = Options({"CHATSVC_MAX_PAYLOAD_FILE": str(value)})
    options.parseOptions(["--config", "chatsvc.toml", "--data-dir", "data"])  # type: ignore[no-untyped-call]
    first = options.settings()
    value.write_text("2MiB")
    file.write_text("bcrypt-cost = 6")
    monkeypatch.chdir("/")  # as a daemon may
    again = options.read()
    assert (first.limits.payload, again.limits.payload) == (MIB, 2 * MIB)
    assert (first.bcrypt_cost, again.bcrypt_cost) == (5, 6)
    assert again.data_dir == first.data_dir == tmp_path / "data"


@pytest.mark.parametrize("row", SET_BY_FILE, ids=lambda row: row.name)
def test_settings_travel_to_another_process(row: Row) -> None:
    settings = parsed(f"--{row.name}", OTHER[row.name][0], **TOGETHER.get(row.name, {}))
    assert decode(encode(settings)) == settings
    assert b"\n" not in encode(settings)
