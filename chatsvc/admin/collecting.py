"""Taking away blobs that nothing refers to, beside nodes that make new references all the time.

A node renews a blob before it lets a message refer to it, and takes one that is not in its place for missing
(``docs/adr/0013-upkeep.md``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from chatsvc.blobkeeping import BlobKeeper

References = Callable[[], AsyncIterator[tuple[int, set[str]]]]
#: Seconds under which no blob is collected: what was just stored waits for its message, at most for the
#: deadlines of a request; the rest is for nodes that were paused.
YOUNGEST = 600


class Collected(NamedTuple):
    """What a collection has found, or has taken away."""

    blobs: int
    bytes: int


async def candidates(
    keeper: BlobKeeper, references: References, unused_since: float, on_users: Callable[[int], None]
) -> dict[str, int]:
    """The digests and sizes of blobs that nothing needs, and that were not used since a time.

    The time is in seconds since 1970. `on_users` hears how many users were looked at.
    """
    found: dict[str, int] = {}
    async for page in keeper.listing():
        found |= {kept.sha256: kept.size for kept in page if kept.used <= unused_since}
    if found:
        await _remove_needed(found, references, on_users)
    return found


async def _remove_needed(
    found: dict[str, int], references: References, on_users: Callable[[int], None]
) -> set[str]:
    needed: set[str] = set()
    async for users, digests in references():
        for sha256 in digests & found.keys():
            del found[sha256]
            needed.add(sha256)
        on_users(users)
    return needed


async def collect(
    keeper: BlobKeeper,
    references: References,
    unused_since: float,
    found: dict[str, int],
    on_users: Callable[[int], None],
) -> Collected:
    """Take the candidates away: first aside, where none can be referred to any more without being noticed."""
    aside = {sha256: size for sha256, size in found.items() if await keeper.take_aside(sha256, unused_since)}
    if not aside:
        return Collected(0, 0)
    for sha256 in await _remove_needed(aside, references, on_users):
        await keeper.put_back(sha256)
    for sha256 in aside:
        await keeper.discard(sha256)
    return Collected(len(aside), sum(aside.values()))
