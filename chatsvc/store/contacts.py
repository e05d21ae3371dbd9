"""The contact graph: whom a user added, and who added the user. Accepting is adding back."""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route


class Relations(NamedTuple):
    """User ids, ascending."""

    contacts: list[int]
    pending: list[int]
    requesting: list[int]


class Contacts:
    """Who is in contact with whom."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def add(self, user_id: int, other_id: int) -> None:
        """`user_id` adds `other_id`; again is no change.

        The other's side first: a crash between the two leaves a request that the sender, who was not
        answered, repeats.
        """
        await self._link.write(b"SADD", keys.part(other_id, b"in"), user_id)
        await self._link.write(b"SADD", keys.part(user_id, b"out"), other_id)

    async def of(self, user_id: int) -> Relations:
        """All relations of a user."""
        out = {int(other) for other in await self._link.call(b"SMEMBERS", keys.part(user_id, b"out"))}
        into = {int(other) for other in await self._link.call(b"SMEMBERS", keys.part(user_id, b"in"))}
        return Relations(sorted(out & into), sorted(out - into), sorted(into - out))

    async def has_added(self, user_id: int, other_id: int) -> bool:
        """Whether `user_id` has added `other_id`."""
        return bool(await self._link.call(b"SISMEMBER", keys.part(user_id, b"out"), other_id))

    async def forget(self, user_id: int) -> None:
        """Take the user out of everybody's contacts; the user's own sets stay, to be forgotten again."""
        for other in {other for ids in await self.of(user_id) for other in ids}:
            await self._link.write(b"SREM", keys.part(other, b"in"), user_id)
            await self._link.write(b"SREM", keys.part(other, b"out"), user_id)
