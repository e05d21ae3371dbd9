"""Runs twistd with a bug planted in the server, for a check that is to find it.

The product has no hook for this: a bug is put into it from outside, before twistd runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.logger import Logger
from twisted.scripts import twistd

from chatsvc.chat import requests
from chatsvc.chat.calls import TABLE, Call
from chatsvc.net import connection, server
from chatsvc.wire import schema
from chatsvc.wire.frames import FrameReader, Head

log = Logger()
_refusal = requests._refusal
_read = Call._read
_lost = connection.Connection.connectionLost
_kept: list[bytearray] = []


def answers_twice() -> None:
    """What is no request gets two answers."""
    requests._refusal = lambda call, info: _refusal(call, info) * (2 if call.kind == "UNKNOWN" else 1)


def swallows_requests() -> None:
    """What is no request gets no answer."""
    requests._refusal = lambda call, info: b"" if call.kind == "UNKNOWN" else _refusal(call, info)


def takes_what_it_must_not() -> None:
    """A type that is not known is taken for STATE."""

    def read(self: Call, json: bytes | None) -> str | None:
        kind = _read(self, json)
        return kind if kind is None or kind in TABLE else "STATE"

    Call._read = read  # type: ignore[method-assign]


def dies_of_recursion() -> None:
    """What the parser raises of deep nesting is caught by nobody."""
    schema.decode_request = lambda data: msgspec.json.decode(data, type=schema.Request)


def logs_what_is_said() -> None:
    """Bodies of requests go into the log."""

    def read(self: Call, json: bytes | None) -> str | None:
        kind = _read(self, json)
        log.info("{kind}: {body}", kind=kind, body=bytes(self.body))
        return kind

    Call._read = read  # type: ignore[method-assign]


def leaks_descriptors() -> None:
    """Each connection leaves an open file behind."""
    _when_lost(lambda: os.open(os.devnull, os.O_RDONLY))


def leaks_memory() -> None:
    """Each connection leaves a buffer behind."""
    _when_lost(lambda: _kept.append(bytearray(256 * 1024)))


def allocates_ahead() -> None:
    """A reader makes room for all that a header declares."""

    class Eager(FrameReader):
        __slots__ = ("_room",)

        def next_head(self) -> Head | None:
            head = super().next_head()
            self._room = bytearray(self._need)
            return head

    vars(connection)["FrameReader"] = Eager


def waits_for_ever() -> None:
    """A frame may stay unfinished."""
    server.Server._look = lambda self, connection, now: None  # type: ignore[method-assign]


def dies_without_descriptors() -> None:
    """A file that cannot be opened ends the process."""
    requests.log.error = lambda *args, **kwargs: os._exit(1)  # type: ignore[method-assign]


def _when_lost(leak: Callable[[], object]) -> None:
    def lost(self: Any, *reason: Any) -> None:
        leak()
        _lost(self, *reason)

    connection.Connection.connectionLost = lost  # type: ignore[method-assign, assignment]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        answers_twice, swallows_requests, takes_what_it_must_not, dies_of_recursion, logs_what_is_said,
        leaks_descriptors, leaks_memory, allocates_ahead, waits_for_ever, dies_without_descriptors,
    )
}  # fmt: skip


def command(bug: str) -> tuple[str, ...]:
    """What runs a server with that bug."""
    return (sys.executable, "-m", "tests.fuzz.planted", bug, "-n", "--pidfile=")


if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    sys.argv[0] = "twistd"
    twistd.run()  # type: ignore[no-untyped-call]
