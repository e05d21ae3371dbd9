"""What a server logs while all goes wrong that can: no secret, no text of anybody's, and one line an event.

Each request type is driven, right and broken, over its limits and refused, with a store that is damaged, and
one that is gone. What is logged of a single failure is in ``test_chat_requests.py``.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chatsvc.chat import files, messages, people  # noqa: F401 - they fill the table of requests
from chatsvc.chat.calls import TABLE
from chatsvc.valkey import connectable, socket_of
from tests.raw import Raw
from tests.service import Service, wait_for

#: What would forge a line, or do something to the terminal of who reads it.
FORGED = "\r\n1999-01-01T00:00:00+0000 [forged#critical] \x1b[2J\x1b]0;forged\x07"
LIMITS = ("--account-failures", "3,1/day", "--people-rate", "20,1/day", "--token-rate", "40,1/day")
LOGGERS = {
    "text": ("twistd", "-n", "--pidfile="),
    "json": ("twist", "--log-format=json"),
}


class Planted:
    """What may be seen nowhere."""

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def __call__(self, what: str = "") -> str:
        """A new text."""
        text = f"{what}{secrets.token_hex(8)}"
        self.texts.add(text)
        return text

    def seen_in(self, text: str) -> set[str]:
        """Which of all stand in there."""
        return {each for each in self.texts if each in text}


class Place:
    """A server that is reached through a proxy and over UNIX sockets, whose paths are known beforehand."""

    def __init__(self, service: Callable[..., Service], directory: Path, command: tuple[str, ...]) -> None:
        self._clients, self._pages = directory / "clients", directory / "pages"
        listen = ("--listen", f"haproxy:unix:{self._clients}", "--http", f"unix:{self._pages}")
        self.server = service(*listen, *LIMITS, command=command)
        self.connections: list[Raw] = []
        self.server.spawn()
        wait_for(
            lambda: self._clients.exists() and "ready" in self.page("/readyz"), "the server is ready", 60
        )

    def connect(self, address: str = "203.0.113.7", dialect: str = "seed") -> Raw:
        """A client as a proxy tells of it."""
        through = self._dial(self._clients)
        through.sendall(f"PROXY TCP4 {address} 127.0.0.1 5555 6011\r\n".encode())
        self.connections.append(Raw(("", 0), dialect, through=through))
        return self.connections[-1]

    def page(self, name: str) -> str:
        """A page of the monitoring site; empty if it is not there."""
        with suppress(OSError), self._dial(self._pages) as client:
            client.sendall(f"GET {name} HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
        return ""

    def tell_store(self, *commands: str) -> None:
        """Have its store do something."""
        path, shortcut = connectable(socket_of(self.server.directory / "data" / "store"))
        with self._dial(Path(path)) as client:
            client.sendall("\r\n".join([*commands, "QUIT", ""]).encode())
            assert b"-ERR" not in b"".join(iter(lambda: client.recv(1 << 16), b""))
        if shortcut is not None:
            shortcut.cleanup()

    def kill_store(self) -> None:
        """SIGKILL the store; the server is to start another."""
        for pid in self.server.processes():
            if b"valkey-server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _dial(path: Path) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            raise
        return client


@pytest.fixture
def places(service: Callable[..., Service]) -> Iterator[Callable[[str], Place]]:
    """Makes a server with one of the loggers, in a directory whose path is short enough for sockets."""
    made: list[Place] = []
    with tempfile.TemporaryDirectory() as directory:

        def make(logger: str) -> Place:
            made.append(Place(service, Path(directory), LOGGERS[logger]))
            return made[-1]

        yield make
        for client in [client for place in made for client in place.connections]:
            client.close()


def bodies(planted: Planted, user: Raw) -> dict[str, dict[str, Any]]:
    """A body for each type that is right, as far as it can be."""
    file = {"contenttype": "file", "filemd5": "0" * 32, "md5encoded": planted("name")}
    return {
        "STATE": {},
        "REGISTER": {"username": planted() + FORGED, "passwd": planted("pw")},
        "LOGIN": {"username": planted() + FORGED, "passwd": planted("pw")},
        "PROFILE": {"userid": 10**9},
        "MODIFYPROFILE": {"username": planted("new"), "avatar": planted("avatar")},
        "MODIFYPASSWD": {"passwd": planted("pw"), "newPasswd": planted("pw")},
        "SENDMSG": user.message(user.user or 0, planted("text"), **file),
        "FETCHMSG": {},
        "ACKFETCH": {"timestamp": 1},
        "FINDFILE": {"filemd5": planted("md5") + FORGED},
        "FETCHFILE": {"msgmd5": planted("md5") + FORGED},
        "SEARCHUSR": {"username": planted() + FORGED},
        "ADDCONTACT": {"userid": 10**9},
        "FETCHCONTACT": {},
        "TYPING": {"userid": 10**9},
        "MARK": {"userid": 10**9, "mark": "read", "timestamp": 1, "md5encoded": planted("name") + FORGED},
        "REMOVECONTACT": {"userid": 10**9},
        "BLOCKCONTACT": {"userid": 10**9},
        "UNBLOCKCONTACT": {"userid": 10**9},
        "LOGOUT": {},
    }


def drive(planted: Planted, client: Raw) -> None:
    """Each request type: right, with fields of wrong types, with a payload, and broken."""
    client.ask("STATE", {"features": ["contacts", "marks", "typing", planted("feature") + FORGED]})
    for kind, body in bodies(planted, client).items():
        wrong = {name: [planted(), FORGED] for name in body} | {planted("field"): 1}
        takes_payloads = client.user is not None and kind != "LOGOUT"  # else it is a violation of its own
        for each in (body, wrong, planted() + FORGED):
            payload = planted("payload").encode() if each is wrong and takes_payloads else b""
            client.send(kind, each, payload)
            if kind != "ACKFETCH":
                client.answer()
    broken = f'{{"request": "STATE", "tokenid": {client.token}, "body": {{"{planted()}":'.encode()
    client.socket.sendall(client.frame(broken))
    assert not client.answer().ok
    assert client.ask(planted("type") + FORGED).response == "UNKNOWN"


def attack(place: Place, planted: Planted, user: Raw) -> None:
    """Over the limits, in another one's name, with tokens that are guessed, from addresses that are none."""
    hostile = place.connect("203.0.113.9\x1b[31m")
    for _ in range(5):
        hostile.ask("LOGIN", {"username": user.name, "passwd": planted("pw")})
    for _ in range(25):
        user.ask("SEARCHUSR", {"username": planted("who")})
    user.ask("SENDMSG", user.message(user.user or 0, planted("text"), userid=10**9))
    for _ in range(9):
        guess = secrets.randbelow(2**53)
        planted.texts.add(str(guess))
        hostile.send("STATE", tokenid=guess)
    assert [hostile.answer().response for _ in range(9)][-1] == "UNKNOWN"
    violation = place.connect(dialect="released")
    violation.socket.sendall(b"\xff" * 12 + planted().encode())
    assert violation.receive().response == "UNKNOWN"


@pytest.mark.parametrize("logger", LOGGERS)
def test_the_log_has_no_secret_and_a_line_an_event(logger: str, places: Callable[[str], Place]) -> None:
    planted, place = Planted(), places(logger)
    assert set(bodies(planted, place.connect())) == set(TABLE)
    user, other, damaged = (place.connect() for _ in range(3))
    for each in (user, other, damaged):
        each.register(planted("user"), planted("pw"))
        planted.texts.add(str(each.token))
    user.say(other.user or 0, planted("text"))
    assert len(other.fetch()) == 1
    attack(place, planted, user)
    place.tell_store(f"HSET {{u:{damaged.user}}} password {planted('hash')}")
    change = {"passwd": planted("pw"), "newPasswd": planted("pw")}
    assert damaged.ask("MODIFYPASSWD", change).info == "Internal server error"
    place.kill_store()
    for client in (other, place.connect()):
        drive(planted, client)
    page = place.page("/metrics")
    assert "chatsvc_requests_refused_total" in page
    assert not planted.seen_in(page)
    place.server.stop()
    log = place.server.log()
    assert "Refused: " in log
    assert "ValueError" in log  # the traceback
    assert not planted.seen_in(log), log
    assert not set("\r\x1b\x07") & set(log)
    for line in log.rstrip("\n").split("\n"):
        assert not line.startswith("1999-01-01"), line
        if logger == "json":
            json.loads(line.lstrip("\x1e"))
