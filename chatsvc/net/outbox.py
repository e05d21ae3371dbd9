"""What waits to be written to one peer, and how far writing has come."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from chatsvc.chat.session import Gone
from chatsvc.tasks import Clock, Pending
from chatsvc.wire.frames import RELEASED, Dialect

#: What the transport is given at a time; the rest waits here, where it can be counted.
_SLICE = 64 * 1024


@implementer(IPushProducer)
class Outbox:
    """The `Outlet` of a session.

    A plain socket is fed as a pull producer: it asks for more when all that it had is written out, so
    `written` is exact. Any other transport (TLS) only says when it is full; there, what it took counts.
    """

    def __init__(self, transport: Any, clock: Clock, on_written: Callable[[], None]) -> None:
        self._transport = transport
        self._clock = clock
        self._on_written = on_written
        self._queue: deque[bytes] = deque()
        self._given = 0
        self._waiters: list[tuple[int, Pending[None]]] = []
        self._full = False
        self._settling = False
        self._lost = False
        self._attached = False
        #: The peer's header form; until it is known, the one that violations are answered in.
        self.dialect: Dialect = RELEASED
        self.offset = 0
        self.written = 0
        self._pulled = isinstance(transport, FileDescriptor)

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
        if self._queue or self._full or self._given - self.written >= _SLICE:
            self._queue.append(data)
        else:
            self._give(data)

    def _give(self, data: bytes) -> None:
        self._given += len(data)
        self._transport.write(data)
        if not self._pulled and not self._settling:
            self._settling = True
            self._clock.callLater(0, self._settle_push)

    def _settle_push(self) -> None:
        self._settling = False
        if not self._full:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        """The transport wrote out all that it had (or, if it is no plain socket, takes more)."""
        self._full = False
        if self.written == self._given and not self._queue:
            return
        self.written = self._given
        waiters, self._waiters = self._waiters, []
        for below, pending in waiters:
            if self.queued <= below:
                pending.succeed(None)
            else:
                self._waiters.append((below, pending))
        while self._queue and not self._full and self._given - self.written < _SLICE:
            self._give(self._queue.popleft())
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

    def in_kernel(self) -> int | None:
        """Bytes written out that the peer's system has not acknowledged; None where that is not known."""
        try:
            raw = fcntl.ioctl(self._transport.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, AttributeError, ValueError):
            return None
        return int(struct.unpack("i", raw)[0])

    def reached_peer(self) -> int:
        """The offset up to which the peer's system has acknowledged what was written.

        Only a plain socket can tell; for others, nothing is known to have arrived.
        """
        unconfirmed = self.in_kernel()
        if not self._pulled or unconfirmed is None:
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
        self._queue.clear()
        waiters, self._waiters = self._waiters, []
        for _, pending in waiters:
            pending.fail(Gone())

    def abort(self) -> None:
        """Cut the connection."""
        if not self._lost:
            self._transport.abortConnection()
