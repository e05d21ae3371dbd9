"""One client connection: frames in, requests in order, answers in order, and when reading must wait."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chatsvc.chat.calls import Call
from chatsvc.chat.requests import Closing, begin, conclude, perform
from chatsvc.chat.session import Gone, Session
from chatsvc.net.outbox import Outbox
from chatsvc.net.payload import PAYLOAD_HELD, IncomingPayload
from chatsvc.net.proxied import unwrap
from chatsvc.tasks import Pending, as_failure, run
from chatsvc.wire.errors import Violation
from chatsvc.wire.frames import FrameReader, Head, frame
from chatsvc.wire.schema import envelope

if TYPE_CHECKING:
    from chatsvc.net.server import Server

log = Logger()

#: What a peer may still send, in bytes, and how long it may take, in seconds, after its last answer.
#: Closing at once would reset the connection, and the answer might never be read.
_LINGER_BYTES = 16 * 1024 * 1024
LINGER = 5.0
#: Seconds that a client for whom there is no place has to read why.
REFUSED = 1.0


@implementer(IHalfCloseableProtocol)
class Connection(Protocol):
    """The server's side of a client connection."""

    __slots__ = (
        "_advancing", "_answering", "_began", "_begins", "_clock", "_half_closed", "_held", "_kinds",
        "_limits", "_lingered", "_next", "_no_more", "_over_budget", "_payload", "_proxied", "_proxy",
        "_reading", "_running", "_server", "address", "connected", "counted", "cut_at", "ended", "outbox",
        "place", "progress", "progress_at", "reader", "received_at", "session", "transport", "waits",
    )  # fmt: skip

    transport: Any

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self._clock = server.clock
        self._limits = server.limits
        self.address = address
        self.reader = FrameReader(server.limits)
        self._running: list[Call] = []  # in the order of their answers
        self._kinds: dict[str, int] = {}
        self._next: Call | None = None  # it is read, but may not start yet
        self._held = 0  # bytes of JSON of all requests that are read and not answered
        self._payload: IncomingPayload | None = None
        self._advancing = False
        self._answering = False  # at the end of this turn
        self._reading = True
        self._over_budget = False
        self._began: float | None = None
        #: Whether its first request may begin; None before that has come.
        self._begins: bool | None = None
        self._lingered: int | None = None
        self._half_closed = False
        #: No request is begun any more: the stream is broken, or the server stops.
        self._no_more = False
        #: The neighbourhood that it counts for, and whether as one without a bound device.
        self.place = ""
        self.counted = False
        #: It has to wait for its turn to come in.
        self.waits = False
        #: The peer sends nothing more.
        self.ended = False
        self.received_at = server.clock.seconds()
        #: When to cut the connection whatever happens, once it is being closed.
        self.cut_at: float | None = None
        #: What the last sweep saw of the writing, and when it saw it change.
        self.progress: tuple[int, int | None] = (-1, None)
        self.progress_at = 0.0

    # What Twisted tells.

    def connectionMade(self) -> None:
        self.transport, self._proxy = unwrap(self.transport, self)
        self._proxied = self._proxy is not None
        if self._proxied:
            self.address = ""  # the proxy has still to say whose this is
        for option in ("setTcpNoDelay", "setTcpKeepAlive"):
            if hasattr(self.transport, option):  # a UNIX socket has neither
                getattr(self.transport, option)(True)
        self.outbox = Outbox(self.transport, self._server.turn, self._written)
        self.session = Session(self._server.hub, self.outbox)
        self.session.address = self.address
        self.outbox.attach()
        self._server.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if self._proxy is not None:
            peer, self._proxy = self._proxy.getPeer(), None  # type: ignore[no-untyped-call]
            self._server.known(self, str(getattr(peer, "host", "")))
        if self._lingered is not None:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.pauseProducing()
            return
        self.received_at = self._clock.seconds()
        if self.reader.at_boundary:
            # Nothing is outstanding, and the last answer is not only given but written out.
            quiet = not self._running and self._next is None and self.session.ledger.answered_at is not None
            self._began = self.received_at if quiet else None
        self.reader.receive(data)
        if self._payload is not None:
            self._payload.wake()
        if self._begins is None:
            self._begins = self._server.may_enter(self)
        if self._begins:
            self._advance()
        self._account()

    def enter(self) -> None:
        """It is this connection's turn to begin its first request."""
        self._begins = True
        if not self.session.closed:
            self._advance()
            self._account()

    def readConnectionLost(self) -> None:
        """The peer has closed its sending half: answer what it sent, then close."""
        self.ended = True
        # A proxy may close in order though its client did not, and has received what the client has not.
        self.session.peer_closed(0 if self._proxied else self.outbox.reached_peer())
        if self._payload is not None:
            self._payload.wake()
        if self._begins is not False:
            self._advance()

    def writeConnectionLost(self) -> None:
        """We have closed our sending half; what the peer still sends is thrown away for a while."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True
        self.outbox.lost()
        if self._payload is not None:
            self._payload.wake()
        self._server.closed(self)
        self.session.close()

    # Requests.

    def _advance(self) -> None:
        """Start what may be started of what has arrived."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._has_room():
                call = self._next or self._read_call()
                if call is None:
                    break
                if not call.may_start(self._kinds):
                    self._next = call
                    break
                self._next = None
                self._start(call)
        except Violation as violation:
            self._no_more = True
            self._server.hub.stats.violations += 1
            last = Call(self.session, Head(None, 0), None, self.received_at)
            last.answer = frame(self.outbox.dialect, envelope("UNKNOWN", info=str(violation)))
            last.closes = True
            self._add(last)
            self._answer()
        finally:
            self._advancing = False
        self.regulate()
        if self.ended and not self._running and self._next is None and self._has_room():
            self.close()

    def _has_room(self) -> bool:
        return len(self._running) < self._limits.read_ahead and self.outbox.queued <= self._limits.send_buffer

    def _read_call(self) -> Call | None:
        if self._no_more:
            return None
        try:
            head = self.reader.next_head()
        finally:
            if self.reader.dialect is not None:
                self.outbox.dialect = self.reader.dialect
        if head is None:
            return None
        arrived, self._began = self._began, None
        call = Call(self.session, head, arrived, self.received_at)
        self._held += call.size
        return call

    def _add(self, call: Call) -> None:
        self._running.append(call)
        self._kinds[call.kind] = self._kinds.get(call.kind, 0) + 1

    def _start(self, call: Call) -> None:
        self._add(call)
        if call.payload_length:
            call.payload = self._payload = IncomingPayload(self)
        work = begin(call)
        if work is None:
            run(perform(call), partial(self._answered, call), partial(self._failed, call))
        elif work.done:
            self._conclude(call, work)
        else:
            work.when_done(partial(self._conclude, call, work))

    def _conclude(self, call: Call, work: Pending[Any]) -> None:
        """A request that had one thing to wait for is done; with others, mostly, that came with it.

        So it is answered at the end of the turn, when all of them are.
        """
        try:
            call.answer = conclude(call, work)
        except Exception as error:
            self._failed(call, error)
            return
        if not self._answering:
            self._answering = True
            self._server.turn.at_end(self._answer)

    def _answered(self, call: Call, answer: bytes) -> None:
        call.answer = answer
        self._answer()

    def _failed(self, call: Call, error: Exception) -> None:
        call.answer = b""
        if isinstance(error, Closing):
            call.answer, call.closes = error.answer, True
        elif not isinstance(error, Gone):
            log.failure("A request could not be answered", failure=as_failure(error))
            self.outbox.abort()
        self._answer()

    def _answer(self) -> None:
        """Send the answers that are ready, in the order of the requests."""
        self._answering = False
        running, outbox = self._running, self.outbox
        before = len(running)
        while running and (answer := running[0].answer) is not None:
            call = running.pop(0)
            self._held -= call.size
            left = self._kinds[call.kind] - 1
            if left:
                self._kinds[call.kind] = left
            else:
                del self._kinds[call.kind]
            outbox.send(answer)
            if call.closes:
                self._linger()
                return
        if len(running) < before:
            self.session.ledger.answer(outbox.offset)
        if outbox.written == outbox.offset:
            self._written()
        self._server.doors.used(self)
        if self._next is not None or not self._reading or self.ended or self.reader.buffered:
            self._advance()
        self._account()

    def _account(self) -> None:
        """Tell how much memory requests take here, whether they have still to arrive or to be answered."""
        self._server.budget.update(self, self.reader.unfinished + self._held)

    def _written(self) -> None:
        self.session.ledger.written(self.outbox.written, self._clock.seconds())
        if self._lingered is not None:
            self._half_close()
        elif self._next is not None or not self._reading or self.ended:
            self._advance()
        if self.cut_at is not None and not self.outbox.queued:
            self.outbox.detach()

    # Reading and closing.

    @property
    def is_bound(self) -> bool:
        """Whether the connection's device is bound to a user."""
        device = self.session.device
        return device is not None and device.user_id is not None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._running) or self._next is not None or self._begins is False

    @property
    def stalls(self) -> bool:
        """Whether a frame is unfinished, and it is the peer's turn."""
        its_turn = (self._reading or self._over_budget) and not self.ended and self._begins is not False
        return its_turn and not self.reader.at_boundary

    def pause_for_budget(self, paused: bool) -> None:
        """Stop reading, or go on, for the sake of all connections' memory."""
        self._over_budget = paused
        self.regulate()

    def regulate(self) -> None:
        """Read on only if there is room for what comes."""
        if self._lingered is not None or self.ended:
            return
        uploading = bool(self.reader.payload_left)  # of a request that has begun, or is the next
        blocked = self._next is not None or not self._has_room() or (self._no_more and not uploading)
        full = uploading and self.reader.buffered >= PAYLOAD_HELD
        reading = not (blocked or full or self._over_budget or self.waits)
        if reading != self._reading:
            self._reading = reading
            if reading:
                self.received_at = self._clock.seconds()  # until now it could make no progress
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def refuse_more(self) -> None:
        """Begin no further request: the server stops."""
        self._no_more = True
        self.regulate()

    @property
    def is_quiet(self) -> bool:
        """Whether all that was begun is answered, and has arrived."""
        busy = self.busy and not self.waits  # who waits has begun nothing
        return not busy and not self.outbox.queued and not self.outbox.in_kernel()

    def wait(self) -> None:
        """Read nothing until `let_in`: too many connections come from this address."""
        self.waits, self._begins = True, False
        self.regulate()

    def let_in(self) -> None:
        """Begin, or go on."""
        if not self.waits:
            return
        self.waits, self._begins = False, None
        if self.reader.buffered:  # it came with what the proxy said
            self._begins = self._server.may_enter(self)
            if self._begins:
                self._advance()
        self.regulate()

    def refuse(self, info: str) -> None:
        """Say why there is no place for it, and cut the connection soon after.

        Not in order: the released client stays away for good then, but after a reset it comes again.
        """
        self.outbox.send(frame(self.outbox.dialect, envelope("UNKNOWN", info=info)))
        self._half_closed = self._no_more = True
        self._lingered, self.waits = 0, False
        self.cut_at = self._clock.seconds() + REFUSED
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()

    def _linger(self) -> None:
        """Close after the last answer so that the peer can read it."""
        self._lingered, self._no_more, self._next = 0, True, None
        self.cut_at = self._clock.seconds() + LINGER
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()
        self._half_close()

    def _half_close(self) -> None:
        if self.outbox.queued or self._half_closed:
            return
        self._half_closed = True
        self.outbox.detach()
        if self.outbox.can_half_close and not self.ended:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def close(self) -> None:
        """Close once all that was answered is written out."""
        if self.cut_at is None:
            self.cut_at = self._clock.seconds() + max(LINGER, self._limits.send_timeout)
        if not self.outbox.queued:
            self.outbox.detach()
        self.transport.loseConnection()
