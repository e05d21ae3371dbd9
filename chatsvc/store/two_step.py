"""Storing messages in a cluster, where the two mailboxes may be on two servers: the sender's first.

A message that was stored in its sender's mailbox is *pending* there until it is in its target's, and
whoever finds it pending brings it there: who sent it, at a repeat, or a sweep (``docs/adr/0015-cluster.md``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatsvc.store import keys
from chatsvc.store.append import (
    LUA_DELIVER,
    LUA_INDEX,
    QUEUE_BYTES,
    QUEUE_MESSAGES,
    REPEAT_LIFE,
    Outgoing,
    Queue,
    Waiting,
    entry_parts,
)
from chatsvc.store.cluster import Router
from chatsvc.store.errors import Redirected, TryAgain, Unavailable
from chatsvc.store.link import Link
from chatsvc.store.script import Script
from chatsvc.store.sent import LUA_COUNT
from chatsvc.tasks import Clock, Turn, gather, pause, spawn
from chatsvc.wire.errors import Refusal

log = Logger()

#: Seconds between two tries of a node to bring what it could not bring when it was sent.
RETRY_INTERVAL = 1
#: Seconds between two sweeps of the whole cluster for what a crash left pending; one node does it at a time.
SWEEP_INTERVAL = 60
#: What is younger, in ms, is still being brought by the node that took it.
SWEEP_AGE = 10_000
#: Keys that a sweep looks at in one call, and records that it reads; and its pause after each, in seconds.
_SCANNED = 500
_READ = 100
_SWEEP_PAUSE = 0.01

#: The sender's side. Per message: device, repeat, its life, target, text, file, what it brings; all as for
#: `append`.
#: The keys that make repeats known come last.
_FIRST = Script(
    LUA_DELIVER
    + LUA_INDEX
    + LUA_COUNT
    + """
local results = {}
local repeats = #KEYS - (#ARGV - 1) / 7
publishing(function()
  for i = 2, #ARGV, 7 do
    local again, target, text, file = ARGV[i + 1], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    local brought = ARGV[i + 6]
    local result = 'stored'
    repeats = repeats + 1
    if redis.call('SISMEMBER', devices, ARGV[i]) == 0 and redis.call('EXISTS', KEYS[repeats]) == 0 then
      result = 'unbound'
    elseif brought ~= '' and not count(KEYS[1], brought, redis.call('EXISTS', KEYS[repeats]) == 1) then
      result = 'too much'
    elseif redis.call('SET', KEYS[repeats], '', 'NX', 'EX', ARGV[i + 2]) then
      local id = deliver(KEYS[1], ARGV[i], text)
      index(KEYS[1], file)
      if '{u:' .. target .. '}' ~= KEYS[1] then
        local record = concat({id, target, file, text}, '\\n')
        redis.call('HSET', pending, again, record)
        result = 'pending'
      end
    elseif redis.call('HEXISTS', pending, again) == 1 then
      result = 'pending'
    end
    results[#results + 1] = result
  end
end)
return results
""",
    "devices",
    "mail",
    "last",
    "files",
    "sent",
    "pending",
)
#: The target's side. Per message: text, file. ARGV[2] is how long a repeat of
#: this step is recognised by the keys that come last. A user who was deleted meanwhile gets nothing.
_SECOND = Script(
    LUA_DELIVER
    + LUA_INDEX
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
local repeats = #KEYS - (#ARGV - 2) / 2
publishing(function()
  for i = 3, #ARGV, 2 do
    repeats = repeats + 1
    if redis.call('SET', KEYS[repeats], '', 'NX', 'EX', ARGV[2]) then
      deliver(KEYS[1], '', ARGV[i])
      index(KEYS[1], ARGV[i + 1])
    end
  end
end)
""",
    "mail",
    "last",
    "files",
)
SCRIPTS = (_FIRST, _SECOND)


class TwoStep:
    """Appends to mailboxes that may be on two servers, in groups for each.

    A sender has one group on its way, and so has a target: the order in which a sender's messages came is
    their order in both mailboxes.
    """

    def __init__(self, router: Router, clock: Clock) -> None:
        self._router = router
        self._clock = clock
        self._turn = Turn(clock)
        self._senders: dict[int, Queue] = {}
        self._targets: dict[int, Queue] = {}
        self._messages = 0
        self._bytes = 0
        self._unsure: set[int] = set()  # senders with messages of which this node does not know
        self._busy = False
        self._sweep_at = clock.seconds() + SWEEP_INTERVAL
        self._finisher = LoopingCall(self._finish_if_idle)
        self._finisher.clock = clock  # type: ignore[assignment]  # a Clock will do

    def start(self) -> None:
        """Begin to finish what was left."""
        self._finisher.start(RETRY_INTERVAL, now=False).addErrback(
            lambda failure: log.failure("Nobody looks for pending messages any more", failure=failure)
        )

    def stop(self) -> None:
        """Leave it to others."""
        if self._finisher.running:
            self._finisher.stop()

    async def append(self, outgoing: Outgoing) -> None:
        """As `Appends.append`."""
        if self._messages >= QUEUE_MESSAGES or self._bytes >= QUEUE_BYTES:
            raise Unavailable
        size = len(outgoing.message)
        self._messages += 1
        self._bytes += size
        try:
            waiting = Waiting(outgoing, self._clock.seconds())
            self._lane(self._senders, outgoing.sender, self._first).add(waiting)
            await waiting
        finally:
            self._messages -= 1
            self._bytes -= size

    async def _first(self, sender: int, group: list[Waiting]) -> None:
        going = await self._with_target(sender, group)
        if not going:
            return
        args: list[bytes | str | int] = []
        for waiting in going:
            out = waiting.outgoing
            args += (out.device, waiting.repeat, waiting.repeat_life, out.target, waiting.text)
            args += (waiting.file, waiting.brought)
        again = tuple(keys.part(sender, b"repeat:" + waiting.repeat.encode()) for waiting in going)
        expires = going[0].expires
        with self._left_over({sender}):
            results = await self._router.script(_FIRST, keys.user(sender), *args, also=again, expires=expires)
        for waiting, result in zip(going, results, strict=True):
            if result == b"pending":
                self._lane(self._targets, waiting.outgoing.target, self._second).add(waiting)
            else:
                waiting.settle(result)

    async def _with_target(self, sender: int, group: list[Waiting]) -> list[Waiting]:
        """Those of the group whose target takes messages of this sender; the others are told."""
        targets = list({waiting.outgoing.target for waiting in group})
        outcomes = await gather(self._takes(target, sender) for target in targets)
        found = dict(zip(targets, outcomes, strict=True))
        going = []
        for waiting in group:
            outcome = found[waiting.outgoing.target]
            if outcome == b"" or (outcome == b"blocked" and await self._is_repeat(waiting)):
                going.append(waiting)
            elif isinstance(outcome, bytes):
                waiting.settle(outcome)
            else:
                waiting.fail(outcome)
        return going

    async def _takes(self, target: int, sender: int) -> bytes | Refusal:
        """Empty if a user takes messages of a sender, else why not, as the scripts say it."""
        if target == sender:
            return b""
        try:
            blocked = keys.part(target, b"blocked")
            there_are = await self._router.call(b"EXISTS", keys.user(target), blocked)
            if there_are == 0:
                return b"no target"
            if there_are == 2 and await self._router.call(b"SISMEMBER", blocked, sender):
                return b"blocked"
            return b""
        except Refusal as refusal:
            return refusal  # that one's server is away; others' may not be

    async def _is_repeat(self, waiting: Waiting) -> bool:
        key = keys.part(waiting.outgoing.sender, b"repeat:" + waiting.repeat.encode())
        return bool(await self._router.call(b"EXISTS", key))

    async def _second(self, target: int, group: list[Waiting]) -> None:
        args: list[bytes | str | int] = [REPEAT_LIFE]
        for waiting in group:
            args += (waiting.text, waiting.file)
        got = tuple(keys.got(target, waiting.outgoing.sender, waiting.repeat) for waiting in group)
        expires = group[0].expires
        with self._left_over({waiting.outgoing.sender for waiting in group}):
            await self._router.script(_SECOND, keys.user(target), *args, also=got, expires=expires)
        for waiting in group:
            waiting.settle(b"stored")
        for sender in {waiting.outgoing.sender for waiting in group}:
            repeats = [waiting.repeat for waiting in group if waiting.outgoing.sender == sender]
            spawn(self._forget(sender, repeats), "forgetting what is not pending any more")

    async def _forget(self, sender: int, repeats: list[str]) -> None:
        try:
            await self._router.write(b"HDEL", keys.part(sender, b"pending"), *repeats)
        except Refusal:
            log.debug("A message stays pending; the next sweep finds that it is not")

    def _lane(
        self, lanes: dict[int, Queue], user_id: int, commit: Callable[[int, list[Waiting]], Awaitable[None]]
    ) -> Queue:
        """The user's queue; those that have nothing to do are let go."""
        queue = lanes.get(user_id)
        if queue is None:
            if len(lanes) > QUEUE_MESSAGES:
                for idle in [each for each, known in lanes.items() if not known.busy]:
                    del lanes[idle]
            queue = lanes[user_id] = Queue(partial(commit, user_id), self._turn)
        return queue

    # What was left pending.

    @contextmanager
    def _left_over(self, senders: set[int]) -> Iterator[None]:
        """If what is done here fails, look soon whether these senders have pending messages."""
        try:
            yield
        except Refusal:
            if len(self._unsure) < QUEUE_MESSAGES:  # beyond it, the sweep finds them
                self._unsure |= senders
            raise

    def _finish_if_idle(self) -> None:
        if not self._busy:
            self._busy = True
            spawn(self._finish(), "looking for pending messages")

    async def _finish(self) -> None:
        try:
            for sender in list(self._unsure):
                with suppress(Refusal):  # it is tried again
                    await self._bring(keys.part(sender, b"pending"), None)
                    self._unsure.discard(sender)
            if self._clock.seconds() >= self._sweep_at:
                self._sweep_at = self._clock.seconds() + SWEEP_INTERVAL
                await self._sweep()
        finally:
            self._busy = False

    async def _sweep(self) -> None:
        """Sweep the whole cluster, unless another node does."""
        try:
            life = SWEEP_INTERVAL - RETRY_INTERVAL
            if await self._router.write(b"SET", keys.SWEEPER, b"", b"NX", b"EX", life):
                await gather(map(self.sweep, self._router.links()))
        except Refusal as refusal:
            log.debug("No sweep for pending messages: {why}", why=refusal.info)

    async def sweep(self, link: Link) -> int:
        """Bring to their targets what is pending on one server; gives how many messages that were."""
        seconds, _ = await link.call(b"TIME")
        before = int(seconds) * 1000 - SWEEP_AGE
        brought, cursor = 0, b"0"
        try:
            while True:
                cursor, found = await link.call(
                    b"SCAN", cursor, b"MATCH", keys.PENDING_PATTERN, b"COUNT", _SCANNED, b"TYPE", b"hash"
                )
                for key in found:
                    brought += await self._bring(key, before)
                if cursor == b"0":
                    break
                await pause(self._clock, _SWEEP_PAUSE)
        except (Redirected, TryAgain) as why:
            log.info("A sweep for pending messages is cut short: {why}", why=str(why))
        if brought:
            log.info("{count} pending messages were brought to their targets", count=brought)
        return brought

    async def _bring(self, key: bytes, before: int | None) -> int:
        """Bring to their targets a sender's pending messages, or those from before a time (ms)."""
        brought, cursor, sender = 0, b"0", keys.user_of(key)
        while True:
            cursor, found = await self._router.call(b"HSCAN", key, cursor, b"COUNT", _READ)
            records = sorted(
                (record.split(b"\n", 3), repeat)
                for repeat, record in zip(found[::2], found[1::2], strict=True)
            )
            for (entry, target, file, text), repeat in records:
                if before is None or int(entry.partition(b"-")[0]) < before:
                    name, md5, place = file.split(b" ") if file else [b""] * 3
                    indexed = (name.decode(), md5.decode(), place) if file else None
                    _, flags, message = entry_parts(text)
                    outgoing = Outgoing(sender, int(target), "", repeat.decode(), message, flags, indexed)
                    waiting = Waiting(outgoing, self._clock.seconds())
                    self._lane(self._targets, outgoing.target, self._second).add(waiting)
                    await waiting
                    brought += 1
            if cursor == b"0":
                return brought
            await pause(self._clock, _SWEEP_PAUSE)
