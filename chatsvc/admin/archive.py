"""The file of a backup: a tar archive of items, blobs and, last, a manifest by which all of it is checked.

What the items mean, and where they and the blobs come from, is not known here. It is all work for threads
other than the reactor's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from tarfile import BLOCKSIZE, GNU_FORMAT, NUL, TarError, TarInfo
from typing import NamedTuple

import msgspec

#: The form of an archive that is written here, and the only one that is read.
FORMAT = 1
_CHUNK = 1024 * 1024
_MANIFEST = "manifest.json"
_ITEMS = re.compile(r"store/[0-9]{8}")
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")


class Broken(Exception):  # noqa: N818 - a sentence for the operator
    """The file is no archive of ours, or not whole."""


class Part(msgspec.Struct, frozen=True):
    """One member with items."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, kw_only=True):
    """What an archive holds; a blob's check is its name, which is its SHA-256."""

    format: int = FORMAT
    version: str
    #: The moment that it shows, in ms since 1970 by the store's clock.
    cut: int
    users: int
    #: Messages in all mailboxes: one between two users counts twice.
    entries: int
    blobs: int = 0
    blob_bytes: int = 0
    parts: list[Part] = msgspec.field(default_factory=list)


class Member(NamedTuple):
    """A member while it is read; the file stands at its first byte."""

    name: str
    size: int
    file: BufferedReader

    @property
    def blob(self) -> str | None:
        """The digest that a blob has to have; None for another member."""
        matched = _BLOB.fullmatch(self.name)
        return matched[1] if matched else None

    @property
    def holds_items(self) -> bool:
        """Whether it is a part with items."""
        return _ITEMS.fullmatch(self.name) is not None

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in pieces of bounded size."""
        left = self.size
        while left:
            data = self.file.read(min(_CHUNK, left))
            if not data:
                raise Broken(f"The archive ends in the middle of {self.name}.")
            left -= len(data)
            yield data


class Writer:
    """An archive on its way to `path`, where it appears when it is whole and on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)  # one that was left may have been laxer
        self._file = os.fdopen(descriptor, "wb", _CHUNK)
        self._parts: list[Part] = []
        self._blobs = self._blob_bytes = 0

    def add_items(self, data: bytes) -> None:
        """Add items, packed."""
        name = f"store/{len(self._parts):08}"
        self._parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))
        self._add(name, len(data), iter([data]))

    def add_blob(self, sha256: str, file: BufferedReader) -> bool:
        """Add a blob; False, and nothing is added, if it has another digest than its name says."""
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._add(f"blobs/{sha256}", size, iter(lambda: file.read(_CHUNK), b""))
        self._blobs += 1
        self._blob_bytes += size
        return True

    def finish(self, manifest: Manifest) -> Manifest:
        """Add the manifest, completed by what was written, and give the archive its name."""
        manifest.parts, manifest.blobs, manifest.blob_bytes = self._parts, self._blobs, self._blob_bytes
        data = msgspec.json.encode(manifest)
        self._add(_MANIFEST, len(data), iter([data]))
        self._file.write(NUL * BLOCKSIZE * 2)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return manifest

    def abandon(self) -> None:
        """Remove what is not finished; harmless afterwards."""
        if not self._file.closed:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _add(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        # Not by TarFile, which keeps a record of each member in memory.
        header = TarInfo(name)
        header.size, header.mode = size, 0o600
        self._file.write(header.tobuf(GNU_FORMAT))
        written = 0
        for data in chunks:
            written += len(data)
            self._file.write(data)
        if written != size:
            raise OSError(f"{name} has changed while it was read.")
        self._file.write(NUL * (-size % BLOCKSIZE))


def members(path: Path) -> Iterator[Member]:
    """All members of an archive, one after the other. Raises `Broken` and OSError."""
    with path.open("rb") as file:
        at = 0
        while True:
            file.seek(at)
            block = file.read(BLOCKSIZE)
            if block == NUL * BLOCKSIZE:
                return
            try:
                header = TarInfo.frombuf(block, "ascii", "strict")
            except (TarError, ValueError):
                raise Broken(f"{path} is no backup of chatsvc, or is damaged at byte {at}.") from None
            if not header.isreg():
                raise Broken(f"{path} is no backup of chatsvc: it has more than files in it.")
            yield Member(header.name, header.size, file)
            at += BLOCKSIZE + header.size + -header.size % BLOCKSIZE


def verify(path: Path, on_bytes: Callable[[int], None]) -> Manifest:
    """The manifest of an archive, each byte of which was checked. Raises `Broken` and OSError.

    `on_bytes` hears how many bytes were read.
    """
    manifest, parts, blobs, blob_bytes = None, [], 0, 0
    for member in members(path):
        if manifest is not None:
            raise Broken(f"{path} goes on after its manifest.")
        if member.name == _MANIFEST:
            manifest = _manifest(path, b"".join(member.chunks()))
            continue
        digest = hashlib.sha256()
        for data in member.chunks():
            digest.update(data)
            on_bytes(len(data))
        if member.holds_items:
            parts.append(Part(member.name, member.size, digest.hexdigest()))
        elif member.blob == digest.hexdigest():
            blobs, blob_bytes = blobs + 1, blob_bytes + member.size
        else:
            raise Broken(f"{path} is damaged: {member.name} has another digest, or does not belong there.")
    if manifest is None:
        raise Broken(f"{path} has no manifest at its end: it is not whole.")
    if (parts, blobs, blob_bytes) != (manifest.parts, manifest.blobs, manifest.blob_bytes):
        raise Broken(f"{path} is damaged: it does not hold what its manifest says.")
    return manifest


def _manifest(path: Path, data: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise Broken(f"{path} has a manifest that cannot be read: {error}.") from None
    if manifest.format != FORMAT:
        raise Broken(
            f"{path} has the format {manifest.format}, made by chatsvc {manifest.version}; "
            f"this version reads format {FORMAT}."
        )
    return manifest
