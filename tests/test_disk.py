"""How much room a disk has: a real one, and one that hangs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from chatsvc.disk import PATIENCE, Disk
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
