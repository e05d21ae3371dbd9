"""One TCP connection: requests out, answers matched to them in order, payloads both ways, deadlines.

It does not connect again, knows no user, and hands pushes to whoever made it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chatsvc.tasks import as_failure, spawn
from chatsvc.wire.errors import Violation
from chatsvc.wire.frames import RELEASED, Dialect, FrameReader, Head, frame
from chatsvc.wire.limits import JSON_CEILING, JSON_DISCARD_CEILING, KIB, PAYLOAD_CEILING, Limits
from chatsvc.wire.schema import Ack, Contacts, Request, Response, Token, encode

log = Logger()
T = TypeVar("T")
Progress = Callable[[int, int], None]

CHUNK = 64 * KIB
#: How long a peer that does not read may keep a closed connection from ending, in seconds.
CLOSE_PATIENCE = 5.0
#: An idle connection whose peer is gone ends after 60 + 3 x 20 s; the system's own default is hours.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}

#: A message may be most of a request, and grows when it goes out in ASCII.
_LIMITS = Limits(json=JSON_DISCARD_CEILING)
_responses = msgspec.json.Decoder(Response)


class RequestRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The server answered ERR; `info` is its sentence for a person."""

    @property
    def info(self) -> str:
        """What the server said."""
        return str(self.args[0])


class NotConnected(Exception):  # noqa: N818 - the state it tells of
    """There is no connection, or it ended before the answer: the request's outcome is not known."""


class TimedOut(Exception):  # noqa: N818 - what happened
    """No answer, and no progress towards one, in the time allowed: the request's outcome is not known."""


class Upload(NamedTuple):
    """A payload to send: `length` bytes, of which `read` gives the next, at most as many as it is told."""

    length: int
    read: Callable[[int], Awaitable[bytes]]


class _Exchange:
    """A request that waits for its answer."""

    __slots__ = ("answer", "kind", "progress", "response", "shape", "sink", "size")

    def __init__(
        self,
        kind: str,
        shape: Any,
        sink: Callable[[bytes], Awaitable[object]] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.kind = kind
        self.shape = shape
        self.sink = sink
        self.progress = progress
        self.answer: Deferred[Any] = Deferred()
        self.response: Response | None = None  # has come, its payload has not
        self.size = 0

    def fail(self, error: Exception) -> None:
        if not self.answer.called:  # it is when the program no longer waits
            self.answer.errback(as_failure(error))

    def finish(self) -> None:
        response = self.response
        assert response is not None
        if response.status == "ERR":
            self.fail(RequestRefused(response.info or "The server gave no reason."))
        elif not self.answer.called:
            self.answer.callback(msgspec.json.decode(response.body, type=self.shape))


@implementer(IPushProducer)
class Connection(Protocol):
    """A connection of a device to a server (``docs/protocol.md`` sections 1 to 5).

    `token` names the device; the server gives one to a connection that has none, or an unknown one.
    `timeout` is how long, in seconds, a request may see no progress before the connection is given up.
    `on_push` hears the type and the body of each push, `on_token` each new token.
    """

    transport: Any

    def __init__(
        self,
        clock: Any,
        dialect: Dialect = RELEASED,
        token: int | None = None,
        timeout: float = 30.0,
        on_push: Callable[[str, Raw], None] = lambda _, __: None,
        on_token: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._dialect = dialect
        self.token = token
        self._timeout = timeout
        self._on_push = on_push
        self._on_token = on_token
        self._reader = FrameReader(_LIMITS, dialect)
        self._exchanges: deque[_Exchange] = deque()
        self._deadline: Any = None
        self._closing: Any = None
        self._pouring = False
        self._uploading = False
        self._drained: Deferred[None] | None = None  # there while the transport wants no more
        #: Why no more requests can be made; None as long as they can.
        self.ended: NotConnected | TimedOut | None = None
        self._lost = False
        self._on_lost: list[Deferred[None]] = []

    def request(
        self,
        kind: str,
        body: object,
        shape: type[T],
        *,
        upload: Upload | None = None,
        sink: Callable[[bytes], Awaitable[object]] | None = None,
        progress: Progress | None = None,
    ) -> Deferred[T]:
        """Send a request; the result is the answer's body in its `shape`, when its payload is there too.

        The payload of the request is read from `upload` as the server takes it, that of the answer goes
        to `sink` piece by piece, each awaited before more is read; `progress` hears how many bytes of how
        many have passed. While an upload is under way nothing else can be sent. A FETCHMSG must have a
        limit: without one it has several answers. ACKFETCH has none, see `acknowledge`.

        Fails with `RequestRefused`, `NotConnected` or `TimedOut`, or with what `read`, `sink` or
        `progress` raised, which ends the connection. Raises ValueError for a request that is too large.
        """
        if self.ended is not None:
            return fail(_anew(self.ended))
        self._write(kind, body, 0 if upload is None else upload.length)
        exchange = _Exchange(kind, shape, sink, progress)
        self._exchanges.append(exchange)
        if kind == "ADDCONTACT" and self._dialect is RELEASED:
            also = _Exchange("FETCHCONTACT", Contacts)
            also.answer.addErrback(lambda _: None)
            self._exchanges.append(also)
        if self._exchanges[0] is exchange:
            self._watch()
        if upload is not None:
            self._uploading = True
            spawn(self._upload(exchange, upload), "Sending a file")
        return exchange.answer

    def acknowledge(self, timestamp: int) -> None:
        """Send an ACKFETCH, which is never answered (``docs/protocol.md`` section 5.2)."""
        if self.ended is None:
            self._write("ACKFETCH", Ack(timestamp), 0)

    def close(self) -> None:
        """End the connection in order: what was written still goes out; what is outstanding fails now."""
        self._give_up(NotConnected("The connection was closed."))
        if not self._lost and self._closing is None:
            self.transport.unregisterProducer()  # or a TLS transport waits for us
            self.transport.loseConnection()
            self._closing = self._clock.callLater(CLOSE_PATIENCE, self.transport.abortConnection)

    def when_lost(self) -> Deferred[None]:
        """A Deferred that fires when the connection has ended, after everything outstanding has failed."""
        waiter: Deferred[None] = Deferred()
        if self._lost:
            waiter.callback(None)
        else:
            self._on_lost.append(waiter)
        return waiter

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Watch for a peer that is gone, and for one that does not read."""
        self.transport.registerProducer(self, True)
        address = self.transport.getPeer()
        if isinstance(address, IPv4Address | IPv6Address) and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name) and hasattr(self.transport, "socket"):
                    option = getattr(socket, name)
                    self.transport.socket.setsockopt(socket.IPPROTO_TCP, option, value)

    def dataReceived(self, data: bytes) -> None:
        """Take in what the server sent."""
        self._reader.receive(data)
        self._read()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail what is outstanding; tell those who wait for the end."""
        self._lost = True
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        why = "the server closed it" if isinstance(reason.value, ConnectionDone) else reason.getErrorMessage()
        self._give_up(NotConnected(f"The connection to the server was lost: {why.rstrip('.')}."))
        waiters, self._on_lost = self._on_lost, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def pauseProducing(self) -> None:
        """The transport has enough to write."""
        if self._drained is None:
            self._drained = Deferred()

    def resumeProducing(self) -> None:
        """The transport wants more."""
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)

    def stopProducing(self) -> None:
        """The connection is ending; `connectionLost` says so too."""

    # Out.

    def _write(self, kind: str, body: object, payload: int) -> None:
        if self._uploading:
            raise RuntimeError("A file is being sent on this connection; requests need another one.")
        data = encode(Request(kind, Raw(encode(body)), self.token))
        if len(data) > JSON_CEILING:
            raise ValueError(f"A request may have at most {JSON_CEILING} bytes; this one has {len(data)}.")
        if payload > PAYLOAD_CEILING:
            raise ValueError(f"A file may have at most {PAYLOAD_CEILING} bytes; this one has {payload}.")
        self.transport.write(frame(self._dialect, data, payload))

    async def _upload(self, exchange: _Exchange, upload: Upload) -> None:
        left = upload.length
        try:
            while left:
                data = await upload.read(min(left, CHUNK))
                if self._drained is not None:
                    await self._drained
                if self.ended is not None:
                    break
                if not data:
                    raise EOFError(f"The file ended {left} bytes early; it changed while it was being sent.")
                self.transport.write(data)
                left -= len(data)
                if self._exchanges and self._exchanges[0] is exchange:
                    self._watch()
                if exchange.progress is not None:
                    exchange.progress(upload.length - left, upload.length)
        except Exception as error:
            self._spoil(exchange, error)
        self._uploading = False

    # In.

    def _read(self) -> None:
        reader = self._reader
        try:
            while self.ended is None and not self._pouring:
                if reader.payload_left:
                    data = reader.read_payload()
                    if not data:
                        break
                    self._payload(data)
                else:
                    head = reader.next_head()
                    if head is None:
                        break
                    self._frame(head)
        except (Violation, msgspec.MsgspecError, ValueError) as error:
            log.error("Not an answer of a chat server: {reason}", reason=str(error))
            self._abort(NotConnected(f"The server sent what is not an answer: {error}"))
        if not reader.at_boundary and not self._pouring and self._exchanges:
            self._watch()  # a frame under way is progress; a finished push is none

    def _frame(self, head: Head) -> None:
        assert head.json is not None  # our limit is where the reader refuses, so it throws nothing away
        response = _responses.decode(head.json)
        kind = response.response
        if kind.startswith("FORWARD"):
            self._on_push(kind, response.body)
        elif kind == "TOKEN":
            self.token = msgspec.json.decode(response.body, type=Token).tokenid
            self._on_token(self.token)
        elif self._exchanges and kind in (self._exchanges[0].kind, "UNKNOWN"):
            self._exchanges[0].response = response
            self._exchanges[0].size = head.payload_length
            if not head.payload_length:
                self._answered()
        else:
            log.warn("Ignored {kind} from the server: {info}", kind=kind, info=response.info)

    def _payload(self, data: bytes) -> None:
        exchange = self._exchanges[0] if self._exchanges else None
        if exchange is None or exchange.response is None:
            return  # of something that was ignored
        if exchange.sink is None or exchange.response.status == "ERR":
            if not self._reader.payload_left:
                self._answered()
            return
        self._pouring = True
        self.transport.pauseProducing()
        self._unwatch()  # it is us that the answer waits for now
        spawn(self._pour(exchange, exchange.sink, data), "Taking in a file")

    async def _pour(
        self, exchange: _Exchange, sink: Callable[[bytes], Awaitable[object]], data: bytes
    ) -> None:
        left = self._reader.payload_left
        try:
            await sink(data)
            if exchange.progress is not None:
                exchange.progress(exchange.size - left, exchange.size)
        except Exception as error:
            self._spoil(exchange, error)
        self._pouring = False
        if self.ended is not None:
            return
        self._watch()
        if not left:
            self._answered()
        self.transport.resumeProducing()
        self._read()

    def _answered(self) -> None:
        exchange = self._exchanges.popleft()
        self._unwatch()
        if self._exchanges:
            self._watch()
        try:
            exchange.finish()
        except msgspec.MsgspecError as error:
            exchange.fail(NotConnected(f"The server's answer is not valid: {error}"))
            raise

    # The end.

    def _watch(self) -> None:
        if self._deadline is None:
            self._deadline = self._clock.callLater(self._timeout, self._expired)
        else:
            self._deadline.reset(self._timeout)

    def _unwatch(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _expired(self) -> None:
        self._deadline = None
        kind = self._exchanges[0].kind
        self._abort(TimedOut(f"The server did not answer {kind} within {self._timeout:g} s."))

    def _spoil(self, exchange: _Exchange, error: Exception) -> None:
        """Give up a transfer that failed on our side; the stream cannot be used after half a frame."""
        exchange.fail(error)
        self._abort(NotConnected("A file transfer on this connection failed."))

    def _abort(self, error: NotConnected | TimedOut) -> None:
        self._give_up(error)
        if not self._lost:
            self.transport.abortConnection()

    def _give_up(self, error: NotConnected | TimedOut) -> None:
        if self.ended is not None:
            return
        self.ended = error
        self._unwatch()
        self.resumeProducing()  # an upload that waits sees the end
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.fail(_anew(error))


def _anew(error: NotConnected | TimedOut) -> NotConnected | TimedOut:
    # Each waiter raises its own: a raised exception collects the traceback of where it passed.
    return type(error)(*error.args)
