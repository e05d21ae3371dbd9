"""How much room the disk of a directory has, asked in a thread: a network's disk may hang.

What follows from too little of it is decided elsewhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from chatsvc.tasks import Pending, spawn

#: Seconds within which a disk must answer.
PATIENCE = 2.0
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
