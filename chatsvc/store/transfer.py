"""Copying a whole store, while it is used, to *items* and from them into another one.

Where the items are kept is not known here. Left out is what passes by itself: presence, and the keys of
messages that can have no repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import NamedTuple

import msgspec

from chatsvc.store import keys
from chatsvc.store.append import REPEAT_LIFE, RETRY_LIFE, entry_parts
from chatsvc.store.items import (
    FIELDS,
    Added,
    Blocked,
    Counter,
    Cursors,
    Device,
    End,
    Files,
    Item,
    Mail,
    Marks,
    Repeat,
    Sent,
    User,
    in_parts,
)
from chatsvc.store.mail import entry_id, position
from chatsvc.store.script import Route, Script
from chatsvc.store.sent import TOTAL
from chatsvc.tasks import gather
from chatsvc.wire.text import name_key

#: Entries of a mailbox in one item.
_ENTRIES = 100
#: Users whose mailboxes' ends are asked for at a time.
_AT_ONCE = 200
#: Looks at the mailboxes that are ahead of the clock, until nothing came to them for a millisecond.
_LOOKS = 1000
#: Looks at a record and its name until they agree: a rename may be under way.
_NAME_LOOKS = 5


#: Milliseconds by which the clocks of a cluster's primaries may differ, with the time that a message is under
#: way between two of them.
SKEW = 10_000


class _Between(msgspec.Struct):
    """The two users of a message."""

    userid: int
    targetid: int


_between = msgspec.json.Decoder(_Between).decode
#: An entry as the store gives it: its id, and fields and values by turns.
Stored = tuple[bytes, list[bytes]]


class Cut(NamedTuple):
    """The moment that a copy of a running store shows: what was stored before it is in it, nothing else."""

    #: The store's clock; an entry's id tells when it was stored.
    ms: int
    #: Mailboxes whose newest id is ahead of the clock (it was set back), with that id's position. Ids go on
    #: from there without the clock, and tell nothing.
    ahead: dict[int, int]

    def end(self, user_id: int) -> int:
        """The last position of a mailbox that lies before the cut."""
        return self.ahead.get(user_id, (self.ms << 32) - 1)


class CannotCut(Exception):  # noqa: N818 - a sentence for the operator
    """There is no moment at which the store could be copied."""


#: What has a time to live, with it, in one step.
_PUT_HASH = Script(
    "redis.call('HSET', KEYS[1], unpack(ARGV, 3))\nredis.call('PEXPIREAT', KEYS[1], ARGV[2])",
)
#: Entries that are there already are left: a script may be sent again.
_PUT_MAIL = Script(
    """
local given = 2
while given <= #ARGV do
  local id, size = ARGV[given], tonumber(ARGV[given + 1])
  local added = redis.pcall('XADD', mail, id, unpack(ARGV, given + 2, given + 1 + size))
  if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller') then
    return added
  end
  given = given + 2 + size
end
""",
    "mail",
)
#: A mailbox without entries remembers its last id all the same: what comes must be later.
_PUT_END = Script(
    """
redis.call('SET', last, ARGV[2])
if redis.call('XLEN', mail) == 0 then
  local added = redis.pcall('XADD', mail, 'MAXLEN', '=', 0, ARGV[2], 'e', '')
  if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller') then
    return added
  end
end
""",
    "mail",
    "last",
)
#: The total follows from what it is made of: it is read at another moment.
_PUT_SENT = Script(
    """
for i = 2, #ARGV, 2 do
  local before = redis.call('HGET', sent, ARGV[i]) or 0
  redis.call('HSET', sent, ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', sent, 'bytes', ARGV[i + 1] - before)
end
""",
    "sent",
)


class Transfer:
    """Reads a store as items, and writes them."""

    def __init__(
        self,
        link: Route,
        scan: Callable[[bytes], AsyncIterator[list[bytes]]],
        now: Callable[[], Awaitable[int]],
        *,
        one_clock: bool = True,
    ) -> None:
        """`scan` gives the keys that match a pattern, `now` the store's clock in ms.

        `one_clock` is False for a cluster, whose servers have clocks that differ, but by less than `SKEW`.
        """
        self._link = link
        self._scan = scan
        self._now = now
        self._slack = 0 if one_clock else SKEW

    async def cut(self) -> Cut:
        """A moment before which each message came into both of its mailboxes or into neither.

        All that a script appends has the time of the script, so the clock alone tells, but for mailboxes
        that are ahead of it: for those it must be a moment around which nothing came to them. (In a cluster
        it is a moment for each mailbox, and `_crossing` brings the two together.) Raises `CannotCut`.
        """
        began = await self._now()
        newest = int(await self._link.call(b"GET", keys.USER_COUNTER) or 0)
        ahead: dict[int, int] = {}
        for first in range(1, newest + 1, _AT_ONCE):
            lasts = await self._lasts(range(first, min(first + _AT_ONCE, newest + 1)))
            ahead |= {user_id: last for user_id, last in lasts.items() if last >> 32 >= began + self._slack}
        for _ in range(_LOOKS):
            looked = await self._now()
            # Until the next millisecond: what was stored in this one is before the moment, and was looked at.
            while (moment := await self._now()) <= looked:
                pass
            again = await self._lasts(ahead)
            if again == ahead:
                beyond = moment + self._slack
                return Cut(moment, {user: last for user, last in ahead.items() if last >> 32 >= beyond})
            ahead = again
        raise CannotCut(
            "Some mailboxes have ids that are ahead of the store's clock, which was set back, and get "
            "messages all the time: a copy could hold a message for one of its two users only. Try again "
            "when less is written, or with the servers stopped."
        )

    async def _lasts(self, user_ids: Iterable[int]) -> dict[int, int]:
        users = list(user_ids)
        found = await gather(self._link.call(b"GET", keys.part(user, b"last")) for user in users)
        return {user: position(last or b"0-0") for user, last in zip(users, found, strict=True)}

    async def read(self, cut: Cut) -> AsyncIterator[Item]:
        """All that was stored before the cut, in the order in which `put` wants it.

        What changes while this reads comes as it was or as it is, and whole: names follow from records,
        who is bound from devices, who was added from who adds.
        """
        newest = int(await self._link.call(b"GET", keys.USER_COUNTER) or 0)
        yield Counter(newest)
        recent: dict[int, set[bytes]] = {}
        for user_id in range(1, newest + 1):
            fields = await self._record(user_id)
            if fields is None:
                continue
            yield User(user_id, fields)
            async for item in self._beside(user_id, cut, recent):
                yield item
        async for added in self._others(newest, b"out"):
            yield Added(*added)
        async for blocked in self._others(newest, b"blocked"):
            yield Blocked(*blocked)
        async for keys_found in self._scan(keys.device("*")):
            for device in await gather(map(self._device, keys_found)):
                if device is not None:
                    yield device
        for pattern in keys.REPEATS:
            async for keys_found in self._scan(pattern):
                for repeat in await gather(self._repeat(key, cut) for key in keys_found):
                    if repeat is not None:
                        yield repeat

    async def _record(self, user_id: int) -> list[bytes] | None:
        """A record whose name is its own; None if there is none, or it is being made or was given up."""
        for _ in range(_NAME_LOOKS):
            fields: list[bytes] = await self._link.call(b"HGETALL", keys.user(user_id))
            name = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"username")
            if name is None:
                return None
            owner = await self._link.call(b"GET", keys.name(name_key(name.decode())))
            if owner is None or int(owner) == user_id:
                return fields
        return None

    async def _beside(self, user_id: int, cut: Cut, recent: dict[int, set[bytes]]) -> AsyncIterator[Item]:
        end = cut.end(user_id)
        reached = 0
        while True:
            entries = await self._entries(user_id, reached, end)
            if not entries:
                break
            yield Mail(user_id, entries)
            reached = position(entries[-1][0])
        if self._slack and (crossing := await self._crossing(user_id, cut, recent)):
            yield Mail(user_id, crossing)
            reached = position(crossing[-1][0])
        cursors = [(device, position(place)) async for device, place in self._fields(user_id, b"cursors")]
        last = position(await self._link.call(b"GET", keys.part(user_id, b"last")) or b"0-0")
        if last > end:
            # All that came before the cut may have been trimmed: then its end is where devices have been.
            last = reached or max((place for _, place in cursors if place <= end), default=0)
        if last:
            yield End(user_id, entry_id(last))
        for some in in_parts([(device, entry_id(min(place, last))) for device, place in cursors]):
            yield Cursors(user_id, some)
        for some in in_parts([pair async for pair in self._fields(user_id, b"files")]):
            yield Files(user_id, some)
        for some in in_parts([pair async for pair in self._fields(user_id, b"sent") if pair[0] != TOTAL]):
            yield Sent(user_id, list(some))
        for some in in_parts([pair async for pair in self._fields(user_id, b"marks")]):
            yield Marks(user_id, some)

    async def _crossing(self, user_id: int, cut: Cut, recent: dict[int, set[bytes]]) -> list[Stored]:
        """What came to a mailbox of a cluster soon after the cut, but to the other user's before it.

        Both users' mailboxes are asked the same, so both have such a message, or none. `recent` keeps the
        digests of what came to whom before the cut.
        """
        found: list[Stored] = []
        after, end = cut.end(user_id), (cut.ms + self._slack) << 32
        while entries := await self._entries(user_id, after, end):
            after = position(entries[-1][0])
            for entry, fields in entries:
                message = entry_parts(fields[1])[2]
                between = _between(message)
                other = between.targetid if between.userid == user_id else between.userid
                if other not in recent:
                    recent[other] = await self._recent(other, cut)
                if other != user_id and hashlib.sha256(message).digest() in recent[other]:
                    found.append((entry, fields))
        return found

    async def _recent(self, user_id: int, cut: Cut) -> set[bytes]:
        found, after, end = set(), (cut.ms - self._slack) << 32, cut.end(user_id)
        while entries := await self._entries(user_id, after, end):
            after = position(entries[-1][0])
            found |= {hashlib.sha256(entry_parts(fields[1])[2]).digest() for _, fields in entries}
        return found

    async def _entries(self, user_id: int, after: int, end: int) -> list[Stored]:
        start, stop = b"(" + entry_id(after), entry_id(end)
        found = await self._link.call(b"XRANGE", keys.part(user_id, b"mail"), start, stop, b"COUNT", _ENTRIES)
        return [(entry, fields) for entry, fields in found]

    async def _fields(self, user_id: int, part: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """A hash beside a record, each field once: what is read in pages may come twice."""
        cursor, seen = b"0", set()
        while True:
            cursor, found = await self._link.call(
                b"HSCAN", keys.part(user_id, part), cursor, b"COUNT", FIELDS
            )
            for field, value in zip(found[::2], found[1::2], strict=True):
                if field not in seen:
                    seen.add(field)
                    yield field, value
            if cursor == b"0":
                return

    async def _others(self, newest: int, part: bytes) -> AsyncIterator[tuple[int, list[int]]]:
        """Of all users the members of a set of other users, some at a time."""
        for user_id in range(1, newest + 1):
            found = map(int, await self._link.call(b"SMEMBERS", keys.part(user_id, part)))
            others = sorted(other for other in found if other <= newest)
            for start in range(0, len(others), FIELDS):
                yield user_id, others[start : start + FIELDS]

    async def _device(self, key: bytes) -> Device | None:
        fields: list[bytes] = await self._link.call(b"HGETALL", key)
        if not fields:
            return None
        device = keys.id_of_device(key)
        expires = int(await self._link.call(b"PEXPIRETIME", key))
        user = int(dict(zip(fields[::2], fields[1::2], strict=True)).get(b"user", 0))
        if user and not await self._link.call(b"SISMEMBER", keys.part(user, b"devices"), device):
            user = 0
        return Device(device, fields, expires, user)

    async def _repeat(self, key: bytes, cut: Cut) -> Repeat | None:
        """The key of what was stored before the cut; by a later one, a repeat would be taken for stored."""
        expires = int(await self._link.call(b"PEXPIRETIME", key))
        stored = expires - REPEAT_LIFE * 1000
        if stored >= cut.ms or expires - cut.ms <= RETRY_LIFE * 1000:
            return None
        return Repeat(key, expires)

    # Writing.

    async def begin(self, what: bytes) -> bool:
        """Whether `what` may be restored: there are no users yet, or it is what was begun before."""
        begun = await self._link.call(b"GET", keys.RESTORING)
        if begun != what and (begun is not None or await self._link.call(b"EXISTS", keys.USER_COUNTER)):
            return False
        await self._link.write(b"SET", keys.RESTORING, what)
        return True

    async def finish(self) -> None:
        """All that was begun is there."""
        await self._link.write(b"DEL", keys.RESTORING)

    async def is_begun(self) -> bool:
        """Whether something was begun to be restored, and did not come to its end."""
        return bool(await self._link.call(b"EXISTS", keys.RESTORING))

    async def put(self, item: Item) -> None:
        """Write an item; again is no change. Those of one mailbox come one after the other."""
        match item:
            case Counter():
                await self._link.write(b"SET", keys.USER_COUNTER, item.newest)
            case User():
                await self._put_user(item)
            case Mail():
                await self._put_mail(item)
            case End():
                await self._link.script(_PUT_END, keys.user(item.user), item.last)
            case Cursors():
                await self._link.write(b"HSET", keys.part(item.user, b"cursors"), *item.fields)
            case Files():
                await self._link.write(b"HSET", keys.part(item.user, b"files"), *item.fields)
            case Sent():
                await self._link.script(_PUT_SENT, keys.user(item.user), *item.fields)
            case Added():
                await gather(self._put_added(item.user, other) for other in item.others)
            case Blocked():
                await self._link.write(b"SADD", keys.part(item.user, b"blocked"), *item.others)
                await self._link.write(b"SREM", keys.part(item.user, b"in"), *item.others)  # added in vain
            case Marks():
                await self._link.write(b"HSET", keys.part(item.user, b"marks"), *item.fields)
            case Device():
                await self._put_device(item)
            case Repeat():
                await self._link.write(b"SET", item.key, b"", b"PXAT", item.expires)

    async def _put_user(self, user: User) -> None:
        await self._link.write(b"HSET", keys.user(user.id), *user.fields)
        name = dict(zip(user.fields[::2], user.fields[1::2], strict=True))[b"username"]
        await self._link.write(b"SET", keys.name(name_key(name.decode())), user.id, b"NX")

    async def _put_mail(self, mail: Mail) -> None:
        args: list[bytes | int] = []
        for entry, fields in mail.entries:
            args += (entry, len(fields), *fields)
        await self._link.script(_PUT_MAIL, keys.user(mail.user), *args)

    async def _exists(self, user_id: int) -> bool:
        return bool(await self._link.call(b"EXISTS", keys.user(user_id)))

    async def _put_added(self, user_id: int, other: int) -> None:
        if await self._exists(user_id) and await self._exists(other):
            await self._link.write(b"SADD", keys.part(other, b"in"), user_id)
            await self._link.write(b"SADD", keys.part(user_id, b"out"), other)

    async def _put_device(self, device: Device) -> None:
        if device.expires <= await self._now():
            return
        key = keys.device(device.id.decode())
        await self._link.script(_PUT_HASH, key, device.expires, *device.fields)
        if device.user and await self._exists(device.user):
            await self._link.write(b"SADD", keys.part(device.user, b"devices"), device.id)
