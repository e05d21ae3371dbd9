"""The connection to a store as txredisapi makes it, with what we need besides; nothing of ours is sent here.

How one is kept up, and what goes over it, lives in ``link``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import txredisapi
from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from chatsvc.tasks import Pending


class Packed(NamedTuple):
    """Arguments of a command that are already as they go to the store, and how many they are."""

    data: bytes
    number: int


#: What a command is made of.
Arg = bytes | str | int | Packed


def pack(args: tuple[Arg, ...]) -> bytes:
    """A command as it goes to the store."""
    data, number = packed(args)
    return b"*%d\r\n%b" % (number, data)


def packed(args: tuple[Arg, ...]) -> Packed:
    """Arguments of a command as they go to the store."""
    out, number = [], len(args)
    for arg in args:
        if isinstance(arg, Packed):
            out.append(arg.data)
            number += arg.number - 1
        else:
            data = arg if isinstance(arg, bytes) else str(arg).encode()
            out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return Packed(b"".join(out), number)


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


# Twisted tells of each try to connect, several times a second for as long as a store is away; a `Link` says
# why it cannot be used, once.
ClientService._log = Logger(observer=LogPublisher())  # type: ignore[arg-type]  # noqa: SLF001


class StoreFactory(txredisapi.RedisFactory):  # type: ignore[misc]
    """Reconnects soon, as the embedded store is back soon, and tells of each connection."""

    protocol = StoreProtocol
    initialDelay = 0.05
    maxDelay = 1.0

    def __init__(
        self, opened: Callable[[StoreProtocol], None], lost: Callable[[StoreProtocol], None]
    ) -> None:
        super().__init__(None, None, 1, isLazy=True, charset=None, convertNumbers=False)
        self._opened = opened
        self._lost = lost

    def addConnection(self, conn: StoreProtocol) -> None:
        super().addConnection(conn)
        if conn.connected:
            conn.whenDisconnected().addCallback(self._lost)
            self._opened(conn)


@implementer(IStreamClientEndpoint)
class Reporting:
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
