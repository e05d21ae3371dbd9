"""Which blobs are needed: all that the indexes of files and the mailboxes refer to."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chatsvc.chat.rendering import content_blob
from chatsvc.store.store import Store
from chatsvc.tasks import gather

#: Users who are looked at side by side.
_AT_ONCE = 20


async def of_user(store: Store, user_id: int) -> set[str]:
    """The digests of all blobs that a user's index and mailbox refer to."""
    found = await of_contents(store, user_id)
    async for rows in store.files.index(user_id):
        found.update(row.sha256 for row in rows if row.sha256 is not None)
    return found


async def of_contents(store: Store, user_id: int) -> set[str]:
    """The digests of the blobs that hold the content of messages in a user's mailbox."""
    found: set[str] = set()
    async for page in store.upkeep.flags(user_id):
        found.update(sha256 for sha256 in map(content_blob, page) if sha256 is not None)
    return found


async def of_all(store: Store) -> AsyncIterator[tuple[int, set[str]]]:
    """Those of all users, some users at a time: how many these are, and the digests."""
    newest = await store.accounts.newest_id()
    for first in range(1, newest + 1, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, newest + 1))
        yield len(some), set().union(*await gather(of_user(store, user_id) for user_id in some))
