"""Mailboxes, files and channels: what every store keeps to, the one in memory and the real one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chatsvc.store import keys
from chatsvc.store.append import GROUP_MESSAGES
from chatsvc.store.files import FileEntry
from chatsvc.store.mail import Entry, Incoming, entry_id, position
from chatsvc.tasks import deferred, gather
from chatsvc.wire.errors import NOT_LOGGED_IN, USER_NOT_FOUND
from tests.stores import (
    FIXTURES,
    append,
    driven,
    heard_entries,
    listen,
    new_device,
    new_user,
    outgoing,
    refused,
    until,
)

valkey, cluster, two_stores, nodes, store, other = FIXTURES


def texts(entries: list[Entry]) -> list[bytes]:
    return [entry.message for entry in entries]


class Pair:
    """Two users, one device each, and a store that they meet in."""

    def __init__(self, store: Any, alice: int, bob: int, alices: str, bobs: str) -> None:
        self.store, self.alice, self.bob, self.alices, self.bobs = store, alice, bob, alices, bobs

    @classmethod
    async def meet(cls, store: Any) -> Pair:
        alice, bob = await new_user(store), await new_user(store)
        return cls(store, alice, bob, await new_device(store, alice), await new_device(store, bob))

    async def send(self, text: bytes = b"{}", **more: Any) -> None:
        """From Alice to Bob."""
        await self.store.mail.append(outgoing(self.alice, self.bob, self.alices, text, **more))

    async def boxes(self) -> tuple[list[Entry], list[Entry]]:
        """All that Alice and Bob have."""
        mail = self.store.mail
        return await mail.read(self.alice, 0, 1000), await mail.read(self.bob, 0, 1000)


@pytest.mark.parametrize("place", [0, 1, 2**32, 1_700_000_000_000 << 32 | 7])
def test_a_position_is_the_entrys_id(place: int) -> None:
    assert position(entry_id(place)) == place


# Appending.


@driven
async def test_a_message_is_in_both_mailboxes_with_its_origin_in_the_senders(store: Any) -> None:
    pair = await Pair.meet(store)
    await pair.send(b'{"content":"a b  c"}', flags=b"w")
    [mine], [theirs] = await pair.boxes()
    assert (mine.origin, mine.message, mine.flags) == (pair.alices, b'{"content":"a b  c"}', b"w")
    assert (theirs.origin, theirs.message, theirs.flags) == ("", b'{"content":"a b  c"}', b"w")
    assert mine.before == theirs.before == 0
    assert mine.position == await store.mail.end(pair.alice) > 0


@driven
async def test_a_message_to_oneself_is_stored_once(store: Any) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    heard = await listen(store, user_id)
    await store.mail.append(outgoing(user_id, user_id, device, b"note"))
    [entry] = await store.mail.read(user_id, 0, 10)
    assert (entry.origin, entry.message) == (device, b"note")
    await until(lambda: heard)
    assert len(heard) == 1


@driven
async def test_who_is_not_bound_stores_nothing(store: Any) -> None:
    pair = await Pair.meet(store)
    for device in (pair.bobs, "0" * 32):
        assert await refused(store.mail.append(outgoing(pair.alice, pair.bob, device))) == NOT_LOGGED_IN
    await store.devices.unbind(pair.alices, pair.alice)
    assert await refused(pair.send()) == NOT_LOGGED_IN
    assert await pair.boxes() == ([], [])


@driven
async def test_what_was_stored_is_so_for_who_is_unbound_since_and_nothing_else_is(store: Any) -> None:
    """The store's answer was lost: this is the same command, sent again."""
    pair = await Pair.meet(store)
    first, other = (outgoing(pair.alice, pair.bob, pair.alices, repeat=name) for name in ("first", "other"))
    await store.mail.append(first)
    await store.devices.unbind(pair.alices, pair.alice)
    outcomes = [store.mail.append(first), store.mail.append(other), store.mail.append(first)]
    await outcomes[0]
    assert await refused(outcomes[1]) == NOT_LOGGED_IN
    await outcomes[2]
    assert [len(box) for box in await pair.boxes()] == [1, 1]


@driven
async def test_a_message_to_nobody_is_stored_nowhere(store: Any) -> None:
    pair = await Pair.meet(store)
    nobody = outgoing(pair.alice, 2**62, pair.alices, repeat="again")
    assert await refused(store.mail.append(nobody)) == USER_NOT_FOUND
    assert await pair.boxes() == ([], [])
    assert not await store.mail.is_repeat(pair.alice, "again")


@driven
async def test_a_repeat_is_stored_once_and_the_first_one_stands(nodes: tuple[Any, Any]) -> None:
    store = nodes[0]
    pair = await Pair.meet(store)
    heard = await listen(store, pair.bob)
    assert not await store.mail.is_repeat(pair.alice, "again")
    await pair.send(b"first", repeat="again")
    for node in nodes:
        await node.mail.append(outgoing(pair.alice, pair.bob, pair.alices, b"second", repeat="again"))
        assert await node.mail.is_repeat(pair.alice, "again")
        assert not await node.mail.is_repeat(pair.bob, "again")
    await pair.send(b"last")
    await until(lambda: len(heard) >= 2)
    assert list(map(texts, await pair.boxes())) == [[b"first", b"last"]] * 2
    assert [entry.message for entry in heard_entries(heard)] == [b"first", b"last"]


@driven
async def test_repeats_at_once_on_two_nodes_are_stored_once(nodes: tuple[Any, Any]) -> None:
    pair = await Pair.meet(nodes[0])
    await gather(append(node, pair.alice, pair.bob, pair.alices, repeat="again") for node in nodes * 20)
    assert list(map(len, await pair.boxes())) == [1, 1]


@driven
async def test_equal_messages_without_a_repeat_key_are_each_stored(store: Any) -> None:
    pair = await Pair.meet(store)
    await gather(pair.send(b"same") for _ in range(3))
    assert list(map(texts, await pair.boxes())) == [[b"same"] * 3] * 2


@driven
async def test_messages_of_many_at_once_keep_the_order_of_each_ones_calls(store: Any) -> None:
    pair = await Pair.meet(store)
    carol = await new_user(store)
    carols = await new_device(store, carol)
    count = 3 * GROUP_MESSAGES
    senders = [(pair.alice, pair.alices), (carol, carols)]
    await gather(
        append(store, sender, pair.bob, device, b"%d" % n)
        for n, (sender, device) in zip(range(count), itertools.cycle(senders), strict=False)
    )
    stored = [int(text) for text in texts(await store.mail.read(pair.bob, 0, count + 1))]
    assert sorted(stored) == list(range(count))
    for one in (0, 1):
        assert [n for n in stored if n % 2 == one] == list(range(one, count, 2))


@driven
async def test_one_bad_message_of_a_group_spoils_no_other(store: Any) -> None:
    pair = await Pair.meet(store)
    bad = [outgoing(pair.alice, 2**62, pair.alices), outgoing(pair.bob, pair.alice, pair.alices)]

    async def outcome(message: Any) -> str:
        return await refused(store.mail.append(message))

    async def good(text: bytes) -> str:
        await pair.send(text)
        return "stored"

    outcomes = await gather([good(b"1"), outcome(bad[0]), good(b"2"), outcome(bad[1]), good(b"3")])
    assert outcomes == ["stored", USER_NOT_FOUND, "stored", NOT_LOGGED_IN, "stored"]
    assert list(map(texts, await pair.boxes())) == [[b"1", b"2", b"3"]] * 2


# Reading, and cursors.


@driven
async def test_reading_goes_on_where_it_stopped(store: Any) -> None:
    pair = await Pair.meet(store)
    for n in range(5):
        await pair.send(b"%d" % n)
    whole = await store.mail.read(pair.bob, 0, 5)
    pages = await store.mail.read(pair.bob, 0, 2)
    pages += await store.mail.read(pair.bob, pages[-1].position, 2)
    pages += await store.mail.read(pair.bob, pages[-1].position, 2)
    assert pages == whole
    assert texts(whole) == [b"0", b"1", b"2", b"3", b"4"]
    assert [entry.before for entry in whole] == [0, *(entry.position for entry in whole[:-1])]
    assert await store.mail.end(pair.bob) == whole[-1].position
    assert await store.mail.read(pair.bob, whole[-1].position, 2) == []


@driven
async def test_a_page_for_a_device_has_what_it_did_not_send(store: Any) -> None:
    pair = await Pair.meet(store)
    for n in range(7):
        if n % 3 == 1:
            await store.mail.append(outgoing(pair.bob, pair.alice, pair.bobs, b"%d" % n))
        else:
            await pair.send(b"%d" % n, flags=b"w" * (n % 2))
    box = await store.mail.read(pair.bob, 0, 10)
    places = [0, *(entry.position for entry in box), box[-1].position + 5]  # the last as if it was trimmed
    for most, (after, to) in itertools.product((1, 2, 3, 50), itertools.combinations(places, 2)):
        found = [entry for entry in box if after < entry.position <= to][:most]
        page = await store.mail.read_for(pair.bob, pair.bobs, after, to, most)
        assert page.end == (found[-1].position if len(found) == most else to)
        assert page.messages == [
            Incoming(entry_id(entry.position), entry.flags, entry.message)
            for entry in found
            if entry.origin != pair.bobs
        ]
        assert [one.position for one in page.messages] == [
            entry.position for entry in found if entry.origin != pair.bobs
        ]
        everything = await store.mail.read_for(pair.bob, pair.alices, after, to, most)
        assert [one.message for one in everything.messages] == texts(found)


@driven
async def test_an_empty_mailbox_ends_at_nothing(store: Any) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    assert await store.mail.end(user_id) == 0
    assert await store.mail.read(user_id, 0, 10) == []
    assert await store.mail.open(user_id, device) == (0, 0)


@driven
async def test_a_mailbox_opens_for_devices_of_its_user_only(store: Any) -> None:
    pair = await Pair.meet(store)
    await pair.send()
    end = await store.mail.end(pair.bob)
    assert await store.mail.open(pair.bob, pair.bobs) == (0, end)
    assert await store.mail.open(pair.bob, pair.alices) is None
    await store.devices.unbind(pair.bobs, pair.bob)
    assert await store.mail.open(pair.bob, pair.bobs) is None


@driven
async def test_a_cursor_moves_forward_only_and_belongs_to_device_and_user(nodes: tuple[Any, Any]) -> None:
    store, other = nodes
    pair = await Pair.meet(store)
    second = await new_device(store, pair.bob)
    for _ in range(2):
        await pair.send()
    first, last = [entry.position for entry in await store.mail.read(pair.bob, 0, 2)]
    store.mail.acknowledge(pair.bob, pair.bobs, last)
    assert await store.mail.open(pair.bob, pair.bobs) == (last, last)
    await eventually(other, pair, last)
    other.mail.acknowledge(pair.bob, pair.bobs, first)
    await store.devices.unbind(pair.bobs, pair.bob)
    await store.devices.bind(pair.bobs, pair.bob, await store.accounts.password_hash(pair.bob))
    assert await store.mail.open(pair.bob, pair.bobs) == (last, last)
    assert await store.mail.open(pair.bob, second) == (0, last)


async def eventually(store: Any, pair: Pair, cursor: int) -> None:
    """Return once this node sees Bob's cursor there."""
    while (await store.mail.open(pair.bob, pair.bobs))[0] != cursor:
        pass


@driven
async def test_a_cursor_beyond_the_end_is_set_back(nodes: tuple[Any, Any]) -> None:
    store, other = nodes
    pair = await Pair.meet(store)
    await pair.send()
    end = await store.mail.end(pair.bob)
    store.mail.acknowledge(pair.bob, pair.bobs, end + 5)
    await eventually(other, pair, end + 5)
    await store.mail.reset_cursor(pair.bob, pair.bobs, end)
    for node in nodes:
        assert await node.mail.open(pair.bob, pair.bobs) == (end, end)


@driven
async def test_many_cursors_move_at_once(nodes: tuple[Any, Any]) -> None:
    store, other = nodes
    pair = await Pair.meet(store)
    devices = [await new_device(store, pair.bob) for _ in range(GROUP_MESSAGES + 6)]
    for n, device in enumerate(devices):
        for cursor in (1, n + 1):
            store.mail.acknowledge(pair.bob, device, cursor)
    pair.bobs = devices[-1]  # the last to be saved
    await eventually(other, pair, len(devices))
    assert [(await other.mail.open(pair.bob, device))[0] for device in devices] == [
        n + 1 for n in range(len(devices))
    ]


# Files.


def file(name: str, content: str) -> tuple[str, str, bytes]:
    """A message's file as `Outgoing` has it; `content` stands for its digest, all MD5s are equal."""
    return keys.message_key(name), "5" * 32, FileEntry("", content * 64, 10).packed()


@driven
async def test_a_file_is_found_by_both_users_of_its_message_and_by_nobody_else(store: Any) -> None:
    pair = await Pair.meet(store)
    stranger = await new_user(store)
    await pair.send(file=file("name", "a"))
    entry = FileEntry("5" * 32, "a" * 64, 10)
    for user_id in (pair.alice, pair.bob):
        assert await store.files.of_message(user_id, "name") == entry
        assert await store.files.by_md5(user_id, "5" * 32) == entry
        assert await store.files.of_message(user_id, "no name") is None
        assert await store.files.by_md5(user_id, "6" * 32) is None
    assert await store.files.of_message(stranger, "name") is None
    assert await store.files.by_md5(stranger, "5" * 32) is None


@driven
async def test_of_messages_with_one_name_the_newest_has_the_file(store: Any) -> None:
    pair = await Pair.meet(store)
    for content in "ab":
        await pair.send(file=file("name", content))
    for user_id in (pair.alice, pair.bob):
        assert await store.files.of_message(user_id, "name") == FileEntry("5" * 32, "b" * 64, 10)


@driven
async def test_two_files_with_one_md5_are_found_by_message_alone(store: Any) -> None:
    pair = await Pair.meet(store)
    for name, content in (("one", "a"), ("again", "a")):
        await pair.send(file=file(name, content))
        assert await store.files.by_md5(pair.bob, "5" * 32) == FileEntry("5" * 32, "a" * 64, 10)
    for name, content in (("two", "b"), ("three", "a"), ("four", "b")):
        await pair.send(file=file(name, content))
        assert await store.files.by_md5(pair.bob, "5" * 32) is None
        assert await store.files.of_message(pair.bob, name) == FileEntry("5" * 32, content * 64, 10)


@driven
async def test_a_repeat_leaves_the_files_as_they_are(store: Any) -> None:
    pair = await Pair.meet(store)
    for content in "ab":
        await pair.send(repeat="again", file=file("name", content))
    assert await store.files.of_message(pair.bob, "name") == FileEntry("5" * 32, "a" * 64, 10)
    assert await store.files.by_md5(pair.bob, "5" * 32) == FileEntry("5" * 32, "a" * 64, 10)


# Channels.


@driven
async def test_what_is_stored_is_published_to_each_node_in_mailbox_order(nodes: tuple[Any, Any]) -> None:
    pair = await Pair.meet(nodes[0])
    heard = [await listen(node, user_id) for node in nodes for user_id in (pair.alice, pair.bob)]
    await gather(pair.send(b"text %d" % n, flags=b"w") for n in range(100))
    await until(lambda: all(len(heard_entries(texts)) == 100 for texts in heard))
    boxes = await pair.boxes()
    for published, box in zip(heard, boxes * 2, strict=True):
        assert heard_entries(published) == box


@driven
async def test_only_subscribed_channels_are_heard(store: Any, other: Any) -> None:
    pair = await Pair.meet(store)
    heard, others = await listen(store, pair.bob), await listen(other, pair.bob)
    store.channels.unsubscribe(pair.bob)
    await pair.send(b"missed")
    await until(lambda: others)
    await store.channels.subscribe(pair.bob, 20.0)
    await pair.send(b"heard")
    await until(lambda: heard)
    assert [entry.message for entry in heard_entries(heard)] == [b"heard"]


@driven
async def test_each_subscription_tells_when_it_stands(store: Any) -> None:
    pair, stands = await Pair.meet(store), list[int]()
    store.channels.on_subscribed = stands.append
    for _ in range(2):
        await store.channels.subscribe(pair.bob, 20.0)
        await until(lambda: stands == [pair.bob])
    store.channels.unsubscribe(pair.bob)
    given_up = deferred(store.channels.subscribe(pair.bob, 0.01))
    store.channels.unsubscribe(pair.bob)
    await store.channels.subscribe(pair.bob, 20.0)
    await until(lambda: stands == [pair.bob] * 3)
    await given_up
