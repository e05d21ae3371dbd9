"""The WebSocket's adapter: a fake clock, transports in memory, requests that the test answers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from chatsvc.net.web import WebSite
from chatsvc.net.websocket import PING, SILENCE
from tests.limits import unlimited
from tests.network import NODE, Node, request
from tests.websocket import BINARY, CLOSE, CONTINUATION, PONG, TEXT, Frame, frames, handshake, message
from tests.websocket import PING as PING_FRAME

node = NODE
MIB = 1024 * 1024


def _any(value: Any) -> Any:
    """`value`, of whose type nothing is known."""
    return value


class Tab:
    """A browser's side of one WebSocket."""

    def __init__(self, site: Any, node: Node, head: bytes | None = None) -> None:
        self._node = node
        self.channel = site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50_000))
        peer = IPv4Address("TCP", "192.0.2.7", 50_000)
        self.socket = _any(StringTransport(peerAddress=peer))  # type: ignore[no-untyped-call]
        self.channel.makeConnection(self.socket)
        self.channel.dataReceived(handshake() if head is None else head)
        self.head, _, self._rest = self._written().partition(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        """Bytes come from the peer, in pieces as a network makes them."""
        for at in range(0, len(data), 65536):
            self.channel.dataReceived(data[at : at + 65536])

    def got(self) -> list[Frame]:
        """What has come since this was asked last."""
        self._node.clock.advance(0)
        found, self._rest = frames(self._rest + self._written())
        return found

    def _written(self) -> bytes:
        data: bytes = self.socket.value()
        self.socket.clear()
        return data

    def lose(self) -> None:
        """The connection is gone."""
        self.channel.connectionLost(Failure(ConnectionResetError()))  # type: ignore[no-untyped-call]

    def reads(self) -> bool:
        return bool(self.socket.producerState == "producing")

    def is_cut(self) -> bool:
        return bool(self.socket.disconnected)

    def is_closed(self) -> bool:
        """Whether the socket is closed after what was written, and nobody keeps it from that."""
        return bool(self.socket.disconnecting and self.socket.producer is None)


@pytest.fixture
def site(node: Node) -> Iterator[WebSite]:
    made = WebSite(node.server, node.clock)
    made.doStart()  # type: ignore[no-untyped-call]
    made.start()
    yield made
    made.stop()
    made.doStop()  # type: ignore[no-untyped-call]


@pytest.fixture
def tab(site: WebSite, node: Node) -> Tab:
    made = Tab(site, node)
    assert made.head.startswith(b"HTTP/1.1 101 ")
    return made


def test_a_websocket_is_a_connection_of_its_address_without_compression(tab: Tab, node: Node) -> None:
    [connection] = node.server.connections
    assert connection.address == "192.0.2.7"
    assert b"extensions" not in tab.head.lower()


@pytest.mark.parametrize("size", [1, 7, 65536])
def test_messages_of_any_size_are_one_stream(tab: Tab, node: Node, size: int) -> None:
    data = request(length=300) * 2
    for at in range(0, len(data), size):
        tab.send(message(data[at : at + size]))
    assert [call.kind for call, _ in node.calls] == ["TOGETHER", "TOGETHER"]
    node.answer(0, b"one")
    node.answer(0, b"two")
    assert b"".join(frame.data for frame in tab.got()) == b"onetwo"


def test_a_message_in_fragments_is_the_same_stream_with_pings_between(tab: Tab, node: Node) -> None:
    data = request()
    tab.send(message(data[:10], last=False) + message(b"?", PING_FRAME))
    tab.send(message(data[10:], CONTINUATION))
    assert len(node.calls) == 1
    assert tab.got() == [Frame(PONG, b"?")]


def test_a_part_of_a_message_is_passed_on_before_the_rest_has_come(tab: Tab, node: Node) -> None:
    """Nothing holds a message until it is whole, so its length may be anything.

    If this fails with a new Twisted, see `_Stream` in ``chatsvc/net/websocket.py``.
    """
    tab.send(message(request(), length=2**40))
    assert len(node.calls) == 1
    [connection] = node.server.connections
    tab.send(request(length=MIB - 100)[:-1])
    assert connection.reader.buffered > MIB / 2


def test_a_text_is_refused_at_its_first_part(tab: Tab, node: Node) -> None:
    tab.send(message(b"{", TEXT, length=2**40))
    [last] = tab.got()
    assert last.kind == CLOSE
    assert last.data[:2] == (1003).to_bytes(2)
    assert b"binary" in last.data
    tab.send(b"more")
    assert tab.got() == []
    tab.lose()
    assert not node.server.connections


def test_what_is_no_websocket_frame_closes(tab: Tab) -> None:
    tab.send(b"\xff" * 20)
    [last] = tab.got()
    assert (last.kind, last.data[:2]) == (CLOSE, (1002).to_bytes(2))
    assert tab.is_closed()


def test_a_violation_is_answered_and_then_closed(tab: Tab) -> None:
    tab.send(message(b"\xff" * 12))
    answer, last = tab.got()
    assert answer.kind == BINARY
    assert b"UNKNOWN" in answer.data
    assert (last.kind, last.data[:2]) == (CLOSE, (1000).to_bytes(2))
    assert tab.is_closed()


def test_a_close_of_the_peer_is_answered_and_what_comes_after_it_is_no_fault(tab: Tab, node: Node) -> None:
    tab.send(message(b"\x03\xe8", CLOSE) + message(b"?", PING_FRAME) + message(request()))
    assert [frame.kind for frame in tab.got()] == [CLOSE]
    assert tab.is_closed()
    tab.send(message(request()))
    [connection] = node.server.connections
    connection.outbox.send(b"late")
    assert tab.got() == []
    assert node.calls == []
    tab.lose()
    assert not node.server.connections


def test_a_full_socket_gets_no_more_and_reading_waits(tab: Tab, node: Node) -> None:
    [connection] = node.server.connections
    tab.socket.producer.pauseProducing()
    assert not tab.reads()
    connection.outbox.send(b"x" * 1000)
    assert tab.got() == []
    assert connection.outbox.queued == 1000
    tab.socket.producer.resumeProducing()
    assert tab.reads()
    assert b"".join(frame.data for frame in tab.got()) == b"x" * 1000
    assert connection.outbox.queued == 0


def test_reading_waits_for_the_connection_and_for_the_socket(tab: Tab, node: Node) -> None:
    [connection] = node.server.connections
    tab.send(message(request() * 5))  # as many as it reads ahead, and one
    assert not tab.reads()
    tab.socket.producer.pauseProducing()
    tab.socket.producer.resumeProducing()
    assert not tab.reads()
    while node.calls:
        node.answer()
    assert tab.reads()
    assert connection.outbox.queued == 0


def test_closing_waits_for_what_is_queued(tab: Tab, node: Node) -> None:
    [connection] = node.server.connections
    tab.socket.producer.pauseProducing()
    connection.outbox.send(b"last words")
    connection.close()
    assert tab.got() == []
    tab.socket.producer.resumeProducing()
    words, last = tab.got()
    assert (words.data, last.kind) == (b"last words", CLOSE)
    assert tab.is_closed()


def test_a_server_that_stops_resets(tab: Tab, node: Node) -> None:
    for connection in node.server.connections:
        connection.outbox.abort()
    assert tab.is_cut()


def test_what_has_ended_is_no_garbage_for_the_collector(site: WebSite, node: Node) -> None:
    tab = Tab(site, node)
    tab.send(message(request()))
    node.answer(0, b"answer")
    adapter = ref(next(iter(node.server.connections)).transport)
    gc.disable()
    try:
        tab.lose()
        tab.socket.producer = None  # as a socket that is gone has none
        del tab
        assert adapter() is None
    finally:
        gc.enable()


# The timer.


def test_a_silent_peer_is_asked_and_cut_off(tab: Tab, node: Node) -> None:
    for _ in range(int(SILENCE / PING) - 1):
        node.clock.advance(PING)
        assert [frame.kind for frame in tab.got()] == [PING_FRAME]
    assert not tab.is_cut()
    with capturedLogs() as events:
        node.clock.advance(PING)
    assert tab.is_cut()
    assert "192.0.2.7" in events[0]["peer"]


def test_a_peer_that_answers_pings_stays(tab: Tab, node: Node) -> None:
    for _ in range(10):
        node.clock.advance(PING)
        assert tab.got()
        tab.send(message(b"", PONG))
    assert not tab.is_cut()


def test_a_peer_that_cannot_be_heard_is_not_taken_for_silent(tab: Tab, node: Node) -> None:
    """Its requests are being answered, and until then nothing is read."""
    tab.send(message(request() * 5))
    for _ in range(10):
        node.clock.advance(PING)
    assert not tab.is_cut()
    while node.calls:
        node.answer()
    node.clock.advance(PING)
    assert not tab.is_cut()


def test_a_peer_that_sends_pings_and_reads_nothing_is_cut_off(tab: Tab, node: Node) -> None:
    tab.send(message(b"?" * 100, PING_FRAME) * 1000)
    tab.socket.producer.pauseProducing()
    assert not tab.reads()
    for _ in range(int(SILENCE / PING)):
        node.clock.advance(PING)
    assert tab.is_cut()


def test_a_peer_that_does_not_take_the_end_is_cut_off(tab: Tab, node: Node) -> None:
    tab.send(message(b"\x03\xe8", CLOSE))
    for _ in range(int(SILENCE / PING)):
        assert not tab.is_cut()
        node.clock.advance(PING)
    assert tab.is_cut()


def test_caps_count_websockets_too(site: WebSite, node: Node) -> None:
    node.server.use(unlimited(unbound_per_address=2))
    tabs = [Tab(site, node) for _ in range(3)]
    node.sleep(3)
    assert [frame.kind for frame in tabs[0].got()] == [CLOSE]
    assert not tabs[1].got()
    assert not tabs[2].got()
