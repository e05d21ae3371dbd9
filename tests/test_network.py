"""The network floor without sockets: order, back-pressure and ends, with requests that the test answers.

Time-outs, the cap and the memory of unfinished requests are in ``test_network_sweep.py``.
"""

from __future__ import annotations

from twisted.logger import LogEvent

from chatsvc.chat.requests import Closing
from chatsvc.chat.session import Gone
from chatsvc.net.server import DRAIN
from chatsvc.tasks import run, spawn
from chatsvc.wire.frames import RELEASED
from chatsvc.wire.limits import KIB, MIB
from tests.network import LIMITS, NODE, Node, request

node = NODE


def test_a_session_knows_from_where_its_client_came(node: Node) -> None:
    made, _ = node.connect("192.0.2.7")
    assert made.session.address == "192.0.2.7"
    node.server.known(made, "203.0.113.9")
    assert made.session.address == "203.0.113.9"
    assert node.connect("")[0].session.address == ""


# Order and reading ahead.


def test_answers_go_out_in_the_order_of_the_requests(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request() * 3)
    assert len(node.calls) == 3
    node.answer(2, b"third")
    node.answer(1, b"second")
    assert wire.sent() == b""
    node.answer(0, b"first")
    assert wire.sent() == b"firstsecondthird"


def test_no_more_requests_are_begun_than_may_be_read_ahead(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request() * 10)
    assert len(node.calls) == LIMITS.read_ahead
    assert not wire.reads()
    node.answer()
    assert len(node.calls) == LIMITS.read_ahead
    for _ in range(9):
        assert node.calls
        node.answer()
    assert wire.reads()


def test_a_request_that_may_change_whose_the_next_is_runs_alone(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("LOGIN") + request("STATE"))
    assert [call.kind for call, _ in node.calls] == ["LOGIN"]
    assert not wire.reads()
    node.answer()
    assert [call.kind for call, _ in node.calls] == ["STATE"]
    assert wire.reads()


def test_nothing_is_begun_for_a_client_that_does_not_read(node: Node) -> None:
    made, wire = node.connect(bound=True)
    wire.deaf = True
    made.dataReceived(request())
    node.answer(0, b"x" * (LIMITS.send_buffer + 1))
    made.dataReceived(request())
    assert node.calls == []
    assert not wire.reads()
    wire.deaf = False
    node.flow()
    assert wire.sent() == b"x" * (LIMITS.send_buffer + 1)
    assert len(node.calls) == 1
    assert wire.reads()


def test_a_payload_is_not_read_faster_than_it_is_taken(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=MIB))
    sent = 0
    while wire.reads():
        made.dataReceived(b"x" * (64 * KIB))
        sent += 64 * KIB
    assert sent <= 320 * KIB
    payload = node.calls[0][0].payload
    assert payload is not None
    got: list[bytes] = []

    async def read() -> None:
        while data := await payload.read():
            got.append(data)

    spawn(read(), "reading")
    assert wire.reads()
    made.dataReceived(b"y" * (MIB - sent) + request())
    assert len(b"".join(got)) == MIB
    node.answer()
    assert [call.kind for call, _ in node.calls] == ["TOGETHER"]


def test_a_payload_that_will_not_come_is_not_waited_for(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=10) + b"12345")
    payload = node.calls[0][0].payload
    assert payload is not None
    ends: list[object] = []

    async def read() -> None:
        try:
            ends.append(await payload.read())
            await payload.read()
        except Gone as gone:
            ends.append(gone)

    spawn(read(), "reading")
    assert ends == [b"12345"]
    made.readConnectionLost()
    assert isinstance(ends[1], Gone)
    node.fail(Gone())
    assert wire.end() == "closed"


def test_a_fault_of_ours_is_logged_and_cuts_the_connection(
    node: Node, no_unhandled_failure: list[LogEvent]
) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request())
    node.fail(RuntimeError("a bug"))
    assert wire.end() == "reset"
    assert len(no_unhandled_failure) == 1
    no_unhandled_failure.clear()


# Ends.


def test_after_the_peers_end_everything_complete_is_answered_first(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=5))
    payload = node.calls[0][0].payload
    assert payload is not None
    made.dataReceived(b"12345" + request("PROFILE") * 3)
    made.readConnectionLost()
    spawn(payload.read(), "reading")
    node.answer()
    for _ in range(3):
        wire.deaf = True
        node.answer(0, b"x" * MIB)  # more than may be queued, so the next is not begun
        assert node.calls == []
        assert wire.end() == ""
        wire.deaf = False
        node.flow()
    assert len(wire.sent()) == 3 * MIB
    assert wire.end() == "closed"


def test_after_a_violation_what_comes_is_thrown_away_until_the_peer_closes(node: Node) -> None:
    made, wire = node.connect()
    made.dataReceived(request())
    made.dataReceived(RELEASED.header.pack(-1, 0) + request())
    node.answer(0, b"answer")
    assert wire.sent().startswith(b"answer")
    assert wire.sent().count(b"UNKNOWN") == 1
    assert wire.end() == "half closed"
    for _ in range(100):
        made.dataReceived(b"\xff" * (64 * KIB))
    assert node.calls == []
    made.readConnectionLost()
    assert wire.end() == "closed"
    assert wire.sent().count(b"UNKNOWN") == 1


def test_after_a_violation_the_peer_has_an_end_of_its_own(node: Node) -> None:
    made, wire = node.connect()
    made.dataReceived(RELEASED.header.pack(-1, 0))
    while wire.reads():
        made.dataReceived(bytes(MIB))  # it is not read for ever
    node.sleep(4)
    assert wire.end() != "reset"
    node.sleep(2)
    assert wire.end() == "reset"


def test_a_last_answer_ends_the_connection(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=2**40) + b"x" * 1000)
    node.fail(Closing(b"too large"))
    assert wire.sent() == b"too large"
    assert wire.end() == "half closed"
    made.dataReceived(b"x" * 1000)
    assert node.calls == []


# The end of the server.


def test_stopping_waits_for_what_was_begun_and_resets(node: Node) -> None:
    busy, busy_wire = node.connect(bound=True)
    idle, idle_wire = node.connect()
    busy.dataReceived(request())
    idle.dataReceived(request()[:-1])
    spawn(node.server.stop(), "stopping")
    busy.dataReceived(request())
    idle.dataReceived(request()[-1:])
    assert len(node.calls) == 1  # and no further one is begun
    assert not busy_wire.reads()
    node.clock.advance(0.1)
    assert idle_wire.end() != "reset"
    node.answer(0, b"answer")
    node.clock.advance(0.1)
    assert busy_wire.sent() == b"answer"
    assert busy_wire.end() == "reset"
    assert idle_wire.end() == "reset"
    assert idle_wire.sent() == b""
    busy.connectionLost()
    idle.connectionLost()
    node.clock.advance(0.1)


def test_stopping_reads_on_what_belongs_to_a_request_that_was_begun(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=10))
    spawn(node.server.stop(), "stopping")
    assert wire.reads()
    made.dataReceived(b"0123456789" + request())
    payload = node.calls[0][0].payload
    assert payload is not None
    spawn(payload.read(), "reading")
    assert not wire.reads()
    node.answer(0, b"answer")
    node.clock.advance(0.1)
    assert (wire.sent(), wire.end(), node.calls) == (b"answer", "reset", [])
    made.connectionLost()
    node.clock.advance(0.1)


def test_stopping_ends_in_time_whatever_the_peers_do(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request())
    ended: list[object] = []
    run(node.server.stop(), ended.append, ended.append)
    while wire.end() != "reset":
        assert node.clock.seconds() < DRAIN + 1
        node.clock.advance(0.05)
    while not ended:
        assert node.clock.seconds() < DRAIN + 2
        node.clock.advance(0.05)
    made.connectionLost()
