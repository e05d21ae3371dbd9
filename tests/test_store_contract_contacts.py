"""Contacts and what they signal to each other: what every store keeps to, in memory or real."""

from __future__ import annotations

from typing import Any

from chatsvc.store.contacts import Relations
from chatsvc.store.keys import PresenceOf
from chatsvc.store.signals import Seen
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.wire.errors import NOT_TAKEN, USER_NOT_FOUND
from tests.stores import (
    DEADLINE,
    FIXTURES,
    append,
    as_anybody,
    driven,
    listen,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

valkey, cluster, two_stores, nodes, store, other = FIXTURES

NOBODY = 2**40


async def contacts(store: Any) -> tuple[int, int]:
    """Two users who have added each other."""
    one, two = await new_user(store), await new_user(store)
    await store.contacts.add(one, two)
    await store.contacts.add(two, one)
    return one, two


def told(other: int, relation: str, by: str = "") -> bytes:
    return f'e FORWARDCONTACT {by} {{"userid":{other},"relation":"{relation}"}}'.encode()


@driven
async def test_contacts_are_those_who_added_each_other(store: Any) -> None:
    me, friend, wanted, admirer = [await new_user(store) for _ in range(4)]
    assert await store.contacts.of(me) == Relations([], [], [])
    for one, two in ((me, friend), (friend, me), (me, wanted), (me, wanted), (admirer, me)):
        await store.contacts.add(one, two)
    assert await store.contacts.of(me) == Relations([friend], [wanted], [admirer])
    assert await store.contacts.of(wanted) == Relations([], [], [me])
    assert await store.contacts.of(friend) == Relations([me], [], [])


@driven
async def test_who_has_added_whom_is_told_by_side(store: Any) -> None:
    me, friend = await new_user(store), await new_user(store)
    await store.contacts.add(me, friend)
    assert await store.contacts.has_added(me, friend)
    assert not await store.contacts.has_added(friend, me)


@driven
async def test_both_hear_of_each_change_once(store: Any, other: Any) -> None:
    me, you = await new_user(store), await new_user(store)
    mine, yours = await listen(other, me), await listen(other, you)
    for _ in range(2):
        await store.contacts.add(me, you, "device")
    await store.contacts.add(you, me)
    for _ in range(2):
        await store.contacts.remove(me, you, "device")
    await store.contacts.add(you, me)
    await until(lambda: len(mine) == len(yours) == 4)
    assert mine[:2] == [told(you, "pending", "device"), told(you, "contact")]
    assert mine[2:] == [told(you, "none", "device"), told(you, "requesting")]
    assert yours == [told(me, "requesting"), told(me, "contact"), told(me, "none"), told(me, "pending")]


@driven
async def test_who_is_removed_is_nobodys_contact(store: Any) -> None:
    me, you = await contacts(store)
    await store.contacts.remove(me, you)
    assert await store.contacts.of(me) == await store.contacts.of(you) == Relations([], [], [])
    await store.contacts.remove(me, NOBODY)


@driven
async def test_who_is_blocked_can_neither_add_nor_write(store: Any, other: Any) -> None:
    me, you = await contacts(store)
    bystander = await new_user(store)
    device, theirs = await new_device(store, you), await new_device(store, bystander)
    stored = outgoing(you, me, device, b"before", repeat="1:1:known")
    await store.mail.append(stored)
    await store.contacts.block(me, you)
    assert await store.contacts.blocked(me) == [you]
    assert await store.contacts.has_blocked(me, you)
    assert not await store.contacts.has_blocked(you, me)
    assert await refused(append(store, you, me, device)) == NOT_TAKEN
    await store.mail.append(stored)  # a repeat
    await append(store, bystander, me, theirs)
    assert len(await store.mail.read(me, 0, 10)) == 2
    assert len(await store.mail.read(you, 0, 10)) == 1
    heard = await listen(other, me)
    await store.contacts.add(you, me)
    assert await store.contacts.of(me) == Relations([], [], [])
    assert await store.contacts.of(you) == Relations([], [me], [])

    await store.contacts.unblock(me, you)
    await append(store, you, me, device)
    await store.contacts.add(you, me)
    await until(lambda: heard[-1:] == [told(you, "requesting")])
    assert heard[0] == told(you, "none")


@driven
async def test_who_is_deleted_gets_nothing_though_he_had_blocked_somebody(valkey: StoreUrl) -> None:
    store = Store(reactor, as_anybody(valkey))
    store.start()
    await store.ready(DEADLINE)
    me, you, bystander = [await new_user(store) for _ in range(3)]
    await store.contacts.block(me, you)
    account = await store.accounts.account(me)
    assert account is not None
    await store.accounts.delete(account)
    for sender in (you, bystander):
        device = await new_device(store, sender)
        assert await refused(append(store, sender, me, device)) == USER_NOT_FOUND
    await store.stop()


@driven
async def test_to_add_whom_one_blocks_ends_the_block(store: Any) -> None:
    me, you = await contacts(store)
    device = await new_device(store, you)
    await store.contacts.block(me, you)
    await store.contacts.add(me, you)
    assert await store.contacts.blocked(me) == []
    await append(store, you, me, device)
    assert await store.contacts.of(me) == Relations([], [you], [])


@driven
async def test_only_contacts_are_told_who_types(store: Any, other: Any) -> None:
    me, you = await contacts(store)
    stranger, admirer = await new_user(store), await new_user(store)
    await store.contacts.add(admirer, me)
    heard = await listen(other, me)
    for user_id in (stranger, admirer, you):
        await store.signals.typing(user_id, me, b'{"userid":%d}' % user_id)
    await store.signals.typing(me, NOBODY, b"{}")
    await until(lambda: heard)
    assert heard == [b'e FORWARDTYPING  {"userid":%d}' % you]


@driven
async def test_marks_are_kept_between_contacts_until_they_part(store: Any, other: Any) -> None:
    reader, sender = await contacts(store)
    stranger = await new_user(store)
    heard, reading = await listen(other, sender), await listen(other, reader)
    for mark in (b'{"n":1}', b'{"n":2}', b'{"n":2}'):
        await store.signals.mark(reader, sender, "read", mark, "device")
    await store.signals.mark(sender, reader, "read", b'{"n":3}', "")
    await store.signals.mark(stranger, sender, "read", b'{"n":4}', "")
    await until(lambda: len(heard) == len(reading) == 3)
    texts = [b'{"marks":[{"n":%d}]}' % n for n in (1, 2, 3)]
    assert heard == [b"e FORWARDMARK  " + text for text in texts]
    assert reading[:2] == [b"e FORWARDMARK device " + text for text in texts[:2]]
    for user_id in (reader, sender):
        assert sorted(await store.signals.marks(user_id)) == [b'{"n":2}', b'{"n":3}']
    third = await new_user(store)
    await store.contacts.add(third, reader)
    await store.contacts.add(reader, third)
    await store.signals.mark(reader, third, "delivered", b'{"n":5}', "")
    await store.contacts.remove(sender, reader)
    assert await store.signals.marks(sender) == []
    assert await store.signals.marks(reader) == [b'{"n":5}']


@driven
async def test_who_comes_first_and_who_goes_last_is_told(store: Any, other: Any) -> None:
    user_id = await new_user(store)
    first, second = await new_device(store, user_id), await new_device(store, user_id)
    heard, own = await listen(other, PresenceOf(user_id)), await listen(other, user_id)
    assert not (await store.signals.seen(user_id)).online
    for devices in ([first], [first, second], [first]):
        await store.devices.stay_online(user_id, devices)
    assert await store.signals.seen(user_id) == Seen(True, 0)
    await store.devices.go_offline(user_id, first)
    assert (await store.signals.seen(user_id)).online
    await store.devices.unbind(second, user_id)
    await store.devices.go_offline(user_id, second)
    await until(lambda: len(heard) == 2)
    online, since = await store.signals.seen(user_id)
    assert not online
    assert [int(text) for text in heard] == [0, since]
    await until(lambda: b"o" in own)
    await store.devices.stay_online(user_id, [second])  # which is bound no more
    assert not (await store.signals.seen(user_id)).online
