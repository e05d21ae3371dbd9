"""Reading blobs: whole, in ranges, and where there is none, another file, or a damaged one.

How they are stored is in ``test_blobs_upload.py``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from chatsvc.blobs import BlobMissing, Blobs
from tests.blob_directory import FIXTURES, HELLO, Gate, described, files, open_descriptors, place
from tests.waiting import until, within

threads, root, blobs = FIXTURES


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


@pytest.mark.parametrize("level", [0, 1])
@pytest_twisted.ensureDeferred
async def test_a_link_in_the_place_of_a_directory_is_not_followed_either(
    blobs: Blobs, root: Path, tmp_path: Path, level: int
) -> None:
    stored = await within(blobs.put(HELLO))
    inner = list(reversed(place(root, HELLO).relative_to(root).parents[:-1]))[level]
    outside = tmp_path / "outside"
    (root / inner).rename(outside)
    (root / inner).symlink_to(outside)
    before = files(outside)
    with pytest.raises(BlobMissing):
        await within(blobs.get(stored.sha256))
    with pytest.raises(BlobMissing):
        await within(blobs.open(stored.sha256, 0, len(HELLO)))
    with pytest.raises(NotADirectoryError):
        await within(blobs.put(HELLO))
    assert files(outside) == before
    assert files(root / "tmp") == set()


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


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection; the first does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest_twisted.ensureDeferred
async def test_a_socket_gets_as_much_of_a_range_as_it_has_room_for(
    blobs: Blobs, sockets: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = sockets
    data = bytes(range(256)) * 16_384  # 4 MiB
    stored = await within(blobs.put(data))
    download = await within(blobs.open(stored.sha256, 5, len(data) - 7))
    try:
        assert await within(download.send(ours.fileno(), 1000)) == 1000
        assert download.left == len(data) - 1007
        got = theirs.recv(5000)
        while download.left:
            taken = await within(download.send(ours.fileno(), download.left))
            assert await within(download.send(ours.fileno(), 1)) == 0 or not download.left
            while taken:
                piece = theirs.recv(taken)
                got += piece
                taken -= len(piece)
        assert got == data[5:-2]
        assert await within(download.send(ours.fileno(), 1)) == 0
    finally:
        download.close()


@pytest_twisted.ensureDeferred
async def test_a_socket_gets_no_more_than_the_file_has_and_none_that_is_closed(
    blobs: Blobs, root: Path, sockets: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = sockets
    stored = await within(blobs.put(HELLO))
    download = await within(blobs.open(stored.sha256, 0, 12))
    try:
        os.truncate(place(root, HELLO), 6)
        with pytest.raises(BlobMissing, match="ends at byte 6 of the 12"):
            await within(download.send(ours.fileno(), 100))
        assert theirs.recv(100) == HELLO[:6]
        theirs.close()
        os.truncate(place(root, HELLO), 12)
        with pytest.raises(ConnectionError):
            await within(download.send(ours.fileno(), 100))
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
