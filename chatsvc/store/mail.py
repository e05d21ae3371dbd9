"""Mailboxes: reading them, and each device's cursor. How messages get there is in ``append`` beside this.

An entry's place is an integer, its `position`, made from the stream entry's id; positions ascend.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from msgspec import Struct

from chatsvc.store import keys
from chatsvc.store.append import Outgoing, entry_parts
from chatsvc.store.script import Route, Script
from chatsvc.tasks import Clock, gather, pause, spawn
from chatsvc.wire.errors import Refusal

#: Cursors that are saved at a time.
_SAVED_AT_ONCE = 64
#: Seconds after which cursors that could not be saved are tried again.
SAVE_PAUSE = 1.0

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
SCRIPTS = (_OPEN, _ADVANCE)


def position(entry_id: bytes) -> int:
    """The place of a stream entry as an integer."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds) << 32 | int(sequence)


def entry_id(place: int) -> bytes:
    """The id of the stream entry at a position."""
    return b"%d-%d" % (place >> 32, place & 0xFFFFFFFF)


class Entry(Struct, frozen=True, gc=False):
    """A stored message in somebody's mailbox."""

    position: int
    #: The position of the entry before it in the same mailbox; 0 if there is none.
    before: int
    #: The device that sent it as this mailbox's user; empty for what others sent.
    origin: str
    flags: bytes
    message: bytes


class Incoming(Struct, frozen=True, gc=False):
    """A stored message on its way to a device that did not send it.

    For who reads many and passes them on: what an `Entry` has besides would cost more than the reading.
    """

    #: The id of its entry in the mailbox.
    entry: bytes
    flags: bytes
    message: bytes

    @property
    def position(self) -> int:
        """Where it stands in the mailbox."""
        return position(self.entry)


class Page(NamedTuple):
    """What there is for a device in a stretch of its user's mailbox, in mailbox order."""

    messages: list[Incoming]
    #: The position up to which the mailbox was read.
    end: int


class Appends(Protocol):
    """A way to store messages, of which there are two: for one server, and for several."""

    def append(self, outgoing: Outgoing) -> Awaitable[None]:
        """Store a message in both mailboxes; when that is done it is as durable as the store is set to.

        Awaiting it raises `Refusal`; then nothing was stored, unless it says that storage was unavailable.
        """


class Mailboxes:
    """All mailboxes."""

    def __init__(self, link: Route, clock: Clock, appends: Appends) -> None:
        self._link = link
        self._clock = clock
        #: As `Appends.append`: on the path of each message there is no step between.
        self.append = appends.append
        self._cursors: dict[tuple[int, str], int] = {}
        self._saving = False

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
        for found_id, (_, text) in found:
            origin, flags, message = entry_parts(text)
            entry = Entry(position(found_id), after, origin.decode(), flags, message)
            entries.append(entry)
            after = entry.position
        return entries

    async def read_for(self, user_id: int, device: str, after: int, until: int, most: int) -> Page:
        """What the device did not send itself of the next entries after a position and up to another.

        `most` is how many entries are read, its own included.
        """
        bounds = b"(" + entry_id(after), entry_id(until)
        found = await self._link.call(b"XRANGE", keys.part(user_id, b"mail"), *bounds, b"COUNT", most)
        own = device.encode()
        messages = [
            Incoming(entry, flags, message)
            for entry, (_, text) in found
            for origin, flags, message in (entry_parts(text),)
            if origin != own
        ]
        return Page(messages, position(found[-1][0]) if len(found) == most else until)

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
                some = list(itertools.islice(self._cursors.items(), _SAVED_AT_ONCE))
                try:
                    await gather(
                        self._link.script(_ADVANCE, keys.user(user_id), device, entry_id(cursor))
                        for (user_id, device), cursor in some
                    )
                except Refusal:  # the store is away or full; meanwhile the cursors are kept here
                    await pause(self._clock, SAVE_PAUSE)
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


class Published:
    """Entries that were published together, as they follow one another in their mailbox."""

    __slots__ = ("_lines", "before", "last", "origin")

    def __init__(self, data: bytes) -> None:
        """`data` is an `m` text, see `chatsvc.store.append`."""
        head, *self._lines = data.split(b"\n")
        _, before, last, origin = head.split(b" ")
        #: The position of the entry before them, and that of the last of them.
        self.before = position(before)
        self.last = position(last)
        #: The device that sent all of them as this mailbox's user; empty if it was not one.
        self.origin = origin.decode()

    def entries(self) -> list[Entry]:
        """All of them, in mailbox order."""
        before, entries = self.before, []
        for line in self._lines:
            found_id, origin, flags, message = line.split(b" ", 3)
            entry = Entry(position(found_id), before, origin.decode(), flags, message)
            entries.append(entry)
            before = entry.position
        return entries
