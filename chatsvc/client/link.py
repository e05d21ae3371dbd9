"""The way to the server: one connection kept up for as long as the client runs, others for transfers.

What is said on a connection, but for the greeting that makes one usable, is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatsvc.client.connection import Connection, NotConnected, RequestRefused, TimedOut
from chatsvc.tasks import spawn
from chatsvc.wire.errors import SERVER_BUSY, STORAGE_UNAVAILABLE, TOO_MANY_REQUESTS

log = Logger()
T = TypeVar("T")

#: The pauses before connecting again, in seconds: the first, doubled each time up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

#: Refusals that pass: trying again is right, and for a message it is a *repeat*.
PASSING = frozenset({STORAGE_UNAVAILABLE, SERVER_BUSY, TOO_MANY_REQUESTS})


def within(clock: Any, seconds: float, work: Deferred[T], what: str) -> Deferred[T]:
    """`work`, or `TimedOut` with the sentence `what` after `seconds`."""

    def expired(_result: object, _seconds: float) -> Any:
        raise TimedOut(what)

    return work.addTimeout(seconds, clock, onTimeoutCancel=expired)


class Link:
    """Keeps a connection up until told to stop.

    `build` makes a `Connection`, the main one or one for a transfer. `greet` is awaited on each new main
    connection before it counts as up; `changed` is called whenever one has come up or gone. `random`
    gives numbers from 0 to 1: clients that lost the same server do not come back all at once.
    """

    def __init__(
        self,
        clock: Any,
        endpoint: Any,
        timeout: float,
        build: Callable[[bool], Connection],
        greet: Callable[[Connection], Awaitable[object]],
        changed: Callable[[], None],
        random: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._timeout = timeout
        self._build = build
        self._greet = greet
        self._changed = changed
        self._random = random
        self._main: Connection | None = None
        self._connections: set[Connection] = set()
        self._waits: set[Deferred[Any]] = set()
        self._waiting_up: deque[Deferred[Connection]] = deque()
        self.stopped = False
        #: Why there is no connection, as a sentence.
        self.trouble = "The client has not been started."

    @property
    def connection(self) -> Connection | None:
        """The main connection, if it is up."""
        return self._main if self._main is not None and self._main.ended is None else None

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        self.trouble = "Connecting takes longer than usual."
        spawn(self._keep_up(), "Keeping the connection up")

    async def stop(self) -> None:
        """End every wait with `NotConnected` and every connection in order; returns when they are gone."""
        self.stopped = True
        self.trouble = "The client was stopped."
        for wait in list(self._waits):
            wait.cancel()
        ends = [connection.when_lost() for connection in self._connections]
        for connection in list(self._connections):
            connection.close()
        for end in ends:
            await end

    async def when_up(self) -> Connection:
        """The main connection as soon as it is up."""
        connection = self.connection
        if connection is not None:
            return connection
        waiter: Deferred[Connection] = Deferred(self._waiting_up.remove)
        self._waiting_up.append(waiter)
        return await self.wait(waiter)

    def delay(self, attempt: int) -> float:
        """How long to wait before trying something for the `attempt`th time (from 0) again, in seconds."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 10))
        return longest * (1 + self._random()) / 2

    async def pause(self, seconds: float) -> None:
        """Do nothing for a while."""
        await self.wait(deferLater(self._clock, seconds))

    async def wait(self, what: Deferred[T]) -> T:
        """Await `what`; when the client is stopped, cancel it and raise `NotConnected`."""
        if self.stopped:
            what.cancel()
        self._waits.add(what)
        try:
            return await what
        except (CancelledError, ConnectingCancelledError):
            raise NotConnected(self.trouble) if self.stopped else CancelledError from None
        finally:
            self._waits.discard(what)

    async def dial(self, *, main: bool = False) -> Connection:
        """A new connection; raises `NotConnected`, or `TimedOut`."""
        connection = self._build(main)
        what = f"No connection to the server within {self._timeout:g} s."
        try:
            dialling: Deferred[Any] = connectProtocol(self._endpoint, connection)  # type: ignore[no-untyped-call]
            attempt = within(self._clock, self._timeout, dialling, what)
            await self.wait(attempt)
        except (NotConnected, TimedOut, CancelledError):
            raise
        except Exception as error:  # endpoints fail in many ways
            raise NotConnected(f"No connection to the server: {error}") from error
        self._connections.add(connection)
        connection.when_lost().addCallback(lambda _: self._connections.discard(connection))
        return connection

    async def persist(self, once: Callable[[], Coroutine[Any, Any, None]], timeout: float) -> None:
        """Do `once` until it succeeds or is refused for good; raises its last trouble after `timeout` s."""
        give_up = self._clock.seconds() + timeout
        attempt = 0
        while True:
            left = max(0.0, give_up - self._clock.seconds())
            what = f"Not answered within {timeout:g} s."
            try:
                return await within(self._clock, left, Deferred.fromCoroutine(once()), what)
            except (RequestRefused, NotConnected, TimedOut) as trouble:
                left = give_up - self._clock.seconds()
                passes = not isinstance(trouble, RequestRefused) or trouble.info in PASSING
                if not passes or self.stopped or left <= 0:
                    raise
            if self.connection is not None:  # else the next one is what to wait for
                await self.pause(min(self.delay(attempt), left))
                attempt += 1

    async def _keep_up(self) -> None:
        attempt = 0
        delay = 0.0
        while True:
            up = 0.0
            try:
                up = await self._connect_once()
            except Exception as error:
                self.trouble = str(error)
            if self.stopped:
                return
            if up > delay:  # a server that takes connections and drops them at once is not back yet
                attempt = 0
            delay = self.delay(attempt)
            attempt += 1
            log.info("{reason} Connecting again in {delay:.1f} s.", reason=self.trouble, delay=delay)
            with suppress(NotConnected):  # stopped
                await self.pause(delay)

    async def _connect_once(self) -> float:
        """Be connected until it is over; for how many seconds that was."""
        connection = await self.dial(main=True)
        try:
            await self._greet(connection)
            since = self._clock.seconds()
            self._main = connection
            self._changed()
            while self._waiting_up and connection.ended is None:
                self._waiting_up.popleft().callback(connection)
            await self.wait(connection.when_lost())
            self.trouble = str(connection.ended)
            return float(self._clock.seconds() - since)
        finally:
            connection.close()
            self._main = None
            self._changed()
