"""Invites: how many accounts each may still make, and until when. Their codes are not kept, only hashes.

What a code looks like is in ``chatsvc/wire/invites.py``; who needs one is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route, Script
from chatsvc.tasks import gather
from chatsvc.wire.invites import normal

_CREATE = Script("""
local until_ = now + ARGV[3] * 1000
redis.call('HSET', KEYS[1], 'uses', ARGV[2], 'until', until_)
redis.call('PEXPIREAT', KEYS[1], until_)
""")
_TAKE = Script("""
if tonumber(redis.call('HGET', KEYS[1], 'uses') or 0) < 1 then return 0 end
redis.call('HINCRBY', KEYS[1], 'uses', -1)
return 1
""")
_GIVE_BACK = Script(
    "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'uses', 1) end"
)
SCRIPTS = (_CREATE, _TAKE, _GIVE_BACK)


class Invite(NamedTuple):
    """An invite as the operator sees it."""

    #: A hash of its code.
    id: str
    #: Accounts that it may still make.
    uses: int
    #: Until when, in ms since 1970.
    until: int


class Invites:
    """The invites."""

    def __init__(self, link: Route, scan: Callable[[bytes], AsyncIterator[list[bytes]]]) -> None:
        """`scan` gives the keys that match a pattern."""
        self._link = link
        self._scan = scan

    async def create(self, code: str, uses: int, life: int) -> str:
        """A new invite for so many accounts, good for `life` seconds; gives its id."""
        invite = _id(code)
        assert invite is not None
        await self._link.script(_CREATE, keys.invite(invite), uses, life)
        return invite

    async def take(self, code: str) -> bool:
        """Use an invite for an account; False if it is none, is used up or has expired."""
        invite = _id(code)
        return invite is not None and bool(await self._link.script(_TAKE, keys.invite(invite)))

    async def give_back(self, code: str) -> None:
        """An account was not made after all: the invite can be used again, unless it has expired."""
        invite = _id(code)
        if invite is not None:
            await self._link.script(_GIVE_BACK, keys.invite(invite))

    # For the operator.

    async def pages(self) -> AsyncIterator[list[Invite]]:
        """All invites that have not expired, used up ones too, a page at a time."""
        async for page in self._scan(keys.INVITES):
            found = await gather(self._invite(keys.id_of_invite(key)) for key in page)
            yield [invite for invite in found if invite is not None]

    async def _invite(self, invite: str) -> Invite | None:
        uses, until = await self._link.call(b"HMGET", keys.invite(invite), b"uses", b"until")
        return None if uses is None or until is None else Invite(invite, int(uses), int(float(until)))

    async def revoke(self, invite: str) -> None:
        """The invite with this id makes no more accounts."""
        await self._link.write(b"DEL", keys.invite(invite))


def _id(code: str) -> str | None:
    plain = normal(code)
    return None if plain is None else keys.invite_id(plain)
