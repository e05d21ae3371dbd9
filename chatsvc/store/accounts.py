"""Users: their names, records and passwords' hashes. No password in clear, no device."""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.link import Link, Script
from chatsvc.wire.errors import NAME_TAKEN, Refusal
from chatsvc.wire.text import name_key

#: Redis counts in signed 64 bits; what is beyond can be no user's id.
USER_ID_MAX = 2**63 - 1

#: Takes a name, for good; gives the id of whoever has it.
_CLAIM = Script(
    "redis.call('SET', KEYS[1], ARGV[2], 'NX')\nreturn redis.call('GET', KEYS[1])",
)
_RELEASE = Script(
    "if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('DEL', KEYS[1]) end",
)
#: Gives a user another name, if the present one is still what it was.
_RENAME = Script("""
local name = redis.call('HGET', KEYS[1], 'username')
if name ~= ARGV[2] and name ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'username', ARGV[3])
return 1
""")
SCRIPTS = (_CLAIM, _RELEASE, _RENAME)


class User(NamedTuple):
    """A user's record as others may see it."""

    id: int
    name: str
    avatar: str | None


class Accounts:
    """The users."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, name: str, password_hash: bytes) -> User:
        """A new user. Raises `Refusal` when the name is taken.

        The record comes first and the name last: the name is taken in one step, by somebody who exists.
        """
        claim = keys.name(name_key(name))
        if await self._link.call(b"EXISTS", claim):
            raise Refusal(NAME_TAKEN)
        user_id = int(await self._link.write(b"INCR", keys.USER_COUNTER))
        record = keys.user(user_id)
        await self._link.write(b"HSET", record, b"username", name, b"password", password_hash)
        if int(await self._link.script(_CLAIM, claim, user_id)) != user_id:
            await self._link.write(b"DEL", record)
            raise Refusal(NAME_TAKEN)
        return User(user_id, name, None)

    async def find(self, name: str) -> User | None:
        """The user who has this name, in whichever form it is written."""
        key = name_key(name)
        found = await self._link.call(b"GET", keys.name(key))
        user = None if found is None else await self.get(int(found))
        # A change of name that a crash cut short can leave a second name behind, which nobody bears.
        return user if user is not None and name_key(user.name) == key else None

    async def get(self, user_id: int) -> User | None:
        """The user with this id."""
        if not 1 <= user_id <= USER_ID_MAX:
            return None
        name, avatar = await self._link.call(b"HMGET", keys.user(user_id), b"username", b"avatar")
        if name is None:
            return None
        return User(user_id, name.decode(), None if avatar is None else avatar.decode())

    async def password_hash(self, user_id: int) -> bytes | None:
        """The stored hash of the user's password."""
        found: bytes | None = await self._link.call(b"HGET", keys.user(user_id), b"password")
        return found

    async def rename(self, user: User, name: str) -> None:
        """Give the user another name. Raises `Refusal` when it is taken."""
        current: User | None = user
        while current is not None and name_key(current.name) != name_key(name):
            if int(await self._link.script(_CLAIM, keys.name(name_key(name)), user.id)) != user.id:
                raise Refusal(NAME_TAKEN)
            if await self._link.script(_RENAME, keys.user(user.id), current.name, name):
                await self._link.script(_RELEASE, keys.name(name_key(current.name)), user.id)
                return
            # Another device renamed the user meanwhile: it is that name which must become free.
            current = await self.get(user.id)

    async def set_avatar(self, user_id: int, avatar: str | None) -> None:
        """Set the avatar, or clear it with None."""
        if avatar is None:
            await self._link.write(b"HDEL", keys.user(user_id), b"avatar")
        else:
            await self._link.write(b"HSET", keys.user(user_id), b"avatar", avatar)
