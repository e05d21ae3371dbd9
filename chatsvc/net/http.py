"""The HTTP face for whoever runs the server: does it live, is it ready, how does it fare.

What the pages tell comes from a `Monitored`; what the figures mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from twisted.internet import defer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPFactory

from chatsvc.net.pages import PageChannel, PageRequest, PageSite, Reply, sentence
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


async def _health(monitored: Monitored) -> Reply:
    """The process answers, whatever else is wrong; if it does not, start it again."""
    return sentence(HTTPStatus.OK, "ok")


async def _readiness(monitored: Monitored) -> Reply:
    """Whether clients should be sent here."""
    problem = await monitored.problem()
    if problem is not None:
        return sentence(HTTPStatus.SERVICE_UNAVAILABLE, problem)
    return sentence(HTTPStatus.OK, "ready")


async def _metrics(monitored: Monitored) -> Reply:
    """All figures."""
    return Reply(HTTPStatus.OK, await monitored.metrics(), CONTENT_TYPE_PLAIN_0_0_4)


_PAGES: dict[bytes, Callable[[Monitored], Coroutine[Any, Any, Reply]]] = {
    b"/healthz": _health,
    b"/readyz": _readiness,
    b"/metrics": _metrics,
}


class _Request(PageRequest):
    """One request for a page."""

    def process(self) -> None:
        page = _PAGES.get(self.path)
        if page is None:
            there_are = b", ".join(_PAGES).decode()
            self._answer(sentence(HTTPStatus.NOT_FOUND, f"There is no such page. There are {there_are}."))
        elif self.method not in (b"GET", b"HEAD"):
            why = "This page is for GET and HEAD only."
            self._answer(sentence(HTTPStatus.METHOD_NOT_ALLOWED, why, allow="GET, HEAD"))
        else:
            site: MonitoringSite = self.channel.factory
            reply = deferred(page(site.monitored)).addTimeout(ANSWER_TIME, site.reactor)
            reply.addErrback(_failed).addCallback(self._answer)

    def _answer(self, reply: Reply) -> None:
        self.answer(reply._replace(headers={"cache-control": "no-store", **reply.headers}))


def _failed(failure: Failure) -> Reply:
    if isinstance(failure.value, defer.TimeoutError):
        return sentence(HTTPStatus.SERVICE_UNAVAILABLE, f"There was no answer within {ANSWER_TIME:g} s.")
    log.failure("A monitoring page failed", failure=failure)
    return sentence(HTTPStatus.INTERNAL_SERVER_ERROR, "The server has a fault; its log has the details.")


class _Channel(PageChannel):
    """One connection: for one request."""

    requestFactory = _Request


class MonitoringSite(PageSite):
    """The pages, for all who connect."""

    protocol = _Channel
    connection_time = CONNECTION_TIME
    connections = CONNECTIONS

    def __init__(self, monitored: Monitored, reactor: Any) -> None:
        super().__init__(reactor)
        self.monitored = monitored
