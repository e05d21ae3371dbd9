"""Mailboxes: appending in groups, reading, and each device's cursor. What a message says is not known here.

An entry's place is an integer, its `position`, made from the stream entry's id; positions ascend.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque

from msgspec import Struct

from chatsvc.store import keys
from chatsvc.store.link import LINK_WAIT, REPLY_TIMEOUT, Link, Script, Unavailable
from chatsvc.tasks import Clock, Pending, gather, spawn
from chatsvc.wire.errors import NOT_LOGGED_IN, USER_NOT_FOUND, Refusal

#: One script call holds at most this much: a script keeps the store from everybody else.
GROUP_MESSAGES = 64
GROUP_BYTES = 1024 * 1024
#: What may wait for the store; beyond it senders are refused at once.
QUEUE_MESSAGES = 10_000
QUEUE_BYTES = 64 * 1024 * 1024
#: Seconds for which a repeat is recognised: phones sleep.
REPEAT_LIFE = 24 * 3600
#: For a message that can have no repeat, only our own second try.
RETRY_LIFE = 60
#: Seconds after which cursors that could not be saved are tried again.
SAVE_PAUSE = 1.0

#: Per message: sender, target, device, repeat, its life, message, flags, file's message key, MD5, file.
#: Everything is checked before the first write of a message: scripts do not roll back.
_APPEND = Script("""
local function deliver(user, origin, message, flags)
  local tag = '{u:' .. user .. '}'
  local id = redis.call('XADD', tag .. ':mail', '*', 'o', origin, 'm', message, 'f', flags)
  local before = redis.call('SET', tag .. ':last', id, 'GET') or '0-0'
  redis.call('SPUBLISH', tag, table.concat({'m', id, before, origin, flags, message}, ' '))
end
local function index(user, message_key, md5, file)
  local files = '{u:' .. user .. '}:files'
  redis.call('HSET', files, 'm' .. message_key, md5 .. ':' .. file)
  local known = redis.call('HGET', files, 'f' .. md5)
  -- Two different files with one MD5: by MD5 alone neither can be had any more.
  redis.call('HSET', files, 'f' .. md5, (known and known ~= file) and '' or file)
end
local results = {}
for i = 2, #ARGV, 10 do
  local sender, target, device = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local mine = '{u:' .. sender .. '}'
  local result = 'stored'
  if redis.call('SISMEMBER', mine .. ':devices', device) == 0 then
    result = 'unbound'
  elseif redis.call('EXISTS', '{u:' .. target .. '}') == 0 then
    result = 'no target'
  elseif redis.call('SET', mine .. ':repeat:' .. ARGV[i + 3], '', 'NX', 'EX', ARGV[i + 4]) then
    deliver(sender, device, ARGV[i + 5], ARGV[i + 6])
    if target ~= sender then deliver(target, '', ARGV[i + 5], ARGV[i + 6]) end
    if ARGV[i + 9] ~= '' then
      index(sender, ARGV[i + 7], ARGV[i + 8], ARGV[i + 9])
      if target ~= sender then index(target, ARGV[i + 7], ARGV[i + 8], ARGV[i + 9]) end
    end
  end
  results[#results + 1] = result
end
return results
""")
_OPEN = Script(
    """
if redis.call('SISMEMBER', devices, ARGV[1]) == 0 then return {} end
return {redis.call('HGET', cursors, ARGV[1]) or '0-0', redis.call('GET', last) or '0-0'}
""",
    "devices",
    "cursors",
    "last",
    writes=False,
)
#: Moves cursors forward only: an acknowledgement that comes late takes nothing back.
_ADVANCE = Script(
    """
local function parts(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
local ms, seq = parts(ARGV[3])
local old_ms, old_seq = parts(redis.call('HGET', cursors, ARGV[2]) or '0-0')
if ms > old_ms or (ms == old_ms and seq > old_seq) then redis.call('HSET', cursors, ARGV[2], ARGV[3]) end
""",
    "cursors",
)
SCRIPTS = (_APPEND, _OPEN, _ADVANCE)


def position(entry_id: bytes) -> int:
    """The place of a stream entry as an integer."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds) << 32 | int(sequence)


def entry_id(place: int) -> bytes:
    """The id of the stream entry at a position."""
    return b"%d-%d" % (place >> 32, place & 0xFFFFFFFF)


class Outgoing(Struct, frozen=True, gc=False):
    """A message that is to be stored."""

    sender: int
    target: int
    device: str
    #: What makes two requests one message; None if every request is a new one.
    repeat: str | None
    message: bytes
    flags: bytes
    #: (message key, MD5, where the file is) for messages with a file.
    file: tuple[str, str, bytes] | None = None


class Entry(Struct, frozen=True, gc=False):
    """A stored message in somebody's mailbox."""

    position: int
    #: The position of the entry before it in the same mailbox; 0 if there is none.
    before: int
    #: The device that sent it as this mailbox's user; empty for what others sent.
    origin: str
    flags: bytes
    message: bytes


class Mailboxes:
    """All mailboxes, through one connection: the order of the appends is the order of the mailboxes."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._queue: deque[_Append] = deque()
        self._queued_bytes = 0
        self._committing = False
        self._cursors: dict[tuple[int, str], int] = {}
        self._saving = False

    async def append(self, outgoing: Outgoing) -> None:
        """Store a message in both mailboxes; when this returns it is as durable as the store is set to.

        Raises `Refusal`; then nothing was stored, unless it says that storage was unavailable.
        """
        if len(self._queue) >= QUEUE_MESSAGES or self._queued_bytes >= QUEUE_BYTES:
            raise Unavailable
        append = _Append(outgoing, self._clock.seconds() + LINK_WAIT + REPLY_TIMEOUT)
        self._queue.append(append)
        self._queued_bytes += len(outgoing.message)
        if not self._committing:
            self._committing = True
            spawn(self._commit(), "committing messages")
        result = await append.done
        if result == b"unbound":
            raise Refusal(NOT_LOGGED_IN)
        if result == b"no target":
            raise Refusal(USER_NOT_FOUND)

    async def _commit(self) -> None:
        """Group commit: what comes while one group is on its way travels together in the next."""
        try:
            while self._queue:
                group = self._next_group()
                try:
                    args = [arg for append in group for arg in append.args()]
                    results = await self._link.script(
                        _APPEND, keys.user(group[0].outgoing.sender), *args, expires=group[0].expires
                    )
                except Exception as error:
                    for append in group:
                        append.done.fail(error)
                else:
                    for append, result in zip(group, results, strict=True):
                        append.done.succeed(result)
        finally:
            self._committing = False

    def _next_group(self) -> list[_Append]:
        group: list[_Append] = []
        size = 0
        while self._queue and len(group) < GROUP_MESSAGES and (not group or size < GROUP_BYTES):
            append = self._queue.popleft()
            size += len(append.outgoing.message)
            group.append(append)
        self._queued_bytes -= size
        return group

    async def is_repeat(self, sender: int, repeat: str) -> bool:
        """Whether a message with this repeat key was stored."""
        return bool(await self._link.call(b"EXISTS", keys.part(sender, b"repeat:" + repeat.encode())))

    async def open(self, user_id: int, device: str) -> tuple[int, int] | None:
        """The device's cursor and the end of the mailbox; None if the device is not bound to the user."""
        found = await self._link.script(_OPEN, keys.user(user_id), device)
        if not found:
            return None
        cursor, last = position(found[0]), position(found[1])
        unsaved = self._cursors.get((user_id, device), 0)
        return max(cursor, unsaved), last

    async def end(self, user_id: int) -> int:
        """The position of the mailbox's newest entry; 0 if it never had one."""
        last = await self._link.call(b"GET", keys.part(user_id, b"last"))
        return 0 if last is None else position(last)

    async def read(self, user_id: int, after: int, most: int) -> list[Entry]:
        """The next entries after a position, at most `most`, in mailbox order."""
        start = b"(" + entry_id(after)
        found = await self._link.call(b"XRANGE", keys.part(user_id, b"mail"), start, b"+", b"COUNT", most)
        entries = []
        for found_id, fields in found:
            entry = Entry(position(found_id), after, fields[1].decode(), fields[5], fields[3])
            entries.append(entry)
            after = entry.position
        return entries

    def acknowledge(self, user_id: int, device: str, cursor: int) -> None:
        """Move a device's cursor forward; the store has it within a moment."""
        key = (user_id, device)
        if cursor > self._cursors.get(key, 0):
            self._cursors[key] = cursor
        if not self._saving:
            self._saving = True
            spawn(self._save_cursors(), "saving cursors")

    async def _save_cursors(self) -> None:
        """What moves while cursors are being saved is saved once, with the newest value."""
        try:
            while self._cursors:
                some = list(itertools.islice(self._cursors.items(), GROUP_MESSAGES))
                try:
                    await gather(
                        self._link.script(_ADVANCE, keys.user(user_id), device, entry_id(cursor))
                        for (user_id, device), cursor in some
                    )
                except Refusal:  # the store is away or full; meanwhile the cursors are kept here
                    again: Pending[None] = Pending()
                    self._clock.callLater(SAVE_PAUSE, again.succeed, None)
                    await again
                    continue
                for key, cursor in some:
                    if self._cursors.get(key) == cursor:
                        del self._cursors[key]
        finally:
            self._saving = False

    async def reset_cursor(self, user_id: int, device: str, cursor: int) -> None:
        """Set a cursor that lies beyond the end of its mailbox back."""
        self._cursors.pop((user_id, device), None)
        await self._link.write(b"HSET", keys.part(user_id, b"cursors"), device, entry_id(cursor))


class _Append:
    """A message on its way into the store."""

    __slots__ = ("done", "expires", "outgoing", "repeat")

    def __init__(self, outgoing: Outgoing, expires: float) -> None:
        self.outgoing = outgoing
        self.expires = expires
        self.done: Pending[bytes] = Pending()
        # Also what has no repeat gets a key: a lost reply makes us send it again.
        self.repeat = outgoing.repeat or secrets.token_hex(16)

    def args(self) -> tuple[bytes | str | int, ...]:
        out = self.outgoing
        life = REPEAT_LIFE if out.repeat else RETRY_LIFE
        key, md5, file = out.file or ("", "", b"")
        return (
            out.sender, out.target, out.device, self.repeat, life, out.message, out.flags, key, md5, file,
        )  # fmt: skip


def parse_published(data: bytes) -> Entry:
    """The entry in a published `m` text."""
    _, entry, before, origin, flags, message = data.split(b" ", 5)
    return Entry(position(entry), position(before), origin.decode(), flags, message)
