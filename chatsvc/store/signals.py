"""What contacts tell each other beside messages: who is typing, how far was read, who is online.

Each is told on a channel, and only what is to be known later is kept. Who is a contact is in ``contacts``,
and that a device is online in ``devices``.
"""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route, Script

#: Tells a user's devices what a contact (ARGV[1]) signals.
_TELL = Script(
    """
if redis.call('SISMEMBER', out, ARGV[1]) == 0 or redis.call('SISMEMBER', KEYS[#KEYS], ARGV[1]) == 0 then
  return
end
redis.call('SPUBLISH', KEYS[1], ARGV[2])
""",
    "out",
    writes=False,
)
#: Keeps a mark between a user and a contact (ARGV[2]). If it is new, the user's devices but ARGV[5] are told.
_MARK = Script(
    """
if redis.call('SISMEMBER', out, ARGV[2]) == 0 or redis.call('SISMEMBER', KEYS[#KEYS], ARGV[2]) == 0 then
  return
end
if redis.call('HGET', marks, ARGV[3]) == ARGV[4] then return end
redis.call('HSET', marks, ARGV[3], ARGV[4])
redis.call('SPUBLISH', KEYS[1], 'e FORWARDMARK ' .. ARGV[5] .. ' {"marks":[' .. ARGV[4] .. ']}')
""",
    "out",
    "marks",
)
#: Since when a user is offline, when a device was used last (noted once an hour, and so also if a node died),
#: and how many devices are online.
_SEEN = Script(
    """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
return {
  redis.call('HGET', KEYS[1], 'seen') or '0',
  redis.call('ZRANGE', used, 0, 0, 'REV', 'WITHSCORES')[2] or '0',
  redis.call('ZCOUNT', online, '(' .. now, '+inf'),
}
""",
    "used",
    "online",
    writes=False,
)
SCRIPTS = (_TELL, _MARK, _SEEN)


class Seen(NamedTuple):
    """Whether a user is online, and if not, since when, in ms; 0 if that is not known."""

    online: bool
    last: int


class Signals:
    """What contacts signal to each other."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def typing(self, user_id: int, to: int, body: bytes) -> None:
        """Tell somebody's devices that a contact types, or does no more; `body` is that of the push."""
        await self._link.script(_TELL, keys.user(to), user_id, b"e FORWARDTYPING  " + body, also=_added(to))

    async def mark(self, reader: int, sender: int, kind: str, mark: bytes, by: str) -> None:
        """Keep a mark, as its JSON, for both contacts, and tell both but the device `by` which it came.

        A crash between the two is mended when the reader, who was not answered, repeats it.
        """
        await self._mark(sender, reader, f"{reader}:{kind}:theirs", mark, "")
        await self._mark(reader, sender, f"{sender}:{kind}:mine", mark, by)

    async def _mark(self, user_id: int, other: int, field: str, mark: bytes, by: str) -> None:
        args = (other, field, mark, by)
        await self._link.script(_MARK, keys.user(user_id), *args, also=_added(user_id))

    async def marks(self, user_id: int) -> list[bytes]:
        """All marks between a user and the user's contacts, as JSON."""
        found: list[bytes] = await self._link.call(b"HVALS", keys.part(user_id, b"marks"))
        return found

    async def seen(self, user_id: int) -> Seen:
        """Whether a user is online at this moment."""
        seen, used, online = await self._link.script(_SEEN, keys.user(user_id))
        return Seen(True, 0) if online else Seen(False, max(int(seen), int(float(used))))


def _added(user_id: int) -> tuple[bytes]:
    return (keys.part(user_id, b"in"),)
