"""The blob directory on a real file system: what is there after success, failure, races and crashes.

Faults are injected at the system calls; the order of those is what durability rests on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.threadpool import ThreadPool

from chatsvc.blobs import LEFTOVER_AGE, BlobMissing, Blobs, StoredBlob, Upload
from chatsvc.tasks import deferred

reactor: Any = installed_reactor  # to a type checker it is a module
T = TypeVar("T")
DEADLINE = 20.0
HELLO = b"hello, blobs"


def within(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Start `work`, and fail if it takes too long."""
    return deferred(work).addTimeout(DEADLINE, reactor)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`, and fail if it takes too long."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await deferLater(reactor, 0.001)


def described(data: bytes) -> StoredBlob:
    return StoredBlob(
        hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data)
    )


def place(root: Path, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return root / digest[:2] / digest[2:4] / digest


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if not path.is_dir()}


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture
def threads() -> Iterator[ThreadPool]:
    pool = ThreadPool(0, 4, "blobs")
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(root: Path, threads: ThreadPool) -> Blobs:
    subject = Blobs(root, "node-1", threads, reactor)
    pytest_twisted.blockon(within(subject.prepare()))
    return subject


async def uploaded(blobs: Blobs, *chunks: bytes) -> StoredBlob:
    upload = blobs.upload()
    for chunk in chunks:
        await upload.write(chunk)
    return await upload.finish()


class Calls:
    """Watches system calls that `chatsvc.blobs` makes, by name and what they are made on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, Path]] = []
        self._refused: dict[str, int] = {}
        self._real = {name: getattr(os, name) for name in ("fsync", "rename")}
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(os, "rename", self._rename)

    def refuse(self, name: str, code: int) -> None:
        self._refused[name] = code

    def _make(self, name: str, path: Path, *args: Any) -> None:
        kind = f"{name} directory" if name == "fsync" and path.is_dir() else name
        if kind in self._refused:
            raise OSError(self._refused[kind], os.strerror(self._refused[kind]))
        self.made.append((kind, path))
        self._real[name](*args)

    def _fsync(self, descriptor: int) -> None:
        self._make("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")), descriptor)

    def _rename(self, source: Path, target: Path) -> None:
        self._make("rename", target, source, target)


@pytest.fixture
def calls(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


class Gate:
    """Holds up the thread that works on certain bytes in the middle of a system call."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        assert self.opened.wait(DEADLINE)


# --- what is stored


@settings(max_examples=40, deadline=None)
@given(chunks=st.lists(st.binary(max_size=200), max_size=8))
@pytest_twisted.ensureDeferred
async def test_any_chunking_gives_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    data = b"".join(chunks)
    root = tmp_path_factory.mktemp("chunks")
    pool = ThreadPool(0, 1, "blobs")
    pool.start()
    try:
        blobs = Blobs(root, "n", pool, reactor)
        await within(blobs.prepare())
        assert await within(uploaded(blobs, *chunks)) == described(data)
        assert await within(blobs.get(described(data).sha256)) == data
        assert files(root) == {place(root, data)}
    finally:
        pool.stop()


@pytest_twisted.ensureDeferred
async def test_an_upload_without_a_byte_is_the_empty_file(blobs: Blobs, root: Path) -> None:
    stored = await within(blobs.upload().finish())
    assert stored.md5 == "d41d8cd98f00b204e9800998ecf8427e"
    assert stored == described(b"")
    assert place(root, b"").read_bytes() == b""
    assert await within(blobs.get(stored.sha256)) == b""


@pytest_twisted.ensureDeferred
async def test_short_writes_are_completed(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def short(descriptor: int, data: memoryview | bytes) -> int:
        return write(descriptor, data[:5])

    monkeypatch.setattr(os, "write", short)
    stored = await within(blobs.put(HELLO))
    assert await within(blobs.get(stored.sha256)) == HELLO


@pytest_twisted.ensureDeferred
async def test_only_this_user_can_read_what_is_stored(blobs: Blobs, root: Path) -> None:
    await within(blobs.put(HELLO))
    upload = blobs.upload()
    await within(upload.write(HELLO))
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert len(files(root)) == 2
    await within(upload.abandon())


@pytest_twisted.ensureDeferred
async def test_an_upload_is_no_blob_before_it_is_finished(blobs: Blobs, root: Path) -> None:
    upload = blobs.upload()
    assert files(root) == set()
    await within(upload.write(HELLO))
    (temporary,) = files(root)
    assert temporary.parent == root / "tmp"
    assert temporary.name.startswith("node-1.")
    with pytest.raises(BlobMissing):
        await within(blobs.get(described(HELLO).sha256))
    await within(upload.finish())
    assert files(root) == {place(root, HELLO)}


@pytest_twisted.ensureDeferred
async def test_two_uploads_of_the_same_contents_at_once(blobs: Blobs, root: Path) -> None:
    first, second = blobs.upload(), blobs.upload()
    for upload in (first, second, first, second):
        await within(upload.write(HELLO))
    finishing = [within(first.finish()), within(second.finish())]
    for done in finishing:
        assert await done == described(HELLO * 2)
    assert files(root) == {place(root, HELLO * 2)}
    assert place(root, HELLO * 2).read_bytes() == HELLO * 2


# --- durability


@pytest_twisted.ensureDeferred
async def test_contents_are_on_the_disk_before_the_name_and_the_name_before_the_answer(
    blobs: Blobs, root: Path, calls: Calls
) -> None:
    await within(blobs.put(HELLO))
    blob = place(root, HELLO)
    (contents,) = [path for kind, path in calls.made if kind == "fsync"]
    assert contents.parent == root / "tmp"
    assert calls.made == [
        ("fsync directory", root),
        ("fsync directory", blob.parent.parent),
        ("fsync", contents),
        ("rename", blob),
        ("fsync directory", blob.parent),
    ]


@pytest_twisted.ensureDeferred
async def test_a_blob_that_is_there_is_kept_and_made_durable(blobs: Blobs, root: Path, calls: Calls) -> None:
    await within(blobs.put(HELLO))
    blob = place(root, HELLO)
    before = blob.stat().st_ino
    calls.made.clear()
    assert await within(blobs.put(HELLO)) == described(HELLO)
    assert blob.stat().st_ino == before
    assert calls.made == [
        ("fsync directory", path) for path in (root, blob.parent.parent, blob.parent)
    ]  # another upload may have made them, and not have come to this
    assert files(root) == {blob}


@pytest_twisted.ensureDeferred
async def test_a_torn_file_in_the_place_of_a_blob_is_replaced(blobs: Blobs, root: Path) -> None:
    await within(blobs.put(HELLO))
    place(root, HELLO).write_bytes(HELLO[:3])
    await within(blobs.put(HELLO))
    assert await within(blobs.get(described(HELLO).sha256)) == HELLO


@pytest.mark.parametrize("call", ["fsync", "rename", "fsync directory"])
@pytest_twisted.ensureDeferred
async def test_a_blob_that_may_not_be_durable_is_not_reported_stored(
    blobs: Blobs, root: Path, calls: Calls, call: str
) -> None:
    before = open_descriptors()
    upload = blobs.upload()
    await within(upload.write(HELLO))
    calls.refuse(call, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await within(upload.finish())
    assert list((root / "tmp").iterdir()) == []
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await within(upload.finish())
    await within(upload.abandon())
    assert open_descriptors() == before


# --- failure and giving up


@pytest_twisted.ensureDeferred
async def test_a_full_disk_ends_the_upload_and_frees_what_it_took(
    blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_descriptors()
    write, room = os.write, 8

    def until_full(descriptor: int, data: memoryview | bytes) -> int:
        nonlocal room
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return write(descriptor, data)  # the reactor's own pipe
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(descriptor, data[:room])
        room -= taken
        return taken

    upload = blobs.upload()
    with monkeypatch.context() as full:
        full.setattr(os, "write", until_full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            await within(upload.write(HELLO))
        assert caught.value.errno == errno.ENOSPC
    assert files(root) == set()
    assert open_descriptors() == before
    # There is room again, but this upload has a hole: it must not become a blob.
    for step in (upload.write(HELLO), upload.finish()):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await within(step)
    await within(upload.abandon())
    assert files(root) == set()
    assert await within(blobs.put(HELLO)) == described(HELLO)


@pytest.mark.parametrize("written", [0, 1])
@pytest_twisted.ensureDeferred
async def test_abandon_removes_the_temporary_file_and_ends_the_upload(
    blobs: Blobs, root: Path, written: int
) -> None:
    before = open_descriptors()
    upload = blobs.upload()
    for _ in range(written):
        await within(upload.write(HELLO))
    for _ in range(2):
        await within(upload.abandon())
        assert files(root) == set()
    assert open_descriptors() == before
    for step in (upload.write(HELLO), upload.finish()):
        with pytest.raises(OSError, match="abandoned"):
            await within(step)
    assert files(root) == set()


@pytest_twisted.ensureDeferred
async def test_abandon_after_finish_leaves_the_blob(blobs: Blobs, root: Path) -> None:
    upload = blobs.upload()
    await within(upload.write(HELLO))
    await within(upload.finish())
    await within(upload.abandon())
    assert files(root) == {place(root, HELLO)}
    with pytest.raises(OSError, match="finished"):
        await within(upload.write(HELLO))


@pytest_twisted.ensureDeferred
async def test_abandon_waits_for_the_write_that_is_under_way(
    blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, write = Gate(), os.write

    def gated(descriptor: int, data: memoryview | bytes) -> int:
        if bytes(data) == HELLO:
            gate.pass_through()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", gated)
    upload = blobs.upload()
    try:
        writing = within(upload.write(HELLO))
        await until(gate.entered.is_set)
        abandoning = within(upload.abandon())
        # All that another upload does in the meantime would give a hasty abandon the time to be done.
        await within(blobs.put(b"something else"))
        assert not abandoning.called
        assert len(list((root / "tmp").iterdir())) == 1
    finally:
        gate.opened.set()
    await writing
    await abandoning
    assert files(root) == {place(root, b"something else")}


# --- reading


@pytest_twisted.ensureDeferred
async def test_what_was_never_stored_is_missing(blobs: Blobs) -> None:
    digest = described(b"never stored").sha256
    with pytest.raises(BlobMissing, match=digest):
        await within(blobs.get(digest))
    with pytest.raises(BlobMissing, match=digest):
        await within(blobs.open(digest, 0, 0))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "a" * 64 + "\n",
        "a" * 63 + "\0",
        "\u0660" * 64,  # a digit to Python, not to us
        "../" * 21 + "a",
        "/etc/passwd",
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_a_digest_becomes_a_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(ValueError, match="64 digits"):
        await within(blobs.get(name))
    with pytest.raises(ValueError, match="64 digits"):
        await within(blobs.open(name, 0, 1))


@pytest_twisted.ensureDeferred
async def test_a_link_in_the_place_of_a_blob_is_not_followed(
    blobs: Blobs, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(HELLO)
    digest = described(HELLO).sha256
    place(root, HELLO).parent.mkdir(parents=True)
    place(root, HELLO).symlink_to(outside)
    with pytest.raises(BlobMissing):
        await within(blobs.get(digest))
    with pytest.raises(BlobMissing):
        await within(blobs.open(digest, 0, len(HELLO)))
    await within(blobs.put(HELLO))
    assert not place(root, HELLO).is_symlink()
    assert outside.read_bytes() == HELLO
    assert await within(blobs.get(digest)) == HELLO


@pytest_twisted.ensureDeferred
async def test_contents_that_have_changed_on_the_disk_are_not_given_out(blobs: Blobs, root: Path) -> None:
    stored = await within(blobs.put(HELLO))
    place(root, HELLO).write_bytes(HELLO.upper())
    with pytest.raises(BlobMissing, match="damaged"):
        await within(blobs.get(stored.sha256))


async def downloaded(blobs: Blobs, sha256: str, offset: int, length: int, most: int) -> list[bytes]:
    download = await blobs.open(sha256, offset, length)
    try:
        assert download.size == length
        pieces = []
        while piece := await download.read(most):
            pieces.append(piece)
        assert await download.read(most) == b""
        return pieces
    finally:
        download.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 12), (0, 5), (3, 4), (7, 5), (11, 1), (12, 0), (0, 0)])
@pytest_twisted.ensureDeferred
async def test_a_range_comes_in_pieces_and_ends(blobs: Blobs, offset: int, length: int) -> None:
    before = open_descriptors()
    stored = await within(blobs.put(HELLO))
    pieces = await within(downloaded(blobs, stored.sha256, offset, length, 5))
    assert b"".join(pieces) == HELLO[offset : offset + length]
    assert all(len(piece) <= 5 for piece in pieces)
    await until(lambda: open_descriptors() == before)


@pytest.mark.parametrize(("offset", "length"), [(0, 13), (12, 1), (13, 0), (-1, 2), (5, -1)])
@pytest_twisted.ensureDeferred
async def test_a_range_that_the_file_does_not_have_is_missing(blobs: Blobs, offset: int, length: int) -> None:
    stored = await within(blobs.put(HELLO))
    before = open_descriptors()
    with pytest.raises(BlobMissing, match="has 12 bytes"):
        await within(blobs.open(stored.sha256, offset, length))
    assert open_descriptors() == before


@pytest_twisted.ensureDeferred
async def test_a_file_that_becomes_shorter_than_promised_is_missing(blobs: Blobs, root: Path) -> None:
    stored = await within(blobs.put(HELLO))
    download = await within(blobs.open(stored.sha256, 0, 12))
    try:
        assert await within(download.read(4)) == HELLO[:4]
        os.truncate(place(root, HELLO), 6)
        assert await within(download.read(4)) == HELLO[4:6]
        with pytest.raises(BlobMissing, match="ends at byte 6 of the 12"):
            await within(download.read(4))
    finally:
        download.close()


@pytest_twisted.ensureDeferred
async def test_close_waits_for_the_read_that_is_under_way(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, pread = Gate(), os.pread

    def gated(descriptor: int, length: int, offset: int) -> bytes:
        gate.pass_through()
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", gated)
    before = open_descriptors()
    stored = await within(blobs.put(HELLO))
    download = await within(blobs.open(stored.sha256, 0, 12))
    try:
        reading = within(download.read(5))
        await until(gate.entered.is_set)
        download.close()
        download.close()
        await within(blobs.put(b"something else"))  # gives a hasty close the time to be done
        assert open_descriptors() == before + 1
    finally:
        gate.opened.set()
    assert await reading == HELLO[:5]
    await until(lambda: open_descriptors() == before)
    assert await within(download.read(5)) == b""


# --- the directory


@pytest_twisted.ensureDeferred
async def test_prepare_removes_its_own_leftovers_and_old_ones(root: Path, threads: ThreadPool) -> None:
    left: list[Upload] = []
    for node in ("n", "n-1", "other"):
        blobs = Blobs(root, node, threads, reactor)
        await within(blobs.prepare())
        for data in (b"fresh", b"old"):
            upload = blobs.upload()
            await within(upload.write(data))
            left.append(upload)
    stored = await within(blobs.put(HELLO))
    temporaries = {path for path in files(root) if path.parent == root / "tmp"}
    assert len(temporaries) == 6
    for path in temporaries:
        if path.read_bytes() == b"old":
            written = path.stat().st_mtime
            os.utime(path, (written, written - LEFTOVER_AGE - 60))
    (root / "tmp" / "n.directory").mkdir()

    await within(Blobs(root, "n", threads, reactor).prepare())

    kept = {path for path in files(root) if path.parent == root / "tmp"}
    assert {(path.name.split(".")[0], path.read_bytes()) for path in kept} == {
        ("n-1", b"fresh"),
        ("other", b"fresh"),
    }
    assert await within(blobs.get(stored.sha256)) == HELLO
    for upload in left:
        await within(upload.abandon())


@pytest_twisted.ensureDeferred
async def test_prepare_makes_what_is_missing_and_leaves_nothing_else(
    tmp_path: Path, threads: ThreadPool
) -> None:
    root = tmp_path / "some" / "where"
    for _ in range(2):
        await within(Blobs(root, "n", threads, reactor).prepare())
        assert [path.name for path in root.iterdir()] == ["tmp"]
        assert files(root) == set()


@pytest.mark.parametrize(("call", "code"), [("open", errno.EROFS), ("rename", errno.EXDEV)])
@pytest_twisted.ensureDeferred
async def test_prepare_refuses_a_directory_that_uploads_would_fail_in(
    root: Path, threads: ThreadPool, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)

    def refused(path: str | Path, *args: Any) -> Any:
        if Path(path).parent == root / "tmp":
            raise OSError(code, os.strerror(code))
        return real(path, *args)

    with monkeypatch.context() as refusing:
        refusing.setattr(os, call, refused)
        with pytest.raises(OSError, match=os.strerror(code)):
            await within(Blobs(root, "n", threads, reactor).prepare())


@pytest.mark.parametrize("node", ["", "a.b", "a/b", "..", "nöde", "a\n", "a\0"])
def test_a_node_name_that_cannot_stand_in_a_file_name_is_refused(
    tmp_path: Path, threads: ThreadPool, node: str
) -> None:
    with pytest.raises(ValueError, match="only the characters"):
        Blobs(tmp_path, node, threads, reactor)


@pytest_twisted.ensureDeferred
async def test_after_the_threads_have_stopped_nothing_waits_for_ever(root: Path) -> None:
    pool = ThreadPool(0, 1, "blobs")
    pool.start()
    blobs = Blobs(root, "n", pool, reactor)
    await within(blobs.prepare())
    stored = await within(blobs.put(HELLO))
    download = await within(blobs.open(stored.sha256, 0, 12))
    upload = blobs.upload()
    pool.stop()
    for work in (blobs.get(stored.sha256), download.read(1), upload.write(HELLO), upload.abandon()):
        with pytest.raises(OSError, match="shutting down"):
            await within(work)
    download.close()
