"""A blob directory on a real file system, and what a test asks of it and does to it.

A test module takes `FIXTURES` for its own.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.python.threadpool import ThreadPool

from chatsvc.blobs import Blobs, StoredBlob
from tests.waiting import DEADLINE, reactor, within

HELLO = b"hello, blobs"


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


class Gate:
    """Holds up the thread that works on certain bytes in the middle of a system call."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        assert self.opened.wait(DEADLINE)


FIXTURES = threads, root, blobs
