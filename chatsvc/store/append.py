"""Storing messages where one server holds all mailboxes: in groups, both mailboxes in one step.

Where they are on several servers, ``two_step`` beside this does it; how they are read is in ``mail``.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache

from msgspec import Struct
from twisted.logger import Logger

from chatsvc.store import keys
from chatsvc.store.errors import Unavailable
from chatsvc.store.link import LINK_WAIT, REPLY_TIMEOUT
from chatsvc.store.protocol import Arg, Packed, packed
from chatsvc.store.script import Route, Script
from chatsvc.store.sent import LUA_COUNT, Brought, as_argument
from chatsvc.tasks import Clock, Pending, Turn, as_failure, spawn
from chatsvc.wire.errors import INTERNAL, NOT_LOGGED_IN, NOT_TAKEN, QUOTA_EXCEEDED, USER_NOT_FOUND, Refusal

log = Logger()

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

#: Both take a user's record and do all in the slot of it. `deliver` gives the entry's id; what was delivered
#: while `publishing` a function's work is told once a user: what a call in Lua costs is paid less often then,
#: here and where it is heard. That also holds if the work fails midway, for then too it is in the mailboxes.
#: The text has lines, which no JSON that we write can hold: see `Published`.
LUA_DELIVER = """
local call, concat = redis.call, table.concat
local news = {}
local function deliver(user, origin, text)
  local entry = origin .. text
  local id = call('XADD', user .. ':mail', '*', 'e', entry)
  local lines = news[user]
  if not lines then
    lines = {origin = origin}
    news[user] = lines
  elseif lines.origin ~= origin then
    lines.origin = ''
  end
  lines.last = id
  lines[#lines + 1] = id .. ' ' .. entry
  return id
end
local function publishing(work)
  local done, problem = pcall(work)
  for user, lines in pairs(news) do
    local before = call('SET', user .. ':last', lines.last, 'GET') or '0-0'
    local head = concat({'m', before, lines.last, lines.origin}, ' ')
    call('SPUBLISH', user, head .. '\\n' .. concat(lines, '\\n'))
  end
  if not done then error(problem) end
end
"""
LUA_INDEX = """
local function index(user, described)
  if described == '' then return end
  local message_key, md5, file = string.match(described, '(%S+) (%S+) (%S+)')
  call('HSET', user .. ':files', 'm' .. message_key, md5 .. ':' .. file)
  local known = call('HGET', user .. ':files', 'f' .. md5)
  -- Two different files with one MD5: by MD5 alone neither can be had any more.
  call('HSET', user .. ':files', 'f' .. md5, (known and known ~= file) and '' or file)
end
"""
#: Per message: sender, device, target, repeat, its life, text, file, what it brings. The text is an entry's
#: from its origin on; a file is described by the message's key, its MD5 and where it is; see `LUA_COUNT`.
#: A target `takes` nothing (0: there is none), all (1), or not what comes from who is blocked (2).
#: Everything is checked before the first write of a message: scripts do not roll back. What holds for one
#: message of a group holds for the next, so it is asked once. What was stored stays answered so when its
#: sender was unbound since: it may be sent again because that answer was lost. The keys are those of many
#: users, and not declared: it is for a store that is no cluster.
_APPEND = Script(
    LUA_DELIVER
    + LUA_INDEX
    + LUA_COUNT
    + """
local results, bound, takes = {}, {}, {}
publishing(function()
  for i = 2, #ARGV, 8 do
    local sender, target = '{u:' .. ARGV[i] .. '}', '{u:' .. ARGV[i + 2] .. '}'
    local device, text, file, brought = ARGV[i + 1], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
    local again = sender .. ':repeat:' .. ARGV[i + 3]
    local result = 'stored'
    if takes[target] == nil then
      takes[target] = call('EXISTS', target, target .. ':blocked')
    end
    local is_bound = bound[sender] == device or call('SISMEMBER', sender .. ':devices', device) == 1
    if not is_bound and call('EXISTS', again) == 0 then
      result = 'unbound'
    elseif takes[target] == 0 then
      result = 'no target'
    elseif takes[target] == 2 and call('SISMEMBER', target .. ':blocked', ARGV[i]) == 1
      and call('EXISTS', again) == 0 then
      result = 'blocked'
    elseif brought ~= '' and not count(sender, brought, call('EXISTS', again) == 1) then
      result = 'too much'
    else
      if is_bound then bound[sender] = device end
      if call('SET', again, '', 'NX', 'EX', ARGV[i + 4]) then
        deliver(sender, device, text)
        index(sender, file)
        if target ~= sender then
          deliver(target, '', text)
          index(target, file)
        end
      end
    end
    results[#results + 1] = result
  end
end)
return results
"""
)
_ARGUMENTS = 8
SCRIPTS = (_APPEND,)

#: What a sender is told of a message that the scripts do not store, by what they say of it.
REFUSED = {
    b"unbound": NOT_LOGGED_IN,
    b"no target": USER_NOT_FOUND,
    b"blocked": NOT_TAKEN,
    b"too much": QUOTA_EXCEEDED,
}


def entry_text(origin: str, flags: bytes, message: bytes) -> bytes:
    """What a mailbox holds of a message, in one field: each more would cost, in scripts above all."""
    return b"%b %b %b" % (origin.encode(), flags, message)


def entry_parts(text: bytes) -> list[bytes]:
    """Origin, flags and message."""
    return text.split(b" ", 2)


class Outgoing(Struct, frozen=True, gc=False):
    """A message that is to be stored."""

    sender: int
    target: int
    device: str
    #: What makes two requests one message; None if every request is a new one.
    repeat: str | None
    #: JSON without line breaks.
    message: bytes
    flags: bytes
    #: (message key, MD5, where the file is) for messages with a file.
    file: tuple[str, str, bytes] | None = None
    #: What it needs on the disk that its sender may not have sent before, and how much that may be in all.
    brought: tuple[Brought, ...] = ()
    quota: int | None = None


class Waiting(Pending[None]):
    """A message on its way into the store; awaiting it raises `Refusal` if it was not stored."""

    __slots__ = ("expires", "outgoing", "repeat")

    def __init__(self, outgoing: Outgoing, now: float) -> None:
        super().__init__()
        self.outgoing = outgoing
        #: When its sender must have been told, in seconds.
        self.expires = now + LINK_WAIT + REPLY_TIMEOUT
        # Also what has no repeat gets a key: a lost reply makes us send it again.
        self.repeat = outgoing.repeat or secrets.token_hex(16)

    @property
    def repeat_life(self) -> int:
        """Seconds for which a repeat is to be recognised."""
        return REPEAT_LIFE if self.outgoing.repeat else RETRY_LIFE

    @property
    def text(self) -> bytes:
        """What both mailboxes get of it, without its origin."""
        return entry_text("", self.outgoing.flags, self.outgoing.message)

    @property
    def file(self) -> bytes:
        """Its file as the scripts take it."""
        if self.outgoing.file is None:
            return b""
        message_key, md5, file = self.outgoing.file
        return f"{message_key} {md5} ".encode() + file

    @property
    def brought(self) -> bytes:
        """What it brings, as the script of the sender's side takes it."""
        return as_argument(self.outgoing.quota, self.outgoing.brought)

    def settle(self, result: bytes) -> None:
        """A script says what became of it."""
        if result == b"stored":
            self.succeed(None)
        else:
            self.fail(Refusal(REFUSED[result]))


class Queue:
    """Group commit: what comes in one turn, or while one group is on its way, travels in the next."""

    def __init__(self, commit: Callable[[list[Waiting]], Awaitable[None]], turn: Turn) -> None:
        self._commit = commit
        self._turn = turn
        self._messages: deque[Waiting] = deque()
        self._bytes = 0
        #: Whether a group is on its way, or about to be.
        self.busy = False

    @property
    def is_full(self) -> bool:
        """Whether more would be too much."""
        return len(self._messages) >= QUEUE_MESSAGES or self._bytes >= QUEUE_BYTES

    def add(self, waiting: Waiting) -> None:
        """Send it with the next group."""
        self._messages.append(waiting)
        self._bytes += len(waiting.outgoing.message)
        if not self.busy:
            self.busy = True
            self._turn.at_end(self._start)

    def _start(self) -> None:
        spawn(self._run(), "committing messages")

    async def _run(self) -> None:
        try:
            while self._messages:
                group = self._next_group()
                try:
                    await self._commit(group)
                except Refusal as refusal:
                    self._fail(group, refusal)
                except Exception as error:  # once, not for each of them
                    log.failure("A group of messages could not be stored", failure=as_failure(error))
                    self._fail(group, Refusal(INTERNAL))
        finally:
            self.busy = False

    @staticmethod
    def _fail(group: list[Waiting], refusal: Refusal) -> None:
        for waiting in group:
            waiting.fail(refusal)

    def _next_group(self) -> list[Waiting]:
        group: list[Waiting] = []
        size = 0
        while self._messages and len(group) < GROUP_MESSAGES and (not group or size < GROUP_BYTES):
            waiting = self._messages.popleft()
            size += len(waiting.outgoing.message)
            group.append(waiting)
        self._bytes -= size
        return group


class GroupCommit:
    """Appends through one connection: their order is the order of the mailboxes."""

    def __init__(self, link: Route, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._queue = Queue(self._commit, Turn(clock))

    def append(self, outgoing: Outgoing) -> Waiting:
        """Store a message in both mailboxes; when that is done it is as durable as the store is set to.

        Awaiting it raises `Refusal`; then nothing was stored, unless it says that storage was unavailable.
        """
        waiting = Waiting(outgoing, self._clock.seconds())
        if self._queue.is_full:
            waiting.fail(Unavailable())
        else:
            self._queue.add(waiting)
        return waiting

    async def _commit(self, group: list[Waiting]) -> None:
        args = Packed(b"".join(map(_packed, group)), _ARGUMENTS * len(group))
        record = keys.user(group[0].outgoing.sender)
        results = await self._link.script(_APPEND, record, args, expires=group[0].expires)
        for waiting, result in zip(group, results, strict=True):
            waiting.settle(result)


def _packed(waiting: Waiting) -> bytes:
    """A message's arguments as they go to the store; `pack` would take longer."""
    out, repeat, text = waiting.outgoing, waiting.repeat.encode(), waiting.text
    return b"%b%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (
        _bulk(out.sender, out.device),
        _bulk(out.target),
        len(repeat),
        repeat,
        _bulk(waiting.repeat_life),
        len(text),
        text,
        _NO_FILES if out.file is None and not out.brought else packed((waiting.file, waiting.brought)).data,
    )


_NO_FILES = packed((b"", b"")).data


@lru_cache(maxsize=QUEUE_MESSAGES)
def _bulk(*args: Arg) -> bytes:
    """Arguments that most messages of a sender, or all, have in common."""
    return packed(args).data
