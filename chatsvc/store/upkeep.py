"""What only an operator's tools ask of the store and do to it, user by user.

What a user's requests need is beside this; what the tools make of it is in ``chatsvc/admin``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.mail import entry_id, position
from chatsvc.store.script import Route, Script
from chatsvc.store.sent import LUA_GIVE_BACK

#: The parts of a user; what repeats are recognised by is not among them, it expires by itself.
_PARTS = (
    *(b"devices", b"used", b"online", b"out", b"in", b"blocked", b"marks"),
    *(b"mail", b"last", b"cursors", b"files", b"sent", b"pending"),
)
#: Fields of a hash that one call reads.
_PAGE = 500

_ENDS = Script(
    """
local newest = redis.call('XREVRANGE', mail, '+', '-', 'COUNT', 1)
return {redis.call('XLEN', mail), newest[1] and newest[1][1] or '0-0', redis.call('GET', last) or '0-0'}
""",
    "mail",
    "last",
    writes=False,
)
#: The flags of some entries, and where the next call begins: messages need not travel for that.
_FLAGS = Script(
    """
local flags, reached = {}, ''
for _, entry in ipairs(redis.call('XRANGE', mail, ARGV[1], '+', 'COUNT', ARGV[2])) do
  reached = entry[1]
  local found = string.match(entry[2][2], '^%S* (%S+)')
  if found then flags[#flags + 1] = found end
end
return {reached, flags}
""",
    "mail",
    writes=False,
)
#: Takes the oldest entries away, with some fields of the index, unless more has come than the caller knows.
_TRIM = Script(
    LUA_GIVE_BACK
    + """
if (redis.call('GET', last) or '0-0') ~= ARGV[2] then return 0 end
redis.call('XTRIM', mail, 'MINID', ARGV[3])
if #ARGV > 3 then redis.call('HDEL', files, unpack(ARGV, 4)) end
for i = 4, #ARGV do give_back(sent, ARGV[i]) end
return 1
""",
    "mail",
    "last",
    "files",
    "sent",
)
_CLEAR = Script("return redis.call('UNLINK', unpack(KEYS))")


class Ends(NamedTuple):
    """How much a mailbox holds; positions as those of `chatsvc.store.mail`."""

    length: int
    #: The newest entry that is there; 0 if there is none.
    newest: int
    #: The newest entry that ever was.
    last: int


class Upkeep:
    """The store as its operator sees it."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def ends(self, user_id: int) -> Ends:
        """How much a mailbox holds, at one moment."""
        length, newest, last = await self._link.script(_ENDS, keys.user(user_id))
        return Ends(int(length), position(newest), position(last))

    async def flags(self, user_id: int) -> AsyncIterator[list[bytes]]:
        """The flags of all entries of a mailbox that have some, a page at a time."""
        start = b"-"
        while True:
            reached, flags = await self._link.script(_FLAGS, keys.user(user_id), start, _PAGE)
            if not reached:
                return
            yield flags
            start = b"(" + reached

    async def trim(self, user_id: int, up_to: int, last: int, fields: list[str]) -> bool:
        """Take the entries up to a position away, and with them some fields of the user's index of files.

        What their files count for the user is given back; so it is for contents, which are named among the
        fields (`chatsvc.store.sent`). False, and nothing is done, if `last` is not the newest entry any more:
        a message that has come since may need one of the fields.
        """
        first_kept = entry_id(up_to + 1)
        return bool(await self._link.script(_TRIM, keys.user(user_id), entry_id(last), first_kept, *fields))

    async def devices(self, user_id: int) -> int:
        """How many devices are bound to a user."""
        return int(await self._link.call(b"SCARD", keys.part(user_id, b"devices")))

    async def online(self, user_id: int, now: int) -> int:
        """How many devices of a user are online; `now` is the store's clock in ms."""
        return int(await self._link.call(b"ZCOUNT", keys.part(user_id, b"online"), f"({now}", b"+inf"))

    async def cursors(self, user_id: int) -> AsyncIterator[dict[str, int]]:
        """The cursors of all devices that a user ever had, a page at a time."""
        cursor = b"0"
        while True:
            cursor, found = await self._link.call(
                b"HSCAN", keys.part(user_id, b"cursors"), cursor, b"COUNT", _PAGE
            )
            yield {
                device.decode(): position(place)
                for device, place in zip(found[::2], found[1::2], strict=True)
            }
            if cursor == b"0":
                return

    async def owner(self, name: str) -> int | None:
        """Whose id a name has, given in its decoded form, whatever that user's record says."""
        found = await self._link.call(b"GET", keys.name(name))
        return None if found is None else int(found)

    async def is_added(self, user_id: int, other_id: int, *, by_other: bool) -> bool:
        """Whether a user's own sets say that the user added the other, or was added by the other."""
        part = b"in" if by_other else b"out"
        return bool(await self._link.call(b"SISMEMBER", keys.part(user_id, part), other_id))

    async def clear(self, user_id: int) -> int:
        """Remove all that there is of a user but the name; gives how many keys that were."""
        parts = tuple(keys.part(user_id, part) for part in _PARTS)
        return int(await self._link.script(_CLEAR, keys.user(user_id), also=parts))
