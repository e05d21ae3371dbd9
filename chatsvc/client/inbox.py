"""What comes in for the program: in mailbox order, nothing missed, nothing twice, then acknowledged.

How a connection comes about, and who is logged in on it, is not known here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatsvc.client.connection import Connection, NotConnected, RequestRefused, TimedOut
from chatsvc.tasks import as_failure, spawn
from chatsvc.wire.limits import MIB
from chatsvc.wire.schema import TIMESTAMP_MAX, FetchRange, Message, MessageList

log = Logger()

#: Messages asked for at once: what the program is slow to take stays on the server.
PAGE = 500
#: Pushes that may wait to be shown; over either they are fetched later.
WAITING = 1000
WAITING_CONTENT = 4 * MIB
#: Messages known to be shown: far more than can be delivered and not yet acknowledged at a time.
REMEMBERED = 10_000
#: Pauses in seconds before something that failed is tried again: the first, and the longest.
PAUSES = (1.0, 60.0)


class _Session(NamedTuple):
    """A login on a connection. A new one is another even if both are the same."""

    connection: Connection
    owner: int


class Inbox:
    """Shows a user's messages through `show`, one at a time; `fetch` makes a FETCHMSG request.

    A push is a hint and the mailbox is the truth: pushes that would have to wait for too long are thrown
    away and fetched later, so neither a long absence nor a slow program takes more than a page of memory.
    A message counts as shown when `show` has returned and what it returned has been awaited; only then
    is it acknowledged. When that raises, the failure is logged and the same message is shown again after
    a pause: nothing later is shown, and so nothing is acknowledged, before it. A message is one that was
    shown before if mailbox, sender, receiver, name and time are the same (a *repeat*, ``docs/protocol.md``
    section 5.1).
    """

    def __init__(
        self,
        clock: Any,
        show: Callable[[Message], Awaitable[object] | None],
        fetch: Callable[[Connection, FetchRange], Awaitable[MessageList]],
    ) -> None:
        self._clock = clock
        self._show = show
        self._fetch = fetch
        self._session: _Session | None = None
        self._behind = False  # the mailbox may hold what was not pushed
        self._pushes: deque[Message] = deque()
        self._content = 0  # characters of content in _pushes
        self._shown: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._to_acknowledge: list[int] = []
        self._flushing: Any = None
        self._failures = 0
        self._wake: Deferred[None] | None = None
        self._pausing: Deferred[None] | None = None
        self._idle: deque[Deferred[None]] = deque()
        self._stopped = False

    def start(self) -> None:
        """Begin to work; what comes is shown from now on."""
        spawn(self._work(), "Showing messages")

    def opened(self, connection: Connection, owner: int) -> None:
        """A connection is logged in, as the user `owner`: catch up with their mailbox."""
        self.closed()
        self._session = _Session(connection, owner)
        self._behind = True
        # Tells the server that this device acknowledges by itself, before anything is delivered to it;
        # else a connection that ends well would count as an acknowledgement. No message is that old.
        connection.acknowledge(-TIMESTAMP_MAX)
        self._poke()

    def closed(self) -> None:
        """The connection or the login is gone; what was not acknowledged on it will be fetched again."""
        self._session = None
        self._clear()
        self._to_acknowledge.clear()
        self._failures = 0
        if self._pausing is not None:
            self._pausing.cancel()

    def stop(self) -> None:
        """Acknowledge what was shown, and show no more."""
        self._flush()
        self._stopped = True
        self.closed()
        self._poke()

    def pushed(self, message: Message) -> None:
        """A FORWARDMSG has come."""
        if self._session is None:
            return
        self._pushes.append(message)
        self._content += len(message.content)
        if len(self._pushes) > 1 and (len(self._pushes) > WAITING or self._content > WAITING_CONTENT):
            self._clear()
            self._behind = True
        self._poke()

    def when_idle(self) -> Deferred[None]:
        """A Deferred that fires when everything that the mailbox held has been shown."""
        waiter: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(waiter)
        self._poke()
        return waiter

    async def _work(self) -> None:
        while not self._stopped:
            session = self._session
            if session is not None and self._behind:
                await self._catch_up(session)
            elif session is not None and self._pushes:
                message = self._pushes.popleft()
                self._content -= len(message.content)
                if await self._present(message, session) and session is self._session:
                    self._acknowledge_soon(message)
            else:
                while session is not None and self._idle:
                    self._idle.popleft().callback(None)
                self._wake = Deferred()
                await self._wake

    async def _catch_up(self, session: _Session) -> None:
        """Show the next page of the mailbox."""
        self._flush()
        self._behind = False
        # What was pushed until now is in this page or in a later one.
        self._clear()
        try:
            answer = await self._fetch(session.connection, FetchRange(PAGE))
        except (NotConnected, TimedOut):
            if session is self._session:
                self.closed()
            return
        except RequestRefused as refused:
            log.warn("Fetching messages was refused: {reason}", reason=refused.info)
            self._behind = True
            await self._pause()
            return
        self._failures = 0
        for message in reversed(answer.messages):
            if session is not self._session:
                return
            await self._present(message, session)
        if session is self._session:
            if answer.messages and (newest := answer.messages[0].timestamp) is not None:
                session.connection.acknowledge(newest)
            self._behind = self._behind or answer.more

    async def _present(self, message: Message, session: _Session) -> bool:
        """Show a message, unless it was; whether it was shown now."""
        key = (session.owner, message.userid, message.targetid, message.md5encoded, message.timestamp)
        if key in self._shown:
            return False
        while session is self._session:
            try:
                result = self._show(message)
                if result is not None:
                    await result
            except Exception as error:
                log.failure(
                    "Showing a message from user {sender} failed", as_failure(error), sender=message.userid
                )
                await self._pause()
            else:
                self._failures = 0
                self._shown[key] = None
                if len(self._shown) > REMEMBERED:
                    self._shown.popitem(last=False)
                return True
        return False

    def _acknowledge_soon(self, message: Message) -> None:
        if message.timestamp is not None:  # the server always sets one
            self._to_acknowledge.append(message.timestamp)
            if self._flushing is None:
                self._flushing = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        """Acknowledge the pushes that were shown since the last time, together."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None and flushing.active():
            flushing.cancel()
        shown = self._to_acknowledge
        if self._session is not None and shown:
            # An acknowledgement goes up to the oldest message of that time: as many as there are.
            for _ in range(shown.count(shown[-1])):
                self._session.connection.acknowledge(shown[-1])
        shown.clear()

    async def _pause(self) -> None:
        first, longest = PAUSES
        seconds = min(longest, first * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._pausing = deferLater(self._clock, seconds)
        with suppress(CancelledError):  # the session is gone, and what is to be tried again with it
            await self._pausing

    def _clear(self) -> None:
        self._pushes.clear()
        self._content = 0

    def _poke(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.callback(None)
