"""A connection to the store that is kept up: commands and scripts with deadlines over one txredisapi link.

What is sent lives elsewhere on this floor; here is how it is sent, in order, and what happens while the
store is away.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import txredisapi
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chatsvc.tasks import Clock, Pending, run, spawn
from chatsvc.wire.errors import STORAGE_FULL, STORAGE_UNAVAILABLE, Refusal

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


class Redirected(Exception):  # noqa: N818 - `Router` follows it, nobody else sees it
    """Another node of a cluster serves the key, or is just getting it (`asking`)."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        kind, slot, address = error.split()[:3]
        host, _, port = address.rpartition(":")
        self.asking = kind == "ASK"
        self.slot = int(slot)
        self.address = host, int(port)


class TryAgain(Exception):  # noqa: N818 - `Router` does
    """A node of a cluster cannot say now; if it has done something, doing it again is no change."""


class Unavailable(Refusal):
    """The store cannot be asked, or its answer was lost."""

    def __init__(self, info: str = STORAGE_UNAVAILABLE) -> None:
        super().__init__(info)


class Unwritable(Unavailable):
    """The store answers, but nothing can be written now, or not as safely as it must be."""


class Script:
    """A Lua script on a record and on parts of it, which are locals of their names there.

    KEYS[1] is the record. All keys that are touched are declared, so that a cluster that is moving some of
    some of them refuses before the first write. A script that writes looks at its deadline, ARGV[1], first.
    What it writes is `lasting` unless it may be lost with a primary: no replica is waited for then.
    """

    _DEADLINE = (
        "local t = redis.call('TIME')\n"
        "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
        "if now > tonumber(ARGV[1]) then return redis.error_reply('DEADLINE passed') end\n"
    )

    def __init__(self, source: str, *parts: str, writes: bool = True, lasting: bool = True) -> None:
        self.writes = writes
        self.lasting = writes and lasting
        self.parts = parts
        locals_ = "".join(f"local {part} = KEYS[{index}]\n" for index, part in enumerate(parts, 2))
        self.source = (locals_ + (self._DEADLINE if writes else "") + source).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def keys(self, record: bytes, also: tuple[bytes, ...]) -> tuple[bytes | int, ...]:
        """The number of its keys, and the keys, for a record; the keys that it takes `also` come last."""
        parts = (b"%b:%b" % (record, part.encode()) for part in self.parts)
        return (1 + len(self.parts) + len(also), record, *parts, *also)


#: Any one command that writes, with a deadline. KEYS[1] is its key, ARGV[2] its name.
COMMAND = Script("return redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))")


def pack(args: tuple[bytes | str | int, ...]) -> bytes:
    """A command as it goes to the store."""
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if isinstance(arg, bytes) else str(arg).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


class StoreProtocol(txredisapi.RedisProtocol):  # type: ignore[misc]
    """txredisapi's connection, with replies that cost no Deferred each, and sharded channels."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: deque[tuple[Pending[Any], float]] = deque()
        self.on_push: Callable[[Any], None] | None = None
        self.end = ""  # why it ended, for the operator

    def connectionMade(self) -> None:
        for option in ("setTcpNoDelay", "setTcpKeepAlive"):
            if hasattr(self.transport, option):  # a UNIX socket has neither
                getattr(self.transport, option)(True)
        super().connectionMade()

    def tryConvertData(self, data: Any) -> Any:
        return data  # bytes are bytes: "007" is no number

    def ask(self, command: bytes, now: float) -> Pending[Any]:
        """Send a packed command; its reply comes to the Pending, in the order of the commands."""
        pending: Pending[Any] = Pending()
        self._asked.append((pending, now))
        self.transport.write(command)
        return pending

    def oldest(self) -> float | None:
        """When the command that has waited longest was sent."""
        return self._asked[0][1] if self._asked else None

    def replyReceived(self, reply: Any) -> None:
        if self.on_push is not None and _is_push(reply):
            self.on_push(reply)
        elif not self._asked:
            super().replyReceived(reply)
        elif isinstance(reply, Exception):
            self._asked.popleft()[0].fail(reply)
        else:
            self._asked.popleft()[0].succeed(reply)

    def cut(self, why: str = "") -> None:
        """End the connection at once; harmless when it has ended."""
        if self.connected:
            self.end = why
            self.transport.abortConnection()

    def connectionLost(self, why: Any) -> None:
        if not self.end:
            self.end = "it closed the connection" if why.check(ConnectionDone) else why.getErrorMessage()
        super().connectionLost(why)
        while self._asked:
            self._asked.popleft()[0].fail(txredisapi.ConnectionError(self.end))


def _is_push(reply: Any) -> bool:
    """Whether a subscriber's reply answers no command in particular; an error may be about a channel."""
    return isinstance(reply, Exception) or (isinstance(reply, list) and reply[0] in _PUSHED)


_PUSHED = frozenset((b"smessage", b"ssubscribe", b"sunsubscribe"))


class _Factory(txredisapi.RedisFactory):  # type: ignore[misc]
    """Reconnects soon, as the embedded store is back soon, and hands its connection to a `Link`."""

    protocol = StoreProtocol
    initialDelay = 0.05
    maxDelay = 1.0

    def __init__(self, link: Link) -> None:
        super().__init__(None, None, 1, isLazy=True, charset=None, convertNumbers=False)
        self._link = link

    def addConnection(self, conn: StoreProtocol) -> None:
        super().addConnection(conn)
        if conn.connected:
            conn.whenDisconnected().addCallback(self._link.lost)
            self._link.opened(conn)


@implementer(IStreamClientEndpoint)
class _Reporting:
    """An endpoint that also says why it could not connect; who connects again and again does not."""

    def __init__(self, endpoint: Any, on_failure: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._on_failure = on_failure

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """As `IStreamClientEndpoint` has it."""
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        self._on_failure(failure.getErrorMessage())
        return failure


class Watch(Protocol):
    """Who knows whether a connection leads where it should."""

    async def accept(self, connection: StoreProtocol) -> None:
        """Raise an exception with the reason if this new connection, which has logged in, does not."""

    async def is_current(self) -> bool:
        """Whether a connection that was accepted still does."""


class Route(Protocol):
    """What the parts of this floor send through: a `Link`, or in a cluster a `Router`.

    Its methods give the reply, or raise `Refusal` with what the client is to be told.
    """

    async def call(self, *args: bytes | str | int) -> Any:
        """The reply to one command that does not write; its first argument is its key."""

    async def write(self, command: bytes, key: bytes, *args: bytes | str | int) -> Any:
        """The reply to one command that writes: executed within its deadline or not at all."""

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: bytes | str | int,
        also: tuple[bytes, ...] = (),
        expires: float | None = None,
    ) -> Any:
        """The reply of a script."""


class Link:
    """One connection to the store, made again whenever it is lost.

    `call` and `script` give the reply, or raise `Refusal` with what the client is to be told.
    """

    def __init__(
        self,
        reactor: Clock,
        endpoint: IStreamClientEndpoint,
        *,
        login: tuple[tuple[bytes | str | int, ...], ...] = (),
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
        self._routed = routed
        self._watch = watch
        self._name = name
        self._factory = _Factory(self)
        self._connection: StoreProtocol | None = None  # usable: logged in, scripts loaded
        self._waiters: list[tuple[Pending[StoreProtocol], float]] = []
        self._clock_offset = 0.0  # the store's clock minus ours, in seconds, never over the truth
        self._sweep = LoopingCall(self._sweep_once)
        self._sweep.clock = reactor  # type: ignore[assignment]  # a Clock will do
        self._probed = 0.0
        self.reconnects = -1
        self.problem = "it has not been reached yet"  # why there is no connection, for the operator

    def start(self) -> None:
        """Begin to connect, and to reconnect."""
        self._sweep.start(0.25, now=False).addErrback(lambda f: log.failure("link sweep died", failure=f))
        self._factory.startConnecting(_Reporting(self._endpoint, self._trouble))

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

    async def call(self, *args: bytes | str | int, asking: bool = False, expires: float | None = None) -> Any:
        """The reply to one command that does not write."""
        command = pack(args)
        return await self._persist(lambda connection: self._reply(connection, command, asking), expires)

    def tell(self, *args: bytes | str | int) -> bool:
        """Send a command whose replies come as pushes; False when the store is away."""
        if self._connection is None:
            return False
        self._connection.transport.write(pack(args))
        return True

    async def write(self, command: bytes, key: bytes, *args: bytes | str | int) -> Any:
        """The reply to one command that writes: executed within its deadline or not at all."""
        return await self.script(COMMAND, key, command, *args)

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: bytes | str | int,
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
            if self._routed and self._connection is None:
                raise TryAgain
            connection = self._connection or await self._usable(last_start)
            try:
                return await attempt(connection)
            except _Lost:
                if self._routed:
                    raise TryAgain from None
                if self._reactor.seconds() >= last_start:
                    raise Unavailable from None

    async def _run_script(
        self,
        connection: StoreProtocol,
        script: Script,
        keys: tuple[bytes | int, ...],
        args: tuple[bytes | str | int, ...],
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
            if self._routed:
                return Redirected(error)
            log.error("The store is one node of a cluster; name it as cluster://HOST:PORT.", link=self._name)
            return Unavailable()
        if self._routed and kind in ("TRYAGAIN", "CLUSTERDOWN"):
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

    def opened(self, connection: StoreProtocol) -> None:
        """A connection is there, but not yet usable."""

        def failed(error: Exception) -> None:
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

    def lost(self, connection: StoreProtocol) -> None:
        """A connection is gone; the factory makes another."""
        if connection is self._connection:
            self._connection = None
            self._trouble(connection.end)

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
#: Kinds of errors of a store that works again some time.
_REFUSALS = ("LOADING", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN")


class _Lost(Exception):  # noqa: N818 - handled here, seen nowhere else
    """The connection went before the reply came: the outcome is unknown."""


class _NoScript(Exception):  # noqa: N818 - handled here, seen nowhere else
    pass


class _TooLate(Exception):  # noqa: N818 - handled here, seen nowhere else
    """A script found its deadline passed, and wrote nothing."""
