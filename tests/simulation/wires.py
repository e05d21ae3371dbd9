"""TCP in memory: connections that take their time, hold only so much, and end in all the ways that there are.

What goes over them is not known here. The server's end is a `FileDescriptor` as Twisted's own sockets are.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any, Protocol

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from tests.simulation.clock import Life, Line, SimClock

#: Bytes that are under way to a client at most, and that its system keeps while it does not read.
SENT_AT_MOST, KEPT_AT_MOST = 4096, 2048
#: Seconds that bytes take, at least and at most.
LATENCY = 0.001, 0.03


class Peer(Protocol):
    """A client as its wire sees it."""

    def received(self, data: bytes) -> None:
        """Bytes have come."""

    def ended(self) -> None:
        """Nothing comes any more, and nothing arrives."""


class Wires:
    """All connections, by number; the one who knows what the system knows of a socket."""

    def __init__(self, clock: SimClock, random: Random, saw: Callable[[bytes], None]) -> None:
        self.clock = clock
        self.random = random
        #: Hears all bytes that arrive anywhere.
        self.saw = saw
        self._wires: dict[int, Wire] = {}
        self._made = 0

    def connect(self, server: Any, client: Peer) -> Wire:
        """A connection to a `chatsvc.net.server.Server`."""
        self._made += 1
        address = IPv4Address("TCP", f"192.0.2.{self._made % 250}", 50_000)
        wire = self._wires[self._made] = Wire(self, self._made, client)
        wire.serve(server.buildProtocol(address))
        return wire

    def delay(self) -> float:
        """How long bytes take this time, in seconds."""
        return self.random.uniform(*LATENCY)

    def forget(self, number: int) -> None:
        """The server has closed its socket."""
        self._wires.pop(number, None)

    @property
    def system(self) -> SimpleNamespace:
        """As much of the module `fcntl` as asks for the bytes that a peer has not acknowledged."""
        return SimpleNamespace(ioctl=self._ioctl)

    def _ioctl(self, number: int, request: int, argument: bytes) -> bytes:
        if number not in self._wires:
            raise OSError("There is no such socket.")
        return struct.pack("i", self._wires[number].unacknowledged)


class ServerEnd(FileDescriptor):
    """The server's socket; its wire is also what it has for a reactor."""

    def __init__(self, wire: Wire, number: int) -> None:
        super().__init__(wire)  # type: ignore[arg-type]  # as much of a reactor as a socket needs
        self.protocol: Any = None
        self.connected = 1
        self._wire = wire
        self._number = number
        self._aborting = False

    def fileno(self) -> int:
        """Its number among all."""
        return self._number

    def getHandle(self) -> ServerEnd:  # noqa: N802 - Twisted's name
        """The socket itself."""
        return self

    def send(self, data: bytes) -> int:
        """As a socket that does not block."""
        taken = self._wire.take(data)
        if not taken:
            raise BlockingIOError
        return taken

    def writeSomeData(self, data: bytes) -> int:  # noqa: N802 - Twisted's name
        return self._wire.take(bytes(data))

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        """End it at once."""
        if not self.disconnected and not self._aborting:
            self._aborting = True
            self.stopReading()  # type: ignore[no-untyped-call]
            self.stopWriting()  # type: ignore[no-untyped-call]
            self._wire.soon(self.lose, ConnectionAborted())

    def lose(self, reason: Exception) -> None:
        """It has ended."""
        if not self.disconnected:
            self.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._wire.server_closed(cleanly=reason.check(ConnectionDone) is not None)  # type: ignore[no-untyped-call]
        self.protocol.connectionLost(reason)

    def _closeWriteConnection(self) -> None:  # noqa: N802 - Twisted's name
        self._wire.server_finished()
        self.protocol.writeConnectionLost()


class Wire:
    """One connection: the client's end of it, and what is under way in both directions."""

    def __init__(self, wires: Wires, number: int, client: Peer) -> None:
        self.number = number
        self._wires = wires
        self._client = client
        self._life = Life()
        self._up, self._down = (Line(wires.clock, self._life) for _ in range(2))
        self.server = ServerEnd(self, number)
        self._reading = self._writing = self._about_to_write = False
        self._arrived: list[bytes | None] = []  # at the server, which does not read; None is the end
        self._unread: deque[bytes | None] = deque()  # by the client; None is the end
        self._kept = 0  # bytes of it that are acknowledged
        #: Bytes that the server's system has sent and the client's has not acknowledged.
        self.unacknowledged = 0
        self._deaf = False
        #: The client has closed its end, or it was closed for it.
        self.over = False

    def serve(self, protocol: Any) -> None:
        """Let a protocol of the server's answer."""
        self.server.protocol = protocol
        self._reading = True
        protocol.makeConnection(self.server)

    # What the client does.

    def send(self, data: bytes) -> None:
        """Send bytes; they arrive in some pieces."""
        if self.over:
            return
        random = self._wires.random
        while len(data) > 1 and random.random() < 0.2:
            cut = random.randrange(1, len(data))
            self._up.later(self._wires.delay(), self._arrive, data[:cut])
            data = data[cut:]
        self._up.later(self._wires.delay(), self._arrive, data)

    def close(self) -> None:
        """Close in order; the system resets instead if anything was not read."""
        if self._unread:
            self.reset()
        elif not self.over:
            self.over = True
            self._up.later(self._wires.delay(), self._arrive, None)

    def finish(self) -> None:
        """Send nothing more, and read on."""
        self._up.later(self._wires.delay(), self._arrive, None)

    def reset(self) -> None:
        """Cut the connection, as a crash does; the server finds out before all that was sent has arrived."""
        if not self.over:
            self.over = True
            self._later(self._wires.delay(), self.server.lose, ConnectionLost())

    @property
    def deaf(self) -> bool:
        """Whether the client does not read."""
        return self._deaf

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        self._deaf = deaf
        self.soon(self._read_on)

    # What comes to the client.

    def _come(self, data: bytes | None) -> None:
        if not self.over:
            self._unread.append(data)
            self._read_on()
        elif data:  # nobody is there: that tells the server
            self._later(self._wires.delay(), self.server.lose, ConnectionLost())

    def _read_on(self) -> None:
        while self._unread and not self._deaf and not self.over:
            data = self._unread[0]
            if data is None:
                self._up.later(self._wires.delay(), self._arrive, None)
                self._end()
                return
            self._acknowledge(len(data))
            self._kept -= len(data)
            self._unread.popleft()
            self._wires.saw(data)
            self._client.received(data)
        self._acknowledge(KEPT_AT_MOST)

    def _acknowledge(self, upto: int) -> None:
        """The client's system has room for so many of the bytes that are unread."""
        kept = max(self._kept, min(upto, sum(map(len, filter(None, self._unread)))))
        self.unacknowledged -= kept - self._kept
        self._kept = kept
        if self._writing:
            self._write_soon()

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._client.ended()

    def cut(self) -> None:
        """The server's machine has cut the connection, the server knowing or not."""
        self._later(self._wires.delay(), self._end)

    def kill(self) -> None:
        """The server's process is no more: its system cuts the connection."""
        self.server.connected, self.server.disconnected = 0, 1
        self._wires.forget(self.number)
        self.cut()

    # What comes to the server.

    def _arrive(self, data: bytes | None) -> None:
        if self.server.disconnected:
            if not self.over:
                self.cut()
            return
        self._arrived.append(data)
        self._pump()

    def _pump(self) -> None:
        while self._arrived and self._reading and not self.server.disconnected:
            data = self._arrived.pop(0)
            if data is None:
                self._reading = False
                self.server.protocol.readConnectionLost()
            else:
                self._wires.saw(data)
                self.server.protocol.dataReceived(data)

    # What the server does.

    def take(self, data: bytes) -> int:
        """The server's system takes what there is room for; gives how much."""
        taken = data[: max(0, SENT_AT_MOST - self.unacknowledged)]
        if taken:
            self.unacknowledged += len(taken)
            self._down.later(self._wires.delay(), self._come, taken)
        return len(taken)

    def server_finished(self) -> None:
        """The server sends nothing more."""
        self._down.later(self._wires.delay(), self._come, None)

    def server_closed(self, *, cleanly: bool) -> None:
        """The server's end is no more."""
        self._wires.forget(self.number)
        if not cleanly:
            self.cut()
        else:
            self.server_finished()

    # The reactor, as a socket knows it.

    def addReader(self, end: ServerEnd) -> None:  # noqa: N802 - Twisted's name
        """Let it hear what comes."""
        self._reading = True
        if self._arrived:
            self.soon(self._pump)

    def removeReader(self, end: ServerEnd) -> None:  # noqa: N802 - Twisted's name
        """Let it not."""
        self._reading = False

    def addWriter(self, end: ServerEnd) -> None:  # noqa: N802 - Twisted's name
        """Have it write as soon as there is room."""
        self._writing = True
        self._write_soon()

    def removeWriter(self, end: ServerEnd) -> None:  # noqa: N802 - Twisted's name
        """Let it be."""
        self._writing = False

    def _write_soon(self) -> None:
        if not self._about_to_write and self.unacknowledged < SENT_AT_MOST:
            self._about_to_write = True
            self.soon(self._write)

    def _write(self) -> None:
        self._about_to_write = False
        if self._writing and not self.server.disconnected:
            ended = self.server.doWrite()  # type: ignore[no-untyped-call]
            if ended is not None:
                self.server.lose(ended)
            elif self._writing:
                self._write_soon()

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Call `function` in the next turn."""
        self._later(0, function, *args)

    def _later(self, delay: float, function: Callable[..., object], *args: object) -> None:
        clock = self._wires.clock
        clock.at(clock.now + delay, function, args, self._life)
