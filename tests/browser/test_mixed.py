"""Two people with two devices each, no two alike: a page and a terminal, the command and a released client.

They write to each other, and all four have the same conversation then.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from typing import Any

from tests.browser.person import Person, png
from tests.command import Command
from tests.raw import DEADLINE, Raw, in_base64, unique
from tests.service import ROOT, Service, wait_for

FILE = secrets.token_bytes(100_000)
PICTURE = png(3, 2)


class Terminal:
    """The terminal client in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls, profile: str, environment: dict[str, str]) -> Iterator[Terminal]:
        """Started, for a profile that is logged in, and ended afterwards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tui_driver", profile],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate(timeout=DEADLINE)

    def type(self, text: str = "") -> Any:
        """Type a line; gives what is on the screen then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def sees(self, text: str) -> None:
        """Return once the last message reads so."""
        wait_for(lambda: text in "".join(self.type()["said"][-1:]), f"{text!r} is on the terminal")


class Released:
    """The released client: it has what was there by FETCHMSG, the rest as it is pushed, or by sending it."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.messages: list[Any] = []

    def fetch(self) -> None:
        """Its start."""
        self.messages += self.raw.fetch()
        if self.messages:
            self.raw.send("ACKFETCH", {"timestamp": self.messages[-1]["timestamp"]})

    def sees(self, text: str) -> None:
        """Return once that has come."""
        while text not in [b64decode(message["content"]).decode() for message in self.messages]:
            self.messages.append(self.raw.push())

    def says(self, target: int, text: str, **fields: Any) -> None:
        """Send something."""
        self.messages.append(self.raw.say(target, in_base64(text), **fields))


Conversation = list[tuple[str, str]]


def what(kind: str, content: str) -> str:
    """A message in short."""
    return "a picture" if kind == "image" else content


def on_page(alice: Person) -> Conversation:
    """Who said what, as the page has it."""
    found = []
    for article in alice.page.get_by_role("article").all():
        own = "own" in str(article.get_attribute("class")).split()
        said = article.locator("p.text, .file-name, img")
        picture = said.evaluate("element => element.localName") == "img"
        found.append(("alice" if own else "bob", "a picture" if picture else said.inner_text()))
    return found


def on_terminal(terminal: Terminal) -> Conversation:
    """Who said what, as the terminal has it."""
    return [
        ("alice" if own else "bob", what(kind, content)) for own, kind, content in terminal.type()["messages"]
    ]


def by_command(bob: Command, alice: str) -> Conversation:
    """Who said what, as the command has it."""
    return [
        ("alice" if one["from"]["username"] == alice else "bob", what(one["type"], one["content"]))
        for one in bob.records("history", alice)
    ]


def at_released(bob: Released) -> Conversation:
    """Who said what, as the released client has it."""
    return [
        (
            "bob" if one["userid"] == bob.raw.user else "alice",
            what(one["contenttype"], b64decode(one["content"]).decode()),
        )
        for one in bob.messages
    ]


def test_four_devices_of_two_people_have_one_conversation(
    page_server: Service, people: Callable[..., Person], tmp_path: Path
) -> None:
    alices, bobs = unique("alice"), unique("bob")
    alice = people(page_server)
    alice.register(alices)
    bob = Command(tmp_path, page_server, "bob").enter("register", bobs)
    alice.find(bobs)
    alice.box(bobs).wait_for()
    bob.run("add", alices)
    released = Released(page_server.connect())
    released.raw.login(in_base64(bobs), md5(b"a secret").hexdigest())
    released.fetch()
    away = Command(tmp_path, page_server, "alice").enter("login", alices)
    [me] = away.records("whoami")

    with Terminal.running("alice", away.environment) as terminal:
        wait_for(lambda: terminal.type()["people"], "the terminal knows bob")
        terminal.type(f"/open {bobs}")
        alice.write(bobs, "From the page: Grüße \N{GRINNING FACE}")
        terminal.sees("From the page")
        terminal.type("From the terminal")
        released.sees("From the terminal")
        assert len(bob.records("tail", "--once")) == 2  # what is not known yet would come after what is sent
        bob.run("send", alices, "From the command")
        released.sees("From the command")
        released.says(me["userid"], "From the released client")
        alice.sees("From the released client")
        alice.attach({"name": "notes.bin", "mimeType": "", "buffer": FILE})
        alice.sees_stored("notes.bin")
        released.sees("notes.bin")
        released.says(me["userid"], b64encode(PICTURE).decode(), contenttype="image")
        alice.page.get_by_role("img", name=f"Picture from {bobs}").wait_for()
        terminal.sees("[a picture;")

        conversation = on_page(alice)
        assert conversation == [
            ("alice", "From the page: Grüße \N{GRINNING FACE}"),
            ("alice", "From the terminal"),
            ("bob", "From the command"),
            ("bob", "From the released client"),
            ("alice", "notes.bin"),
            ("bob", "a picture"),
        ]
        assert on_terminal(terminal) == by_command(bob, alices) == at_released(released) == conversation

        file, picture = bob.records("history", alices, "-n", "2")
        for message, data in ((file, FILE), (picture, PICTURE)):
            bob.run("get", message["id"], "-o", message["id"])
            assert (tmp_path / message["id"]).read_bytes() == data
        fetched = released.raw.ask("FETCHFILE", {"msgmd5": file["id"]})
        assert fetched.payload == FILE
        assert released.raw.hints == []  # it has never asked for any
        wait_for(lambda: " ✓✓" in terminal.type()["said"][-2], "bob's command has said that it was delivered")
