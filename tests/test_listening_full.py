"""A TCP port of a process that may open no more files: who comes waits, and is let in when there is room.

The same over real limits is in ``tests/fuzz/attacks.py``; how many connections there may be is ``doors``'s.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from chatsvc.net.listening import REST, _can_open, _Port


class Counter(Factory):
    """Counts who comes, and shows them out."""

    noisy = False
    came = 0

    def buildProtocol(self, addr: Any) -> None:
        self.came += 1


def make_port(factory: Any, reactor: Any) -> Any:
    return _Port(0, factory, 5, "127.0.0.1", reactor)


class Scene:
    """A port at whose door a client waits."""

    def __init__(self) -> None:
        self.factory = Counter()
        self.reactor: Any = MemoryReactorClock()  # type: ignore[no-untyped-call]
        self.port = make_port(self.factory, self.reactor)
        self.port.startListening()
        self.client = socket.create_connection(("127.0.0.1", self.port.getHost().port))

    @property
    def reads(self) -> bool:
        return self.port in self.reactor.getReaders()

    def turn(self) -> None:
        """As the reactor does when somebody waits."""
        assert self.reads
        self.port.doRead()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.client.close()
    made.port.connectionLost(connectionDone)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Until it is undone, no file can be opened."""

    def refuse(*args: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield patch


def test_who_comes_waits_until_a_file_can_be_opened(scene: Scene, full: pytest.MonkeyPatch) -> None:
    with capturedLogs() as logs:
        for _ in range(3):
            scene.turn()
            assert not scene.reads
            scene.reactor.advance(REST)
    assert len(logs) == 1  # and not one each second
    assert scene.factory.came == 0
    full.undo()
    scene.turn()
    assert scene.factory.came == 1
    assert scene.reads


def test_who_is_to_accept_nobody_does_not_after_a_rest_either(scene: Scene, full: pytest.MonkeyPatch) -> None:
    scene.turn()
    scene.port.stopReading()
    scene.reactor.advance(REST)
    assert not scene.reads
    scene.port.startReading()
    assert scene.reads


def test_a_rest_is_not_cut_short(scene: Scene, full: pytest.MonkeyPatch) -> None:
    scene.turn()
    scene.port.stopReading()
    scene.port.startReading()
    assert not scene.reads
    scene.reactor.advance(REST)
    assert scene.reads


def test_a_reserve_that_a_thread_has_taken_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as file:
        reserve: Any = tcp._FileDescriptorReservation(lambda: file)
        monkeypatch.setattr(tcp, "_reservedFD", reserve)
        assert not reserve.available()
        assert _can_open()
        assert reserve.available()
