"""A server on a fake clock whose clients are transports in memory and whose requests the test answers.

It serves the tests of the network floor; what requests mean is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from chatsvc.chat.calls import Payload
from chatsvc.chat.session import Device, Session
from chatsvc.net import connection
from chatsvc.net.connection import Connection
from chatsvc.net.server import Server
from chatsvc.stats import Stats
from chatsvc.tasks import Pending
from chatsvc.wire.frames import RELEASED, Head, frame
from chatsvc.wire.limits import MIB, Limits
from tests.limits import unlimited

PER_ADDRESS = 3
LIMITS = unlimited(
    unbound_per_address=PER_ADDRESS, read_ahead=4, json=MIB, unfinished=4 * MIB, unfinished_unbound=2 * MIB
)


class Wire(StringTransport, FileDescriptor):  # type: ignore[misc]  # both say that they are connected
    """A plain socket in memory. The peer reads at once, unless the test lets it be `deaf`."""

    def __init__(self) -> None:
        super().__init__(lenient=True)  # type: ignore[no-untyped-call]
        self.half_closed = False
        self.deaf = False
        self._tempDataLen = 0  # what a FileDescriptor has not written yet is never here
        #: The peer has reset the connection.
        self.broken = False
        #: How much the socket takes at a time; None for all.
        self.room: int | None = None

    def getHandle(self) -> Wire:  # noqa: N802 - Twisted's name
        """The socket itself."""
        return self

    def send(self, data: bytes) -> int:
        """As a socket that does not block."""
        if self.broken:
            raise ConnectionResetError
        if self.deaf:
            raise BlockingIOError
        taken = data[: self.room]
        self.write(taken)  # type: ignore[no-untyped-call]
        return len(taken)

    def loseWriteConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Close our sending half."""
        self.half_closed = True

    def flow(self) -> None:
        """Let the peer read all that there is for it."""
        before = -1
        while not self.deaf and self.producer and before != (before := len(self.sent())):
            self.producer.resumeProducing()

    def end(self) -> str:
        """How the server has ended the connection, if it has."""
        if self.disconnected:
            return "reset"
        if self.disconnecting:
            return "closing" if self.producer else "closed"
        return "half closed" if self.half_closed else ""

    def reads(self) -> bool:
        """Whether the server reads."""
        return bool(self.producerState == "producing")

    def sent(self) -> bytes:
        """All that the server has written."""
        return bytes(self.value())  # type: ignore[no-untyped-call]


class FakeHub:
    """As much of a hub as connections and their server use by themselves."""

    def __init__(self, limits: Limits) -> None:
        self.clock: Any = Clock()
        self.limits = limits
        self.stats = Stats()

    def detach(self, session: Session) -> None:
        """A session has ended."""
        session.device = None

    def acknowledge(self, device: Device, position: int) -> None:
        """Nothing is known of mailboxes here."""


class FakeCall:
    """A request: those of type TOGETHER may run side by side, any other runs alone."""

    def __init__(self, session: Session, head: Head, *times: float | None) -> None:
        self.kind = "UNKNOWN" if head.json is None else json.loads(head.json)["request"]
        self.payload_length = head.payload_length
        self.payload: Payload | None = None
        self.size = 0 if head.json is None else len(head.json)
        self.answer: bytes | None = None
        self.closes = False

    def may_start(self, running: Collection[str]) -> bool:
        """Whether it may run beside requests of these types."""
        return not running or {self.kind, *running} == {"TOGETHER"}


class Node:
    """A server, the connections to it, and the requests that it got and that wait for their answers."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.hub = FakeHub(limits)
        self.clock = self.hub.clock
        self.server = Server(self.hub)  # type: ignore[arg-type]
        self.server.start()
        self.calls: list[tuple[FakeCall, Pending[bytes]]] = []
        self._wires: list[Wire] = []

    def begin(self, call: FakeCall) -> None:
        """Each is performed."""

    async def perform(self, call: FakeCall) -> bytes:
        """Leave the answer to the test."""
        answer: Pending[bytes] = Pending()
        self.calls.append((call, answer))
        return await answer

    def answer(self, at: int = 0, data: bytes = b"") -> None:
        """Answer a request that waits, by default the oldest."""
        self.calls.pop(at)[1].succeed(data)
        self.flow()

    def fail(self, error: BaseException) -> None:
        """End the oldest request without an answer."""
        self.calls.pop(0)[1].fail(error)
        self.flow()

    def flow(self) -> None:
        """Let the turn end, and the peers read."""
        self.clock.advance(0)
        for wire in self._wires:
            wire.flow()

    def connect(self, host: str = "192.0.2.1", *, bound: bool = False) -> tuple[Connection, Wire]:
        """A new client; with `bound` it is logged in."""
        address: Any = IPv4Address("TCP", host, 50_000) if host else UNIXAddress(None)
        made, wire = self.server.buildProtocol(address), Wire()
        made.makeConnection(wire)  # type: ignore[no-untyped-call]
        if bound:
            made.session.device = self.device()
        self._wires.append(wire)
        return made, wire

    def device(self) -> Device:
        """One that is bound."""
        return Device(f"device-{len(self.server.connections)}", 7, 1, True)

    def sleep(self, seconds: float) -> None:
        """Let the time pass, second by second, as the server looks once in each."""
        for _ in range(int(seconds)):
            self.flow()
            self.clock.advance(1.0)


def request(kind: str = "TOGETHER", length: int = 0, payload_length: int = 0) -> bytes:
    """A frame with a request; its JSON has at least `length` bytes."""
    data = json.dumps({"request": kind, "pad": "x" * length}).encode()
    return frame(RELEASED, data, payload_length)


@pytest.fixture(name="node")
def _node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A server whose requests the test answers."""
    made = Node()
    monkeypatch.setattr(connection, "Call", FakeCall)
    monkeypatch.setattr(connection, "begin", made.begin)
    monkeypatch.setattr(connection, "perform", made.perform)
    yield made
    if made.server._sweeper.running:
        made.server._sweeper.stop()


#: A test module takes it for its own.
NODE = _node
