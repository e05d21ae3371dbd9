"""How much room a disk has: a real one, and one that hangs; and when it is too little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.threadpool import ThreadPool

from chatsvc.disk import NEAR_INTERVAL, PATIENCE, QUIET, Disk, Full, Room, Watch
from chatsvc.wire.limits import GIB, MIB, Limits
from tests.fakes import Running
from tests.stores import driven, reactor


@pytest.fixture
def threads() -> Iterator[ThreadPool]:
    pool = ThreadPool(0, 1)
    pool.start()
    yield pool
    pool.stop()


@driven
async def test_a_disk_tells_its_room(tmp_path: Path, threads: ThreadPool) -> None:
    room = await Disk(tmp_path, threads, reactor).room()
    assert 0 < room.free <= room.size


@driven
async def test_a_directory_that_is_gone_has_none(tmp_path: Path, threads: ThreadPool) -> None:
    disk = Disk(tmp_path / "later", threads, reactor)
    with pytest.raises(FileNotFoundError):
        await disk.room()
    (tmp_path / "later").mkdir()
    assert (await disk.room()).free


class SlowThreads(Clock):
    """Threads that do their work when the test says so; they and the reactor are one."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Callable[[], None]] = []

    def callInThreadWithCallback(self, on_result: Any, function: Any, *args: Any) -> None:  # noqa: N802
        """As `ThreadPool` has it."""
        self.work.append(lambda: on_result(True, function(*args)))

    def callFromThread(self, function: Any, *args: Any) -> None:  # noqa: N802
        """As a reactor has it."""
        function(*args)


@pytest.fixture
def slow() -> Any:
    return SlowThreads()


def refused(running: Running[Any]) -> bool:
    with pytest.raises(OSError, match=r"^its disk did not answer within 2 s$"):
        running.result()
    return True


def test_a_disk_that_hangs_keeps_nobody_and_takes_one_thread(tmp_path: Path, slow: Any) -> None:
    disk = Disk(tmp_path, slow, slow)
    first = Running(disk.room())
    slow.advance(PATIENCE / 2)
    second = Running(disk.room())
    assert not first.done
    slow.advance(PATIENCE / 2)
    assert refused(first)
    assert refused(second)
    assert refused(Running(disk.room()))
    assert len(slow.work) == 1
    assert slow.getDelayedCalls() == []


def test_a_disk_that_hung_is_asked_anew(tmp_path: Path, slow: Any) -> None:
    disk = Disk(tmp_path, slow, slow)
    late = Running(disk.room())
    slow.advance(PATIENCE)
    assert refused(late)
    slow.work.pop()()
    again = Running(disk.room())
    slow.work.pop()()
    assert again.result().size
    assert slow.getDelayedCalls() == []


def test_who_asks_together_is_told_together(tmp_path: Path, slow: Any) -> None:
    disk = Disk(tmp_path, slow, slow)
    both = [Running(disk.room()), Running(disk.room())]
    slow.work.pop()()
    assert both[0].result() == both[1].result()
    assert slow.work == []


# When there is too little room.


class FakeDisk:
    """A disk of 100 GiB with as much room as the test says, in bytes; None if it does not tell."""

    def __init__(self) -> None:
        self.free: int | None = 50 * GIB
        self.looks = 0

    async def room(self) -> Room:
        self.looks += 1
        if self.free is None:
            raise OSError("its disk did not answer")
        return Room(self.free, 100 * GIB)


class Watched:
    """The disks of files and store, looked at by a fake clock."""

    def __init__(self) -> None:
        clock: Any = Clock()
        self.clock, self.full, self.limits = clock, Full(), Limits()
        self.files, self.store = FakeDisk(), FakeDisk()
        self.watch = Watch(clock, self.full, lambda: self.limits, self.files, self.store)
        self.watch.start()

    def look(self, files: int | None = 50 * GIB, store: int | None = 50 * GIB) -> tuple[bool, bool]:
        """Which are full, a second after they have so much room."""
        self.files.free, self.store.free = files, store
        self.clock.pump([NEAR_INTERVAL] * 11)
        return self.full.files, self.full.store


def test_each_disk_is_full_below_its_own_floor() -> None:
    watched = Watched()
    assert watched.look() == (False, False)
    assert watched.look(files=5 * GIB, store=64 * MIB) == (False, False)
    assert watched.look(files=5 * GIB - 1, store=64 * MIB) == (True, False)
    assert watched.look(files=5 * GIB, store=64 * MIB - 1) == (False, True)
    assert watched.look(files=0, store=0) == (True, True)
    assert watched.look() == (False, False)


@pytest.mark.parametrize(
    ("free", "looks"), [(64 * MIB + GIB, 10), (64 * MIB + GIB - 1, 100), (0, 100), (None, 10)]
)
def test_the_less_there_is_the_more_often_it_looks(free: int | None, looks: int) -> None:
    watched = Watched()
    watched.look(store=free)
    before = watched.store.looks
    watched.clock.pump([NEAR_INTERVAL] * 100)
    assert looks - 2 <= watched.store.looks - before <= looks


def test_the_floors_are_those_that_hold_now() -> None:
    watched = Watched()
    watched.limits = Limits(files_floor=51, store_floor=50 * GIB + 1)
    assert watched.look() == (True, True)
    watched.limits = Limits(files_floor=0, store_floor=0)
    assert watched.look(files=0, store=0) == (False, False)


def test_a_disk_that_does_not_tell_is_as_full_as_it_was() -> None:
    watched = Watched()
    assert watched.look(files=None, store=0) == (False, True)
    assert watched.look(files=0, store=None) == (True, True)
    assert watched.look(files=None, store=None) == (True, True)
    assert watched.look() == (False, False)


def test_the_store_of_others_is_not_watched() -> None:
    full, files = Full(), FakeDisk()
    clock: Any = Clock()
    Watch(clock, full, Limits, files, None).start()
    files.free = 0
    clock.pump([NEAR_INTERVAL] * 11)
    assert (full.files, full.store) == (True, False)


def test_nobody_looks_after_the_stop() -> None:
    watched = Watched()
    watched.watch.stop()
    assert watched.look(files=0, store=0) == (False, False)
    assert watched.clock.getDelayedCalls() == []


def test_the_log_says_so_once_a_minute() -> None:
    watched = Watched()
    with capturedLogs() as events:
        for _ in range(5):
            watched.look(store=10 * MIB)
            watched.look()
        assert [formatEvent(event) for event in events[:2]] == [
            "The disk of the store has 10 MiB left, 64 MiB must stay free. More is refused",
            "The disk of the store has room again: 51200 MiB",
        ]
        assert sum("10 MiB left" in formatEvent(event) for event in events) == 1
        watched.clock.advance(QUIET)
        watched.look(store=10 * MIB)
        assert sum("10 MiB left" in formatEvent(event) for event in events) == 2
