"""What both HTTP sites are made of: requests whose bodies nobody keeps, connections that have their time.

Which pages there are is known to ``chatsvc/net/http.py`` (for monitoring) and ``chatsvc/net/web.py`` (the
chat page).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any, NamedTuple

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

_NO_HEADERS: Mapping[str, str] = {}


class Reply(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    #: Further headers.
    headers: Mapping[str, str] = _NO_HEADERS


def sentence(status: HTTPStatus, text: str, **headers: str) -> Reply:
    """An answer that is a sentence for a person."""
    return Reply(status, f"{text}\n".encode(), headers=headers)


class PageRequest(Request):
    """One request for a page; what it brings with it is thrown away."""

    channel: Any

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()  # and not a temporary file: nothing is ever kept in it

    def handleContentChunk(self, data: bytes) -> None:
        """No page takes a body."""

    def answer(self, reply: Reply) -> None:
        """Send `reply`, unless the peer is gone."""
        if self.channel is None:
            return
        headers = {"content-type": reply.content_type, **reply.headers}
        if reply.status is not HTTPStatus.NOT_MODIFIED:
            headers["content-length"] = str(len(reply.body))
        if not self.channel.factory.persistent:
            headers["connection"] = "close"
        for name, value in headers.items():
            self.responseHeaders.setRawHeaders(name.replace("_", "-"), [value])
        self.setResponseCode(reply.status)
        self.write(reply.body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


class PageChannel(HTTPChannel):
    """One connection, for a time that no byte prolongs (Twisted's own is longer)."""

    requestFactory = PageRequest
    factory: Any
    transport: Any
    _cut: Any

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        site: PageSite = self.factory
        self._cut = site.reactor.callLater(site.connection_time, self.transport.abortConnection)
        site.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.leave()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """It is no connection for pages any more: it has ended, or become something else."""
        if self._cut.active():
            self._cut.cancel()
        self.factory.closed(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        return bool(self.factory.persistent and super().checkPersistence(request, version))  # type: ignore[no-untyped-call]


class PageSite(HTTPFactory):
    """Pages for all who connect. It writes no access log; a request's head may have 16 KiB."""

    protocol = PageChannel  # type: ignore[assignment]  # without what chooses between HTTP 1 and 2
    noisy = False
    #: Seconds after which a connection is cut, whatever it is at.
    connection_time = 10.0
    #: Connections at a time; for one more the oldest is cut.
    connections = 32
    #: Whether a connection is for more than one request.
    persistent = False

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor=reactor)
        self.reactor: Any = reactor
        self._channels: dict[PageChannel, None] = {}  # the oldest first

    def startFactory(self) -> None:
        """Start nothing: all that Twisted starts here is its access log."""

    def opened(self, channel: PageChannel) -> None:
        """A peer has connected."""
        self._channels[channel] = None
        if len(self._channels) > self.connections:
            next(iter(self._channels)).transport.abortConnection()

    def closed(self, channel: PageChannel) -> None:
        """A peer is gone."""
        self._channels.pop(channel, None)
