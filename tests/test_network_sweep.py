"""The network floor's clocks and counts: time-outs, the cap, the memory of unfinished requests.

Order and ends are in ``test_network.py``; both rest on ``docs/protocol.md`` section 2.
"""

from __future__ import annotations

import random

import pytest

from chatsvc.net.budget import UNCOUNTED, Budget
from chatsvc.net.connection import LINGER
from chatsvc.tasks import spawn
from chatsvc.wire.frames import RELEASED
from chatsvc.wire.limits import KIB, MIB
from tests.network import LIMITS, NODE, PER_ADDRESS, Node, request

node = NODE


# Time-outs.

PARTS = {
    "a byte": b"\x05",
    "a header": RELEASED.header.pack(100, 0),
    "half the JSON": request()[:-5],
    "JSON that is thrown away": RELEASED.header.pack(2 * MIB, 0) + b"x" * 999,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("bound", [False, True])
def test_a_frame_has_a_minute_from_byte_to_byte(node: Node, part: bytes, bound: bool) -> None:
    made, wire = node.connect(bound=bound)
    for at in range(len(part[:40])):
        made.dataReceived(part[at : at + 1])
        node.sleep(59)
        assert wire.end() == ""
    node.sleep(3)
    assert wire.end() == "closed"


def test_a_payload_has_a_minute_from_byte_to_byte(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request(payload_length=100))
    payload = node.calls[0][0].payload
    assert payload is not None
    for _ in range(5):
        spawn(payload.read(), "reading")
        node.sleep(59)
        made.dataReceived(b"x")
        assert wire.end() == ""
    node.sleep(62)
    assert wire.end() == "closed"


def test_time_that_the_server_takes_does_not_count(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request("ALONE") * 2 + request()[:-1])  # the second waits, so nothing is read
    node.sleep(600)
    assert wire.end() == ""
    node.answer()
    assert wire.reads()
    node.sleep(59)
    assert wire.end() == ""
    node.sleep(3)
    assert wire.end() == "closed"


def test_an_answer_is_not_cut_for_half_a_frame_behind_a_half_close(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request() + request()[:-1])
    made.readConnectionLost()
    node.sleep(200)  # it is a long answer
    assert wire.end() == ""
    node.answer(0, b"answer")
    assert (wire.sent(), wire.end()) == (b"answer", "closed")


def test_an_idle_connection_without_a_login_has_half_an_hour(node: Node) -> None:
    bound_wire = node.connect(bound=True)[1]
    idle_wire = node.connect("192.0.2.2")[1]
    used, used_wire = node.connect("192.0.2.2")
    slow, slow_wire = node.connect("192.0.2.2")
    slow.dataReceived(request(length=100)[:40])
    local_wire = node.connect("")[1]  # a UNIX socket: it is not counted, but no less idle
    busy, busy_wire = node.connect("192.0.2.3")
    busy.dataReceived(request())
    node.calls.pop()
    for at in range(30):
        node.sleep(59)
        slow.dataReceived(b"x")
        if at == 10:
            used.dataReceived(request())
            node.answer()
    assert not any(wire.end() for wire in (idle_wire, used_wire, slow_wire, local_wire))
    node.sleep(50)
    assert (idle_wire.end(), local_wire.end()) == ("closed", "closed")
    assert not any(wire.end() for wire in (used_wire, slow_wire, bound_wire, busy_wire))
    node.sleep(11 * 59 - 10)
    assert used_wire.end() == "closed"
    assert not any(wire.end() for wire in (bound_wire, busy_wire))


def test_a_client_that_reads_nothing_has_two_minutes(node: Node) -> None:
    made, wire = node.connect(bound=True)
    made.dataReceived(request())
    wire.deaf = True
    node.answer(0, b"x" * 1000)
    node.sleep(119)
    assert wire.end() == ""
    wire.deaf = False
    node.sleep(300)  # nothing to read is no fault
    made.dataReceived(request())
    wire.deaf = True
    node.answer(0, b"x" * 1000)
    node.sleep(119)
    assert wire.end() == ""
    node.sleep(5)
    assert wire.end() == "reset"


def test_an_end_that_does_not_come_is_forced(node: Node) -> None:
    made, wire = node.connect()
    made.dataReceived(b"\0")
    made.outbox.send(b"unread")
    wire.deaf = True
    node.sleep(62)
    assert wire.end() == "closing"
    node.sleep(121)
    assert wire.end() == "reset"


def test_an_error_that_nobody_reads_is_not_waited_for(node: Node) -> None:
    made, wire = node.connect()
    made.dataReceived(b"\xff" * 12)
    wire.deaf = True
    node.sleep(LINGER - 1)
    assert wire.end() != "reset"
    node.sleep(3)
    assert wire.end() == "reset"


# How many.


def test_the_cap_spares_the_busy_and_the_bound(node: Node) -> None:
    (busy, busy_wire), (bound, bound_wire) = node.connect(), node.connect()
    other_wire = node.connect("192.0.2.2")[1]
    first_wire = node.connect()[1]
    node.sleep(1)
    busy.dataReceived(request())
    bound.session.device = node.device()  # through another connection, so this one was not told
    second_wire = node.connect()[1]
    node.sleep(1)
    assert not any(wire.end() for wire in (busy_wire, bound_wire, first_wire, second_wire))
    third_wire = node.connect()[1]
    node.sleep(1)
    assert first_wire.end() == "closed"
    assert not any(wire.end() for wire in (busy_wire, bound_wire, second_wire, third_wire, other_wire))


def test_when_all_are_busy_the_newest_gives_way(node: Node) -> None:
    busy = [node.connect() for _ in range(PER_ADDRESS)]
    node.sleep(1)
    for made, _ in busy:
        made.dataReceived(request())
    newest_wire = node.connect()[1]
    node.sleep(1)
    assert newest_wire.end() == "closed"
    assert not any(wire.end() for _, wire in busy)


def test_who_comes_to_ask_at_once_is_not_counted(node: Node) -> None:
    many = [node.connect() for _ in range(3 * PER_ADDRESS)]
    for made, _ in many:
        made.dataReceived(request())
    node.sleep(2)
    for made, _ in many:
        made.session.device = node.device()
        node.answer()
    node.sleep(2)
    assert not any(wire.end() for _, wire in many)


def test_of_those_who_ask_nothing_the_first_have_to_go(node: Node) -> None:
    many = [node.connect() for _ in range(2 * PER_ADDRESS)]
    node.sleep(1)
    assert [bool(wire.end()) for _, wire in many] == [True] * PER_ADDRESS + [False] * PER_ADDRESS


def test_a_connection_that_has_ended_makes_room(node: Node) -> None:
    many = [node.connect() for _ in range(PER_ADDRESS)]
    for made, _ in many[:2]:
        made.connectionLost()
    for _ in range(2):
        node.connect()
    assert not many[2][1].end()
    assert not node.connect("")[1].end()


def test_a_connection_that_ended_before_its_answer_counts_no_more(node: Node) -> None:
    made, _ = node.connect()
    made.dataReceived(request("STATE"))
    made.connectionLost()
    node.answer()
    assert (node.server.connections, node.server.doors._unbound) == ({}, {})


def test_an_ended_binding_makes_a_connection_count(node: Node) -> None:
    bound = [node.connect(bound=True) for _ in range(PER_ADDRESS + 1)]
    for made, _ in bound:
        made.dataReceived(request())
        node.answer()
    node.sleep(2)
    assert not any(wire.end() for _, wire in bound)
    for made, _ in bound:
        assert made.session.device is not None
        made.session.device.user_id = None
    node.sleep(2)
    assert sorted(wire.end() for _, wire in bound) == [""] * PER_ADDRESS + ["closed"]


# The memory of unfinished requests.


class Peer:
    """Somebody who sends a large request."""

    def __init__(self, budget: Budget, is_bound: bool = False) -> None:
        self.budget = budget
        self.is_bound = is_bound
        self.paused = False
        self.size = 0

    def pause_for_budget(self, paused: bool) -> None:
        """As a connection is told."""
        assert paused != self.paused
        self.paused = paused

    def send(self, size: int) -> None:
        """Have `size` bytes in all of a request that is not complete."""
        assert not self.paused
        self.size = size
        self.budget.update(self, size)


def test_the_largest_is_paused_first_and_the_small_never() -> None:
    budget = Budget(LIMITS)
    sizes = [UNCOUNTED, 500 * KIB, 900 * KIB, 700 * KIB]
    peers = [Peer(budget) for _ in sizes]
    for peer, size in zip(peers, sizes, strict=True):
        peer.send(size)
    assert [peer.paused for peer in peers] == [False, False, True, False]
    peers[1].send(600 * KIB)
    assert [peer.paused for peer in peers] == [False, False, True, True]
    peers[0].send(UNCOUNTED)
    more = [Peer(budget) for _ in range(100)]
    for peer in more:
        peer.send(UNCOUNTED)
    assert not any(peer.paused for peer in (peers[0], *more))


def test_what_ends_makes_room_for_the_smallest_that_waits() -> None:
    budget = Budget(LIMITS)
    peers = [Peer(budget) for _ in range(4)]
    for peer, size in zip(peers, (300 * KIB, 900 * KIB, 800 * KIB, 500 * KIB), strict=True):
        peer.send(size)
    peers[3].send(600 * KIB)
    assert [peer.paused for peer in peers] == [False, True, True, False]
    peers[3].send(0)  # its request is complete
    assert [peer.paused for peer in peers] == [False, True, False, False]
    peers[2].send(MIB)
    assert [peer.paused for peer in peers] == [False, True, True, False]
    budget.update(peers[1], 0)  # it has gone
    assert not any(peer.paused for peer in peers)


def test_those_with_a_login_have_room_of_their_own() -> None:
    budget = Budget(LIMITS)
    unbound = [Peer(budget) for _ in range(3)]
    for peer in unbound:
        peer.send(MIB)
    next(peer for peer in unbound if not peer.paused).send(MIB)
    assert sum(peer.paused for peer in unbound) == 2  # the last one may go on to its end
    next(peer for peer in unbound if not peer.paused).send(MIB)
    assert sum(peer.paused for peer in unbound) == 2
    bound = [Peer(budget, is_bound=True) for _ in range(3)]
    bound[0].send(900 * KIB)
    assert not bound[0].paused
    bound[1].send(900 * KIB)  # over the limit of all together
    bound[2].send(800 * KIB)
    assert [peer.paused for peer in bound] == [True, True, False]
    bound[2].send(0)
    assert sum(peer.paused for peer in bound) == 1
    assert sum(peer.paused for peer in unbound) == 2


@pytest.mark.parametrize("seed", range(20))
def test_however_many_send_large_requests_all_are_read_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    budget = Budget(LIMITS)
    left = [Peer(budget, is_bound=chance.random() < 0.5) for _ in range(50)]
    while left:
        reading = [peer for peer in left if not peer.paused]
        assert reading
        held = sum(peer.size for peer in left if not peer.is_bound)
        assert held <= LIMITS.unfinished_unbound + LIMITS.json + 50 * UNCOUNTED
        assert sum(peer.size for peer in left) <= LIMITS.unfinished + 2 * LIMITS.json + 50 * UNCOUNTED
        peer = chance.choice(reading)
        if peer.size >= LIMITS.json - 64 * KIB:
            left.remove(peer)
            peer.send(0)
        else:
            peer.send(peer.size + chance.randrange(64 * KIB))


def test_a_connection_is_paused_and_goes_on(node: Node) -> None:
    frames = request(length=MIB - 1000)
    many = [node.connect(f"192.0.2.{at}") for at in range(4)]
    for made, wire in many:
        for at in range(0, 900 * KIB, 64 * KIB):
            if wire.reads():
                made.dataReceived(frames[at : at + 64 * KIB])
    assert not all(wire.reads() for _, wire in many)
    answered = 0
    while answered < len(many):
        made, wire = next((made, wire) for made, wire in many if wire.reads() and made.reader.buffered)
        made.dataReceived(frames[made.reader.buffered :][: 64 * KIB])
        if node.calls:
            node.answer()
            answered += 1
    assert all(wire.reads() for _, wire in many)


def test_a_request_counts_until_it_is_answered(node: Node) -> None:
    many = [node.connect(f"192.0.2.{at}") for at in range(4)]
    for made, _ in many[:3]:
        made.dataReceived(request(length=MIB - 1000))
    assert [wire.reads() for _, wire in many].count(False) == 1
    many[3][0].dataReceived(request(length=100 * KIB)[:-1])
    assert [wire.reads() for _, wire in many].count(False) == 2
    many[3][0].dataReceived(b"}")
    while node.calls:
        node.answer()
    assert all(wire.reads() for _, wire in many)
    node.sleep(100)
    assert not any(wire.end() for _, wire in many)
