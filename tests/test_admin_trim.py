"""Trimming mailboxes: what goes, what of the index of files goes with it, and that nothing else changes."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from chatsvc.admin import trimming
from chatsvc.admin.trimming import Keep, Trimmed, trim
from chatsvc.store import keys
from chatsvc.store.files import FileEntry
from chatsvc.store.sent import Brought
from chatsvc.store.store import Store
from chatsvc.wire.schema import Message, encode
from tests import stores
from tests.stores import HASH, driven, new_user, outgoing

valkey, nodes, store = stores.valkey, stores.nodes, stores.store


@pytest.fixture
def two_stores(valkey: Any) -> tuple[Store, Store]:
    """The fake one knows nothing of upkeep."""
    return Store(stores.reactor, valkey), Store(stores.reactor, valkey)


decode = msgspec.json.Decoder(Message).decode


class Mailbox:
    """One user's mailbox, with messages to oneself."""

    def __init__(self, store: Store, user_id: int, device: str) -> None:
        self.store, self.user_id, self.device = store, user_id, device

    async def say(self, name: str, file: bytes | None = None, content: bytes | None = None) -> None:
        """Store a message, perhaps with a file, or with a content that is kept as one."""
        md5 = None if file is None else hashlib.md5(file).hexdigest()
        message = Message(
            userid=self.user_id,
            targetid=self.user_id,
            contenttype="plaintext" if md5 is None else "file",
            content="",
            timestamp=1,
            md5encoded=name,
            filemd5=md5,
        )
        parts, brought, flags = None, [], b""
        if file is not None and md5 is not None:
            entry = FileEntry(md5, hashlib.sha256(file).hexdigest(), len(file))
            parts = (keys.message_key(name), md5, entry.packed())
            brought.append(Brought(*entry))
        if content is not None:
            sha256 = hashlib.sha256(content).hexdigest()
            flags = b"c" + sha256.encode()
            brought.append(Brought(sha256, sha256, len(content)))
        more = {"file": parts, "brought": tuple(brought), "flags": flags}
        await self.store.mail.append(
            outgoing(self.user_id, self.user_id, self.device, encode(message), **more)
        )

    async def sent(self) -> int:
        """How many bytes count for the user."""
        return await self.store.sent.total(self.user_id)

    async def messages(self) -> int:
        """How many there are."""
        return (await self.store.upkeep.ends(self.user_id)).length

    async def files(self, *names: str) -> list[bool]:
        """Which of these messages' files can be had."""
        return [await self.store.files.of_message(self.user_id, name) is not None for name in names]

    async def has(self, file: bytes) -> bool:
        """Whether a file can be had by its MD5."""
        return await self.store.files.by_md5(self.user_id, hashlib.md5(file).hexdigest()) is not None

    async def trim(self, keep: int | None, since: int = 0) -> Trimmed:
        """Trim it."""
        return await trim(self.store, self.user_id, Keep(since, keep))


async def mailbox(store: Store) -> Mailbox:
    """An empty mailbox."""
    user_id = await new_user(store)
    device = keys.device_id(await store.devices.create())
    assert await store.devices.bind(device, user_id, HASH)
    return Mailbox(store, user_id, device)


@driven
async def test_the_newest_are_kept(store: Store) -> None:
    box = await mailbox(store)
    for number in range(7):
        await box.say(str(number))
    last = await store.mail.end(box.user_id)
    assert await box.trim(3) == Trimmed(4, 0)
    kept = [entry.message for entry in await store.mail.read(box.user_id, 0, 10)]
    assert [decode(message).md5encoded for message in kept] == ["4", "5", "6"]
    assert await store.mail.end(box.user_id) == last
    assert await box.trim(3) == Trimmed(0, 0)


@driven
async def test_what_is_older_goes(store: Store) -> None:
    box = await mailbox(store)
    await box.say("old")
    at = await store.now()
    while (since := await store.now()) == at:
        pass
    await box.say("new")
    assert await box.trim(None, since) == Trimmed(1, 0)
    assert await box.trim(None, since=0) == Trimmed(0, 0)
    assert await box.messages() == 1


@driven
async def test_all_of_a_mailbox_may_go(store: Store) -> None:
    box = await mailbox(store)
    await box.say("one", b"a file")
    last = await store.mail.end(box.user_id)
    assert await box.trim(0) == Trimmed(1, 2)
    assert await store.mail.end(box.user_id) == last
    assert await store.mail.open(box.user_id, box.device) == (0, last)
    assert await store.mail.read(box.user_id, 0, 10) == []
    await box.say("two")
    [entry] = await store.mail.read(box.user_id, 0, 10)
    assert entry.position > last


@driven
async def test_a_file_goes_with_its_last_message(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "_STEP", 2)
    box = await mailbox(store)
    await box.say("gone", b"gone")
    await box.say("shared early", b"shared")
    await box.say("same name", b"first of that name")
    await box.say("text")
    await box.say("shared late", b"shared")
    await box.say("same name", b"second of that name")
    assert (await box.trim(2)).messages == 4
    assert await box.files("gone", "shared early", "shared late", "same name") == [False, False, True, True]
    found = [
        await box.has(file) for file in (b"gone", b"shared", b"first of that name", b"second of that name")
    ]
    assert found == [False, True, False, True]


@driven
async def test_a_message_that_comes_meanwhile_keeps_its_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await mailbox(store)
    await box.say("early", b"a file")
    real = store.upkeep.trim
    came: list[list[str]] = []

    async def late(user_id: int, up_to: int, last: int, fields: list[str]) -> bool:
        if not came:
            came.append(fields)
            await box.say("late", b"a file")
        return await real(user_id, up_to, last, fields)

    monkeypatch.setattr(store.upkeep, "trim", late)
    assert await box.trim(0) == Trimmed(1, 1)
    assert len(came[0]) == 2  # it would have taken the file away
    assert await box.files("early", "late") == [False, True]
    assert await box.has(b"a file")
    assert await box.messages() == 1


@driven
async def test_two_files_with_one_md5_stay_ambiguous_as_long_as_one_is_there(store: Store) -> None:
    box = await mailbox(store)
    await box.say("one", b"content")
    await box.say("other", b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    files = keys.part(box.user_id, b"files")
    await store._link.write(b"HSET", files, "f" + md5, b"")
    assert (await box.trim(1)).files == 1
    assert not await box.has(b"content")
    assert (await box.trim(0)).files == 2
    assert not await store._link.call(b"EXISTS", files)


@driven
async def test_what_goes_is_given_back_to_the_quota(store: Store) -> None:
    box = await mailbox(store)
    await box.say("one", b"four")
    await box.say("two", b"four")
    await box.say("long", content=b"a content")
    await box.say("three", b"eleven byte")
    await box.say("longer", content=b"another content")
    assert await box.sent() == 4 + 9 + 11 + 15
    await box.trim(4)
    assert await box.sent() == 39  # the second message has the first one's file
    assert (await box.trim(2)).files == 2
    assert await box.sent() == 11 + 15
    await box.say("one again", b"four")
    assert await box.sent() == 4 + 11 + 15
    await box.trim(0)
    assert await box.sent() == 0
    assert await store._link.call(b"HGETALL", keys.part(box.user_id, b"sent")) == [b"bytes", b"0"]


@driven
async def test_a_content_that_is_still_there_still_counts(store: Store) -> None:
    box = await mailbox(store)
    for name in ("one", "two"):
        await box.say(name, content=b"the same")
    await box.trim(1)
    assert await box.sent() == 8
