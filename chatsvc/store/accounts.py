"""Users: their names, records and passwords' hashes. No password in clear, no device."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route, Script
from chatsvc.tasks import gather
from chatsvc.wire.errors import NAME_TAKEN, Refusal
from chatsvc.wire.text import name_key

#: Redis counts in signed 64 bits; what is beyond can be no user's id.
USER_ID_MAX = 2**63 - 1
#: Records that `pages` asks for at a time.
_PAGE = 100

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
_DELETE = Script("redis.call('DEL', KEYS[1], blocked)", "blocked")
SCRIPTS = (_CLAIM, _RELEASE, _RENAME, _DELETE)


class User(NamedTuple):
    """A user's record as others may see it."""

    id: int
    name: str
    avatar: str | None


class Account(NamedTuple):
    """A user's record as the operator sees it."""

    id: int
    #: As it was sent; `chatsvc.wire.text.name_key` has the form for people.
    name: str
    disabled: bool


class Accounts:
    """The users."""

    def __init__(self, link: Route) -> None:
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
        # User 0 there never is, but to ask takes as long: a LOGIN must not tell by its time who exists.
        user = await self._record(0 if found is None else int(found))
        # A change of name that a crash cut short can leave a second name behind, which nobody bears.
        return user if user is not None and name_key(user.name) == key else None

    async def get(self, user_id: int) -> User | None:
        """The user with this id."""
        return await self._record(user_id) if 1 <= user_id <= USER_ID_MAX else None

    async def _record(self, user_id: int) -> User | None:
        name, avatar = await self._link.call(b"HMGET", keys.user(user_id), b"username", b"avatar")
        if name is None:
            return None
        return User(user_id, name.decode(), None if avatar is None else avatar.decode())

    async def password_hash(self, user_id: int) -> bytes | None:
        """The stored hash of the user's password; None also for a disabled user, whom none lets in."""
        found, disabled = await self._link.call(b"HMGET", keys.user(user_id), b"password", b"disabled")
        return found if disabled is None else None

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

    # For the operator.

    async def newest_id(self) -> int:
        """The id that was given last; users have ids from 1 on, with gaps."""
        return int(await self._link.call(b"GET", keys.USER_COUNTER) or 0)

    async def account(self, user_id: int) -> Account | None:
        """The record of the user with this id."""
        name, disabled = await self._link.call(b"HMGET", keys.user(user_id), b"username", b"disabled")
        return None if name is None else Account(user_id, name.decode(), disabled is not None)

    async def pages(self) -> AsyncIterator[list[Account]]:
        """All users by ascending id, a page at a time; those of one page may be none."""
        newest = await self.newest_id()
        for first in range(1, newest + 1, _PAGE):
            found = await gather(map(self.account, range(first, min(first + _PAGE, newest + 1))))
            yield [account for account in found if account is not None]

    async def enable(self, user_id: int) -> None:
        """Let a disabled user in again; `Devices.shut_out` disables."""
        await self._link.write(b"HDEL", keys.user(user_id), b"disabled")

    async def delete(self, account: Account) -> None:
        """Free the name, and take the record away: from then on nobody can write to the user.

        With it goes whom the user blocks, as who appends counts the two. What else lies beside the record is
        for `Upkeep.clear` to remove.
        """
        await self._link.script(_RELEASE, keys.name(name_key(account.name)), account.id)
        await self._link.script(_DELETE, keys.user(account.id))
