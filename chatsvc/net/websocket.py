# ruff: noqa: N802 - most names are those of Twisted's interfaces
"""The byte stream of a client's connection in binary messages of a WebSocket, and one timer for all of those.

What the bytes mean is not known here: they go into the same `Connection` as those of a plain socket.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from wsproto.utilities import LocalProtocolError
from zope.interface import implementer

from chatsvc.net.connection import Connection
from chatsvc.net.server import Server

log = Logger()

#: Seconds between two pings. Proxies cut a connection that is silent for a minute.
PING = 30.0
#: Seconds after which a peer that says nothing, takes nothing and answers no ping is cut off.
SILENCE = 90.0
#: What a WebSocket is closed with (RFC 6455 section 7.4.1): in order, and after a text.
_NORMAL, _UNSUPPORTED = 1000, 1003

Data = TypeVar("Data", bytes, str)


class _Stream(Generic[Data]):
    """Passes each part of a message on as it comes.

    It stands in place of Twisted's `Buffer`, which keeps a message until it is whole, and a message may have
    any length: nothing may grow without bound for a peer's sake.
    """

    __slots__ = ("_received",)

    def __init__(self, received: Callable[[Data], None]) -> None:
        self._received: Callable[[Data], None] = received

    def add(self, part: Data) -> None:
        """A part has come."""
        self._received(part)

    def done(self) -> None:
        """The message is whole; nothing is left of it."""


@implementer(IPushProducer)
class _Writing:
    """Hears from the socket whether it takes more."""

    def __init__(self, adapter: Adapter, producer: Any) -> None:
        self._adapter = adapter
        self._producer = producer

    def pauseProducing(self) -> None:
        """The socket is full, be it of answers to the peer's pings: nothing more is read either."""
        self._producer.pauseProducing()
        self._adapter.regulate(full=True)

    def resumeProducing(self) -> None:
        """The socket takes more."""
        self._adapter.regulate(full=False)
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The socket is gone."""
        self._producer.stopProducing()


class Adapter:
    """One WebSocket: to Twisted what receives its messages, to a `Connection` the transport.

    What is not written here is the socket's own (`getPeer`, `setTcpNoDelay`, `fileno` ...).
    """

    def __init__(self, sockets: Sockets, connection: Connection, channel: Any) -> None:
        self._sockets = sockets
        self._connection: Any = connection
        self._channel = channel
        self._socket: Any = channel.transport
        self._wire: Any = None
        self._wants = True  # the connection reads
        self._full = False
        self._has_producer = False
        self._ends = False  # once the producer is through
        self._closing = False
        #: When the peer was last known to be there, in seconds of the server's clock.
        self.heard_at = sockets.clock.seconds()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    # What Twisted tells (`twisted.web.websocket.WebSocketProtocol`).

    def negotiationStarted(self, transport: Any) -> None:
        """Take over from the channel, which was this socket's producer."""
        self._wire = transport
        self._socket.unregisterProducer()
        transport._bytesBuffer = _Stream(self._received)  # noqa: SLF001 - see `_Stream`
        transport._textBuffer = _Stream(self._refuse)  # noqa: SLF001

    def negotiationFinished(self) -> None:
        """The answer to the handshake is written: the stream begins."""
        self._channel.dataReceived = self._bytes_received
        self._sockets.opened(self)
        self._connection.makeConnection(self)

    def connectionLost(self, reason: Failure) -> None:
        """The socket is gone."""
        self._closing = True
        self._sockets.closed(self)
        self._connection.connectionLost(reason)
        # Or they would hold each other until the cycle collector comes.
        self._connection = self._channel = self._wire = None

    def pongReceived(self, payload: bytes) -> None:
        """The peer is there; `heard_at` knows it already."""

    def textMessageReceived(self, message: None) -> None:
        """The text was refused at its first part."""

    def bytesMessageReceived(self, data: None) -> None:
        """All parts were passed on."""

    def _bytes_received(self, data: bytes) -> None:
        if not self._closing:
            self.heard_at = self._sockets.clock.seconds()
        # Twisted goes on to answer pings after a Close, in which wsproto sees a mistake of ours.
        with suppress(LocalProtocolError):
            self._wire.dataReceived(data)
        if self._socket.disconnecting and not self._closing:  # the peer has closed, and was answered
            self._closing = True
            self.unregisterProducer()  # TLS would wait for it before it closes

    def _received(self, part: bytes | bytearray) -> None:
        if not self._closing:
            self._connection.dataReceived(bytes(part))

    def _refuse(self, _text: str) -> None:
        """A text is no part of the stream."""
        self._close(_UNSUPPORTED, "Send binary messages; texts are not understood here.")

    # What the connection asks of a transport.

    def write(self, data: bytes) -> None:
        """Send bytes as a message."""
        if not self._closing:
            self._wire.sendBytesMessage(data)

    def writeSequence(self, parts: list[bytes]) -> None:
        """Send bytes as one message."""
        self.write(b"".join(parts))

    def loseConnection(self) -> None:
        """Close in order, once the producer has written all that it has, as a socket would."""
        self._ends = True
        if not self._has_producer:
            self._close(_NORMAL, "")
        else:
            self._socket.pauseProducing()

    def abortConnection(self) -> None:
        """Cut it."""
        self._closing = True
        self._socket.abortConnection()

    def pauseProducing(self) -> None:
        """Read nothing more for now."""
        self._wants = False
        self.regulate(full=self._full)

    def resumeProducing(self) -> None:
        """Read on."""
        self._wants = True
        self.regulate(full=self._full)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """`producer`, a streaming one, hears whether the socket takes more."""
        self._has_producer = True
        self._socket.registerProducer(_Writing(self, producer), streaming)

    def unregisterProducer(self) -> None:
        """Nobody hears that any more."""
        if self._has_producer:
            self._has_producer = self._full = False
            self._socket.unregisterProducer()
        if self._ends:
            self._close(_NORMAL, "")

    def regulate(self, full: bool) -> None:
        """Read only if the connection wants it and the socket takes what it is answered."""
        self._full = full
        self.heard_at = self._sockets.clock.seconds()  # it took something, or could not be heard until now
        if self._closing or self._ends:
            return
        if self._wants and not full:
            self._socket.resumeProducing()
        else:
            self._socket.pauseProducing()

    def _close(self, code: int, reason: str) -> None:
        if not self._closing:
            self._closing = True
            self._wire.loseConnection(code, reason)

    # The timer.

    def look(self, now: float) -> None:
        """Have the peer say that it is there, or cut it off if it was silent for too long."""
        hears = self._wants or self._full or self._ends or self._closing
        if hears and now - self.heard_at >= SILENCE:
            self._sockets.silent(self)
        elif not self._closing:
            self._wire.ping()


class Sockets:
    """All WebSockets of a process; each carries a connection of `server`.

    It is what Twisted makes its WebSockets with (`twisted.web.websocket.WebSocketServerFactory`).
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.clock = server.clock
        self._open: dict[Adapter, None] = {}
        self._timer = LoopingCall(self._look)
        self._timer.clock = server.clock  # type: ignore[assignment]  # a Clock will do

    def start(self) -> None:
        """Begin to look after them."""
        self._timer.start(PING, now=False).addErrback(
            lambda failure: log.failure("The pings of WebSockets stopped", failure=failure)
        )

    def stop(self) -> None:
        """Look after them no more; their connections are the server's to end."""
        if self._timer.running:
            self._timer.stop()

    def buildProtocol(self, request: Request) -> Adapter:
        """What carries a new connection, which counts as one of its address like any other."""
        channel: Any = request.channel
        return Adapter(self, self._server.buildProtocol(channel.transport.getPeer()), channel)

    def opened(self, adapter: Adapter) -> None:
        """A WebSocket is open."""
        self._open[adapter] = None

    def closed(self, adapter: Adapter) -> None:
        """A WebSocket is gone."""
        self._open.pop(adapter, None)

    def silent(self, adapter: Adapter) -> None:
        """A peer has not been heard for too long."""
        log.info("A WebSocket whose peer is silent is cut off", peer=str(adapter.getPeer()))
        adapter.abortConnection()

    def _look(self) -> None:
        now = self.clock.seconds()
        for adapter in list(self._open):
            adapter.look(now)
