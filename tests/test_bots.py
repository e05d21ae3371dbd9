"""The examples of `docs/bots.md` run as they stand, and do what is said of them.

What the library does is tested in `tests/test_client_*.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path

import pytest

from tests.raw import DEADLINE, in_base64
from tests.service import ROOT, Service, wait_for

PROGRAMS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "bots.md").read_text(), re.M | re.S)
ECHO, FILES, FRIEND, BRIDGE = PROGRAMS


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server of their own, as each of them registers under its name."""
    with Service(tmp_path_factory.mktemp("bots")).running() as server:
        yield server


@pytest.fixture
def start(chat: Service, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts one of the programs."""

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        assert program.count("8080") == 1
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program.replace("8080", str(chat.port)), *arguments],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return run


@contextmanager
def running(program: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        program.kill()
        _, said = program.communicate(timeout=DEADLINE)
        assert "Traceback" not in said, said


def find(chat: Service, name: str) -> int:
    """The id of a bot, once it is there."""
    person = chat.user()
    found: list[int] = []

    def there() -> bool:
        answer = person.ask("SEARCHUSR", {"username": in_base64(name)})
        found[:] = [answer.body["userid"]] if answer.ok else []
        return answer.ok

    wait_for(there, f"{name} has registered")
    return found[0]


def test_the_echo_answers_and_goes_on_where_it_was(
    chat: Service, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with running(start(ECHO)):
        bot, person = find(chat, "echo"), chat.user()
        person.ask("SENDMSG", person.message(bot, in_base64("hello")))
        assert person.push()["content"] == in_base64("hello")
    person.ask("SENDMSG", person.message(bot, in_base64("again")))
    with running(start(ECHO)):
        while (echoed := person.push()["content"]) != in_base64("again"):
            assert echoed == in_base64("hello")  # it was killed before it had acknowledged that
        person.ask("SENDMSG", person.message(bot, in_base64("last")))
        assert person.push()["content"] == in_base64("last")


def test_the_bot_that_takes_files_has_them(
    chat: Service, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with running(start(FILES)):
        bot, person = find(chat, "files"), chat.user()
        data = b"x" * 1000
        message = person.say(bot, "YS5iaW4=", data, contenttype="file", filemd5=md5(data).hexdigest())
        assert person.push()["content"] == in_base64("I have 1000 bytes of yours.")
        [name] = (tmp_path / "inbox").iterdir()
        assert name.name == "{userid}-{timestamp}".format_map(message)
        assert name.read_bytes() == data


def test_the_bot_that_makes_friends_does_so_at_once(
    chat: Service, start: Callable[..., subprocess.Popen[str]]
) -> None:
    with running(start(FRIEND)):
        bot, person = find(chat, "friend"), chat.user()
        assert person.ask("ADDCONTACT", {"userid": bot}).ok
        assert person.answer().response == "FETCHCONTACT"
        assert person.push()["content"] == in_base64(f"Hello, {person.name}!")
        assert [one["userid"] for one in person.ask("FETCHCONTACT").body["contacts"]] == [bot]


def test_the_bridge_posts_what_it_reads(chat: Service, start: Callable[..., subprocess.Popen[str]]) -> None:
    person = chat.user()
    bridge = start(BRIDGE, person.name)
    _, said = bridge.communicate("one\ntwo\n", timeout=DEADLINE)
    assert (bridge.returncode, said) == (0, "")
    assert [message["content"] for message in person.fetch()] == [in_base64("one"), in_base64("two")]
