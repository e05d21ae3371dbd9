"""Taking old messages out of a mailbox, and the files that came with them out of its user's index.

Cursors and the mailbox's end stay as they are: who has not read that far gets what is left.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from chatsvc.chat.rendering import content_blob
from chatsvc.store.files import fields_of
from chatsvc.store.mail import Entry
from chatsvc.store.sent import field_of_content, is_content
from chatsvc.store.store import Store

#: Entries that are read, and trimmed, at a time.
_STEP = 200


class Keep(NamedTuple):
    """What stays in a mailbox."""

    #: What was stored at this time or later, in ms since 1970 by the store's clock; 0: whatever its age.
    since: int
    #: At most so many messages; None: any number.
    messages: int | None


class Trimmed(NamedTuple):
    """What went."""

    messages: int
    #: Entries of the index of files.
    files: int


class _Named(msgspec.Struct):
    md5encoded: str
    filemd5: str | None = None


_named = msgspec.json.Decoder(_Named).decode


class _Uses:
    """Up to where in a mailbox each field of the index, and each content, is used, as far as it was read."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}
        self.read_to = 0

    def note(self, entry: Entry, *, old: bool) -> None:
        """Take notice of the next entry; of one that stays, only what an `old` one uses too counts."""
        named, content = _named(entry.message), content_blob(entry.flags)
        fields = [] if content is None else [field_of_content(content)]
        if named.filemd5 is not None:
            fields += fields_of(named.md5encoded, named.filemd5.lower())
        for field in fields:
            if old or field in self.newest:
                self.newest[field] = entry.position
        self.read_to = entry.position

    async def read_on(self, store: Store, user_id: int, last: int) -> None:
        """Take notice of all further entries up to `last`; needless if no file or content goes so far."""
        while self.newest and self.read_to < last:
            entries = await store.mail.read(user_id, self.read_to, _STEP)
            for entry in entries:
                self.note(entry, old=False)
            if not entries:
                break
        self.read_to = max(self.read_to, last)


async def trim(store: Store, user_id: int, keep: Keep) -> Trimmed:
    """Trim one mailbox, in steps of bounded size, each of which the mailbox is whole after."""
    ends = await store.upkeep.ends(user_id)
    surplus = 0 if keep.messages is None else ends.length - keep.messages
    uses, steps = await _old(store, user_id, keep.since, surplus)
    last, messages, files = ends.last, 0, 0
    for up_to, count in steps:
        while True:
            await uses.read_on(store, user_id, last)
            fields = [field for field, newest in uses.newest.items() if newest <= up_to]
            if await store.upkeep.trim(user_id, up_to, last, fields):
                break
            last = (await store.upkeep.ends(user_id)).last
        for field in fields:
            del uses.newest[field]
        messages += count
        files += sum(not is_content(field) for field in fields)
    return Trimmed(messages, files)


async def _old(store: Store, user_id: int, since: int, surplus: int) -> tuple[_Uses, list[tuple[int, int]]]:
    """What the old entries use, and the steps in which they go: up to which position, and how many."""
    uses, steps = _Uses(), []
    while True:
        entries = await store.mail.read(user_id, uses.read_to, _STEP)
        old = [
            entry for index, entry in enumerate(entries) if index < surplus or entry.position >> 32 < since
        ]
        for entry in old:
            uses.note(entry, old=True)
        if old:
            steps.append((uses.read_to, len(old)))
            surplus -= len(old)
        if len(old) < _STEP:
            return uses, steps
