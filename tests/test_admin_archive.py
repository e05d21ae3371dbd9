"""The file of a backup: what is written is read, and whatever is not whole or not ours is refused."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chatsvc.admin import archive
from chatsvc.admin.archive import Broken, Manifest, Writer, members, verify

BLOB = b"the bytes of a file" * 100


def nothing(count: int) -> None:
    """Nobody wants to know how far it is."""


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / hashlib.sha256(BLOB).hexdigest()
    path.write_bytes(BLOB)
    return path


@pytest.fixture
def written(tmp_path: Path, blob: Path) -> Path:
    """An archive with two parts and a blob."""
    path = tmp_path / "backup.tar"
    writer = Writer(path)
    writer.add_items(b"first")
    writer.add_items(b"second" * 100)
    with blob.open("rb") as file:
        assert writer.add_blob(blob.name, file)
    writer.finish(Manifest(version="1", cut=5, users=2, entries=7))
    return path


def test_what_is_written_is_read(written: Path, blob: Path) -> None:
    read: list[int] = []
    manifest = verify(written, read.append)
    assert (manifest.users, manifest.entries, manifest.cut) == (2, 7, 5)
    assert (manifest.blobs, manifest.blob_bytes) == (1, len(BLOB))
    assert sum(read) == len(b"first") + 100 * len(b"second") + len(BLOB)
    found = {member.name: b"".join(member.chunks()) for member in members(written)}
    assert found["store/00000000"] == b"first"
    assert found["store/00000001"] == b"second" * 100
    assert found[f"blobs/{blob.name}"] == BLOB


def test_it_is_an_ordinary_tar_for_its_owner_alone(written: Path) -> None:
    with tarfile.open(written) as tar:
        assert [member.name for member in tar][-1] == "manifest.json"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_one_byte_changed_anywhere_is_noticed(written: Path) -> None:
    data = written.read_bytes()
    for at in range(0, len(data), 97):
        written.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            verify(written, nothing)
        except Broken:
            continue
        assert is_padding(data, at), f"byte {at}"


def is_padding(data: bytes, at: int) -> bool:
    """Whether a byte belongs to no member: it fills a block up, or comes after the end."""
    end = (at // tarfile.BLOCKSIZE + 1) * tarfile.BLOCKSIZE
    return not data[at:end].strip(b"\0")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_what_ends_early_is_not_whole(written: Path, share: float) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Broken):
        verify(written, nothing)


def test_what_ends_before_its_manifest_is_not_whole(written: Path) -> None:
    data = written.read_bytes()
    manifest_at = data.index(b"manifest.json")
    written.write_bytes(data[:manifest_at] + bytes(2 * tarfile.BLOCKSIZE))
    with pytest.raises(Broken, match="no manifest"):
        verify(written, nothing)


def remake(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Write an archive again by means of others, with another content."""
    content = {member.name: b"".join(member.chunks()) for member in members(path)}
    change(content)
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            source = path.with_name("source")
            source.write_bytes(data)
            with source.open("rb") as file:
                tar.addfile(info, file)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.pop("store/00000001"), "what its manifest says"),
        (lambda content: content.update({"store/00000001": b"other"}), "what its manifest says"),
        (lambda content: content.update({"../evil": b""}), "goes on after its manifest"),
        (
            lambda content: content.update(
                {"manifest.json": content["manifest.json"].replace(b":1", b":9", 1)}
            ),
            "reads format 1",
        ),
        (lambda content: content.update({"manifest.json": b"{}"}), "manifest that cannot be read"),
    ],
)
def test_what_does_not_fit_its_manifest_is_refused(
    written: Path, change: Callable[[dict[str, bytes]], None], why: str
) -> None:
    remake(written, change)
    with pytest.raises(Broken, match=why):
        verify(written, nothing)


def test_a_member_of_another_name_is_refused(written: Path) -> None:
    def put_first(content: dict[str, bytes]) -> None:
        old = dict(content)
        content.clear()
        content.update({"../evil": b"x", **old})

    remake(written, put_first)
    with pytest.raises(Broken, match="does not belong there"):
        verify(written, nothing)


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("store/00000000")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(Broken, match="more than files"):
        verify(path, nothing)


def test_a_damaged_blob_is_not_added(tmp_path: Path, blob: Path) -> None:
    writer = Writer(tmp_path / "backup.tar")
    blob.write_bytes(BLOB + b"!")
    with blob.open("rb") as file:
        assert not writer.add_blob(blob.name, file)
    manifest = writer.finish(Manifest(version="1", cut=0, users=0, entries=0))
    assert manifest.blobs == 0
    assert verify(tmp_path / "backup.tar", nothing) == manifest


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    path.write_bytes(b"an older one")
    left = tmp_path / "backup.tar.partial"
    left.write_bytes(b"of a run that was killed")
    left.chmod(0o644)
    writer = Writer(path)
    writer.add_items(b"something")
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    writer.abandon()
    writer.abandon()
    assert path.read_bytes() == b"an older one"
    assert not left.exists()


def test_the_blocks_of_large_members_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    writer = Writer(path)
    data = bytes(range(256)) * 4096 * 3
    writer.add_items(data)
    writer.finish(Manifest(version="1", cut=0, users=0, entries=0))
    [member, _] = members_with_chunks(path)
    assert max(map(len, member)) <= archive._CHUNK < len(data)
    assert b"".join(member) == data


def members_with_chunks(path: Path) -> list[list[bytes]]:
    """The chunks of all members."""
    return [list(member.chunks()) for member in members(path)]
