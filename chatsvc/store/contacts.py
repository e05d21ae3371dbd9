"""The contact graph: whom a user added, and who added the user; whom a user blocks. Accepting is adding back.

What contacts tell each other is in ``signals`` beside this.
"""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route, Script

#: One side of a change: what is taken from and put into a user's sets about another one. If that changes how
#: the two stand to each other, as the user sees it, the user's devices are told (but the one in ARGV[3]).
#: Marks are kept between contacts only. Who is blocked adds in vain.
_CHANGE = Script(
    """
local added = KEYS[#KEYS]
local other = ARGV[2]
local function has(set) return redis.call('SISMEMBER', set, other) == 1 end
local function relation()
  if has(blocked) then return 'blocked' end
  if has(out) then return has(added) and 'contact' or 'pending' end
  return has(added) and 'requesting' or 'none'
end
local changes = {
  add = function() redis.call('SADD', out, other) end,
  added = function() if not has(blocked) then redis.call('SADD', added, other) end end,
  part = function()
    redis.call('SREM', out, other)
    redis.call('SREM', added, other)
    for _, field in ipairs(redis.call('HKEYS', marks)) do
      if string.match(field, '%d+') == other then redis.call('HDEL', marks, field) end
    end
  end,
  block = function() redis.call('SADD', blocked, other) end,
  unblock = function() redis.call('SREM', blocked, other) end,
}
if redis.call('EXISTS', KEYS[1]) == 0 then return end
local before = relation()
for i = 4, #ARGV do changes[ARGV[i]]() end
local after = relation()
if after ~= before then
  local body = '{"userid":' .. other .. ',"relation":"' .. after .. '"}'
  redis.call('SPUBLISH', KEYS[1], 'e FORWARDCONTACT ' .. ARGV[3] .. ' ' .. body)
end
""",
    "out",
    "blocked",
    "marks",
)
SCRIPTS = (_CHANGE,)


class Relations(NamedTuple):
    """User ids, ascending."""

    contacts: list[int]
    pending: list[int]
    requesting: list[int]


class Contacts:
    """Who is in contact with whom. Both users' devices are told of a change, but the one that it is `by`."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def add(self, user_id: int, other_id: int, by: str = "") -> None:
        """`user_id` adds `other_id`, and blocks `other_id` no more; again is no change.

        The other's side first: a crash between the two leaves a request that the sender, who was not
        answered, repeats.
        """
        await self._change(other_id, user_id, "", "added")
        await self._change(user_id, other_id, by, "unblock", "add")

    async def remove(self, user_id: int, other_id: int, by: str = "") -> None:
        """Nobody of the two has added the other any more."""
        await self._change(user_id, other_id, by, "part")
        await self._change(other_id, user_id, "", "part")

    async def block(self, user_id: int, other_id: int, by: str = "") -> None:
        """As `remove`, and `other_id` can neither add `user_id` nor write."""
        await self._change(user_id, other_id, by, "part", "block")
        await self._change(other_id, user_id, "", "part")

    async def unblock(self, user_id: int, other_id: int, by: str = "") -> None:
        """`user_id` blocks `other_id` no more."""
        await self._change(user_id, other_id, by, "unblock")

    async def _change(self, user_id: int, other_id: int, by: str, *changes: str) -> None:
        also = (keys.part(user_id, b"in"),)
        await self._link.script(_CHANGE, keys.user(user_id), other_id, by, *changes, also=also)

    async def of(self, user_id: int) -> Relations:
        """All relations of a user."""
        out = await self._members(user_id, b"out")
        into = await self._members(user_id, b"in")
        return Relations(sorted(out & into), sorted(out - into), sorted(into - out))

    async def blocked(self, user_id: int) -> list[int]:
        """Whom a user blocks, ascending."""
        return sorted(await self._members(user_id, b"blocked"))

    async def _members(self, user_id: int, part: bytes) -> set[int]:
        return {int(other) for other in await self._link.call(b"SMEMBERS", keys.part(user_id, part))}

    async def has_added(self, user_id: int, other_id: int) -> bool:
        """Whether `user_id` has added `other_id`."""
        return bool(await self._link.call(b"SISMEMBER", keys.part(user_id, b"out"), other_id))

    async def has_blocked(self, user_id: int, other_id: int) -> bool:
        """Whether `user_id` blocks `other_id`."""
        return bool(await self._link.call(b"SISMEMBER", keys.part(user_id, b"blocked"), other_id))

    async def forget(self, user_id: int) -> None:
        """Take the user out of everybody's contacts; the user's own sets stay, to be forgotten again."""
        for other in {other for ids in await self.of(user_id) for other in ids}:
            await self._change(other, user_id, "", "part")
