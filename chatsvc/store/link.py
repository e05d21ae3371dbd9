"""A connection to the store that is kept up: commands and scripts with deadlines over one txredisapi link.

What is sent lives elsewhere on this floor; here is how it is sent, in order, and what happens while the
store is away.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import txredisapi
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatsvc.store.errors import Redirected, TryAgain, Unavailable, Unwritable
from chatsvc.store.protocol import Arg, Reporting, StoreFactory, StoreProtocol, pack
from chatsvc.store.script import COMMAND, Script
from chatsvc.tasks import Clock, Pending, run, spawn
from chatsvc.wire.errors import STORAGE_FULL, Refusal

log = Logger()

#: How long a request waits for a store that is away, and for a reply; both in seconds. Their sum stays
#: under the five seconds within which a client is told.
LINK_WAIT = 1.5
REPLY_TIMEOUT = 3.0
#: A script that starts later than this after it was sent writes nothing: its request is, or is about to
#: be, answered ERR. The difference to the reply's time-out covers what the clocks disagree.
WRITE_WINDOW = 2.5
#: How often a link proves that it lives, in seconds.
PROBE_INTERVAL = 5.0
#: How long an orderly close may take before the connection is cut, in seconds.
CLOSE_WAIT = 2.0


class Watch(Protocol):
    """Who knows whether a connection leads where it should."""

    async def accept(self, connection: StoreProtocol) -> None:
        """Raise an exception with the reason if this new connection, which has logged in, does not."""

    async def is_current(self) -> bool:
        """Whether a connection that was accepted still does."""


class Link:
    """One connection to the store, made again whenever it is lost.

    `call` and `script` give the reply, or raise `Refusal` with what the client is to be told.
    """

    def __init__(
        self,
        reactor: Clock,
        endpoint: IStreamClientEndpoint,
        *,
        login: tuple[tuple[Arg, ...], ...] = (),
        scripts: tuple[Script, ...] = (),
        on_push: Callable[[Link, Any], None] | None = None,
        on_ready: Callable[[Link], None] | None = None,
        routed: bool = False,
        watch: Watch | None = None,
        name: str = "store",
    ) -> None:
        """`login` is the commands (AUTH, SELECT) that each new connection starts with.

        `on_push` makes it a subscriber's: it hears what `tell` leads to, errors included. `routed` is for
        one of many: whatever can be tried elsewhere is raised at once, as `Redirected` or `TryAgain`.
        `watch` is asked about each new connection, and then whenever the link proves that it lives.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._login = login
        self._scripts = (COMMAND, *scripts)
        self._on_push = on_push
        self._on_ready = on_ready
        self.routed = routed
        self._watch = watch
        self._name = name
        self._factory = StoreFactory(self._opened, self._lost)
        self._connection: StoreProtocol | None = None  # usable: logged in, scripts loaded
        self._waiters: list[tuple[Pending[StoreProtocol], float]] = []
        self._clock_offset = 0.0  # the store's clock minus ours, in seconds, never over the truth
        self._sweep = LoopingCall(self._sweep_once)
        self._sweep.clock = reactor  # type: ignore[assignment]  # a Clock will do
        self._probed = 0.0
        self.reconnects = -1
        self.problem = "it has not been reached yet"  # why there is no connection, for the operator
        #: Whether it may be there soon: nobody answers at its address, or it is loading its data.
        self.may_come = True

    def start(self) -> None:
        """Begin to connect, and to reconnect."""
        self._sweep.start(0.25, now=False).addErrback(lambda f: log.failure("link sweep died", failure=f))
        self._factory.startConnecting(Reporting(self._endpoint, self._not_there))

    async def stop(self) -> None:
        """Close the connection for good."""
        if self._sweep.running:
            self._sweep.stop()
        waiters, self._waiters = self._waiters, []
        for pending, _ in waiters:
            pending.fail(Unavailable())
        # A store that is frozen, or speaks no TLS, would never close its side.
        timer = self._reactor.callLater(CLOSE_WAIT, self._cut_all)
        await self._factory.disconnect()
        if timer.active():
            timer.cancel()

    def _cut_all(self) -> None:
        for connection in list(self._factory.pool):
            connection.cut()

    @property
    def up(self) -> bool:
        """Whether the store can be asked right now."""
        return self._connection is not None

    async def ready(self, wait: float) -> None:
        """Return once the store can be asked; raises `Unavailable` after `wait` seconds."""
        await self._usable(self._reactor.seconds() + wait)

    def of(self, key: bytes) -> Link | None:
        """The link for this key, as far as is known: this one (`Router` has many)."""
        return self

    def links(self) -> list[Link]:
        """All links: this one."""
        return [self]

    def outdated(self) -> None:
        """Something is not where it was: it can be nowhere else."""

    def look_soon(self) -> None:
        """Look within a moment whether the store lives, and still is where it was."""
        self._probed = self._reactor.seconds() - PROBE_INTERVAL

    def cut(self, why: str) -> None:
        """End the connection; another is made."""
        if self._connection is not None:
            self._connection.cut(why)

    async def call(self, *args: Arg, asking: bool = False, expires: float | None = None) -> Any:
        """The reply to one command that does not write."""
        command = pack(args)
        return await self._persist(lambda connection: self._reply(connection, command, asking), expires)

    def tell(self, *args: Arg) -> bool:
        """Send a command whose replies come as pushes; False when the store is away."""
        if self._connection is None:
            return False
        self._connection.transport.write(pack(args))
        return True

    async def write(self, command: bytes, key: bytes, *args: Arg) -> Any:
        """The reply to one command that writes: executed within its deadline or not at all."""
        return await self.script(COMMAND, key, command, *args)

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: Arg,
        also: tuple[bytes, ...] = (),
        asking: bool = False,
        expires: float | None = None,
    ) -> Any:
        """The reply of a script, which must be idempotent: it is sent again if a reply was lost soon.

        `key` is its record and `also` what other keys it takes. `expires`, on the injected clock, is when
        the client must have been told; by default it is `LINK_WAIT` plus `REPLY_TIMEOUT` from now. `asking`
        says that the node was named by another one that is giving the key away.
        """
        keys = script.keys(key, also)
        until = self._reactor.seconds() + LINK_WAIT + REPLY_TIMEOUT if expires is None else expires
        return await self._persist(
            lambda connection: self._run_script(connection, script, keys, args, asking, until), until
        )

    async def _persist(
        self, attempt: Callable[[StoreProtocol], Coroutine[Any, Any, Any]], expires: float | None
    ) -> Any:
        """Try until it is too late for a further try to be answered in time."""
        if expires is None:
            expires = self._reactor.seconds() + LINK_WAIT + REPLY_TIMEOUT
        last_start = expires - REPLY_TIMEOUT
        while True:
            if self.routed and self._connection is None:
                raise TryAgain
            connection = self._connection or await self._usable(last_start)
            try:
                return await attempt(connection)
            except _Lost:
                if self.routed:
                    raise TryAgain from None
                if self._reactor.seconds() >= last_start:
                    raise Unavailable from None

    async def _run_script(
        self,
        connection: StoreProtocol,
        script: Script,
        keys: tuple[bytes | int, ...],
        args: tuple[Arg, ...],
        asking: bool,
        expires: float,
    ) -> Any:
        if script.writes:
            until = self._reactor.seconds() + WRITE_WINDOW + self._clock_offset
            args = (int(until * 1000), *args)
        try:
            try:
                command = pack((b"EVALSHA", script.sha, *keys, *args))
                return await self._execute(connection, script, command, keys, asking, expires)
            except _NoScript:
                # Somebody flushed the scripts; nothing was executed.
                command = pack((b"EVAL", script.source, *keys, *args))
                return await self._execute(connection, script, command, keys, asking, expires)
        except _TooLate:
            # The store was frozen, or a clock has jumped; nothing was executed.
            with suppress(txredisapi.RedisError):  # gone meanwhile: each new connection reads it anyway
                await self._read_clock(connection)
            raise _Lost from None

    async def _execute(
        self,
        connection: StoreProtocol,
        script: Script,
        command: bytes,
        keys: tuple[bytes | int, ...],
        asking: bool,
        expires: float,
    ) -> Any:
        """The reply to the command that runs a script, once what it wrote is safe enough."""
        return await self._reply(connection, command, asking)

    async def _reply(self, connection: StoreProtocol, command: bytes, asking: bool) -> Any:
        if asking:
            connection.ask(pack((b"ASKING",)), self._reactor.seconds())  # holds for the next command
        try:
            return await connection.ask(command, self._reactor.seconds())
        except txredisapi.ConnectionError:
            raise _Lost from None
        except txredisapi.ResponseError as error:
            raise self._refused(connection, str(error)) from error

    def _refused(self, connection: StoreProtocol, error: str) -> Exception:
        """What an error reply of the store means for the client."""
        kind = error.strip().split(" ", 1)[0]
        if kind == "NOSCRIPT":
            return _NoScript()
        if "DEADLINE passed" in error:
            return _TooLate()
        if kind in ("MOVED", "ASK"):
            if self.routed:
                return Redirected(error)
            log.error("The store is one node of a cluster; name it as cluster://HOST:PORT.", link=self._name)
            return Unavailable()
        if self.routed and kind in ("TRYAGAIN", "CLUSTERDOWN"):
            return TryAgain(error)
        if "OOM" in error or ("MISCONF" in error and "No space left" in error):
            return Refusal(STORAGE_FULL)
        if any(word in error for word in _NO_PRIMARY):
            connection.cut("it is a replica now")  # there may be a primary when it is made again
            return Unwritable()
        if any(word in error for word in _REFUSALS):
            log.warn("The store refuses to work: {error}", error=error, link=self._name)
            return Unwritable()
        return RuntimeError(f"The store does not understand us: {error}")

    async def _usable(self, until: float) -> StoreProtocol:
        if self._connection is not None:
            return self._connection
        if self._reactor.seconds() >= until:
            raise Unavailable
        pending: Pending[StoreProtocol] = Pending()
        self._waiters.append((pending, until))
        return await pending

    # What the factory tells.

    def _opened(self, connection: StoreProtocol) -> None:
        """A connection is there, but not yet usable."""

        def failed(error: Exception) -> None:
            self.may_come = str(error).startswith(_NOT_YET)
            self._trouble(str(error) or type(error).__name__)
            # Not at once, or a wrong password would be tried in a tight loop.
            self._reactor.callLater(1.0, connection.cut)

        run(self._prepare(connection), self._announce, failed)

    async def _prepare(self, connection: StoreProtocol) -> StoreProtocol:
        for command in self._login:
            await connection.ask(pack(command), self._reactor.seconds())
        if self._watch is not None:
            await self._watch.accept(connection)
        for script in self._scripts:
            await connection.ask(pack((b"SCRIPT", b"LOAD", script.source)), self._reactor.seconds())
        await self._read_clock(connection)
        if self._on_push is not None:
            connection.on_push = partial(self._on_push, self)
        return connection

    def _announce(self, connection: StoreProtocol) -> None:
        if not connection.connected:
            return
        self._connection = connection
        self._probed = self._reactor.seconds()
        self.reconnects += 1
        self.problem = ""
        waiters, self._waiters = self._waiters, []
        for pending, _ in waiters:
            pending.succeed(connection)
        if self._on_ready is not None:
            self._on_ready(self)

    def _lost(self, connection: StoreProtocol) -> None:
        """A connection is gone; the factory makes another."""
        if connection is self._connection:
            self._connection = None
            self._trouble(connection.end)

    def _not_there(self, why: str) -> None:
        self.may_come = True
        self._trouble(why)

    def _trouble(self, why: str) -> None:
        """Keep why there is no connection; the log says it once, not at every try."""
        why = why.rstrip(".")
        if why != self.problem and self._sweep.running:
            self.problem = why
            log.warn("The store cannot be used: {why}", why=why, link=self._name)

    async def _read_clock(self, connection: StoreProtocol) -> None:
        seconds, micros = await connection.ask(pack((b"TIME",)), self._reactor.seconds())
        # Taken when the reply is here, so our idea of the store's time can be late but not early.
        self._clock_offset = int(seconds) + int(micros) / 1e6 - self._reactor.seconds()

    def _sweep_once(self) -> None:
        now = self._reactor.seconds()
        for connection in list(self._factory.pool):
            asked = connection.oldest()
            if asked is not None and now - asked > REPLY_TIMEOUT:
                connection.cut(f"it did not reply within {REPLY_TIMEOUT:g} s")
        if self._waiters:
            late = [pending for pending, until in self._waiters if now >= until]
            self._waiters = [waiter for waiter in self._waiters if now < waiter[1]]
            for pending in late:
                pending.fail(Unavailable())
        if self._connection is not None and now - self._probed >= PROBE_INTERVAL:
            self._probed = now
            spawn(self._probe(self._connection), "looking whether the store lives")

    async def _probe(self, connection: StoreProtocol) -> None:
        try:
            if self._on_push is None:
                await self._read_clock(connection)
            else:
                await connection.ask(pack((b"PING",)), self._reactor.seconds())
        except txredisapi.RedisError as error:
            log.debug("The store did not answer a probe: {error}", error=error, link=self._name)
        if self._watch is not None and not await self._watch.is_current():
            connection.cut("there is another primary now")


#: Kinds of errors of a store that is no primary: those of a replica, and of one who became that meanwhile.
_NO_PRIMARY = ("READONLY", "MASTERDOWN", "UNBLOCKED")
#: Kinds of errors of a store that has just been started.
_NOT_YET = ("LOADING", "MASTERDOWN")
#: Kinds of errors of a store that works again some time.
_REFUSALS = ("LOADING", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN")


class _Lost(Exception):  # noqa: N818 - handled here, seen nowhere else
    """The connection went before the reply came: the outcome is unknown."""


class _NoScript(Exception):  # noqa: N818 - handled here, seen nowhere else
    pass


class _TooLate(Exception):  # noqa: N818 - handled here, seen nowhere else
    """A script found its deadline passed, and wrote nothing."""
