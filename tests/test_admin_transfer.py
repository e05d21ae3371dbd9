"""Copying a store: the cut, what a scan in motion can tear, and writing what was read into another store."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from chatsvc.store import items, keys
from chatsvc.store import transfer as transfer_module
from chatsvc.store.append import REPEAT_LIFE, entry_text
from chatsvc.store.items import Item
from chatsvc.store.mail import entry_id, position
from chatsvc.store.sent import Brought
from chatsvc.store.store import Store
from chatsvc.store.transfer import CannotCut, Cut, Transfer
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from chatsvc.valkey import EmbeddedStore
from chatsvc.wire.errors import NOT_TAKEN
from tests.stores import DEADLINE, HASH, append, driven, new_user, outgoing, reactor, refused, valkey

__all__ = ["valkey"]

FILE = ("0" * 32, "1" * 32, b"%b:5" % (b"2" * 64))


@pytest_twisted.async_yield_fixture
async def stores(tmp_path: Any) -> Any:
    """Two empty stores."""
    made = []
    for name in ("one", "two"):
        embedded = EmbeddedStore(reactor, tmp_path / name)
        await embedded.start()
        store = Store(reactor, StoreUrl(kind="unix", path=embedded.socket_path))
        store.start()
        await deferred(store.ready(DEADLINE))
        made.append((embedded, store))
    yield [store for _, store in made]
    for embedded, store in made:
        await deferred(store.stop())
        await embedded.stop()


async def device_of(store: Store, user_id: int) -> str:
    """A device that is bound to a user."""
    device = keys.device_id(await store.devices.create())
    assert await store.devices.bind(device, user_id, HASH)
    return device


async def read(store: Store, cut: Cut | None = None) -> list[Item]:
    """All items of a store, through their written form."""
    cut = cut or await later(store)
    found = [item async for item in store.transfer.read(cut)]
    return items.unpacked(items.packed(found))


async def later(store: Store) -> Cut:
    """A cut after all that was stored so far."""
    return await store.transfer.cut()


async def copy(source: Store, target: Store) -> None:
    """Write all of a store into another."""
    for item in await read(source):
        await target.transfer.put(item)


async def mailbox(store: Store, user_id: int) -> list[tuple[int, bytes]]:
    """The positions and messages of a mailbox."""
    return [(entry.position, entry.message) for entry in await store.mail.read(user_id, 0, 1000)]


def of_kind(found: list[Item], kind: type[Any]) -> list[Any]:
    """The items of one kind."""
    return [item for item in found if isinstance(item, kind)]


@driven
async def test_all_that_is_kept_is_in_the_copy(stores: Any) -> None:
    one, two = stores
    alice, bob = await new_user(one), await new_user(one)
    device = await device_of(one, alice)
    await one.accounts.set_avatar(bob, "a picture")
    await one.contacts.add(alice, bob)
    sent = {"brought": (Brought("1" * 32, "2" * 64, 1000), Brought("3" * 64, "3" * 64, 2000))}
    await one.mail.append(outgoing(alice, bob, device, b'{"n":1}', repeat="again", file=FILE, **sent))
    await one.mail.append(outgoing(alice, alice, device, b'{"n":2}', flags=b"w"))
    [first, _] = await one.mail.read(alice, 0, 10)
    await one.mail.reset_cursor(alice, device, first.position)
    await one.devices.stay_online(alice, [device])
    await copy(one, two)
    for user_id in (alice, bob):
        assert await two.accounts.get(user_id) == await one.accounts.get(user_id)
        assert await two.accounts.find((await one.accounts.get(user_id)).name) is not None
        assert await mailbox(two, user_id) == await mailbox(one, user_id)
        assert await two.mail.end(user_id) == await one.mail.end(user_id)
        assert await two.contacts.of(user_id) == await one.contacts.of(user_id)
        assert await two.files.by_md5(user_id, "1" * 32) == await one.files.by_md5(user_id, "1" * 32)
    assert (await two.sent.total(alice), await two.sent.total(bob)) == (3000, 0)
    assert await two.accounts.password_hash(alice) == HASH
    assert await two.mail.open(alice, device) == (first.position, await one.mail.end(alice))
    assert await two.mail.is_repeat(alice, "again")
    assert await two.devices.load(device) == await one.devices.load(device)
    assert await two.upkeep.online(alice, await two.now()) == 0  # presence is not kept
    assert (await two.accounts.create("the next one", HASH)).id == bob + 1


@driven
async def test_who_is_blocked_is_so_in_the_copy_and_marks_are_there(stores: Any) -> None:
    one, two = stores
    alice, bob, carol = [await new_user(one) for _ in range(3)]
    for user_id, other in ((bob, alice), (carol, alice), (alice, carol)):
        await one.contacts.add(user_id, other)
    await one.contacts.block(alice, bob)
    await one.contacts.add(bob, alice)
    await one.signals.mark(alice, carol, "read", b"{}", "")
    await copy(one, two)
    for user_id in (alice, bob, carol):
        assert await two.contacts.of(user_id) == await one.contacts.of(user_id)
        assert await two.contacts.blocked(user_id) == await one.contacts.blocked(user_id)
        assert await two.signals.marks(user_id) == await one.signals.marks(user_id)
    assert await refused(append(two, bob, alice, await device_of(two, bob))) == NOT_TAKEN


@driven
async def test_writing_it_again_changes_nothing(stores: Any) -> None:
    one, two = stores
    alice = await new_user(one)
    device = await device_of(one, alice)
    for number in range(250):
        await one.mail.append(outgoing(alice, alice, device, b"%d" % number))
    sent = {"brought": (Brought("1" * 32, "2" * 64, 1000),)}
    await one.mail.append(outgoing(alice, alice, device, b"a file", **sent))
    await copy(one, two)
    await copy(one, two)
    assert await two.sent.total(alice) == 1000
    assert await mailbox(two, alice) == await mailbox(one, alice)
    assert len(await mailbox(two, alice)) == 251


@driven
async def test_what_comes_after_the_cut_is_left_out_on_both_sides(stores: Any) -> None:
    one, two = stores
    alice, bob = await new_user(one), await new_user(one)
    device = await device_of(one, alice)
    await one.mail.append(outgoing(alice, bob, device, b"before", repeat="before"))
    cut = await one.transfer.cut()
    await one.mail.append(outgoing(alice, bob, device, b"after", repeat="after"))
    await one.mail.reset_cursor(alice, device, await one.mail.end(alice))
    for item in await read(one, cut):
        await two.transfer.put(item)
    for user_id in (alice, bob):
        [(place, message)] = await mailbox(two, user_id)
        assert message == b"before"
        assert await two.mail.end(user_id) == place
    assert (await two.mail.open(alice, device))[0] == await two.mail.end(alice)
    assert await two.mail.is_repeat(alice, "before")
    assert not await two.mail.is_repeat(alice, "after")  # or its repeat would be answered, and not stored


@driven
async def test_both_entries_and_the_repeat_key_of_a_message_have_one_time(stores: Any) -> None:
    one, _ = stores
    alice, bob = await new_user(one), await new_user(one)
    device = await device_of(one, alice)
    for number in range(300):
        await one.mail.append(outgoing(alice, bob, device, b"%d" % number, repeat=str(number)))
    times = [[place >> 32 for place, _ in await mailbox(one, user_id)] for user_id in (alice, bob)]
    assert times[0] == times[1]
    for repeat in of_kind(await read(one), items.Repeat):
        number = int(repeat.key.rpartition(b":")[2])
        assert repeat.expires - REPEAT_LIFE * 1000 == times[0][number]


async def set_ahead(store: Store, user_id: int) -> int:
    """Give a mailbox an entry with an id from the future, as a clock that was set back leaves one."""
    ahead = (await store.now() + 3_600_000) << 32
    await store.transfer.put(items.Mail(user_id, [(entry_id(ahead), [b"e", entry_text("", b"", b"old")])]))
    await store.transfer.put(items.End(user_id, entry_id(ahead)))
    return ahead


@driven
async def test_a_mailbox_ahead_of_the_clock_is_cut_at_the_same_moment(stores: Any) -> None:
    one, two = stores
    alice, bob = await new_user(one), await new_user(one)
    device = await device_of(one, alice)
    ahead = await set_ahead(one, bob)
    await one.mail.append(outgoing(alice, bob, device, b"before"))
    cut = await one.transfer.cut()
    await one.mail.append(outgoing(alice, bob, device, b"after"))
    assert set(cut.ahead) == {bob}
    for item in await read(one, cut):
        await two.transfer.put(item)
    assert [message for _, message in await mailbox(two, alice)] == [b"before"]
    assert await mailbox(two, bob) == [(ahead, b"old"), (ahead + 1, b"before")]


@driven
async def test_while_a_mailbox_ahead_of_the_clock_gets_messages_there_is_no_cut(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = stores
    bob = await new_user(one)
    device = await device_of(one, bob)
    await set_ahead(one, bob)
    busy, clock = True, one.now

    async def now() -> int:
        if busy:
            await one.mail.append(outgoing(bob, bob, device))
        return int(await clock())

    monkeypatch.setattr(one.transfer, "_now", now)
    monkeypatch.setattr(transfer_module, "_LOOKS", 5)
    with pytest.raises(CannotCut):
        await one.transfer.cut()
    busy = False
    assert (await one.transfer.cut()).ahead == {bob: await one.mail.end(bob)}


@driven
async def test_a_mailbox_that_was_trimmed_empty_keeps_its_end(stores: Any) -> None:
    one, two = stores
    alice = await new_user(one)
    device = await device_of(one, alice)
    await one.mail.append(outgoing(alice, alice, device))
    last = await one.mail.end(alice)
    assert await one.upkeep.trim(alice, last, last, [])
    await copy(one, two)
    assert await two.upkeep.ends(alice) == (0, 0, last)


@driven
async def test_what_a_crash_or_a_change_under_way_tears_is_whole_in_the_copy(stores: Any) -> None:
    one, two = stores
    alice, bob, nobody = [await new_user(one) for _ in range(3)]
    lost = await device_of(one, alice)
    link = one._link
    await link.write(b"SADD", keys.part(alice, b"out"), bob)  # the other side is missing
    await link.write(b"SADD", keys.part(alice, b"out"), nobody)
    await link.write(b"SADD", keys.part(alice, b"devices"), "expired")
    await link.write(b"SREM", keys.part(alice, b"devices"), lost)
    await link.write(b"HSET", keys.user(bob + 5), b"avatar", "a record without a name")
    await link.write(b"SET", keys.name("left behind"), alice)
    await link.write(b"DEL", keys.user(nobody))
    await copy(one, two)
    assert (await two.contacts.of(alice)).pending == [bob]
    assert (await two.contacts.of(bob)).requesting == [alice]
    assert await two.devices.of(alice) == []
    assert (await two.devices.load(lost)).user_id is None
    assert await two.upkeep.owner("left behind") is None
    assert await two.accounts.newest_id() == await one.accounts.newest_id()


@driven
async def test_a_store_is_begun_to_be_restored_once(stores: Any) -> None:
    one, two = stores
    assert await two.transfer.begin(b"this")
    await two.transfer.put(items.Counter(5))
    assert await two.transfer.is_begun()
    assert await two.transfer.begin(b"this")  # it was cut short
    assert not await two.transfer.begin(b"another")
    await two.transfer.finish()
    assert not await two.transfer.is_begun()
    assert not await two.transfer.begin(b"this")
    assert await one.transfer.begin(b"another")


@driven
async def test_in_a_cluster_a_message_that_crosses_the_cut_is_on_both_sides(stores: Any) -> None:
    one, two = stores
    alice, bob = await new_user(one), await new_user(one)
    moment = await one.now()
    messages = [b'{"userid":%d,"targetid":%d,"n":%d}' % (alice, bob, number) for number in range(4)]
    times = [(-9, -8), (-2, 5), (3, -1), (6, 7)]  # of each, at the sender and at the target
    for user_id, side in ((alice, 0), (bob, 1)):
        for at, message in sorted(
            (pair[side], message) for pair, message in zip(times, messages, strict=True)
        ):
            entry = entry_id((moment + at) << 32)
            await one.transfer.put(items.Mail(user_id, [(entry, [b"e", entry_text("", b"", message)])]))
            await one.transfer.put(items.End(user_id, entry))
    cluster = Transfer(one._link, one.scan, one.now, one_clock=False)
    async for item in cluster.read(Cut(moment, {})):
        await two.transfer.put(item)
    for user_id in (alice, bob):
        kept = await mailbox(two, user_id)
        assert {message for _, message in kept} == set(messages[:3])
        assert await two.mail.end(user_id) == kept[-1][0]


def test_the_position_before_a_cut_is_the_last_of_the_millisecond_before() -> None:
    cut = Cut(1000, {7: position(b"5000-3")})
    assert position(b"999-4294967295") == cut.end(1)
    assert cut.end(7) == position(b"5000-3")
