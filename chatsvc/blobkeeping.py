"""All blobs of the directory, for the operator's tools: listing, checking, and taking away what nobody needs.

Which blobs are needed is known to the store, not here.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, TypeVar

from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.threadpool import ThreadPool

from chatsvc.bloblayout import Layout, make_directory
from chatsvc.blobs import Worker, open_blob

T = TypeVar("T")


#: Parts of the directory in which `listing` gives it.
PARTS = 256


class Kept(NamedTuple):
    """A blob in the directory; the time is that of its last use for a message, in seconds since 1970."""

    sha256: str
    size: int
    used: float


class BlobKeeper:
    """The blob directory as a whole, beside running nodes (``docs/architecture.md``).

    All file work is done in `threads`. What the disk refuses comes as OSError.
    """

    def __init__(self, directory: Path, threads: ThreadPool, reactor: IReactorFromThreads) -> None:
        self._layout = Layout(directory, "upkeep")
        self._worker = Worker(reactor, threads)

    async def listing(self) -> AsyncIterator[list[Kept]]:
        """All blobs that are in their places, in `PARTS` lists, by ascending digest."""
        for number in range(PARTS):
            yield await self._worker.run(_list, self._layout.root / f"{number:02x}")

    async def now(self) -> float:
        """The clock of the file system, which dates the blobs; in seconds since 1970."""
        return await self._worker.run(self._layout.probe)

    async def size(self, sha256: str) -> int | None:
        """The size of a blob; None if there is none."""
        return await self._worker.run(_size, self._layout.whereabouts(sha256))

    async def is_sound(self, sha256: str) -> bool:
        """Whether a blob's contents have the digest that is its name. Raises `BlobMissing`."""
        return await self.in_file(sha256, lambda file: _digest(file) == sha256)

    async def in_file(self, sha256: str, work: Callable[[BufferedReader], T]) -> T:
        """What `work` gives, in a thread, for the open file of a blob. Raises `BlobMissing`."""
        return await self._worker.run(_in_file, self._layout, sha256, work)

    async def take_aside(self, sha256: str, unused_since: float) -> bool:
        """Whether the blob is aside now; not if it is gone, or was used after that time.

        There nodes still read it, but none can refer to it anew without uploading it again.
        """
        return await self._worker.run(self._take_aside, sha256, unused_since)

    def _take_aside(self, sha256: str, unused_since: float) -> bool:
        blob, aside = self._layout.blob(sha256), self._layout.aside(sha256)
        make_directory(aside.parent)
        try:
            if blob.lstat().st_mtime > unused_since:
                return False
            os.rename(blob, aside)
        except FileNotFoundError:
            return False
        # Looked at again where no node can renew it any more: one that did before has seen it in its place.
        if aside.lstat().st_mtime > unused_since:
            self._put_back(sha256)
            return False
        return True

    async def put_back(self, sha256: str) -> None:
        """Give a blob that is aside its place again, as one that was just used."""
        await self._worker.run(self._put_back, sha256)

    def _put_back(self, sha256: str) -> None:
        aside = self._layout.aside(sha256)
        os.utime(aside)  # it may replace one that was uploaded meanwhile, which is that young
        os.rename(aside, self._layout.blob(sha256))

    async def discard(self, sha256: str) -> None:
        """Delete a blob that is aside."""
        await self._worker.run(self._layout.aside(sha256).unlink)

    async def put_all_back(self) -> int:
        """Undo what a collector that was cut short has taken aside; gives how many blobs that were."""
        return await self._worker.run(self._put_all_back)

    def _put_all_back(self) -> int:
        left = _list_flat(self._layout.root / "aside")
        for kept in left:
            self._put_back(kept.sha256)
        return len(left)


def _list(directory: Path) -> list[Kept]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [kept for inner in sorted(directory.iterdir()) for kept in _list_flat(inner)]
    return []


def _list_flat(directory: Path) -> list[Kept]:
    found = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            with suppress(FileNotFoundError):
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode) and Layout.is_digest(entry.name):
                    found.append(Kept(entry.name, about.st_size, about.st_mtime))
    return found


def _size(places: tuple[Path, ...]) -> int | None:
    for path in places:
        with suppress(FileNotFoundError, NotADirectoryError):
            about = path.lstat()
            if stat.S_ISREG(about.st_mode):
                return about.st_size
    return None


def _in_file(layout: Layout, sha256: str, work: Callable[[BufferedReader], T]) -> T:
    with os.fdopen(open_blob(layout, sha256), "rb") as file:
        return work(file)


def _digest(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
