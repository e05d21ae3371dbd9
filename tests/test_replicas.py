"""Waiting for replicas: when what was written is confirmed, what does not wait, and what a client is told.

A scripted server says what no real one can be made to say; real ones show what is written where.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock

from chatsvc.store import keys, replicas
from chatsvc.store.errors import Redirected, TryAgain, Unwritable
from chatsvc.store.link import PROBE_INTERVAL, Link
from chatsvc.store.protocol import StoreProtocol
from chatsvc.store.replicas import ReplicatedLink
from chatsvc.store.script import Script
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred, gather
from chatsvc.wire.errors import STORAGE_UNAVAILABLE
from tests.failover import FIXTURES, frozen
from tests.fakes import Running
from tests.service import Valkey
from tests.stores import (
    DEADLINE,
    SILENCE,
    Scripted,
    driven,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

replicated, _ = FIXTURES
SOME = Script("return redis.call('INCR', KEYS[1])")
PASSING = Script("return redis.call('INCR', KEYS[1])", lasting=False)
READS = Script("return redis.call('GET', KEYS[1])", writes=False)
LIFE = b"%d" % replicas.MARK_LIFE
#: Replies: disks and replicas, or replicas alone.
BOTH, NO_REPLICA, NO_DISK, ONE = (
    b"*2\r\n:1\r\n:1\r\n",
    b"*2\r\n:1\r\n:0\r\n",
    b"*2\r\n:0\r\n:1\r\n",
    b":1\r\n",
)
NO_FILE = b"-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\r\n"


class Confirming(Scripted):
    """A scripted server whose replicas say the same to every question."""

    def __init__(self, path: str) -> None:
        super().__init__(path, Clock())
        self.clock.advance(1_000_000)
        self.confirms = BOTH

    def reply(self, command: list[bytes]) -> bytes:
        known = super().reply(command)
        asked = command[0] in (b"WAITAOF", b"WAIT") and known == b"+OK\r\n"
        return self.confirms if asked else known

    def names(self) -> list[bytes]:
        """The commands since the connections were prepared."""
        names = [command[0] for command in self.heard]
        return names[len(names) - names[::-1].index(b"TIME") :] if b"TIME" in names else names


@pytest_twisted.async_yield_fixture
async def server(tmp_path: Path) -> Any:
    server = Confirming(str(tmp_path / "s"))
    server.open()
    yield server
    await deferred(server.close())


@pytest_twisted.async_yield_fixture
async def new_link(server: Confirming) -> Any:
    """Makes links that wait for a replica."""
    made: list[ReplicatedLink] = []

    async def make(wanted: int = 1, **more: Any) -> ReplicatedLink:
        kind, aside_kind = ReplicatedLink, Link
        more["scripts"] = (SOME, PASSING, READS)
        endpoint: Any = UNIXClientEndpoint(reactor, server.path)  # type: ignore[no-untyped-call]
        aside = aside_kind(reactor, endpoint, **more)
        made.append(kind(reactor, endpoint, replicas=wanted, aside=aside, **more))
        made[-1].start()
        await made[-1].ready(DEADLINE)
        server.heard.clear()
        return made[-1]

    yield make
    for link in made:
        await deferred(link.stop())


NewLink = Callable[..., Any]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few are too few soon."""
    monkeypatch.setattr(replicas, "ACK_WAIT", 0.2)


# What is asked.


@driven
async def test_a_script_is_done_when_disks_and_replicas_have_it(
    new_link: NewLink, server: Confirming
) -> None:
    link = await new_link()
    assert await link.script(SOME, b"{u:1}:in", b"argument") == b"OK"
    script, mark, question = server.heard
    assert script[0] == b"EVALSHA"
    assert mark == [b"SET", b"{u:1}:mark", b"", b"PX", LIFE]
    assert question == [b"WAITAOF", b"1", b"1", b"20"]


@driven
async def test_a_store_without_a_file_is_asked_for_its_replicas(
    new_link: NewLink, server: Confirming
) -> None:
    server.says[b"WAITAOF"] = [NO_FILE]
    server.confirms = ONE
    link = await new_link()
    assert await link.script(SOME, b"chatsvc:users") == b"OK"
    assert server.heard[1:] == [
        [b"SET", b"{chatsvc:users}:mark", b"", b"PX", LIFE],
        [b"WAIT", b"1", b"20"],
    ]


@driven
async def test_who_may_not_ask_does_not_start(server: Confirming, new_link: NewLink) -> None:
    server.says[b"WAITAOF"] = [b"-NOPERM User has no permissions to run the 'waitaof' command\r\n"] * 2
    waiting = Running(new_link())
    await until(lambda: any(server.count(b"WAITAOF") for _ in server.heard))
    assert not waiting.done
    await until(lambda: waiting.done)  # they were given


@pytest.mark.parametrize("replies", [[NO_REPLICA], [NO_DISK], [NO_REPLICA, NO_DISK, NO_REPLICA]])
@driven
async def test_it_is_asked_until_there_are_enough(
    new_link: NewLink, server: Confirming, replies: list[bytes]
) -> None:
    link = await new_link()
    server.says[b"WAITAOF"] = list(replies)
    assert await link.script(SOME, b"key") == b"OK"
    assert server.count(b"WAITAOF") == len(replies) + 1


@pytest.mark.parametrize(("confirms", "wanted"), [(NO_REPLICA, 1), (NO_DISK, 1), (BOTH, 2)])
@driven
async def test_with_too_few_a_client_is_told_and_the_next_is_tried_anew(
    new_link: NewLink, server: Confirming, confirms: bytes, wanted: int
) -> None:
    link = await new_link(wanted)
    server.confirms = confirms
    with pytest.raises(Unwritable):
        await link.script(SOME, b"key")
    assert server.count(b"EVALSHA") == 1, "it is not for us to try again"
    assert link.up
    server.confirms = b"*2\r\n:1\r\n:2\r\n"
    assert await link.script(SOME, b"key") == b"OK"


@driven
async def test_no_longer_than_the_client_has_time(
    new_link: NewLink, server: Confirming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "ACK_WAIT", 3600)
    link = await new_link()
    server.confirms = NO_REPLICA
    with pytest.raises(Unwritable):
        await link.script(SOME, b"key", expires=reactor.seconds() + 0.1)


@driven
async def test_what_is_sent_while_replicas_are_asked_shares_the_next_question(
    new_link: NewLink, server: Confirming
) -> None:
    link = await new_link()
    await gather(link.script(SOME, b"key") for _ in range(64))
    assert server.count(b"EVALSHA") == 64
    assert server.count(b"WAITAOF") == server.count(b"SET") == 2
    assert server.names().index(b"SET") == 1
    assert server.names()[-2:] == [b"SET", b"WAITAOF"]


@driven
async def test_what_reads_or_need_not_last_waits_for_nobody(new_link: NewLink, server: Confirming) -> None:
    link = await new_link()
    server.says[b"WAITAOF"] = [SILENCE]
    writing = Running(link.script(SOME, b"key"))
    await until(lambda: server.count(b"WAITAOF"))
    assert await link.call(b"GET", b"key") == b"OK"
    assert await link.script(READS, b"key") == b"OK"
    assert await link.script(PASSING, b"key") == b"OK"
    assert not writing.done
    assert server.count(b"WAITAOF") == 1


# When that fails.


@driven
async def test_when_the_connection_goes_meanwhile_it_is_all_done_again(
    new_link: NewLink, server: Confirming
) -> None:
    link = await new_link()
    server.says[b"WAITAOF"] = [SILENCE]
    writing = [Running(link.script(SOME, b"key")) for _ in range(3)]
    await until(lambda: server.count(b"WAITAOF"))
    server.cut()
    await until(lambda: all(one.done for one in writing))
    assert [one.result() for one in writing] == [b"OK"] * 3
    assert server.count(b"EVALSHA") == 6


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"SET", b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
        (b"WAITAOF", b"-UNBLOCKED force unblock from blocking operation\r\n"),
        (b"WAITAOF", NO_FILE),
    ],
)
@driven
async def test_when_it_cannot_be_asked_the_outcome_is_unknown(
    new_link: NewLink, server: Confirming, name: bytes, error: bytes
) -> None:
    link = await new_link()
    server.says[name] = [error]
    assert await refused(link.script(SOME, b"key")) == STORAGE_UNAVAILABLE
    await until(lambda: link.up)
    assert await link.script(SOME, b"key") == b"OK"


@driven
async def test_a_setting_that_has_changed_is_looked_at_anew(new_link: NewLink, server: Confirming) -> None:
    link = await new_link()
    server.says[b"WAITAOF"] = [NO_FILE] * 2
    with pytest.raises(Unwritable):
        await link.script(SOME, b"key")
    await until(lambda: link.reconnects == 1)
    server.confirms = ONE
    assert await link.script(SOME, b"key") == b"OK"
    assert server.heard[-1] == [b"WAIT", b"1", b"20"]


class Left:
    """Who knows that another is the primary now."""

    async def accept(self, connection: StoreProtocol) -> None:
        pass

    async def is_current(self) -> bool:
        return False


@driven
async def test_when_replicas_are_missing_it_is_looked_whether_there_is_another_primary(
    new_link: NewLink, server: Confirming
) -> None:
    link = await new_link(watch=Left())
    server.confirms = NO_REPLICA
    began = reactor.seconds()
    with pytest.raises(Unwritable):
        await link.script(SOME, b"key")
    await until(lambda: link.reconnects == 1)
    assert reactor.seconds() - began < PROBE_INTERVAL


@driven
async def test_in_a_cluster_a_mark_leads_nowhere(new_link: NewLink, server: Confirming) -> None:
    link = await new_link(routed=True)
    server.says[b"SET"] = [b"-ASK 866 127.0.0.1:1\r\n"]
    with pytest.raises(TryAgain):
        await link.script(SOME, b"{u:1}")
    server.says[b"EVALSHA"] = [b"-MOVED 866 127.0.0.1:1\r\n"]
    with pytest.raises(Redirected):
        await link.script(SOME, b"{u:1}")
    server.heard.clear()
    await link.script(SOME, b"{u:1}", asking=True)
    assert server.names() == [b"ASKING", b"EVALSHA", b"ASKING", b"SET", b"WAITAOF"]


def test_a_mark_is_in_the_slot_of_its_key() -> None:
    assert keys.mark(keys.user(7)) == keys.mark(keys.part(7, b"repeat:}")) == b"{u:7}:mark"
    assert keys.mark(keys.USER_COUNTER) == b"{chatsvc:users}:mark"


# Real stores.


@pytest_twisted.async_yield_fixture
async def nodes(replicated: tuple[Valkey, Valkey]) -> Any:
    """Two nodes that wait for a replica."""
    url = StoreUrl(kind="tcp", host="127.0.0.1", port=replicated[0].port)
    stores = [Store(reactor, url, replica_acks=1) for _ in range(2)]
    for store in stores:
        store.start()
        await deferred(store.ready(DEADLINE))
    yield stores
    for store in stores:
        await deferred(store.stop())


@driven
async def test_without_its_replica_a_store_is_read_only(
    nodes: list[Store], replicated: tuple[Valkey, Valkey]
) -> None:
    one, other = nodes
    user_id = await new_user(one)
    device = await new_device(one, user_id)
    await one.mail.append(outgoing(user_id, user_id, device, b"before"))
    message = outgoing(user_id, user_id, device, b"message", repeat="repeat")
    with frozen(replicated[1]):
        began = reactor.seconds()
        assert await refused(one.mail.append(message)) == STORAGE_UNAVAILABLE
        assert reactor.seconds() - began < 5
        # It is there, and the other node, which wrote nothing, must not say that it is safe.
        assert await refused(other.mail.append(message)) == STORAGE_UNAVAILABLE
        began = reactor.seconds()
        assert await other.devices.load(device) is not None
        assert await other.devices.stay_online(user_id, [device]) == (await one.mail.end(user_id), [])
        await one.devices.touch(device, bound=True)
        assert await one.mail.open(user_id, device) is not None
        assert len(await one.mail.read(user_id, 0, 10)) == 2
        assert reactor.seconds() - began < replicas.ACK_WAIT, "nothing of that waits"
    await until_stored(other, message)
    assert [entry.message for entry in await one.mail.read(user_id, 0, 10)] == [b"before", b"message"]


async def until_stored(store: Store, message: Any) -> None:
    """Return once it is answered OK."""
    while True:
        try:
            return await store.mail.append(message)
        except Unwritable:
            pass


@pytest.mark.parametrize("setting", ["CONFIG SET min-replicas-to-write 2", "REPLICAOF 127.0.0.1 1"])
@driven
async def test_a_store_that_takes_no_writes_can_be_read(valkey: Callable[..., Valkey], setting: str) -> None:
    server = valkey().start()
    store = Store(reactor, StoreUrl(kind="unix", path=str(server.socket_path)))
    store.start()
    try:
        user_id = await new_user(store)
        device = await new_device(store, user_id)
        await store.mail.append(outgoing(user_id, user_id, device, b"before"))
        assert server.ask(setting).startswith(b"+OK")
        message = outgoing(user_id, user_id, device, b"message")
        for _ in range(2):
            assert await refused(store.mail.append(message)) == STORAGE_UNAVAILABLE
            await store.devices.touch(device, bound=True)
            assert (await store.devices.stay_online(user_id, [device]))[1] == []
            assert await store.mail.open(user_id, device) is not None
            assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"before"]
        server.ask("CONFIG SET min-replicas-to-write 0", "REPLICAOF NO ONE")
        await store.mail.append(message)
        assert len(await store.mail.read(user_id, 0, 10)) == 2
    finally:
        await store.stop()
