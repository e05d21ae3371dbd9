"""Storing messages where one server holds all mailboxes: in groups, both mailboxes in one step.

Where they are on several servers, ``two_step`` beside this does it; how they are read is in ``mail``.
"""

from __future__ import annotations

import secrets
from collections import deque

from msgspec import Struct

from chatsvc.store import keys
from chatsvc.store.link import LINK_WAIT, REPLY_TIMEOUT, Link, Script, Unavailable
from chatsvc.tasks import Clock, Pending, spawn
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
SCRIPTS = (_APPEND,)


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


class GroupCommit:
    """Appends through one connection: their order is the order of the mailboxes."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._queue: deque[_Append] = deque()
        self._queued_bytes = 0
        self._committing = False

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
