"""The blob directory before its first blob and after its threads have stopped: leftovers, refusals, names.

What is stored in it is in ``test_blobs_upload.py``.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.python.threadpool import ThreadPool

from chatsvc.bloblayout import LEFTOVER_AGE
from chatsvc.blobs import Blobs, Upload
from tests.blob_directory import FIXTURES, HELLO, files
from tests.waiting import reactor, within

threads, root, blobs = FIXTURES


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


@pytest_twisted.ensureDeferred
async def test_uploads_do_not_begin_outside(root: Path, tmp_path: Path, threads: ThreadPool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root.mkdir()
    (root / "tmp").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        await within(Blobs(root, "node-1", threads, reactor).prepare())
    assert files(outside) == set()


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
