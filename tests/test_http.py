"""The monitoring site, on connections in memory and a clock that only the test moves."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, capturedLogs

from chatsvc.net.http import ANSWER_TIME, CONNECTION_TIME, CONNECTIONS, monitoring_site
from chatsvc.tasks import Pending

PAGES = ("/healthz", "/readyz", "/metrics")


class Node:
    """What is monitored: it is ready unless it is told otherwise, and may be slow to say so."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.error: Exception | None = None
        self.answer: Pending[None] = Pending()
        self.answer.succeed(None)

    async def problem(self) -> str | None:
        await self.answer
        if self.error is not None:
            raise self.error
        return self.trouble

    async def metrics(self) -> bytes:
        await self.answer
        return b"a_figure 1.0\n"


class Answer(NamedTuple):
    """What a peer got."""

    status: int
    headers: dict[str, str]
    body: str


class Peer:
    """Who asks."""

    def __init__(self, world: World) -> None:
        self.channel: Any = world.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50_000))
        self.transport: Any = StringTransport()  # type: ignore[no-untyped-call]
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    @property
    def got(self) -> bytes:
        return bytes(self.transport.value())

    def is_cut(self) -> bool:
        return bool(self.transport.disconnected)

    def answer(self) -> Answer:
        head, _, body = self.got.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        named = [line.split(": ", 1) for line in lines]
        assert self.transport.disconnecting, "it does not close"
        return Answer(int(first.split()[1]), {name.lower(): value for name, value in named}, body.decode())

    def end(self) -> None:
        """The connection is gone."""
        self.channel.connectionLost()


class World:
    """A site, and what it monitors."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.node = Node()
        self.site: Any = monitoring_site(self.node, self.clock)
        self.site.doStart()  # type: ignore[no-untyped-call]

    def ask(self, path: str, method: str = "GET", more: bytes = b"") -> Answer:
        peer = Peer(self)
        peer.send(f"{method} {path} HTTP/1.1\r\nHost: monitored\r\n".encode() + (more or b"\r\n"))
        answer = peer.answer()
        peer.end()
        return answer


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.site.doStop()
    assert made.site._channels == {}
    assert made.clock.getDelayedCalls() == [], "something goes on"


def test_the_process_is_alive(world: World) -> None:
    world.node.trouble = "The store cannot be used."
    answer = world.ask("/healthz")
    assert (answer.status, answer.body) == (200, "ok\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_node_is_ready_or_says_why_not(world: World) -> None:
    answer = world.ask("/readyz")
    assert (answer.status, answer.body) == (200, "ready\n")
    world.node.trouble = "The store at é cannot be used."
    answer = world.ask("/readyz")
    assert (answer.status, answer.body) == (503, "The store at é cannot be used.\n")
    assert answer.headers["content-length"] == str(len(answer.body.encode()))


def test_figures_come_in_the_format_of_prometheus(world: World) -> None:
    answer = world.ask("/metrics?since=never")
    assert (answer.status, answer.body) == (200, "a_figure 1.0\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", PAGES)
def test_head_gives_the_head_alone(world: World, path: str) -> None:
    whole, head = world.ask(path), world.ask(path, "HEAD")
    assert head == whole._replace(body="")


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_answers_are_not_kept_and_do_not_tell_what_serves_them(world: World, path: str) -> None:
    headers = world.ask(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico", "*"])
def test_there_is_nothing_else(world: World, path: str) -> None:
    answer = world.ask(path)
    assert answer.status == 404
    assert answer.body == "There is no such page. There are /healthz, /readyz, /metrics.\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_there_is_nothing_to_change(world: World, method: str) -> None:
    answer = world.ask("/metrics", method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.body == "This page is for GET and HEAD only.\n"


def test_what_comes_with_a_request_is_thrown_away(world: World) -> None:
    peer = Peer(world)
    peer.send(b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
    [request] = peer.channel.requests
    for _ in range(9):
        peer.send(b"x" * 100_000)
        assert request.content.getvalue() == b""
    assert not peer.got
    peer.send(b"x" * 100_000)
    assert peer.answer().status == 405
    peer.end()


def test_a_head_has_its_limit(world: World) -> None:
    peer = Peer(world)
    peer.send(b"GET /healthz HTTP/1.1\r\n")
    for number in range(16):
        peer.send(b"X-%d: %b\r\n" % (number, b"x" * 1000))
    assert not peer.got
    peer.send(b"X-16: %b\r\n" % (b"x" * 1000))
    assert peer.got.startswith(b"HTTP/1.1 400 ")
    assert peer.transport.disconnecting
    peer.end()


def test_a_connection_is_for_one_request(world: World) -> None:
    peer = Peer(world)
    peer.send(b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n")
    assert peer.got.count(b"HTTP/1.1 200 ") == 1
    peer.send(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert peer.got.count(b"HTTP/1.1 200 ") == 1
    peer.end()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\n\r\n"])
def test_a_connection_has_its_time(world: World, said: bytes) -> None:
    """Also when the answer was given: the peer may not read it."""
    peer = Peer(world)
    peer.send(said)
    world.clock.advance(CONNECTION_TIME - 0.1)
    assert not peer.is_cut()
    world.clock.advance(0.1)
    assert peer.is_cut()
    peer.end()


def test_a_byte_now_and_then_gains_no_time(world: World) -> None:
    peer = Peer(world)
    for _ in range(int(CONNECTION_TIME)):
        peer.send(b"G")
        world.clock.advance(1)
    assert peer.is_cut()
    peer.end()


def test_one_connection_too_many_costs_the_oldest(world: World) -> None:
    peers = [Peer(world) for _ in range(CONNECTIONS)]
    assert not any(peer.is_cut() for peer in peers)
    peers.append(Peer(world))
    assert [peer.is_cut() for peer in peers] == [True] + [False] * CONNECTIONS
    for peer in peers:
        peer.end()


def test_an_answer_has_its_time_and_comes_late_for_nobody(world: World) -> None:
    world.node.answer = Pending()
    peer = Peer(world)
    peer.send(b"GET /readyz HTTP/1.1\r\n\r\n")
    world.clock.advance(ANSWER_TIME)
    assert peer.answer()[::2] == (503, "There was no answer within 5 s.\n")
    world.node.answer.succeed(None)
    assert peer.got.count(b"HTTP/1.1") == 1
    peer.end()


def test_an_answer_for_nobody_is_no_fault(world: World) -> None:
    world.node.answer = Pending()
    peer = Peer(world)
    peer.send(b"GET /readyz HTTP/1.1\r\n\r\n")
    peer.end()
    world.node.answer.succeed(None)
    assert not peer.got


def test_a_fault_is_logged_and_not_shown(world: World, no_unhandled_failure: list[LogEvent]) -> None:
    world.node.error = RuntimeError("a secret")
    answer = world.ask("/readyz")
    assert (answer.status, answer.body) == (500, "The server has a fault; its log has the details.\n")
    [event] = no_unhandled_failure
    assert event["log_failure"].value is world.node.error
    no_unhandled_failure.clear()


def test_requests_leave_no_lines_in_the_log(world: World) -> None:
    with capturedLogs() as events:
        for path in (*PAGES, "/nowhere"):
            world.ask(path)
            world.ask(path, "HEAD")
    assert events == []
