"""Clients that come back all at once, as after a restart: who is let in when, and what a connection costs.

Order and ends are in ``test_network.py``, the cap on connections in ``test_network_sweep.py``.
"""

from __future__ import annotations

import gc
import weakref

import pytest

from chatsvc.net.connection import Connection
from chatsvc.net.server import ENTRIES
from tests.network import NODE, PER_ADDRESS, Node, Wire, request

node = NODE


def come_back(node: Node, count: int) -> list[tuple[Connection, Wire]]:
    """So many clients, whose first requests have arrived; the type of each is the number of its client."""
    clients = [node.connect() for _ in range(count)]
    for number, (made, _) in enumerate(clients):
        made.dataReceived(request(str(number)))
    return clients


def begun(node: Node) -> list[str]:
    """The requests that are under way."""
    return [call.kind for call, _ in node.calls]


def turn(node: Node) -> None:
    """One turn of the reactor: what is due, but not what that puts off to the next one."""
    for call in node.clock.getDelayedCalls():
        if call.getTime() <= node.clock.seconds():
            function, args = call.func, call.args
            call.cancel()
            function(*args)


def test_of_many_first_requests_a_few_begin_in_each_turn(node: Node) -> None:
    come_back(node, 2 * ENTRIES + 1)
    for count in (ENTRIES, 2 * ENTRIES, 2 * ENTRIES + 1):
        assert begun(node) == [str(number) for number in range(count)]
        turn(node)
    turn(node)
    come_back(node, 1)
    assert begun(node)[-1] == "0"


def test_who_is_in_does_not_wait_for_those_who_come(node: Node) -> None:
    made, wire = node.connect()
    made.dataReceived(request())
    node.answer()
    turn(node)
    come_back(node, 2 * ENTRIES)
    made.dataReceived(request("AT ONCE"))
    assert begun(node)[-1] == "AT ONCE"
    node.answer(-1, b"answer")
    assert wire.sent() == b"answer"


def test_what_arrives_while_a_client_waits_to_be_let_in_is_kept(node: Node) -> None:
    come_back(node, ENTRIES)
    made, wire = node.connect()
    frames = request() + request("LAST")
    for part in (frames[:5], frames[5:-3], frames[-3:]):
        made.dataReceived(part)
    made.readConnectionLost()
    assert wire.end() == ""
    assert len(begun(node)) == ENTRIES
    turn(node)
    assert begun(node)[ENTRIES:] == ["TOGETHER"]
    node.answer(-1, b"first")
    node.answer(-1, b"last")
    assert wire.sent() == b"firstlast"
    assert wire.end() == "closed"


def test_who_goes_before_it_is_let_in_asks_nothing(node: Node) -> None:
    *_, (made, _), _ = come_back(node, ENTRIES + 2)
    made.connectionLost()
    turn(node)
    assert begun(node)[ENTRIES:] == [str(ENTRIES + 1)]


def test_who_waits_to_be_let_in_is_not_idle(node: Node) -> None:
    clients = come_back(node, ENTRIES + PER_ADDRESS + 1)
    for made, _ in clients:
        made.received_at -= 1800  # a turn that takes long
    node.server._sweep()
    assert not any(wire.end() for _, wire in clients)
    assert not any(made.is_quiet for made, _ in clients)


def test_a_fault_of_one_keeps_nobody_else_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    come_back(node, ENTRIES)
    (faulty, _), (other, _) = node.connect(), node.connect()
    faulty.dataReceived(b"\xff" * 12)
    other.dataReceived(request("OTHER"))
    monkeypatch.setattr(node.hub, "stats", None)  # it counts violations
    with pytest.raises(AttributeError):
        turn(node)
    turn(node)
    assert begun(node)[-1] == "OTHER"


# What one costs.


def test_a_connection_keeps_nothing_but_what_it_names(node: Node) -> None:
    made, _ = node.connect()
    made.dataReceived(request())
    node.answer()
    assert vars(made) == {}  # a dict for each would cost as much as all else together


def test_a_connection_that_ended_waits_for_no_cycle_collector(node: Node) -> None:
    made, _ = node.connect()
    made.dataReceived(request())
    node.answer(0, b"answer")
    turn(node)
    there = weakref.ref(made)
    gc.disable()
    try:
        made.connectionLost()
        del made
        assert there() is None
    finally:
        gc.enable()
