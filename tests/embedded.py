"""Embedded stores for tests, and questions to them, to their processes and to what they have logged.

A test module takes `FIXTURES` for its own.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import LogEvent, capturedLogs, formatEvent

from chatsvc.valkey import EmbeddedStore
from tests.waiting import reactor

Launch = Callable[..., EmbeddedStore]


def ask(store: EmbeddedStore, command: str) -> list[str]:
    """The lines of the store's reply, without those that only give lengths."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(store.socket_path)
        client.sendall(f"{command}\r\nQUIT\r\n".encode())
        with client.makefile() as reply:
            return [line.strip() for line in reply if line[0] not in "*$"][:-1]


def answers(store: EmbeddedStore) -> bool:
    try:
        return ask(store, "PING") == ["+PONG"]
    except OSError:
        return False


def child(store: EmbeddedStore) -> int:
    """The process id of the store."""
    [pid] = [line.partition(":")[2] for line in ask(store, "INFO server") if line.startswith("process_id:")]
    return int(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def lock_is_free(directory: Path) -> bool:
    with (directory / "store.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def texts(events: Sequence[LogEvent], level: Any) -> list[str]:
    """What `chatsvc.valkey` has logged at a level."""
    return [
        formatEvent(event)
        for event in events
        if event["log_namespace"] == "chatsvc.valkey" and event["log_level"] is level
    ]


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


@pytest_twisted.async_yield_fixture
async def new_store(tmp_path: Path) -> Any:
    """Makes stores on real processes, which are stopped whatever comes."""
    stores = []

    def make(directory: Path = tmp_path / "store", **settings: Any) -> EmbeddedStore:
        stores.append(EmbeddedStore(reactor, directory, **settings))
        return stores[-1]

    yield make
    for store in stores:
        await store.stop()


FIXTURES = logged, new_store
