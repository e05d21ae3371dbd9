"""Accounts, devices and invites: what every store keeps to, the one in memory and the real one."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from chatsvc.store import keys
from chatsvc.store.accounts import User
from chatsvc.store.devices import BOUND_LIFE, UNBOUND_LIFE, DeviceRecord
from chatsvc.store.invites import Invite
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred, gather
from chatsvc.wire.errors import NAME_TAKEN, Refusal
from chatsvc.wire.invites import make
from chatsvc.wire.schema import TOKEN_MAX
from chatsvc.wire.text import encoded
from tests.stores import (
    DEADLINE,
    FIXTURES,
    HASH,
    as_anybody,
    driven,
    fresh,
    listen,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

valkey, cluster, two_stores, nodes, store, other = FIXTURES

OTHER_HASH = b"another hash"


@pytest_twisted.async_yield_fixture
async def real(valkey: StoreUrl) -> Any:
    """For what only the real one has: times to live, and steps that a crash can cut short."""
    store = Store(reactor, as_anybody(valkey))
    store.start()
    await deferred(store.ready(DEADLINE))
    yield store
    await deferred(store.stop())


# Accounts.


@driven
async def test_a_created_user_is_found_by_name_and_by_id(store: Any) -> None:
    name = fresh("Zoë 🙂")
    user = await store.accounts.create(name, HASH)
    assert user == User(user.id, name, None)
    assert user.id >= 1
    for written in (name, encoded(name)):
        assert await store.accounts.find(written) == user
    assert await store.accounts.get(user.id) == user
    assert await store.accounts.password_hash(user.id) == HASH


@driven
async def test_ids_ascend(store: Any) -> None:
    ids = [await new_user(store) for _ in range(3)]
    assert ids == sorted(set(ids))


@driven
async def test_who_does_not_exist_is_not_found(store: Any) -> None:
    assert await store.accounts.find(fresh()) is None
    for nobody in (-1, 0, 2**62, 2**63, 10**30):
        assert await store.accounts.get(nobody) is None
    assert await store.accounts.password_hash(2**62) is None


@driven
async def test_a_name_is_taken_in_each_form(store: Any) -> None:
    name = fresh("bob")
    user = await store.accounts.create(name, HASH)
    for written in (name, encoded(name)):
        assert await refused(store.accounts.create(written, OTHER_HASH)) == NAME_TAKEN
    assert await store.accounts.find(name) == user
    assert await store.accounts.password_hash(user.id) == HASH


@driven
async def test_of_those_who_want_a_name_at_once_one_gets_it(nodes: tuple[Any, Any]) -> None:
    name = fresh()

    async def create(store: Any) -> User | str:
        try:
            user: User = await store.accounts.create(name, HASH)
        except Refusal as refusal:
            return refusal.info
        return user

    outcomes = await gather(create(store) for store in nodes * 4)
    assert outcomes.count(NAME_TAKEN) == 7
    assert await nodes[0].accounts.find(name) in outcomes


@driven
async def test_a_new_name_frees_the_old_one(store: Any) -> None:
    old, new = fresh("old"), fresh("new")
    user = await store.accounts.create(old, HASH)
    await store.accounts.rename(user, new)
    assert await store.accounts.find(new) == await store.accounts.get(user.id) == User(user.id, new, None)
    assert await store.accounts.find(old) is None
    assert (await store.accounts.create(old, HASH)).id != user.id


@driven
async def test_a_rename_to_a_taken_name_changes_nothing(store: Any) -> None:
    user = await store.accounts.create(fresh(), HASH)
    taken = await store.accounts.create(fresh(), HASH)
    assert await refused(store.accounts.rename(user, encoded(taken.name))) == NAME_TAKEN
    assert await store.accounts.find(user.name) == user
    assert await store.accounts.find(taken.name) == taken


@driven
async def test_the_other_form_of_ones_name_is_no_change(store: Any) -> None:
    user = await store.accounts.create(fresh(), HASH)
    await store.accounts.rename(user, encoded(user.name))
    assert await store.accounts.get(user.id) == user


@driven
async def test_a_rename_that_knows_an_outdated_name_leaves_one_name_taken(store: Any) -> None:
    first, second, third = fresh(), fresh(), fresh()
    user = await store.accounts.create(first, HASH)
    await store.accounts.rename(user, second)
    await store.accounts.rename(user, third)
    assert (await store.accounts.get(user.id)).name == third
    for free in (first, second):
        await store.accounts.create(free, HASH)


@driven
async def test_a_name_that_was_claimed_and_never_borne_finds_nobody(real: Store) -> None:
    user_id, name = await new_user(real), fresh()
    await real._link.write(b"SET", keys.name(name), user_id)  # as a rename that a crash cut short leaves it
    assert await real.accounts.find(name) is None
    await real.accounts.rename(User(user_id, "outdated", None), name)
    assert await real.accounts.find(name) == User(user_id, name, None)


@driven
async def test_an_avatar_is_set_and_cleared(store: Any) -> None:
    user_id = await new_user(store)
    for avatar in ("aW1hZ2U=", "", None):
        await store.accounts.set_avatar(user_id, avatar)
        assert (await store.accounts.get(user_id)).avatar == avatar


# Devices.


@driven
async def test_a_device_is_known_from_its_creation_on(store: Any, other: Any) -> None:
    tokens = [await store.devices.create() for _ in range(3)]
    assert len(set(tokens)) == 3
    assert all(1 <= token <= TOKEN_MAX for token in tokens)
    for token in tokens:
        assert await other.devices.load(keys.device_id(token)) == DeviceRecord(None, False)
    assert await store.devices.load(keys.device_id(2**52 + 1)) is None


@driven
async def test_a_device_that_comes_back_is_as_its_record_says(store: Any, other: Any) -> None:
    user_id, device = await new_user(store), await new_device(store)
    assert await other.devices.use(keys.device_id(2**52 + 1)) is None
    assert await other.devices.use(device) == DeviceRecord(None, False)
    await store.devices.bind(device, user_id, HASH)
    await store.devices.mark_explicit(device)
    assert await other.devices.use(device) == DeviceRecord(user_id, True, user_id)


@driven
async def test_binding_needs_the_password_as_it_is_now(store: Any) -> None:
    user_id, device = await new_user(store), await new_device(store)
    assert not await store.devices.bind(device, user_id, OTHER_HASH)
    assert await store.devices.load(device) == DeviceRecord(None, False)
    assert await store.devices.bind(device, user_id, HASH)
    assert await store.devices.bind(device, user_id, HASH)
    assert await store.devices.load(device) == DeviceRecord(user_id, False, user_id)
    assert await store.devices.is_bound(device, user_id)
    assert not await store.devices.is_bound(device, user_id + 1)


@driven
async def test_binding_to_another_user_ends_the_first_binding(store: Any) -> None:
    first, second = await new_user(store), await new_user(store)
    device = await new_device(store, first)
    heard = await listen(store, first)
    assert await store.devices.bind(device, second, HASH)
    assert not await store.devices.is_bound(device, first)
    assert await store.devices.load(device) == DeviceRecord(second, False, second)
    await until(lambda: heard)
    assert set(heard) == {b"r " + device.encode()}


@driven
async def test_each_binding_is_told_on_the_devices_channel(store: Any, other: Any) -> None:
    first, second = await new_user(store), await new_user(store)
    device = await new_device(store)
    heard = await listen(other, device)
    for count, user_id in enumerate((first, first, second), 1):
        assert await store.devices.bind(device, user_id, HASH)
        await until(lambda count=count: heard == [b"b"] * count)  # type: ignore[misc]
    assert not await store.devices.bind(device, first, OTHER_HASH)
    await store.devices.unbind(device, second)
    assert await store.devices.bind(device, first, HASH)
    await until(lambda: heard == [b"b"] * 4)


@driven
async def test_a_device_that_expired_can_be_bound(store: Any) -> None:
    user_id, device = await new_user(store), keys.device_id(2**52)
    assert await store.devices.load(device) is None
    assert await store.devices.bind(device, user_id, HASH)
    assert await store.devices.load(device) == DeviceRecord(user_id, False, user_id)


@driven
async def test_unbinding_ends_a_binding_and_no_other(store: Any, other: Any) -> None:
    user_id, stranger = await new_user(store), await new_user(store)
    device = await new_device(store, user_id)
    heard = await listen(other, user_id)
    await store.devices.unbind(device, stranger)
    assert await store.devices.load(device) == DeviceRecord(user_id, False, user_id)
    await store.devices.unbind(device, user_id)
    assert await store.devices.load(device) == DeviceRecord(None, False, user_id)
    assert await store.devices.use(device) == DeviceRecord(None, False, user_id)
    await until(lambda: heard == [b"r " + device.encode()])


@driven
async def test_explicit_acknowledgement_is_remembered_for_the_device(store: Any, other: Any) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    await store.devices.mark_explicit(device)
    assert await other.devices.load(device) == DeviceRecord(user_id, True, user_id)
    await store.devices.unbind(device, user_id)
    assert await other.devices.load(device) == DeviceRecord(None, True, user_id)


@driven
async def test_a_new_password_unbinds_all_devices_but_one(store: Any, other: Any) -> None:
    user_id = await new_user(store)
    kept, *lost = [await new_device(store, user_id) for _ in range(3)]
    heard = await listen(other, user_id)
    assert not await store.devices.change_password(user_id, OTHER_HASH, b"third hash", kept)
    for _ in range(2):  # a repeat, after a lost reply, is no failure
        assert await store.devices.change_password(user_id, HASH, OTHER_HASH, kept)
    assert await store.accounts.password_hash(user_id) == OTHER_HASH
    assert [await store.devices.is_bound(device, user_id) for device in (kept, *lost)] == [True, False, False]
    assert await store.devices.load(lost[0]) == DeviceRecord(None, False, user_id)
    assert not await store.devices.bind(lost[0], user_id, HASH)
    await until(lambda: sorted(heard) == sorted(b"r " + device.encode() for device in lost))


@driven
async def test_staying_online_tells_the_mailboxs_end_and_what_is_unbound(store: Any) -> None:
    user_id = await new_user(store)
    device, stranger = await new_device(store, user_id), await new_device(store)
    assert await store.devices.stay_online(user_id, [device]) == (0, [])
    await store.mail.append(outgoing(user_id, user_id, device))
    end = await store.mail.end(user_id)
    assert await store.devices.stay_online(user_id, [stranger, device]) == (end, [stranger])
    await store.devices.go_offline(user_id, device)
    assert await store.devices.is_bound(device, user_id)


@driven
async def test_a_devices_record_expires_when_it_is_not_used(real: Store) -> None:
    user_id, device = await new_user(real), await new_device(real)

    async def life() -> int:
        return int(await real._link.call(b"TTL", keys.device(device)))

    assert 0 < await life() <= UNBOUND_LIFE
    await real.devices.bind(device, user_id, HASH)
    assert UNBOUND_LIFE < await life() <= BOUND_LIFE
    await real.devices.touch(device, bound=False)
    assert 0 < await life() <= UNBOUND_LIFE
    await real.devices.touch(device, bound=True)
    assert UNBOUND_LIFE < await life() <= BOUND_LIFE
    await real.devices.unbind(device, user_id)
    assert 0 < await life() <= UNBOUND_LIFE


@driven
async def test_a_device_that_comes_back_lives_on(real: Store) -> None:
    user_id, device = await new_user(real), await new_device(real)
    for life in (UNBOUND_LIFE, BOUND_LIFE):
        await real._link.write(b"EXPIRE", keys.device(device), 5)
        await real.devices.use(device)
        assert life - 5 <= await real._link.call(b"TTL", keys.device(device)) <= life
        await real.devices.bind(device, user_id, HASH)
    await real.devices.use(keys.device_id(2**52 + 1))
    assert not await real._link.call(b"EXISTS", keys.device(keys.device_id(2**52 + 1)))


# Invites.


@driven
async def test_an_invite_is_used_as_often_as_it_may(nodes: tuple[Any, Any]) -> None:
    code, (store, other) = make(), nodes
    await store.invites.create(code, 3, 60)
    taken = await gather(each.invites.take(code.lower()) for each in (store, other) * 4)
    assert sorted(taken) == [False] * 5 + [True] * 3
    await other.invites.give_back(code)
    assert await store.invites.take(code)
    assert not await store.invites.take(code)
    for wrong in (make(), "", "bob"):
        assert not await store.invites.take(wrong)


@driven
async def test_an_invite_is_known_by_a_hash_until_it_expires(real: Store) -> None:
    code, before = make(), await real.now()
    invite = await real.invites.create(code, 2, 60)
    assert await real.invites.take(code)
    [found] = [one async for page in real.invites.pages() for one in page if one.id == invite]
    assert found == Invite(invite, 1, found.until)
    assert before + 60_000 <= found.until <= await real.now() + 60_000
    assert not [
        key async for page in real.scan(b"*") for key in page if code.replace("-", "").encode() in key
    ]
    await real._link.write(b"PEXPIRE", keys.invite(invite), 1)
    while await real._link.call(b"EXISTS", keys.invite(invite)):
        pass
    await real.invites.give_back(code)
    assert not await real.invites.take(code)


@driven
async def test_a_revoked_invite_is_none(real: Store) -> None:
    code = make()
    invite = await real.invites.create(code, 2, 60)
    await real.invites.revoke(invite)
    await real.invites.give_back(code)
    assert not await real.invites.take(code)
    assert invite not in [one.id async for page in real.invites.pages() for one in page]
