"""The HTTP face for whoever runs the server: does it live, is it ready, how does it fare.

What the pages tell comes from a `Monitored`; what the figures mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Any, NamedTuple, Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from twisted.internet import defer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

from chatsvc.tasks import deferred

log = Logger()

#: Seconds within which a page is answered, or 503 says that it was not.
ANSWER_TIME = 5.0
#: Seconds after which a connection is cut, whatever it is at: it is for one request.
CONNECTION_TIME = 10.0
#: Connections at a time; for one more the oldest is cut.
CONNECTIONS = 32


class Monitored(Protocol):
    """What the pages tell of: one node, or the parent of several."""

    async def problem(self) -> str | None:
        """Why no clients should be sent here now, in a sentence; None if they should."""

    async def metrics(self) -> bytes:
        """All figures, in the text format of Prometheus."""


def monitoring_site(monitored: Monitored, reactor: Any) -> HTTPFactory:
    """What to listen with: GET and HEAD of ``/healthz``, ``/readyz`` and ``/metrics`` (``docs/metrics.md``).

    It writes no access log. A request's head may have 16 KiB; what follows it is thrown away.
    """
    return MonitoringSite(monitored, reactor)


class Reply(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


async def _health(monitored: Monitored) -> Reply:
    """The process answers, whatever else is wrong; if it does not, start it again."""
    return _sentence(HTTPStatus.OK, "ok")


async def _readiness(monitored: Monitored) -> Reply:
    """Whether clients should be sent here."""
    problem = await monitored.problem()
    if problem is not None:
        return _sentence(HTTPStatus.SERVICE_UNAVAILABLE, problem)
    return _sentence(HTTPStatus.OK, "ready")


async def _metrics(monitored: Monitored) -> Reply:
    """All figures."""
    return Reply(HTTPStatus.OK, await monitored.metrics(), CONTENT_TYPE_PLAIN_0_0_4)


_PAGES: dict[bytes, Callable[[Monitored], Coroutine[Any, Any, Reply]]] = {
    b"/healthz": _health,
    b"/readyz": _readiness,
    b"/metrics": _metrics,
}


def _sentence(status: HTTPStatus, text: str) -> Reply:
    return Reply(status, f"{text}\n".encode())


class _Request(Request):
    """One request for a page."""

    channel: Any

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()  # and not a temporary file: nothing is ever kept in it

    def handleContentChunk(self, data: bytes) -> None:
        """No page takes a body."""

    def process(self) -> None:
        page = _PAGES.get(self.path)
        if page is None:
            there_are = b", ".join(_PAGES).decode()
            _answer(self, _sentence(HTTPStatus.NOT_FOUND, f"There is no such page. There are {there_are}."))
        elif self.method not in (b"GET", b"HEAD"):
            self.responseHeaders.setRawHeaders("allow", ["GET, HEAD"])
            _answer(self, _sentence(HTTPStatus.METHOD_NOT_ALLOWED, "This page is for GET and HEAD only."))
        else:
            site: MonitoringSite = self.channel.factory
            reply = deferred(page(site.monitored)).addTimeout(ANSWER_TIME, site.reactor)
            reply.addErrback(_failed).addCallback(partial(_answer, self))


def _failed(failure: Failure) -> Reply:
    if isinstance(failure.value, defer.TimeoutError):
        return _sentence(HTTPStatus.SERVICE_UNAVAILABLE, f"There was no answer within {ANSWER_TIME:g} s.")
    log.failure("A monitoring page failed", failure=failure)
    return _sentence(HTTPStatus.INTERNAL_SERVER_ERROR, "The server has a fault; its log has the details.")


def _answer(request: Any, reply: Reply) -> None:
    if request.channel is None:
        return  # the peer is gone
    request.setResponseCode(reply.status)
    request.setHeader("content-type", reply.content_type)
    request.setHeader("content-length", str(len(reply.body)))
    request.setHeader("cache-control", "no-store")
    request.setHeader("connection", "close")
    request.write(reply.body)
    request.finish()


class _Channel(HTTPChannel):
    """One connection: for one request, and for a time that no byte prolongs (Twisted's own is longer)."""

    requestFactory = _Request
    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self._cut = self.factory.reactor.callLater(CONNECTION_TIME, self.transport.abortConnection)
        self.factory.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._cut.active():
            self._cut.cancel()
        self.factory.closed(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        return False


class MonitoringSite(HTTPFactory):
    """The pages, for all who connect."""

    protocol = _Channel  # type: ignore[assignment]  # without what chooses between HTTP 1 and 2
    noisy = False

    def __init__(self, monitored: Monitored, reactor: Any) -> None:
        super().__init__(reactor=reactor)
        self.monitored = monitored
        self._channels: dict[_Channel, None] = {}  # the oldest first

    def startFactory(self) -> None:
        """Start nothing: all that Twisted starts here is its access log."""

    def opened(self, channel: _Channel) -> None:
        """A peer has connected."""
        self._channels[channel] = None
        if len(self._channels) > CONNECTIONS:
            next(iter(self._channels)).transport.abortConnection()

    def closed(self, channel: _Channel) -> None:
        """A peer is gone."""
        self._channels.pop(channel, None)
