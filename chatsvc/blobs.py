"""The blob directory: whole files under their SHA-256, complete and on the disk, or not there at all.

Who may fetch a blob, and which message refers to it, is the store's business, not known here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")
log = Logger()

#: Seconds after which an unfinished upload of any node counts as left over.
LEFTOVER_AGE = 24 * 3600.0

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NODE = re.compile(r"[A-Za-z0-9_-]+")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class BlobMissing(Exception):  # noqa: N818 - it is an answer, not a fault
    """The directory does not hold that blob, or not all of it."""


class StoredBlob(NamedTuple):
    """What `Upload.finish` has put on the disk: the digests in lower-case hexadecimal, the size in bytes."""

    sha256: str
    md5: str
    size: int


class Blobs:
    """The blob directory of this node, which other nodes may share (``docs/architecture.md``).

    All file work is done in `threads`, whose owner starts and stops them. What the disk refuses comes
    as OSError.
    """

    def __init__(self, directory: Path, node: str, threads: ThreadPool, reactor: IReactorFromThreads) -> None:
        """Take the `directory` and the name of this `node`, which no other node that shares it has.

        Raises ValueError for a name with other characters than letters, digits, ``_`` and ``-``.
        """
        self._layout = Layout(directory, node)
        self._worker = Worker(reactor, threads)

    async def prepare(self) -> None:
        """Make the directory, prove that blobs can be written, remove what unfinished uploads left.

        To be called once, before the first upload. Left over are all temporary files of this node's
        name, and those of any node that nothing was written to for `LEFTOVER_AGE`.
        """
        await self._worker.run(self._layout.prepare)

    def upload(self) -> Upload:
        """A new blob, to be written."""
        return Upload(self._layout, self._worker)

    async def put(self, data: bytes) -> StoredBlob:
        """Store `data`, small enough to be in memory already, as an upload would."""
        upload = self.upload()
        await upload.write(data)
        return await upload.finish()

    async def get(self, sha256: str) -> bytes:
        """The whole blob, for those that fit into memory.

        Raises `BlobMissing`, also for bytes that are no longer those that were stored: what is read
        here becomes part of a frame, and a damaged one would break it.
        """
        return await self._worker.run(_read_whole, self._layout.whereabouts(sha256), sha256)

    async def renew(self, sha256: str, size: int) -> bool:
        """Whether the blob is there, with that size; its age starts anew.

        To be asked before another message refers to it: what nothing refers to is collected by its age.
        """
        return await self._worker.run(_renew, self._layout.blob(sha256), size)

    async def open(self, sha256: str, offset: int, length: int) -> Download:
        """The `length` bytes from `offset` on; to be closed by the caller.

        Raises `BlobMissing`, also if the file does not reach that far: the caller knows the size that
        was stored and cuts the range to it.
        """
        places = self._layout.whereabouts(sha256)
        descriptor = await self._worker.run(_open_range, places, offset, length)
        return Download(descriptor, offset, length, self._worker)


class Upload:
    """One blob on its way in: await each `write`, then `finish`, or `abandon` it at any time.

    After an OSError the temporary file is gone already, and every later step raises that error again.
    """

    def __init__(self, layout: Layout, worker: Worker) -> None:
        self._layout = layout
        self._worker = worker
        self._lock = Lock()  # `abandon` may come while a write is in its thread
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._size = 0
        self._temporary = layout.temporary()
        self._descriptor: int | None = None  # opened by the first step
        self._over: Exception | None = None  # why no further step is possible

    async def write(self, data: bytes) -> None:
        """Append `data`; the wait is the back-pressure. Raises OSError."""
        await self._worker.run(self._write, data)

    @property
    def md5(self) -> str:
        """The MD5 of what was written so far."""
        return self._md5.hexdigest()

    async def finish(self) -> StoredBlob:
        """Give the blob its name; when this returns, contents and name are on the disk.

        A blob that is there already stays as it is. Raises OSError; then nothing may refer to the blob.
        """
        return await self._worker.run(self._finish)

    async def abandon(self) -> None:
        """Remove the temporary file, once a write that is under way is done.

        May be called at any time and again; a finished blob stays.
        """
        await self._worker.run(self._abandon)

    def _write(self, data: bytes) -> None:
        with self._step() as descriptor:
            self._sha256.update(data)
            self._md5.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            self._size += len(data)

    def _finish(self) -> StoredBlob:
        with self._step() as descriptor:
            stored = StoredBlob(self._sha256.hexdigest(), self._md5.hexdigest(), self._size)
            _settle(descriptor, self._temporary, self._layout.blob(stored.sha256), stored.size)
            self._end(OSError("The upload is finished, nothing can be added to it."))
        return stored

    def _abandon(self) -> None:
        with self._lock:
            self._end(self._over or OSError("The upload was abandoned, nothing can be added to it."))

    @contextmanager
    def _step(self) -> Iterator[int]:
        """The open temporary file, for one step in a thread; a step that fails is the last."""
        with self._lock:
            if self._over is not None:
                raise self._over
            try:
                if self._descriptor is None:
                    self._descriptor = os.open(self._temporary, _NEW_FILE, 0o600)
                yield self._descriptor
            except Exception as error:
                self._end(error)
                raise

    def _end(self, reason: Exception) -> None:
        self._over = reason
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            finally:
                self._temporary.unlink(missing_ok=True)  # missing if it has become the blob


class Download:
    """A range of a blob on its way out; `Blobs.open` makes it."""

    def __init__(self, descriptor: int, offset: int, size: int, worker: Worker) -> None:
        #: The bytes that will come.
        self.size = size
        self._descriptor: int | None = descriptor
        self._offset = offset
        self._end = offset + size
        self._worker = worker
        self._lock = Lock()  # `close` may come while a read is in its thread

    async def read(self, most: int) -> bytes:
        """The next bytes, one to `most` of them; empty at the end, and after `close`.

        Raises `BlobMissing` if the file ends before the range does, and OSError.
        """
        return await self._worker.run(self._read, most)

    def close(self) -> None:
        """Give the file back, once a read that is under way is done; may be called again."""
        self._worker.run_later(self._close)

    def _read(self, most: int) -> bytes:
        with self._lock:
            wanted = min(most, self._end - self._offset)
            if self._descriptor is None or not wanted:
                return b""
            data = os.pread(self._descriptor, wanted, self._offset)
            if not data:
                raise BlobMissing(f"The blob ends at byte {self._offset} of the {self._end} promised.")
            self._offset += len(data)
            return data

    def _close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


class Worker(NamedTuple):
    """The way into the threads and back."""

    reactor: IReactorFromThreads
    threads: ThreadPool

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """What `work` gives or raises, in a thread."""
        if self.threads.joined:  # a stopped pool takes work and never does it
            raise OSError("The files cannot be reached any more: the server is shutting down.")
        return deferToThreadPool(self.reactor, self.threads, work, *args, **kwargs)

    def run_later(self, work: Callable[[], None]) -> None:
        """Have `work` done in a thread; a failure is logged. A stopped pool leaves it to the exit."""
        self.threads.callInThread(work)


class Layout:
    """The maker of every path in the directory; none has a part that came from a client."""

    def __init__(self, root: Path, node: str) -> None:
        if not _NODE.fullmatch(node):
            raise ValueError(f"A node's name has only the characters A-Z a-z 0-9 _ -, this is {node!r}.")
        self.root = root
        self._temporaries = root / "tmp"
        self._own = f"{node}."  # with the dot, which no name has: no node's is a prefix of another's

    def blob(self, sha256: str) -> Path:
        """Where the blob of that digest is, or will be. Raises ValueError for anything else."""
        if not _DIGEST.fullmatch(sha256):
            raise ValueError(f"A SHA-256 has 64 digits of 0-9 a-f, this is {sha256!r}.")
        return self.root / sha256[:2] / sha256[2:4] / sha256

    @staticmethod
    def is_digest(name: str) -> bool:
        """Whether a file of that name is a blob."""
        return _DIGEST.fullmatch(name) is not None

    def aside(self, sha256: str) -> Path:
        """Where a blob is while it is decided whether anything refers to it."""
        return self.root / "aside" / self.blob(sha256).name

    def whereabouts(self, sha256: str) -> tuple[Path, ...]:
        """Where to look for a blob: its place again at last, for it may have been put back meanwhile."""
        blob = self.blob(sha256)
        return blob, self.aside(sha256), blob

    def temporary(self) -> Path:
        """A new name for an unfinished upload of this node, on the file system of the blobs."""
        return self._temporaries / f"{self._own}{secrets.token_hex(16)}"

    def prepare(self) -> None:
        """`Blobs.prepare`, in a thread."""
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in (*reversed(missing), self._temporaries):
            _make_directory(path)
        now = self.probe()
        removed = 0
        with os.scandir(self._temporaries) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    continue
                with suppress(FileNotFoundError):  # another node cleans up at the same time
                    age = now - entry.stat(follow_symlinks=False).st_mtime
                    if entry.name.startswith(self._own) or age > LEFTOVER_AGE:
                        os.unlink(entry.path)
                        removed += 1
        if removed:
            log.info("Removed {count} unfinished uploads of an earlier run", count=removed)

    def probe(self) -> float:
        """Try what an upload does, and tell the time by the file system's clock, which dates its files."""
        probe = self.temporary()
        os.close(os.open(probe, _NEW_FILE, 0o600))
        now = probe.stat().st_mtime
        moved = self.root / f"{self._own}probe"
        os.rename(probe, moved)
        moved.unlink()
        return now


def _settle(descriptor: int, temporary: Path, blob: Path, size: int) -> None:
    """Move the temporary file to its name, durably, unless that blob is there."""
    _make_directory(blob.parent.parent)
    _make_directory(blob.parent)
    if not _renew(blob, size):
        os.fsync(descriptor)  # first: a name must never show what a power cut can take
        os.rename(temporary, blob)
    _sync_directory(blob.parent)  # in any case: who made the entry may not have come to it yet


def _renew(blob: Path, size: int) -> bool:
    """Whether `blob` is a file of that size, whose age starts anew; a link or a torn file is to be replaced.

    Renewed first and looked at then: a collector that takes it away in between is noticed here, and one
    that takes it away later notices its age.
    """
    try:
        os.utime(blob, follow_symlinks=False)
        found = blob.lstat()
    except (FileNotFoundError, PermissionError):  # not our own file, and so not ours to keep young
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _make_directory(path: Path) -> None:
    """See to it that `path` is there, and its entry on the disk, whoever has made it."""
    path.mkdir(0o700, exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_blob(places: tuple[Path, ...]) -> int:
    """A descriptor of the blob at the first of these places that has it. Raises `BlobMissing`."""
    for path in places:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in _NO_SUCH_FILE:
                raise
    raise BlobMissing(f"There is no blob {places[0].name}.")


def _read_whole(places: tuple[Path, ...], sha256: str) -> bytes:
    with os.fdopen(open_blob(places), "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BlobMissing(f"The blob {sha256} is damaged: its contents have another digest.")
    return data


def _open_range(places: tuple[Path, ...], offset: int, length: int) -> int:
    descriptor = open_blob(places)
    size = os.fstat(descriptor).st_size
    if not 0 <= offset <= offset + length <= size:
        os.close(descriptor)
        raise BlobMissing(f"The blob {places[0].name} has {size} bytes, not {length} from byte {offset} on.")
    return descriptor
