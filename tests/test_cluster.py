"""The store floor on a cluster: slots that move, primaries that die, messages that a crash left half-way.

That a cluster keeps to the same contract as one store is tested in ``test_store_contract*.py``.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from chatsvc.store import keys, two_step
from chatsvc.store.append import Waiting
from chatsvc.store.cluster import Router, slot_of
from chatsvc.store.errors import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.two_step import TwoStep
from chatsvc.store.url import parse
from chatsvc.tasks import Pending, pause, run
from chatsvc.wire.errors import STORAGE_UNAVAILABLE, Refusal
from tests.cluster import Cluster, ClusterNode
from tests.stores import (
    DEADLINE,
    driven,
    heard_entries,
    listen,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

#: Keys with and without a hash tag, and with what only looks like one.
KEYS = ["123456789", "{u:1}", "{u:1}:mail", "a{u:1}{x}", "{}x", "{u:1", "}{u:1}", "{{u:1}}", "{n:\u00e9}"]


@pytest.fixture
def cluster(tmp_path: Path) -> Any:
    """Three primaries; the first has a replica."""
    stores = Cluster(tmp_path, replicas=1)
    try:
        yield stores.start()
    finally:
        stores.stop()


@asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Store]:
    store = Store(reactor, parse(cluster.url))
    store.start()
    try:
        await store.ready(DEADLINE)
        yield store
    finally:
        await store.stop()


async def user_at(store: Store, cluster: Cluster, node: ClusterNode) -> int:
    """A new user whose mailbox is on a node."""
    while True:
        user_id = await new_user(store)
        if cluster.primary(keys.user(user_id)) is node:
            return user_id


class Traffic:
    """One device's messages to another user, one after the other, each tried until it is stored."""

    def __init__(self, store: Store, sender: int, target: int, device: str) -> None:
        self.stored: list[bytes] = []
        self.failures = 0
        self._going = True
        self._ended: Pending[None] = Pending()
        self._store, self._sender, self._target, self._device = store, sender, target, device
        run(self._send(), self._ended.succeed, self._ended.fail)

    async def _send(self) -> None:
        for number in itertools.count():
            if not self._going:
                return
            text = b"%d" % number
            message = outgoing(self._sender, self._target, self._device, text, repeat=f"r{number}")
            while True:
                try:
                    await self._store.mail.append(message)
                    break
                except Unavailable:
                    self.failures += 1
                    await pause(reactor, 0.02)
            self.stored.append(text)

    async def goes_on(self) -> None:
        """Return when more was stored."""
        count = len(self.stored)
        await until(lambda: len(self.stored) > count + 20)

    async def end(self) -> None:
        """Send no more, and see whether everything is in both mailboxes once and in order."""
        self._going = False
        await self._ended
        for user_id in (self._sender, self._target):
            entries = await self._store.mail.read(user_id, 0, len(self.stored) + 1)
            assert [entry.message for entry in entries] == self.stored


@asynccontextmanager
async def traffic(store: Store, sender: int, target: int) -> AsyncIterator[Traffic]:
    device = await new_device(store, sender)
    under_way = Traffic(store, sender, target, device)
    await under_way.goes_on()
    yield under_way
    await under_way.goes_on()
    await under_way.end()


async def aside(work: Callable[[], Any]) -> Any:
    """What blocking work gives, while the store's coroutines go on."""
    return await deferToThread(work)


def test_the_slot_of_a_key_is_what_the_cluster_says(cluster: Cluster) -> None:
    for key in KEYS:
        assert cluster.nodes[0].ask(f"CLUSTER KEYSLOT {key}").startswith(b":%d\r" % slot_of(key.encode()))


@pytest.mark.parametrize("move", [Cluster.move, Cluster.move_at_once])
@driven
async def test_slots_move_under_load(cluster: Cluster, move: Callable[..., None]) -> None:
    async with connected(cluster) as store:
        first, second, third = cluster.primaries
        sender, target = await user_at(store, cluster, first), await user_at(store, cluster, second)
        stands = list[keys.Whose]()
        store.channels.on_subscribed = stands.append
        heard = await listen(store, target)
        async with traffic(store, sender, target) as under_way:
            for user_id, source in ((sender, first), (target, second)):
                await aside(partial(move, cluster, slot_of(keys.user(user_id)), source, third))
                await under_way.goes_on()
        await until(lambda: len(stands) > 1)  # what was published before may not have been heard
        await store.mail.append(outgoing(sender, target, await new_device(store, sender), b"at last"))
        await until(lambda: heard and heard_entries(heard)[-1].message == b"at last")


@driven
async def test_a_subscription_follows_its_slot(cluster: Cluster) -> None:
    async with connected(cluster) as store:
        first, second, _ = cluster.primaries
        user_id = await user_at(store, cluster, first)
        device = await new_device(store, user_id)
        stands = list[keys.Whose]()
        store.channels.on_subscribed = stands.append
        heard = await listen(store, user_id)
        await aside(partial(cluster.move, slot_of(keys.user(user_id)), first, second))
        await until(lambda: len(stands) > 1)
        await store.mail.append(outgoing(user_id, user_id, device, b"to myself"))
        await until(lambda: heard)


@driven
async def test_a_replica_takes_the_place_of_its_primary(cluster: Cluster) -> None:
    async with connected(cluster) as store:
        first, second, _ = cluster.primaries
        [replica] = cluster.replicas
        user_id, other = await user_at(store, cluster, first), await user_at(store, cluster, second)
        device, others = await new_device(store, user_id), await new_device(store, other)
        heard = await listen(store, user_id)
        first.signal(signal.SIGKILL)
        await store.mail.append(outgoing(other, other, others, b"elsewhere"))  # that goes on
        await until(lambda: cluster.primary(keys.user(user_id)) is replica)
        await until(lambda: store.up)
        await store.mail.append(outgoing(user_id, user_id, device, b"back"))
        await until(lambda: heard)


@driven
async def test_what_could_not_be_brought_to_its_target_is_pending(cluster: Cluster) -> None:
    async with connected(cluster) as store:
        _, second, third = cluster.primaries
        sender, target = await user_at(store, cluster, second), await user_at(store, cluster, third)
        device = await new_device(store, sender)
        await store.mail.append(outgoing(sender, target, device, b"before", repeat="r1"))
        await until(lambda: not pending(cluster, sender))
        steps = store._two_step
        assert steps is not None
        steps.stop()  # what this node itself brings later is tested below
        second_step, steps._second = steps._second, lost  # type: ignore[method-assign]
        steps._targets.clear()
        for number in range(2, 5):
            message = outgoing(sender, target, device, b"%d" % number, repeat=f"r{number}")
            assert await refused(store.mail.append(message)) == STORAGE_UNAVAILABLE
        steps._targets.clear()
        steps._second = second_step  # type: ignore[method-assign]
        assert await texts(store, sender) == [b"before", b"2", b"3", b"4"]
        assert await texts(store, target) == [b"before"]
        # A repeat by the client brings it; so does the sweep, the rest and nothing twice.
        await store.mail.append(outgoing(sender, target, device, b"3", repeat="r3"))
        assert await texts(store, target) == [b"before", b"3"]
        assert await swept(store) == 0  # too young
        two_step_age, two_step.SWEEP_AGE = two_step.SWEEP_AGE, -10_000
        try:
            assert await swept(store) == 2
            assert await swept(store) == 0
        finally:
            two_step.SWEEP_AGE = two_step_age
        assert await texts(store, target) == [b"before", b"3", b"2", b"4"]
        assert await texts(store, sender) == [b"before", b"2", b"3", b"4"]


def pending(cluster: Cluster, user_id: int) -> bool:
    key = keys.part(user_id, b"pending")
    primary = cluster.primary(key)
    assert primary is not None
    return b":1\r\n" in primary.ask(f"EXISTS {key.decode()}")


@driven
async def test_what_could_not_be_brought_is_brought_as_soon_as_it_can_be(cluster: Cluster) -> None:
    async with connected(cluster) as store:
        sender, target = await new_user(store), await new_user(store)
        device = await new_device(store, sender)
        steps = store._two_step
        assert steps is not None
        second_step, steps._second = steps._second, unreachable(steps)  # type: ignore[method-assign]
        for number in range(3):
            message = outgoing(sender, target, device, b"%d" % number, repeat=f"r{number}")
            assert await refused(store.mail.append(message)) == STORAGE_UNAVAILABLE
        assert await texts(store, target) == []
        steps._targets.clear()
        steps._second = second_step  # type: ignore[method-assign]
        await until(lambda: not pending(cluster, sender))
        assert await texts(store, target) == await texts(store, sender) == [b"0", b"1", b"2"]


def unreachable(steps: TwoStep) -> Any:
    async def second(target: int, group: list[Waiting]) -> None:
        with steps._left_over({waiting.outgoing.sender for waiting in group}):
            raise Unavailable

    return second


async def lost(target: int, group: Any) -> None:
    raise Unavailable


async def texts(store: Store, user_id: int) -> list[bytes]:
    return [entry.message for entry in await store.mail.read(user_id, 0, 100)]


async def swept(store: Store) -> int:
    assert isinstance(store._mail_link, Router)
    assert store._two_step is not None
    return sum([await store._two_step.sweep(link) for link in store._mail_link.links()])


@driven
async def test_a_message_to_a_user_who_was_deleted_meanwhile_stays_with_its_sender(cluster: Cluster) -> None:
    async with connected(cluster) as store:
        sender, target = await new_user(store), await new_user(store)
        device = await new_device(store, sender)
        assert isinstance(store._link, Router)
        await store._link.write(b"DEL", keys.user(target))
        with pytest.raises(Refusal, match="not found"):
            await store.mail.append(outgoing(sender, target, device, b"text"))
        assert await texts(store, sender) == []


@driven
async def test_a_cluster_that_does_not_serve_all_is_not_ready(cluster: Cluster) -> None:
    cluster.primaries[2].end()
    store = Store(reactor, parse(cluster.url))
    store.start()
    try:
        with pytest.raises(Unavailable):
            await store.ready(0.5)
        assert store.problem
    finally:
        await store.stop()
