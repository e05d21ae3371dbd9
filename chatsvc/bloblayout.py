"""Where everything in the blob directory lies, and the steps, all of which block, that make it durable.

What the files hold is not known here.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

log = Logger()

#: Seconds after which an unfinished upload of any node counts as left over.
LEFTOVER_AGE = 24 * 3600.0

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NODE = re.compile(r"[A-Za-z0-9_-]+")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


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

    def open(self, path: Path) -> int:
        """A descriptor of a file in the directory, to be read. Raises OSError, also where there is a link.

        Step by step, as a link in the place of an inner directory would lead out as well.
        """
        *directories, name = path.relative_to(self.root).parts
        inside = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for directory in directories:
                outer = inside
                inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
                os.close(outer)
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=inside)
        finally:
            os.close(inside)

    def temporary(self) -> Path:
        """A new name for an unfinished upload of this node, on the file system of the blobs."""
        return self._temporaries / f"{self._own}{secrets.token_hex(16)}"

    def prepare(self) -> None:
        """`Blobs.prepare`, in a thread."""
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in (*reversed(missing), self._temporaries):
            make_directory(path)
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
        os.close(open_new(probe))
        now = probe.stat().st_mtime
        moved = self.root / f"{self._own}probe"
        os.rename(probe, moved)
        moved.unlink()
        return now


def open_new(path: Path) -> int:
    """A descriptor of a new file, to be written, which only this user can read."""
    return os.open(path, _NEW_FILE, 0o600)


def write_out(descriptor: int, start: int, length: int) -> None:
    """Have the disk begin with these bytes, without waiting for it.

    Else it begins at the `fsync`, and whoever syncs a few bytes then, as the store does for each message,
    waits until the whole file is written.
    """
    if sys.platform == "linux":  # others have no such call, and only wait longer
        # To forget bytes that are not on the disk yet, Linux begins to write them; and forgets nothing.
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def settle(descriptor: int, temporary: Path, blob: Path, size: int) -> None:
    """Move the temporary file to its name, durably, unless that blob is there."""
    make_directory(blob.parent.parent)
    make_directory(blob.parent)
    if not renew(blob, size):
        os.fsync(descriptor)  # first: a name must never show what a power cut can take
        os.rename(temporary, blob)
    _sync_directory(blob.parent)  # in any case: who made the entry may not have come to it yet


def renew(blob: Path, size: int) -> bool:
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


def make_directory(path: Path) -> None:
    """See to it that `path` is there, and its entry on the disk, whoever has made it. A link is none."""
    path.mkdir(0o700, exist_ok=True)
    if path.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "There is a link instead of a directory", str(path))
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
