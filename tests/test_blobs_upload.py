"""Storing blobs: what is there after success, failure, races and crashes.

Faults are injected at the system calls; the order of those is what durability rests on.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.threadpool import ThreadPool

from chatsvc.blobs import WRITE_OUT, BlobMissing, Blobs
from chatsvc.wire.limits import MIB
from tests.blob_directory import FIXTURES, HELLO, Gate, described, files, open_descriptors, place, uploaded
from tests.waiting import reactor, until, within

threads, root, blobs = FIXTURES


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


@settings(max_examples=40)
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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
@pytest_twisted.ensureDeferred
async def test_the_disk_begins_with_a_large_file_before_its_end(
    blobs: Blobs, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def tell(descriptor: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        assert os.fstat(descriptor).st_size == start + length
        assert calls.made == []  # nothing is synced yet
        told.append((start, length))

    monkeypatch.setattr(os, "posix_fadvise", tell)
    chunk = bytes(3 * MIB)
    await within(uploaded(blobs, *[chunk] * 7, b"the rest"))
    assert WRITE_OUT == 8 * MIB
    assert told == [(0, 9 * MIB), (9 * MIB, 9 * MIB)]


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
