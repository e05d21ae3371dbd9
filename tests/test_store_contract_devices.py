"""How many devices a user may have, and which of them goes: what every store keeps to."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from chatsvc.store import keys
from chatsvc.store.devices import FORGOTTEN
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from tests.stores import (
    DEADLINE,
    FIXTURES,
    HASH,
    as_anybody,
    driven,
    listen,
    new_device,
    new_user,
    reactor,
    until,
)

valkey, cluster, two_stores, nodes, store, other = FIXTURES


@pytest_twisted.async_yield_fixture
async def real(valkey: StoreUrl) -> Any:
    """For what only the real one has: times of last use."""
    store = Store(reactor, as_anybody(valkey))
    store.start()
    await deferred(store.ready(DEADLINE))
    yield store
    await deferred(store.stop())


@driven
async def test_one_device_too_many_unbinds_the_longest_unused(store: Any, other: Any) -> None:
    user_id, stranger = await new_user(store), await new_user(store)
    first, unused, last = [await new_device(store, user_id) for _ in range(3)]
    others = await new_device(store, stranger)
    await store.devices.stay_online(user_id, [first, last])
    heard = await listen(other, user_id)
    new = await new_device(store)
    for _ in range(2):  # a repeat, after a lost reply, costs nobody his login
        assert await store.devices.bind(new, user_id, HASH, 3)
        bound = [await store.devices.is_bound(device, user_id) for device in (first, unused, last, new)]
        assert bound == [True, False, True, True]
    assert (await store.devices.use(unused)).user_id is None
    assert await store.devices.is_bound(others, stranger)
    await until(lambda: heard == [b"r " + unused.encode()])


@driven
async def test_as_many_devices_as_are_allowed_stay(store: Any) -> None:
    user_id = await new_user(store)
    devices = [await new_device(store, user_id) for _ in range(2)]
    devices.append(await new_device(store))
    assert await store.devices.bind(devices[-1], user_id, HASH, 3)
    assert await store.devices.bind(devices[0], user_id, HASH, 3)
    assert all([await store.devices.is_bound(device, user_id) for device in devices])
    assert await store.devices.bind(await new_device(store), user_id, HASH, None)
    assert all([await store.devices.is_bound(device, user_id) for device in devices])


@driven
async def test_a_lower_limit_holds_from_the_next_login_on(store: Any) -> None:
    user_id = await new_user(store)
    old = [await new_device(store, user_id) for _ in range(4)]
    new = await new_device(store)
    assert await store.devices.bind(new, user_id, HASH, 1)
    assert [await store.devices.is_bound(device, user_id) for device in (*old, new)] == [False] * 4 + [True]


async def used_at(store: Store, user_id: int, device: str, seconds_ago: float) -> None:
    """Say when a device was used last."""
    then = await store.now() - int(seconds_ago * 1000)
    await store._link.write(b"ZADD", keys.part(user_id, b"used"), then, device)


@driven
async def test_of_those_that_are_offline_the_longest_unused_goes_first(real: Store) -> None:
    user_id = await new_user(real)
    devices = [await new_device(real, user_id) for _ in range(4)]
    for device, hours in zip(devices, (3, 7, 2, 5), strict=True):
        await used_at(real, user_id, device, 3600 * hours)
    await real._link.write(
        b"ZREM", keys.part(user_id, b"used"), devices[2]
    )  # an earlier version noted nothing
    for left, gone in ((4, 2), (3, 1), (2, 3)):
        assert await real.devices.bind(await new_device(real), user_id, HASH, 4)
        bound = [await real.devices.is_bound(device, user_id) for device in devices]
        assert (bound[gone], sum(bound)) == (False, left - 1)


@driven
async def test_a_login_forgets_devices_whose_records_have_expired(real: Store) -> None:
    user_id = await new_user(real)
    lives, expired = [await new_device(real, user_id) for _ in range(2)]
    await used_at(real, user_id, lives, FORGOTTEN - 60)
    await used_at(real, user_id, expired, FORGOTTEN + 60)
    await new_device(real, user_id)
    assert [await real.devices.is_bound(device, user_id) for device in (lives, expired)] == [True, False]
    assert await real._link.call(b"ZCARD", keys.part(user_id, b"used")) == 2


@driven
async def test_that_a_device_is_used_is_noted_once_an_hour(real: Store) -> None:
    user_id = await new_user(real)
    device = await new_device(real, user_id)

    async def age() -> float:
        used = await real._link.call(b"ZSCORE", keys.part(user_id, b"used"), device)
        return (await real.now() - float(used)) / 1000

    for before, after in ((3600 - 60, 3600 - 60), (3600 + 60, 0)):
        await used_at(real, user_id, device, before)
        await real.devices.stay_online(user_id, [device])
        assert after <= await age() < after + 30
    await real.devices.unbind(device, user_id)
    assert not await real._link.call(b"EXISTS", keys.part(user_id, b"used"))
