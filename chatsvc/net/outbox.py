"""What waits to be written to one peer, and how far writing has come."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

from chatsvc.blobs import Download
from chatsvc.chat.session import Gone
from chatsvc.tasks import Pending, Turn
from chatsvc.wire.frames import RELEASED, Dialect

#: What the transport is given at a time; the rest waits here, where it can be counted.
_SLICE = 64 * 1024
#: Bytes of a file that a thread may write to a socket at a time; for so long, others wait for the thread.
FILE_STEP = 1024 * 1024
#: Bytes of a file that are read at a time for a transport that is no plain socket, and may be queued to it.
FILE_CHUNK = 256 * 1024


def _nobody() -> None:
    """Hears no more of what is written."""


@implementer(IPushProducer)
class Outbox:
    """The `Outlet` of a session.

    What is sent in one turn of the reactor is written at its end, together. A plain socket is tried at once:
    mostly the kernel has room, and having Twisted wait for that costs more than the writing. What it does
    not take goes to the transport, a slice at a time: as a pull producer we are asked for more when all is
    written out, so `written` is exact. Any other transport (TLS) only says when it is full; there, what it
    took counts.
    """

    __slots__ = (
        "_attached",
        "_broken",
        "_due",
        "_full",
        "_given",
        "_lost",
        "_on_written",
        "_pulled",
        "_queue",
        "_socket",
        "_transport",
        "_turn",
        "_waiters",
        "dialect",
        "offset",
        "written",
    )

    def __init__(self, transport: Any, turn: Turn, on_written: Callable[[], None]) -> None:
        self._transport = transport
        self._turn = turn
        self._on_written = on_written
        self._queue: list[bytes] = []
        self._given = 0
        self._waiters: list[tuple[int, Pending[None]]] = []
        self._full = False
        self._due = False  # something is to be done at the end of the turn
        self._lost = False
        self._broken = False
        self._attached = False
        #: The peer's header form; until it is known, the one that violations are answered in.
        self.dialect: Dialect = RELEASED
        self.offset = 0
        self.written = 0
        self._pulled = isinstance(transport, FileDescriptor)
        self._socket: Any = transport.getHandle() if self._pulled else None

    def attach(self) -> None:
        """Begin to hear from the transport."""
        self._attached = True
        self._transport.registerProducer(self, not self._pulled)

    @property
    def queued(self) -> int:
        """Bytes that are not written out."""
        return self.offset - self.written

    def send(self, data: bytes) -> None:
        """Queue bytes; they are written in order."""
        if self._lost or not data:
            return
        self.offset += len(data)
        self._queue.append(data)
        if not self._due:
            self._due = True
            self._turn.at_end(self._end_turn)

    def _end_turn(self) -> None:
        self._due = False
        if self._lost or not self._queue:
            return
        if not self._pulled:
            self._push()
        elif self.written == self._given:  # the transport has nothing
            self._try_at_once()

    def _try_at_once(self) -> None:
        data = self._next()
        try:
            taken = self._socket.send(data)
        except BlockingIOError:  # there is no room
            taken = 0
        except OSError:
            # There is no connection any more, which the transport will find out; but not that it was reset:
            # the system tells that once, and to who reads after that it looks like an end in order.
            taken, self._broken = 0, True
        self._given += taken
        if taken < len(data):
            self._give(data[taken:])
        elif self._queue:
            self._give(self._next())
        self._settle(self.written + taken)
        self._on_written()

    def _push(self) -> None:
        """Give a transport that says when it is full as much as it takes."""
        while self._queue and not self._full:
            self._give(self._next())
        if not self._full:
            self._settle(self._given)
            self._on_written()

    def _next(self) -> bytes:
        """The next slice from the queue."""
        size = count = 0
        for data in self._queue:
            size += len(data)
            count += 1
            if size >= _SLICE:
                break
        taken = self._queue[:count]
        del self._queue[:count]
        return taken[0] if count == 1 else b"".join(taken)

    def _give(self, data: bytes) -> None:
        self._given += len(data)
        self._transport.write(data)

    def _settle(self, written: int) -> None:
        """So much is written out: who waited for that goes on."""
        self.written = written
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for below, pending in waiters:
                if self.queued <= below:
                    pending.succeed(None)
                else:
                    self._waiters.append((below, pending))

    def resumeProducing(self) -> None:
        """The transport wrote out all that it had (or, if it is no plain socket, takes more)."""
        self._full = False
        if self.written == self._given and not self._queue and not self._waiters:
            return  # nobody has asked: a file that is being sent does, though nothing was given
        self._settle(self._given)
        if not self._pulled:
            self._push()
            return
        if self._queue:
            self._give(self._next())
        self._on_written()

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._full = True

    def stopProducing(self) -> None:
        """The transport is gone; `lost` will be called."""

    async def drained(self, below: int) -> None:
        """Return once at most `below` bytes are queued; raises `Gone` when the peer is."""
        if self._lost:
            raise Gone
        if self.queued > below:
            pending: Pending[None] = Pending()
            self._waiters.append((below, pending))
            await pending

    async def send_file(self, file: Download) -> None:
        """Send what is left of a file as fast as the peer reads; nothing else may be sent meanwhile.

        The system copies it to a plain socket, in a thread, as the disk may hang. Raises `Gone`, and what the
        file's `read` does.
        """
        if not isinstance(self._transport, Connection):
            while data := await file.read(FILE_CHUNK):
                self.send(data)
                await self.drained(FILE_CHUNK)
            return
        await self.drained(0)
        # Its own: the transport may close the one that it has, and another connection get the number.
        socket = os.dup(self._transport.fileno())
        try:
            while step := min(file.left, FILE_STEP):
                await self._writable()  # and what was taken counts as written, before more is queued
                self.offset += step
                while True:
                    self._given += await file.send(socket, self.offset - self._given)
                    if self._given == self.offset:
                        break
                    await self._writable()
            await self._writable()
        except (ConnectionError, TimeoutError):  # the peer, not the file
            self.abort()
            raise Gone from None
        finally:
            os.close(socket)

    async def _writable(self) -> None:
        """Return when the socket takes more; what it took before counts as written then."""
        if self._lost:
            raise Gone
        pending: Pending[None] = Pending()
        self._waiters.append((self.offset - self._given, pending))
        self._transport.startWriting()  # it has nothing to write, and so asks for more when it could
        await pending

    def in_kernel(self) -> int | None:
        """Bytes written out that the peer's system has not acknowledged; None where that is not known."""
        try:
            raw = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, AttributeError, ValueError):
            return None
        return int(struct.unpack("i", raw)[0])

    def reached_peer(self) -> int:
        """The offset up to which the peer's system has acknowledged what was written.

        Only a plain socket can tell; for others, and once it was reset, nothing is known to have arrived.
        """
        unconfirmed = self.in_kernel()
        if not self._pulled or self._broken or unconfirmed is None:
            return 0
        # Not `written`: of a long frame the transport may have passed on a part, which in_kernel() counts.
        transport = self._transport
        held = len(transport.dataBuffer) - transport.offset + transport._tempDataLen  # noqa: SLF001
        return self._given - int(held) - unconfirmed

    @property
    def can_half_close(self) -> bool:
        """Whether writing can end before reading does; TLS has no such thing."""
        return self._pulled

    def detach(self) -> None:
        """Let the transport close: it waits for as long as it has a producer."""
        if self._attached and not self._lost:
            self._attached = False
            self._transport.unregisterProducer()

    def lost(self) -> None:
        """The connection is gone."""
        self._lost = True
        self._on_written = _nobody  # or the two would hold each other until the cycle collector comes
        self._queue.clear()
        waiters, self._waiters = self._waiters, []
        for _, pending in waiters:
            pending.fail(Gone())

    def abort(self) -> None:
        """Cut the connection."""
        if not self._lost:
            self._transport.abortConnection()
