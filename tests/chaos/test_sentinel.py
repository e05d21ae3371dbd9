"""Failover on real processes: the node finds the new primary, and nothing that was answered OK is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest_twisted
from twisted.internet.threads import deferToThread

from chatsvc.store.store import Store
from chatsvc.store.url import parse
from chatsvc.tasks import deferred, pause, spawn
from chatsvc.wire.errors import STORAGE_UNAVAILABLE, Refusal
from tests.chaos.control import control, judged
from tests.failover import FIXTURES, Fleet
from tests.raw import unique
from tests.service import Service, wait_for
from tests.stores import DEADLINE, driven, listen, new_device, new_user, outgoing, reactor, refused, until

replicated, fleet = FIXTURES
#: Seconds within which all works again: sentinels take a second or two to agree.
OUTAGE = 15.0


class Sender:
    """Sends numbered messages to itself one after the other, each until it is answered OK."""

    def __init__(self, store: Store, user_id: int, device: str) -> None:
        self._store, self._user_id, self._device = store, user_id, device
        self.stored: list[bytes] = []
        self.told: list[tuple[str, float]] = []  # what of refusals, and after how long
        self.stopped = False
        spawn(self._run(), "sending")

    async def _run(self) -> None:
        while not self.stopped:
            text = b"%d" % len(self.stored)
            began = reactor.seconds()
            try:
                out = outgoing(self._user_id, self._user_id, self._device, text, repeat=text.decode())
                await self._store.mail.append(out)
            except Refusal as refusal:
                self.told.append((refusal.info, reactor.seconds() - began))
                await pause(reactor, 0.02)
            else:
                self.stored.append(text)
                await pause(reactor, 0.002)

    async def gets_on(self) -> None:
        """Return when messages are stored that were begun after this."""
        enough = len(self.stored) + 20
        await until(lambda: len(self.stored) >= enough)

    async def check(self) -> None:
        """All that was answered OK is there, once and in order; refusals came in time."""
        self.stopped = True
        found: list[bytes] = []
        after = 0
        while page := await self._store.mail.read(self._user_id, after, 500):
            found += [entry.message for entry in page]
            after = page[-1].position
        assert Counter(found).most_common(1)[0][1] == 1
        assert found[: len(self.stored)] == self.stored
        assert {info for info, _ in self.told} <= {STORAGE_UNAVAILABLE}
        assert max((seconds for _, seconds in self.told), default=0.0) < 5.0


@pytest_twisted.async_yield_fixture
async def store(fleet: Fleet, here: None) -> Any:
    """One node's way to the store, which waits for a replica."""
    store = Store(reactor, parse(fleet.url), replica_acks=1)
    store.start()
    await deferred(store.ready(DEADLINE))
    yield store
    await deferred(store.stop())


@driven
async def test_an_orderly_failover_loses_nothing(store: Store, fleet: Fleet) -> None:
    user_id = await new_user(store)
    sender = Sender(store, user_id, await new_device(store, user_id))
    await sender.gets_on()
    await deferToThread(fleet.swap)
    await sender.gets_on()
    await sender.check()
    assert b"role:master" in fleet.primary.ask("INFO replication")
    assert b"role:slave" in fleet.replica.ask("INFO replication")


@driven
async def test_when_the_primary_is_killed_its_replica_takes_over_and_nothing_is_lost(
    store: Store, fleet: Fleet
) -> None:
    user_id = await new_user(store)
    heard = await listen(store, user_id)
    sender = Sender(store, user_id, await new_device(store, user_id))
    await sender.gets_on()
    fleet.kill_primary()
    began = reactor.seconds()
    await until(lambda: store._link.up and fleet.sentinels[0].names(fleet.primary.port))
    assert reactor.seconds() - began < OUTAGE
    # Without a replica nothing is safe enough yet, but what there is can be read.
    assert await store.mail.end(user_id) > 0
    refused = len(sender.told)
    await until(lambda: len(sender.told) > refused)
    await deferToThread(fleet.restart_replica)
    await sender.gets_on()
    await until(lambda: any(b" %b" % sender.stored[-1] in text for text in heard))
    await sender.check()


@control("unconfirmed")
@driven
async def test_what_only_the_dead_primary_had_was_not_answered_ok(store: Store, fleet: Fleet) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    await store.mail.append(outgoing(user_id, user_id, device, b"safe"))
    fleet.replica.ask("REPLICAOF 127.0.0.1 1")  # it gets nothing any more
    message = outgoing(user_id, user_id, device, b"message", repeat="repeat")
    with judged("DID NOT RAISE"):
        assert await refused(store.mail.append(message)) == STORAGE_UNAVAILABLE
    assert len(await store.mail.read(user_id, 0, 10)) == 2
    fleet.kill_primary()
    await until(lambda: fleet.sentinels[0].names(fleet.primary.port))
    await until(lambda: store.up)
    assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"safe"]
    await deferToThread(fleet.restart_replica)
    sender = Sender(store, user_id, device)
    await sender.gets_on()
    sender.stopped = True
    await store.mail.append(message)
    found = [entry.message for entry in await store.mail.read(user_id, 0, 500)]
    assert found.count(b"message") == 1


def test_a_server_finds_the_new_primary_by_itself(fleet: Fleet, service: Callable[..., Service]) -> None:
    server = service("--redis", fleet.url, "--replica-acks", "1").start()
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    said = alice.say(bob.user)
    fleet.kill_primary()
    message, began = alice.message(bob.user, unique()), time.monotonic()

    def stored() -> bool:
        asked = time.monotonic()
        answer = alice.ask("SENDMSG", message)
        assert time.monotonic() - asked < 5
        assert answer.ok or answer.info == STORAGE_UNAVAILABLE
        return answer.ok

    assert not stored()
    wait_for(lambda: bob.ask("STATE").ok, "what there is can be read", OUTAGE)
    fleet.restart_replica()
    wait_for(stored, "messages are stored again", OUTAGE)
    assert time.monotonic() - began < OUTAGE
    names = [said["md5encoded"], message["md5encoded"]]
    assert [found["md5encoded"] for found in server.device(bob).fetch()] == names
    assert [bob.push()["md5encoded"] for _ in names] == names
    assert "Traceback" not in server.log()
