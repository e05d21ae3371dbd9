"""What counts for a user's quota: what every store keeps to, the one in memory and the real ones."""

from __future__ import annotations

import hashlib
from typing import Any

from chatsvc.store import keys
from chatsvc.store.files import FileEntry
from chatsvc.store.sent import Brought
from chatsvc.tasks import gather
from chatsvc.wire.errors import QUOTA_EXCEEDED, Refusal
from tests.stores import FIXTURES, driven, new_device, new_user, outgoing, refused

valkey, cluster, two_stores, nodes, store, other = FIXTURES


def file(data: bytes, md5: str | None = None) -> FileEntry:
    """A file; with `md5`, a twin of another one."""
    return FileEntry(md5 or hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest(), len(data))


class Sender:
    """A user with one device, who writes to another user."""

    def __init__(self, store: Any, user_id: int, device: str, target: int) -> None:
        self.store, self.user_id, self.device, self.target = store, user_id, device, target

    @classmethod
    async def make(cls, store: Any) -> Sender:
        user_id, target = await new_user(store), await new_user(store)
        return cls(store, user_id, await new_device(store, user_id), target)

    async def send(self, *files: FileEntry, quota: int | None = None, **more: Any) -> None:
        """A message with these files, the last of which is its own; the others stand for long contents."""
        brought = [Brought(each.sha256, each.sha256, each.size) for each in files[:-1]]
        brought += [Brought(*each) for each in files[-1:]]
        name = keys.message_key(more.get("repeat") or "a message")
        parts = {"file": (name, files[-1].md5, files[-1].packed()), "brought": tuple(brought), "quota": quota}
        await self.store.mail.append(outgoing(self.user_id, self.target, self.device, **parts | more))

    async def total(self) -> int:
        found: int = await self.store.sent.total(self.user_id)
        return found

    async def messages(self) -> int:
        return len(await self.store.mail.read(self.user_id, 0, 100))


@driven
async def test_nothing_counts_for_who_has_sent_no_file(store: Any) -> None:
    sender = await Sender.make(store)
    await store.mail.append(outgoing(sender.user_id, sender.target, sender.device, quota=0))
    assert await sender.total() == 0
    assert await sender.messages() == 1


@driven
async def test_a_file_counts_once_for_its_sender_and_not_for_its_receiver(store: Any) -> None:
    sender = await Sender.make(store)
    for _ in range(3):
        await sender.send(file(b"ten bytes!"))
    assert await sender.total() == 10
    assert await store.sent.total(sender.target) == 0
    await sender.send(file(b"three"))
    await sender.send(file(b""))
    assert await sender.total() == 15


@driven
async def test_up_to_the_last_byte_and_not_one_more(store: Any) -> None:
    sender = await Sender.make(store)
    await sender.send(file(b"1234"), quota=5)
    assert await refused(sender.send(file(b"12"), quota=5)) == QUOTA_EXCEEDED
    assert await sender.total() == 4
    assert await sender.messages() == 1
    assert len(await store.mail.read(sender.target, 0, 10)) == 1
    assert await store.files.by_md5(sender.user_id, file(b"12").md5) is None
    await sender.send(file(b"1"), quota=5)
    assert await sender.total() == 5
    assert await refused(sender.send(file(b"2"), quota=5)) == QUOTA_EXCEEDED
    await sender.send(file(b"1"), quota=5)  # it is there
    await sender.send(file(b""), quota=5)
    await sender.send(file(b"2"), quota=6)
    await sender.send(file(b"beyond all"))
    assert await refused(sender.send(file(b"x"), quota=0)) == QUOTA_EXCEEDED


@driven
async def test_others_have_their_own(store: Any) -> None:
    one, two = await Sender.make(store), await Sender.make(store)
    await one.send(file(b"12345"), quota=5)
    assert await refused(one.send(file(b"x"), quota=5)) == QUOTA_EXCEEDED
    await two.send(file(b"12345"), quota=5)
    assert await two.total() == 5


@driven
async def test_a_refused_message_may_be_sent_again_when_there_is_room(store: Any) -> None:
    sender = await Sender.make(store)
    assert await refused(sender.send(file(b"12"), quota=1, repeat="again")) == QUOTA_EXCEEDED
    await sender.send(file(b"12"), quota=2, repeat="again")
    assert await sender.messages() == 1


@driven
async def test_a_repeat_does_not_count_and_is_never_too_much(store: Any) -> None:
    sender = await Sender.make(store)
    for _ in range(3):
        await sender.send(file(b"12345"), quota=5, repeat="again")
    assert await sender.total() == 5
    assert await sender.messages() == 1


@driven
async def test_what_comes_with_a_repeat_lies_on_the_disk_and_counts(store: Any) -> None:
    sender = await Sender.make(store)
    await sender.send(file(b"1"), quota=5, repeat="again")
    await sender.send(file(b"other bytes"), quota=5, repeat="again")
    assert await sender.total() == 12
    assert await sender.messages() == 1
    assert await refused(sender.send(file(b"2"), quota=12)) == QUOTA_EXCEEDED


@driven
async def test_who_got_a_file_may_pass_it_on(store: Any) -> None:
    sender = await Sender.make(store)
    await sender.send(file(b"12345"))
    device = await new_device(store, sender.target)
    on = Sender(store, sender.target, device, sender.user_id)
    await on.send(file(b"12345"), quota=0)
    assert await on.total() == 0


@driven
async def test_long_contents_count_once_too(store: Any) -> None:
    sender = await Sender.make(store)
    for _ in range(2):
        await sender.send(file(b"a long content"), file(b"with a file"))
    assert await sender.total() == 25
    content = Brought("0" * 64, "0" * 64, 7)
    for _ in range(2):
        message = outgoing(sender.user_id, sender.target, sender.device, brought=(content,), quota=32)
        await store.mail.append(message)
    assert await sender.total() == 32


@driven
async def test_of_two_files_with_one_md5_each_counts(store: Any) -> None:
    sender = await Sender.make(store)
    await sender.send(file(b"12345"))
    twin = file(b"1234567", md5=file(b"12345").md5)
    await sender.send(twin)
    assert await sender.total() == 12


@driven
async def test_of_many_at_once_no_more_are_stored_than_fit(store: Any, other: Any) -> None:
    sender = await Sender.make(store)
    elsewhere = Sender(other, sender.user_id, sender.device, sender.target)

    async def try_one(number: int) -> int:
        by = (sender, elsewhere)[number % 2]
        try:
            await by.send(file(b"%04d" % number), quota=20, repeat=str(number))
        except Refusal as refusal:
            return int(refusal.info != QUOTA_EXCEEDED)
        return 1

    assert sum(await gather(map(try_one, range(12)))) == 5
    assert await sender.total() == 20
    assert await sender.messages() == 5
