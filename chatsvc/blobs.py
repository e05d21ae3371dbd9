"""The blob directory: whole files under their SHA-256, complete and on the disk, or not there at all.

Who may fetch a blob, and which message refers to it, is the store's business, not known here.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from chatsvc.bloblayout import Layout, open_new, renew, settle, write_out

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes of an upload after which the disk is told to begin with them.
WRITE_OUT = 8 * 1024 * 1024

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
        return await self._worker.run(_read_whole, self._layout, sha256)

    async def renew(self, sha256: str, size: int) -> bool:
        """Whether the blob is there, with that size; its age starts anew.

        To be asked before another message refers to it: what nothing refers to is collected by its age.
        """
        return await self._worker.run(renew, self._layout.blob(sha256), size)

    async def open(self, sha256: str, offset: int, length: int) -> Download:
        """The `length` bytes from `offset` on; to be closed by the caller.

        Raises `BlobMissing`, also if the file does not reach that far: the caller knows the size that
        was stored and cuts the range to it.
        """
        descriptor = await self._worker.run(_open_range, self._layout, sha256, offset, length)
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
        self._written_out = 0  # how much of it the disk was told of
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
            if self._size - self._written_out >= WRITE_OUT:
                write_out(descriptor, self._written_out, self._size - self._written_out)
                self._written_out = self._size

    def _finish(self) -> StoredBlob:
        with self._step() as descriptor:
            stored = StoredBlob(self._sha256.hexdigest(), self._md5.hexdigest(), self._size)
            settle(descriptor, self._temporary, self._layout.blob(stored.sha256), stored.size)
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
                    self._descriptor = open_new(self._temporary)
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
        self._lock = Lock()  # `close` may come while a step is in its thread

    async def read(self, most: int) -> bytes:
        """The next bytes, one to `most` of them; empty at the end, and after `close`.

        Raises `BlobMissing` if the file ends before the range does, and OSError.
        """
        return await self._worker.run(self._read, most)

    @property
    def left(self) -> int:
        """The bytes that are still to come."""
        return self._end - self._offset

    async def send(self, socket: int, most: int) -> int:
        """Write the next bytes to a plain socket that does not block; gives how many, up to `most`, it took.

        Raises `BlobMissing` as `read` does, and OSError, which may come from the file or from the socket.
        """
        return await self._worker.run(self._send, socket, most)

    def close(self) -> None:
        """Give the file back, once a step that is under way is done; may be called again."""
        self._worker.run_later(self._close)

    def _read(self, most: int) -> bytes:
        with self._lock:
            wanted = min(most, self._end - self._offset)
            if self._descriptor is None or not wanted:
                return b""
            data = os.pread(self._descriptor, wanted, self._offset)
            self._advance(len(data))
            return data

    def _send(self, socket: int, most: int) -> int:
        with self._lock:
            start, end = self._offset, min(self._end, self._offset + most)
            while self._descriptor is not None and self._offset < end:
                try:
                    sent = os.sendfile(socket, self._descriptor, self._offset, end - self._offset)
                except BlockingIOError:
                    break  # it is full
                self._advance(sent)
            return self._offset - start

    def _advance(self, count: int) -> None:
        if not count:
            raise BlobMissing(f"The blob ends at byte {self._offset} of the {self._end} promised.")
        self._offset += count

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


def open_blob(layout: Layout, sha256: str) -> int:
    """A descriptor of the blob, wherever it is. Raises `BlobMissing`."""
    for path in layout.whereabouts(sha256):
        try:
            return layout.open(path)
        except OSError as error:
            if error.errno not in _NO_SUCH_FILE:
                raise
    raise BlobMissing(f"There is no blob {sha256}.")


def _read_whole(layout: Layout, sha256: str) -> bytes:
    with os.fdopen(open_blob(layout, sha256), "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BlobMissing(f"The blob {sha256} is damaged: its contents have another digest.")
    return data


def _open_range(layout: Layout, sha256: str, offset: int, length: int) -> int:
    descriptor = open_blob(layout, sha256)
    size = os.fstat(descriptor).st_size
    if not 0 <= offset <= offset + length <= size:
        os.close(descriptor)
        raise BlobMissing(f"The blob {sha256} has {size} bytes, not {length} from byte {offset} on.")
    return descriptor
