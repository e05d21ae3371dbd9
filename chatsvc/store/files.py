"""Which files a user may fetch: those of the messages in the user's own mailbox. The bytes are elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route


class FileEntry(NamedTuple):
    """A file that a user may have."""

    md5: str
    sha256: str
    size: int

    def packed(self) -> bytes:
        """As the index holds it, beside the MD5."""
        return f"{self.sha256}:{self.size}".encode()


class IndexRow(NamedTuple):
    """A field of a user's index and the file that it leads to; None where two files share an MD5."""

    field: str
    sha256: str | None
    size: int


def fields_of(md5encoded: str, md5: str) -> tuple[str, str]:
    """The fields under which a message with a file is found in an index: its name's, and the MD5's."""
    return "m" + keys.message_key(md5encoded), "f" + md5


class Files:
    """The index of files, per user. Appending a message writes it, see `chatsvc.store.mail`."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def of_message(self, user_id: int, md5encoded: str) -> FileEntry | None:
        """The file of the user's newest message of that name."""
        field = "m" + keys.message_key(md5encoded)
        found = await self._link.call(b"HGET", keys.part(user_id, b"files"), field)
        if not found:
            return None
        md5, sha256, size = found.decode().split(":")
        return FileEntry(md5, sha256, int(size))

    async def by_md5(self, user_id: int, md5: str) -> FileEntry | None:
        """The one file with this MD5 that the user may have; None also if there are two."""
        found = await self._link.call(b"HGET", keys.part(user_id, b"files"), "f" + md5)
        if not found:
            return None
        sha256, size = found.decode().split(":")
        return FileEntry(md5, sha256, int(size))

    async def index(self, user_id: int) -> AsyncIterator[list[IndexRow]]:
        """The whole index of a user, a page at a time; what changes meanwhile may be missed."""
        cursor = b"0"
        while True:
            cursor, found = await self._link.call(
                b"HSCAN", keys.part(user_id, b"files"), cursor, b"COUNT", 500
            )
            yield [_row(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
            if cursor == b"0":
                return


def _row(field: bytes, value: bytes) -> IndexRow:
    if not value:
        return IndexRow(field.decode(), None, 0)
    sha256, size = value.decode().split(":")[-2:]
    return IndexRow(field.decode(), sha256, int(size))
