"""Caps and rates of connections on a still clock: where each begins and ends, and whom it leaves alone.

The cap on connections without a login, which is older, is in ``test_network_sweep.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.protocols.policies import ProtocolWrapper

from chatsvc.net.connection import REFUSED, Connection
from chatsvc.net.doors import Doors
from chatsvc.wire.limits import Limits, Rate
from tests.limits import unlimited
from tests.network import NODE, Node, Wire, request

node = NODE
HOME, OTHER = "192.0.2.1", "198.51.100.7"
Limit = Callable[..., Node]


@pytest.fixture
def limited(node: Node) -> Limit:
    """The server, with only these limits."""

    def use(**limits: Any) -> Node:
        node.server.use(unlimited(**limits))
        return node

    return use


def ends(made: list[tuple[Connection, Wire]]) -> list[str]:
    """How each has ended."""
    return [wire.end() for _, wire in made]


def log_in(node: Node, made: Connection) -> None:
    """Have it ask, and be bound from then on."""
    made.dataReceived(request())
    node.flow()  # it may have to wait for others who come
    made.session.device = node.device()
    node.answer()


# The rate of an address.


def test_over_its_rate_an_address_waits_for_its_turn(limited: Limit) -> None:
    node = limited(connection_rate=Rate(3, 0.5))
    made = [node.connect(HOME) for _ in range(6)]
    neighbour = node.connect(OTHER)
    assert [wire.reads() for _, wire in (*made, neighbour)] == [True] * 3 + [False] * 3 + [True]
    assert (node.server.doors.waiting, node.hub.stats.delayed) == (3, 3)
    for count in (4, 5, 6):
        node.clock.advance(1.5)
        assert sum(wire.reads() for _, wire in made) == count - 1
        node.clock.advance(0.5)
        assert [wire.reads() for _, wire in made] == [True] * count + [False] * (6 - count)
    assert node.server.doors.waiting == 0
    node.clock.advance(60)
    assert [wire.reads() for _, wire in (node.connect(HOME) for _ in range(4))] == [True] * 3 + [False]


def test_a_rate_is_kept_however_fast_it_is(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 128.0))
    made = [node.connect(HOME) for _ in range(65)]
    for _ in range(64):
        node.clock.advance(1 / 128)
    assert all(wire.reads() for _, wire in made)


def test_who_waits_is_served_when_it_is_in(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 1.0), unbound_idle=0.5)
    node.connect(HOME)
    made, wire = node.connect(HOME)
    assert not wire.reads()
    assert made.busy  # nobody takes it for idle
    node.clock.advance(1.0)
    made.dataReceived(request())
    node.answer(0, b"answer")
    assert wire.sent() == b"answer"


def test_who_goes_while_it_waits_leaves_its_turn_to_the_next(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 1.0))
    _, gone, (_, wire) = [node.connect(HOME) for _ in range(3)]
    gone[0].connectionLost()
    node.clock.advance(1.0)
    assert wire.reads()
    node.clock.advance(5.0)
    assert node.server.doors._waiting == {}


def test_as_many_wait_as_may_be_there(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 0.001), connections_per_address=2)
    made = [node.connect(HOME) for _ in range(5)]
    node.flow()
    assert [bool(wire.sent()) for _, wire in made] == [False, False, False, True, True]
    node.sleep(3)
    assert ends(made) == ["", "", "", "reset", "reset"]


def test_a_rate_that_is_lifted_lets_all_in(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 1.0))
    made = [node.connect(HOME) for _ in range(9)]
    limited()
    node.clock.advance(1.0)
    assert all(wire.reads() for _, wire in made)


def test_a_stop_does_not_wait_for_who_waits(limited: Limit) -> None:
    node = limited(connection_rate=Rate(1, 0.001))
    made = [node.connect(HOME) for _ in range(2)]
    assert all(connection.is_quiet for connection, _ in made)


# How many of an address.


def test_over_its_cap_the_longest_idle_without_a_login_goes(limited: Limit) -> None:
    node = limited(connections_per_address=3)
    bound, first, second = [node.connect(HOME) for _ in range(3)]
    log_in(node, bound[0])
    neighbours = [node.connect(OTHER) for _ in range(3)]
    node.sleep(2)
    first[0].dataReceived(request())
    node.answer()
    new = node.connect(HOME)
    assert ends([bound, first, second, new, *neighbours]) == ["", "", "closed"] + [""] * 4
    node.sleep(2)
    newer = node.connect(HOME)
    assert ends([bound, first, new, newer]) == ["", "closed", "", ""]
    assert node.hub.stats.dropped == {"crowded": 2}


def test_if_nobody_there_is_idle_the_new_one_hears_why_and_is_reset(limited: Limit) -> None:
    node = limited(connections_per_address=2)
    (bound, _), (busy, _) = here = [node.connect(HOME) for _ in range(2)]
    node.sleep(2)
    bound.session.device = node.device()  # through another connection, so nobody was told
    busy.dataReceived(request())
    made, wire = node.connect(HOME)
    made.dataReceived(request() * 99)  # which nobody reads
    node.flow()
    assert b"may have no more" in wire.sent()
    assert b'"status":"ERR"' in wire.sent()
    assert (wire.end(), len(node.calls)) == ("", 1)
    node.sleep(REFUSED + 1)
    assert (
        wire.end() == "reset"
    )  # an order of its own, which would keep a released client away, did not come first
    assert ends(here) == ["", ""]
    assert node.hub.stats.dropped == {"refused": 1}
    here[0][0].connectionLost()
    assert node.connect(HOME)[1].reads()


def test_who_does_not_read_why_it_is_refused_is_reset_all_the_same(limited: Limit) -> None:
    node = limited(connections_per_address=1)
    log_in(node, node.connect(HOME)[0])
    made, wire = node.connect(HOME)
    wire.deaf = True
    node.sleep(REFUSED + 1)
    assert wire.end() == "reset"
    made.connectionLost()
    assert node.server.doors._open == 1


def test_a_cap_is_for_the_network_of_a_household(limited: Limit) -> None:
    node = limited(connections_per_address=1)
    log_in(node, node.connect("2001:db8:0:1::1")[0])
    for address, refused in (("2001:db8:0:1::2", True), ("2001:db8:0:2::1", False), ("", False), ("", False)):
        wire = node.connect(address)[1]
        node.flow()
        assert bool(wire.sent()) is refused, address


def test_without_a_cap_nobody_is_refused(limited: Limit) -> None:
    node = limited()
    made = [node.connect(HOME) for _ in range(500)]
    for connection, _ in made[:250]:
        connection.session.device = node.device()
    node.sleep(3)
    assert set(ends(made)) == {""}
    assert all(wire.reads() for _, wire in made)


def test_what_ends_leaves_no_trace(limited: Limit) -> None:
    node = limited(connections_per_address=2, connection_rate=Rate(4, 1.0), unbound_per_address=1)
    for _ in range(3):
        made = [node.connect(HOME) for _ in range(9)]
        node.sleep(4)
        for connection, _ in made:
            connection.connectionLost()
        node.sleep(20)
    doors = node.server.doors
    assert (doors._open, doors._inside, doors._waiting, doors._unbound) == (0, {}, {}, {})


# Behind a proxy.


class Proxied(ProtocolWrapper):
    """What Twisted puts between a socket and who is spoken for; the peer is known with the first bytes."""

    def __init__(self, wire: Wire, client: str) -> None:
        self.transport: Any = wire
        self._client = client

    def getPeer(self) -> IPv4Address:  # noqa: N802 - Twisted's name
        return IPv4Address("TCP", self._client, 50_000)


def through_proxy(node: Node, client: str) -> tuple[Connection, Wire]:
    """A connection of a proxy's, from which nothing has come yet."""
    made, wire = node.server.buildProtocol(None), Wire()
    made.makeConnection(Proxied(wire, client))  # type: ignore[no-untyped-call]
    return made, wire


def test_behind_a_proxy_the_address_that_it_names_counts(limited: Limit) -> None:
    node = limited(connections_per_address=1, connection_rate=Rate(3, 0.5))
    made = [through_proxy(node, HOME) for _ in range(4)]
    neighbour = through_proxy(node, OTHER)
    assert all(wire.reads() for _, wire in made)
    for connection, _ in (*made, neighbour):
        connection.dataReceived(request())
    node.flow()
    assert [bool(wire.sent()) for _, wire in (*made, neighbour)] == [False, True, True, False, False]
    assert [wire.reads() for _, wire in (*made, neighbour)] == [True, True, True, False, True]
    assert len(node.calls) == 2
    made[0][0].connectionLost()
    node.clock.advance(2.0)
    assert len(node.calls) == 3  # what had come with its address was kept
    node.answer(-1, b"answer")
    assert made[3][1].sent() == b"answer"


# The process.


class Ports:
    """What is told whether to accept."""

    def __init__(self, doors: Doors) -> None:
        self.told: list[bool] = []
        doors.control(self.told.append)

    def accept(self) -> bool:
        return self.told[-1]


def test_over_the_accept_rate_the_system_keeps_who_comes(limited: Limit) -> None:
    node = limited(accept_rate=Rate(4, 2.0))
    ports = Ports(node.server.doors)
    for count in range(1, 8):  # a few more than are allowed come in one turn
        node.connect(f"192.0.2.{count}")
        assert ports.accept() is (count < 4)
    node.clock.advance(1.75)
    assert not ports.accept()
    node.clock.advance(0.25)
    assert ports.accept()
    assert node.hub.stats.rests == {"rate": 1}
    node.connect("")
    assert not ports.accept()
    limited()
    assert ports.accept()
    assert ports.told == [True, False, True, False, True]


def test_a_full_process_accepts_nobody_until_somebody_goes(limited: Limit) -> None:
    node = limited(connections=3)
    ports = Ports(node.server.doors)
    made = [node.connect(f"192.0.2.{at}") for at in range(3)]
    for connection, _ in made:
        log_in(node, connection)
    node.sleep(5)
    assert (ports.told, ends(made)) == ([True, False], [""] * 3)
    made[1][0].connectionLost()
    assert ports.accept()
    assert node.hub.stats.rests == {"full": 1}


def test_a_full_process_closes_what_is_idle_without_a_login(limited: Limit) -> None:
    node = limited(connections=4)
    ports = Ports(node.server.doors)
    made = [node.connect(f"192.0.2.{at}") for at in range(4)]
    log_in(node, made[0][0])
    made[1][0].dataReceived(request())
    made[3][0].received_at -= 5
    while not made[3][1].end():
        node.sleep(1)
    made[3][0].connectionLost()
    node.sleep(5)
    assert ends(made) == ["", "", "", "reset"]
    assert (ports.accept(), node.hub.stats.dropped) == (True, {"full": 1})


@pytest.mark.parametrize(("limit", "room", "most"), [(5, None, 5), (5, 3, 3), (5, 8, 5), (None, 3, None)])
def test_the_lower_of_the_limit_and_the_files_counts(
    node: Node, limit: int | None, room: int | None, most: int | None
) -> None:
    node.hub.limits = unlimited(connections=limit)
    doors = Doors(node.hub, room)  # type: ignore[arg-type]
    ports = Ports(doors)
    for count in range(1, 10):
        doors.opened(node.server.buildProtocol(None))
        assert ports.accept() is (most is None or count < most)


# Everyday life.


def test_a_family_behind_one_address_is_never_hindered(node: Node) -> None:
    """Ten released clients, as they are at their busiest: `docs/protocol.md` section 6."""
    node.server.use(Limits())
    ports = Ports(node.server.doors)
    for _ in range(3):  # each time, the server was started again
        mains = []
        for _ in range(10):
            mains.append(node.connect(HOME))
            log_in(node, mains[-1][0])
            for _ in range(2):  # STATE, and something that is sent again
                extra = node.connect(HOME)
                log_in(node, extra[0])
                extra[0].connectionLost()
        for second in range(120):
            for at, (main, _) in enumerate(mains):
                if (second + at) % 20 == 0:
                    main.dataReceived(request("FETCHCONTACT"))
                    node.answer()
            if second % 3 == 0:  # somebody sends a picture, or looks at one
                picture = node.connect(HOME)
                log_in(node, picture[0])
                picture[0].connectionLost()
            node.sleep(1)
        assert set(ends(mains)) == {""}
        for main, _ in mains:
            main.connectionLost()
    assert (node.hub.stats.delayed, dict(node.hub.stats.dropped), ports.told) == (0, {}, [True])


def test_a_client_that_reconnects_without_end_slows_down_itself_alone(node: Node) -> None:
    node.server.use(Limits())
    family = [node.connect(HOME) for _ in range(10)]
    for connection, _ in family:
        log_in(node, connection)
    for _ in range(100):
        mad, _ = node.connect(HOME)
        mad.connectionLost()
    others = node.connect(HOME)
    node.sleep(3)
    assert others[1].reads()
    assert set(ends(family)) == {""}
