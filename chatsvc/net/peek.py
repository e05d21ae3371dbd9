"""Asking the monitoring site of another of our processes, on a UNIX socket.

What its pages say is known to ``chatsvc/net/http.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

#: Seconds for a whole answer: less than whoever passes it on has himself.
PATIENCE = 3.0


class Page(NamedTuple):
    """What was answered: whether with 200, and what."""

    ok: bool
    body: bytes


async def page(reactor: Any, path: Path, name: str) -> Page | None:
    """The page `name` (``/readyz``, say) on the socket at `path`; None if it does not come in time."""
    asking = _Asking(name)
    factory = Factory.forProtocol(lambda: asking)
    factory.noisy = False
    try:
        endpoint = UNIXClientEndpoint(reactor, str(path), PATIENCE)  # type: ignore[no-untyped-call]
        await endpoint.connect(factory)  # type: ignore[no-untyped-call]
        reply = await asking.reply.addTimeout(PATIENCE, reactor)
    except (ConnectError, NoAnswer):
        return None
    finally:
        if asking.transport is not None:
            asking.transport.abortConnection()
    head, separator, body = reply.partition(b"\r\n\r\n")
    return Page(b" 200 " in head.partition(b"\r\n")[0], body) if separator else None


class _Asking(Protocol):
    """One request on a connection of its own; `reply` is all that came until the site closed it."""

    transport: Any

    def __init__(self, name: str) -> None:
        self._name = name
        self._received = bytearray()
        self.reply: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"GET %s HTTP/1.0\r\n\r\n" % self._name.encode())

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.reply.called:
            self.reply.callback(bytes(self._received))
