"""How much room the disk of a directory has, asked in a thread: a network's disk may hang.

What is refused when there is too little of it is decided elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from chatsvc.tasks import Clock, Pending, gather, spawn
from chatsvc.wire.limits import GIB, MIB, Limits

log = Logger()

#: Seconds within which a disk must answer.
PATIENCE = 2.0
#: Seconds between two looks at the disks, and between two while less than `NEAR` bytes more than must stay
#: free are left on the store's.
LOOK_INTERVAL = 1.0
NEAR_INTERVAL = 0.1
NEAR = GIB
#: Seconds for which a disk that fills up again is not told of again.
QUIET = 60.0
_LATE = f"its disk did not answer within {PATIENCE:g} s"


class Room(NamedTuple):
    """The space on a disk, in bytes: what may still be written, and what there is in all."""

    free: int
    size: int


class Disk:
    """The disk of one directory, asked once at a time: one that hangs takes one thread, not all of them."""

    def __init__(self, directory: Path, threads: ThreadPool, reactor: Any) -> None:
        """Whose the `threads` are starts and stops them."""
        self._directory = directory
        self._threads = threads
        self._reactor = reactor
        self._asked: float | None = None  # when, in seconds, if it has not answered yet
        self._waiting: list[Pending[Room]] = []

    async def room(self) -> Room:
        """The room that there is now. Raises OSError, also for a disk that takes longer than `PATIENCE`."""
        now = self._reactor.seconds()
        if self._asked is None:
            self._asked = now
            spawn(self._ask(), "asking a disk for its room")
        left = self._asked + PATIENCE - now
        if left <= 0:
            raise OSError(_LATE)
        room: Pending[Room] = Pending()
        self._waiting.append(room)
        timer = self._reactor.callLater(left, room.fail, OSError(_LATE))
        try:
            return await room
        finally:
            if timer.active():
                timer.cancel()

    async def _ask(self) -> None:
        outcome: Room | OSError
        try:
            usage = await deferToThreadPool(self._reactor, self._threads, shutil.disk_usage, self._directory)
            outcome = Room(usage.free, usage.total)
        except OSError as error:
            outcome = error
        self._asked = None
        waiting, self._waiting = self._waiting, []
        for room in waiting:
            if isinstance(outcome, Room):
                room.succeed(outcome)
            else:
                room.fail(outcome)


class Full:
    """Which disks have too little room for more: plain attributes, for each message looks at one."""

    __slots__ = ("files", "store")

    def __init__(self) -> None:
        self.files = False
        self.store = False


class HasRoom(Protocol):
    """A `Disk`, or what stands for one."""

    async def room(self) -> Room:
        """The room that there is now. Raises OSError."""


class Watch:
    """Says which of the two disks are full (``docs/architecture.md``).

    It looks each second, and ten times a second while little is left on the store's: what is written fast
    must not fill that before it is seen.
    """

    def __init__(
        self, clock: Clock, full: Full, limits: Callable[[], Limits], files: HasRoom, store: HasRoom | None
    ) -> None:
        """`limits` gives those that hold now; `store` is None where the store's disk is not ours to watch."""
        self._clock = clock
        self._full = full
        self._limits = limits
        self._files = files
        self._store = store
        self._told: dict[str, float] = {}  # when it was logged that a disk is full
        self._due = clock.seconds() + LOOK_INTERVAL
        self._looks = LoopingCall(self._look_if_due)
        self._looks.clock = clock  # type: ignore[assignment]  # a Clock will do

    def start(self) -> None:
        """Begin to look."""
        self._looks.start(NEAR_INTERVAL, now=False).addErrback(
            lambda failure: log.failure("Nobody looks at the disks any more", failure=failure)
        )

    def stop(self) -> None:
        """Stop to."""
        if self._looks.running:
            self._looks.stop()

    def _look_if_due(self) -> None:
        if self._clock.seconds() >= self._due:
            self._due = self._clock.seconds() + LOOK_INTERVAL
            spawn(self.look(), "looking at the disks")

    async def look(self) -> None:
        """Look once; a disk that does not tell is taken for as full as it was."""
        await gather((self._look_at_files(), self._look_at_store()))

    async def _look_at_files(self) -> None:
        room = await self._room(self._files)
        if room is not None:
            least = room.size * self._limits().files_floor // 100
            self._full.files = self._judge("files", room.free, least, self._full.files)

    async def _look_at_store(self) -> None:
        room = None if self._store is None else await self._room(self._store)
        if room is not None:
            least = self._limits().store_floor
            self._full.store = self._judge("the store", room.free, least, self._full.store)
            if room.free < least + NEAR:
                self._due = self._clock.seconds() + NEAR_INTERVAL / 2

    @staticmethod
    async def _room(disk: HasRoom) -> Room | None:
        try:
            return await disk.room()
        except OSError:
            return None  # /readyz says so

    def _judge(self, what: str, free: int, least: int, was_full: bool) -> bool:
        """Whether a disk is full; the log says when that changes, but not again and again."""
        now, is_full = self._clock.seconds(), free < least
        if is_full and not was_full and now - self._told.get(what, -QUIET) >= QUIET:
            self._told[what] = now
            log.error(
                "The disk of {what} has {free} MiB left, {least} MiB must stay free. More is refused",
                what=what,
                free=free // MIB,
                least=least // MIB,
            )
        elif was_full and not is_full:
            log.info("The disk of {what} has room again: {free} MiB", what=what, free=free // MIB)
        return is_full
