"""Which files a user may fetch: those of the messages in the user's own mailbox. The bytes are elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.link import Link


class FileEntry(NamedTuple):
    """A file that a user may have."""

    md5: str
    sha256: str
    size: int

    def packed(self) -> bytes:
        """As the index holds it, beside the MD5."""
        return f"{self.sha256}:{self.size}".encode()


class Files:
    """The index of files, per user. Appending a message writes it, see `chatsvc.store.mail`."""

    def __init__(self, link: Link) -> None:
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
