"""Finding the primary through sentinels: what they say together, and what a link makes of it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from chatsvc.store import link as link_module
from chatsvc.store import sentinel as sentinel_module
from chatsvc.store.errors import Unwritable
from chatsvc.store.link import Link
from chatsvc.store.sentinel import NoPrimary, PrimaryEndpoint, Sentinels
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred, gather
from tests.stores import SILENCE, Scripted, driven, reactor, until

A, B = ("192.0.2.1", 1), ("192.0.2.2", 2)
PASSWORD = "the password"


class Spoken(Scripted):
    """A scripted server on a loopback port; as a sentinel it names `primary`, as a store it has a `role`."""

    def __init__(self) -> None:
        super().__init__("", Clock())
        self.primary: tuple[str, int] | None = None
        self.role = b"master"
        self.locked = False  # until somebody logs in

    def open(self) -> None:
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.address: tuple[str, int] = "127.0.0.1", self._port.getHost().port

    def reply(self, command: list[bytes]) -> bytes:
        known = super().reply(command)
        if command[0] == b"AUTH":
            self.locked = command[2].decode() != PASSWORD
        if known != b"+OK\r\n" or command[0] not in (b"SENTINEL", b"ROLE"):
            return known
        if self.locked:
            return b"-NOAUTH Authentication required.\r\n"
        if command[0] == b"ROLE":
            return b"*2\r\n$%d\r\n%b\r\n:0\r\n" % (len(self.role), self.role)
        if self.primary is None:
            return b"*-1\r\n"
        host, port = self.primary[0].encode(), b"%d" % self.primary[1]
        return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(host), host, len(port), port)


@pytest_twisted.async_yield_fixture
async def three() -> Any:
    """Three sentinels that name A."""
    servers = [Spoken() for _ in range(3)]
    for server in servers:
        server.open()
        server.primary = A
    yield servers
    for server in servers:
        await deferred(server.close())


@pytest_twisted.async_yield_fixture
async def store() -> Any:
    """A scripted store."""
    server = Spoken()
    server.open()
    yield server
    await deferred(server.close())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test waits for comes soon."""
    monkeypatch.setattr(sentinel_module, "SENTINEL_WAIT", 0.4)
    monkeypatch.setattr(link_module, "PROBE_INTERVAL", 0.3)


def asking(servers: list[Spoken], **login: str) -> Sentinels:
    """A way to ask them."""
    hosts = tuple(server.address for server in servers)
    return Sentinels(reactor, StoreUrl(kind="sentinel", hosts=hosts, service="main", **login))  # type: ignore[arg-type]


@pytest_twisted.async_yield_fixture
async def link(three: list[Spoken], store: Spoken) -> Any:
    """A link that is up, to the store that the sentinels name."""
    for sentinel in three:
        sentinel.primary = store.address
    endpoint: Any = PrimaryEndpoint(reactor, asking(three))
    link = Link(reactor, endpoint, watch=endpoint)
    store.clock.advance(1_000_000)
    link.start()
    await until(lambda: link.up)
    yield link
    await deferred(link.stop())


# What the sentinels say together.


@driven
async def test_all_say_the_same(three: list[Spoken]) -> None:
    assert await asking(three).primary() == A
    await until(lambda: three[0].heard)  # two others are enough for an answer
    [query] = three[0].heard
    assert query == [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"main"]


@driven
async def test_most_of_all_suffice_and_a_silent_one_is_not_waited_for(
    three: list[Spoken], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_module, "SENTINEL_WAIT", 3600)
    three[0].says[b"SENTINEL"] = [SILENCE]
    assert await asking(three).primary() == A


@pytest.mark.parametrize("how", ["silent", "gone", "does not know it", "has failed"])
@driven
async def test_those_that_answer_decide(three: list[Spoken], how: str) -> None:
    asked = asking(three)
    for sentinel in three[:2]:
        if how == "gone":
            await sentinel.close()
        elif how == "does not know it":
            sentinel.primary = None
        else:
            sentinel.says[b"SENTINEL"] = [SILENCE if how == "silent" else b"-ERR it is broken\r\n"]
    assert await asked.primary() == A


@driven
async def test_the_first_to_answer_is_outvoted(three: list[Spoken]) -> None:
    three[0].primary = B
    assert await asking(three).primary() == A
    three[1].primary = B
    assert await asking(three).primary() == B


@driven
async def test_without_a_majority_there_is_no_primary(three: list[Spoken]) -> None:
    three[0].primary, three[1].primary = B, None
    with pytest.raises(NoPrimary, match=r"do not agree .* main: (192.0.2.1:1|192.0.2.2:2) and 192"):
        await asking(three).primary()


@driven
async def test_why_nobody_names_a_primary(three: list[Spoken]) -> None:
    asked = asking(three)
    three[0].primary = None
    three[1].says[b"SENTINEL"] = [b"-ERR it is broken\r\n"]
    await three[2].close()
    with pytest.raises(NoPrimary, match="no sentinel names the primary of main") as raised:
        await asked.primary()
    first, second, third = (f"127.0.0.1:{server.address[1]}: " for server in three)
    for part in (f"{first}it knows no store of that name", f"{second}ERR it is broken", f"{third}Connection"):
        assert part in str(raised.value)


@driven
async def test_a_machine_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = full.getsockname()
        for _ in range(4):  # more than wait to be accepted: what else comes is not answered at all
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        asked = Sentinels(reactor, StoreUrl(kind="sentinel", hosts=(address,), service="main"))
        with pytest.raises(NoPrimary, match=r"in time|timeout"):
            await asked.primary()


@driven
async def test_who_asks_at_the_same_time_shares_an_inquiry(three: list[Spoken]) -> None:
    asked = asking(three)
    assert await gather(asked.primary() for _ in range(5)) == [A] * 5
    await until(lambda: all(server.heard and not server.connections for server in three))
    assert [len(server.heard) for server in three] == [1] * 3
    three[0].primary = three[1].primary = B
    assert await asked.primary() == B


@driven
async def test_a_sentinel_that_asks_for_a_login_is_given_that_of_the_store(three: list[Spoken]) -> None:
    three[0].locked = three[1].locked = True
    await three[2].close()
    assert await asking(three, password=PASSWORD).primary() == A
    assert [b"AUTH", b"default", PASSWORD.encode()] in three[0].heard
    three[0].locked = True
    assert await asking(three, username="me", password=PASSWORD).primary() == A
    assert [b"AUTH", b"me", PASSWORD.encode()] in three[0].heard


@driven
async def test_no_sentinel_is_given_a_password_unasked(three: list[Spoken]) -> None:
    await asking(three, password=PASSWORD).primary()
    assert [server.count(b"AUTH") for server in three] == [0, 0, 0]


# What a link makes of it.


@driven
async def test_the_link_goes_where_the_sentinels_say(link: Link, store: Spoken) -> None:
    assert await link.call(b"GET", b"key") == b"OK"
    assert store.count(b"ROLE") == 1


@driven
async def test_a_replica_is_left_at_once_and_tried_again(
    link: Link, store: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.role = b"slave"
    store.says[b"EVALSHA"] = [b"-READONLY You can't write against a read only replica.\r\n"]
    with pytest.raises(Unwritable):
        await link.write(b"SET", b"key", b"value")
    await until(lambda: "which the sentinels name, is a replica" in link.problem)
    assert not link.up
    store.role = b"master"
    await until(lambda: link.up)
    assert await link.write(b"SET", b"key", b"value") == b"OK"


@driven
async def test_a_link_follows_the_majority(link: Link, three: list[Spoken], store: Spoken) -> None:
    other = Spoken()
    other.open()
    other.clock.advance(1_000_000)
    try:
        three[0].primary = other.address
        seen = three[0].count(b"SENTINEL")
        await until(lambda: three[0].count(b"SENTINEL") >= seen + 3)
        assert link.reconnects == 0, "one is no majority"
        three[1].primary = other.address
        await until(lambda: link.reconnects == 1)
        assert link.up
        assert len(other.connections) == 1
        assert store.connections == []
    finally:
        await other.close()


@driven
async def test_a_link_stays_where_it_is_while_no_sentinel_answers(
    link: Link, three: list[Spoken], store: Spoken
) -> None:
    for sentinel in three:
        await sentinel.close()
    times = store.count(b"TIME")
    await until(lambda: store.count(b"TIME") >= times + 3)
    assert link.up
    assert link.reconnects == 0


@driven
async def test_a_link_waits_for_sentinels_that_are_not_there_yet(three: list[Spoken], store: Spoken) -> None:
    for sentinel in three:
        sentinel.primary = None
    endpoint: Any = PrimaryEndpoint(reactor, asking(three))
    link = Link(reactor, endpoint, watch=endpoint)
    link.start()
    try:
        await until(lambda: "no sentinel names the primary of main" in link.problem)
        for sentinel in three:
            sentinel.primary = store.address
        await until(lambda: link.up)
    finally:
        await link.stop()


@driven
async def test_a_link_can_be_stopped_while_it_asks(three: list[Spoken], store: Spoken) -> None:
    for sentinel in three:
        sentinel.says[b"SENTINEL"] = [SILENCE]
        sentinel.primary = store.address
    endpoint: Any = PrimaryEndpoint(reactor, asking(three))
    link = Link(reactor, endpoint, watch=endpoint)
    link.start()
    await until(lambda: all(sentinel.count(b"SENTINEL") for sentinel in three))
    await link.stop()
    await until(lambda: not any(sentinel.connections for sentinel in three))
    assert store.heard == []
