"""Devices: their tokens' hashes, to whom they are bound, where in a mailbox they are, who is online.

A device is bound to a user if its record says so *and* the user's set of devices holds it. The set
decides: it is in the user's slot, so a script that acts for the user sees at once that a binding ended.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.errors import Unwritable
from chatsvc.store.mail import position
from chatsvc.store.script import Route, Script
from chatsvc.tasks import gather
from chatsvc.wire.schema import TOKEN_MAX

#: Seconds without use after which a device is forgotten (docs/protocol.md section 4).
UNBOUND_LIFE = 24 * 3600
BOUND_LIFE = 180 * 24 * 3600
#: Seconds without use after which a bound device's record is gone for sure: both are renewed hourly.
FORGOTTEN = BOUND_LIFE + 24 * 3600
#: Seconds for which a device counts as online unless its node says so again.
ONLINE_LIFE = 150

_CREATE = Script("""
if redis.call('HSETNX', KEYS[1], 'created', now) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
""")
#: What follows when a device is online no more: if it was the user's last one, who watches is told when.
#: So are the user's own nodes: one where the same device has come meanwhile says that it still is online.
_LUA_WENT = """
local function went()
  if redis.call('ZCOUNT', online, '(' .. now, '+inf') > 0 then return end
  if redis.call('EXISTS', KEYS[1]) == 1 then redis.pcall('HSET', KEYS[1], 'seen', now) end
  redis.call('SPUBLISH', KEYS[1] .. ':presence', now)
  redis.call('SPUBLISH', KEYS[1], 'o')
end
"""
#: Ends a binding on the user's side; every node is told. What left is in `gone`.
_LUA_LEAVE = (
    _LUA_WENT
    + """
local gone = {}
local function leave(device)
  redis.call('SREM', devices, device)
  redis.call('ZREM', used, device)
  redis.call('SPUBLISH', KEYS[1], 'r ' .. device)
  gone[#gone + 1] = device
  if redis.call('ZREM', online, device) == 1 then went() end
end
"""
)
#: The user's side of a binding; ARGV[3] is the password hash that was verified: it must still be the one.
#: With it go devices whose records must have expired, as they were not used for ARGV[5] s, and, if more than
#: ARGV[4] are left, those that were not used for longest; gives which.
_JOIN = Script(
    _LUA_LEAVE
    + """
if redis.call('HGET', KEYS[1], 'password') ~= ARGV[3] then return false end
if redis.call('HEXISTS', KEYS[1], 'disabled') == 1 then return false end
redis.call('SADD', devices, ARGV[2])
redis.call('ZADD', used, now, ARGV[2])
for _, device in ipairs(redis.call('ZRANGEBYSCORE', used, '-inf', now - ARGV[5] * 1000)) do leave(device) end
local over = redis.call('SCARD', devices) - (tonumber(ARGV[4]) or math.huge)
if over <= 0 then return gone end
local others, last = {}, {}
for _, device in ipairs(redis.call('SMEMBERS', devices)) do
  if device ~= ARGV[2] then
    others[#others + 1] = device
    local since, till = redis.call('ZSCORE', used, device), redis.call('ZSCORE', online, device)
    last[device] = math.max(tonumber(since or 0), tonumber(till or 0))
  end
end
table.sort(others, function(a, b) return last[a] < last[b] end)
for i = 1, over do leave(others[i]) end
return gone
""",
    "devices",
    "used",
    "online",
)
#: The device's side; gives the user to whom it was bound before. A node where it has connections and is
#: unbound hears of it; no other listens.
_POINT = Script("""
local before = redis.call('HGET', KEYS[1], 'user')
redis.call('HSETNX', KEYS[1], 'created', now)
redis.call('HSET', KEYS[1], 'user', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SPUBLISH', KEYS[1], 'b')
return before
""")
_LEAVE = Script(
    _LUA_LEAVE + "leave(ARGV[2])",
    "devices",
    "used",
    "online",
)
_UNPOINT = Script("""
if redis.call('HGET', KEYS[1], 'user') == ARGV[2] then
  redis.call('HDEL', KEYS[1], 'user')
  redis.call('HSET', KEYS[1], 'last', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
""")
#: Sets a password if the old one is still the one that was verified, and unbinds all other devices.
_NEW_PASSWORD = Script(
    _LUA_LEAVE
    + """
local current = redis.call('HGET', KEYS[1], 'password')
if current ~= ARGV[2] and current ~= ARGV[3] then return false end  -- the new one: sent again
redis.call('HSET', KEYS[1], 'password', ARGV[3])
for _, device in ipairs(redis.call('SMEMBERS', devices)) do
  if device ~= ARGV[4] then leave(device) end
end
return gone
""",
    "devices",
    "used",
    "online",
)
#: Sets a field of a user's record, if one is named, and unbinds all devices; nothing without a record.
_SHUT_OUT = Script(
    _LUA_WENT
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
local gone = redis.call('SMEMBERS', devices)
local was_online = redis.call('DEL', online) == 1
redis.call('DEL', devices, used)
if was_online then went() end
for _, device in ipairs(gone) do redis.call('SPUBLISH', KEYS[1], 'r ' .. device) end
return gone
""",
    "devices",
    "used",
    "online",
)
#: A device comes back: what its record says, and its time to live starts anew, if the store takes writes.
_USE = Script(
    """
local record = redis.call('HMGET', KEYS[1], 'created', 'user', 'explicit', 'last')
if record[1] then redis.pcall('EXPIRE', KEYS[1], record[2] and ARGV[3] or ARGV[2]) end
return record
""",
    lasting=False,
)
#: A device was used. Nobody is to wait for replicas for that, once an hour and a device.
_TOUCH = Script("redis.call('EXPIRE', KEYS[1], ARGV[2])", lasting=False)
#: Says that devices are online; gives the mailbox's end and which of them are bound no more. A store that is
#: full or takes no writes takes no presence (hence pcall), but mail must still be read. That a device is used
#: is noted once an hour: presence, which is short-lived, tells the rest. Who watches hears of the first one.
_ONLINE = Script(
    """
local gone = {}
local was_online = redis.call('ZCOUNT', online, '(' .. now, '+inf') > 0
for i = 3, #ARGV do
  if redis.call('SISMEMBER', devices, ARGV[i]) == 1 then
    redis.pcall('ZADD', online, now + ARGV[2] * 1000, ARGV[i])
    if now - (redis.call('ZSCORE', used, ARGV[i]) or 0) > 3600000 then
      redis.pcall('ZADD', used, now, ARGV[i])
    end
  else
    gone[#gone + 1] = ARGV[i]
  end
end
redis.pcall('ZREMRANGEBYSCORE', online, '-inf', now)
redis.pcall('EXPIRE', online, ARGV[2])
if not was_online and #gone < #ARGV - 2 then redis.call('SPUBLISH', KEYS[1] .. ':presence', '0') end
return {redis.call('GET', last) or '0-0', gone}
""",
    "devices",
    "used",
    "online",
    "last",
    lasting=False,
)
_OFFLINE = Script(
    _LUA_WENT + "if redis.call('ZREM', online, ARGV[2]) == 1 then went() end", "online", lasting=False
)
_BINDINGS = (_JOIN, _POINT, _LEAVE, _UNPOINT, _NEW_PASSWORD, _SHUT_OUT)
SCRIPTS = (_CREATE, *_BINDINGS, _USE, _TOUCH, _ONLINE, _OFFLINE)


class DeviceRecord(NamedTuple):
    """What the store knows of a device."""

    user_id: int | None
    #: It has used ACKFETCH, and acknowledges in that way only.
    explicit: bool
    #: To whom it is or was bound.
    last_user_id: int | None = None


class BoundDevice(NamedTuple):
    """A device in a user's set as the operator sees it; times in ms since 1970."""

    id: str
    #: None: its record has expired.
    created: int | None
    explicit: bool
    #: Until when it counts as online; 0 if it is not.
    online_until: int
    #: The id of the last entry that it acknowledged.
    cursor: str


def _record(fields: list[bytes | None]) -> DeviceRecord | None:
    created, user, explicit, last = fields
    if created is None:
        return None
    last_user = user or last
    return DeviceRecord(
        None if user is None else int(user),
        explicit is not None,
        None if last_user is None else int(last_user),
    )


class Devices:
    """The devices."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def create(self) -> int:
        """A new device: the token that its client is told, and nobody else."""
        while True:
            token = 1 + secrets.randbelow(TOKEN_MAX)
            if await self._link.script(_CREATE, keys.device(keys.device_id(token)), UNBOUND_LIFE):
                return token

    async def load(self, device: str) -> DeviceRecord | None:
        """A device's record; None if it was never issued or has expired."""
        record = _record(
            await self._link.call(b"HMGET", keys.device(device), b"created", b"user", b"explicit", b"last")
        )
        if record is None or record.user_id is None or await self.is_bound(device, record.user_id):
            return record
        return record._replace(user_id=None)

    async def use(self, device: str) -> DeviceRecord | None:
        """As `load` and `touch` in one, but whether the binding holds is not looked at.

        For who goes on to `stay_online`, which tells.
        """
        life = (UNBOUND_LIFE, BOUND_LIFE)
        return _record(await self._link.script(_USE, keys.device(device), *life))

    async def is_bound(self, device: str, user_id: int) -> bool:
        """Whether the binding of this device to this user holds at this moment."""
        return bool(await self._link.call(b"SISMEMBER", keys.part(user_id, b"devices"), device))

    async def touch(self, device: str, *, bound: bool) -> None:
        """The device was used: its time to live starts anew, if the store takes writes at this moment."""
        with suppress(Unwritable):
            await self._link.script(_TOUCH, keys.device(device), BOUND_LIFE if bound else UNBOUND_LIFE)

    async def mark_explicit(self, device: str) -> None:
        """The device has used ACKFETCH."""
        await self._link.write(b"HSET", keys.device(device), b"explicit", 1)

    async def bind(self, device: str, user_id: int, password_hash: bytes, most: int | None = None) -> bool:
        """Bind the device, replacing any binding it had; False if the password has changed meanwhile.

        If the user has more than `most` devices then, those that were unused for longest are unbound. Nodes
        are told on the device's channel, and of bindings that end on their users'.
        """
        most_as_text = b"" if most is None else b"%d" % most
        user = keys.user(user_id)
        gone = await self._link.script(_JOIN, user, device, password_hash, most_as_text, FORGOTTEN)
        if gone is None:
            return False
        await self._unpoint(gone, user_id)
        before = await self._link.call(b"HGET", keys.device(device), b"user")
        await self._leave_other(device, before, user_id)
        # Another login of the same device may have come between.
        before = await self._link.script(_POINT, keys.device(device), user_id, BOUND_LIFE)
        await self._leave_other(device, before, user_id)
        return True

    async def _leave_other(self, device: str, before: bytes | None, user_id: int) -> None:
        if before is not None and int(before) != user_id:
            await self._link.script(_LEAVE, keys.user(int(before)), device)

    async def unbind(self, device: str, user_id: int) -> None:
        """End the binding of the device to this user; every node is told."""
        await self._link.script(_LEAVE, keys.user(user_id), device)
        await self._link.script(_UNPOINT, keys.device(device), user_id, UNBOUND_LIFE)

    async def change_password(self, user_id: int, old_hash: bytes, new_hash: bytes, keep: str) -> bool:
        """Set a new password hash and unbind all devices but `keep`; False if `old_hash` is outdated."""
        gone = await self._link.script(_NEW_PASSWORD, keys.user(user_id), old_hash, new_hash, keep)
        if gone is None:
            return False
        await self._unpoint(gone, user_id)
        return True

    async def _unpoint(self, devices: list[bytes], user_id: int) -> None:
        for device in devices:
            await self._link.script(_UNPOINT, keys.device(device.decode()), user_id, UNBOUND_LIFE)

    async def stay_online(self, user_id: int, devices: list[str]) -> tuple[int, list[str]]:
        """Say that these devices are online here; gives the mailbox's newest position, and
        which of them are not bound to the user any more."""
        last, gone = await self._link.script(_ONLINE, keys.user(user_id), ONLINE_LIFE, *devices)
        return position(last), [device.decode() for device in gone]

    async def go_offline(self, user_id: int, device: str) -> None:
        """The device's last connection to this node is gone."""
        await self._link.script(_OFFLINE, keys.user(user_id), device)

    # For the operator.

    async def of(self, user_id: int) -> list[BoundDevice]:
        """The devices that are bound to a user, by id."""
        found = await self._link.call(b"SMEMBERS", keys.part(user_id, b"devices"))
        return await gather(self._bound(user_id, device.decode()) for device in sorted(found))

    async def _bound(self, user_id: int, device: str) -> BoundDevice:
        created, explicit = await self._link.call(b"HMGET", keys.device(device), b"created", b"explicit")
        online = await self._link.call(b"ZSCORE", keys.part(user_id, b"online"), device)
        cursor = await self._link.call(b"HGET", keys.part(user_id, b"cursors"), device)
        return BoundDevice(
            device,
            None if created is None else int(created),
            explicit is not None,
            int(float(online or 0)),
            (cursor or b"0-0").decode(),
        )

    async def shut_out(self, user_id: int) -> int | None:
        """Unbind all devices of a user; gives how many there were, None without such a user."""
        return await self._shut_out(user_id, b"", b"")

    async def disable(self, user_id: int) -> int | None:
        """As `shut_out`; from then on no device can be bound, until `Accounts.enable`."""
        return await self._shut_out(user_id, b"disabled", b"1")

    async def set_password(self, user_id: int, password_hash: bytes) -> int | None:
        """As `shut_out`, with a new password."""
        return await self._shut_out(user_id, b"password", password_hash)

    async def _shut_out(self, user_id: int, field: bytes, value: bytes) -> int | None:
        gone = await self._link.script(_SHUT_OUT, keys.user(user_id), field, value)
        if gone is None:
            return None
        await self._unpoint(gone, user_id)
        return len(gone)
