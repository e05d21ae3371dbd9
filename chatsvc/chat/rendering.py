"""A message between its two forms: as a client sends and reads it, and as the store holds it.

It is validated once, when it comes in; from there on it is bytes, and only the few that a reader's
dialect or their size demands are opened again.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from twisted.logger import Logger

from chatsvc.blobs import BlobMissing, Blobs
from chatsvc.store.mail import Entry, Incoming, Published
from chatsvc.wire.frames import Dialect, frame
from chatsvc.wire.schema import Message, encode
from chatsvc.wire.text import encoded, is_encoded

log = Logger()

_PUSH = b'{"response":"FORWARDMSG","status":"OK","info":null,"body":%b}'
#: In a stored message whose content lies in a blob; no field before it can hold these bytes.
_NO_CONTENT = b'"content":""'
#: Flags of a stored message: its content must be wrapped for readers of base64; it lies in a blob.
_WRAP, _BLOB = b"w", b"c"


class _Timed(msgspec.Struct):
    timestamp: int


_timestamp = msgspec.json.Decoder(_Timed).decode
_message = msgspec.json.Decoder(Message).decode


class Stored(NamedTuple):
    """A message as the store holds it."""

    message: bytes
    flags: bytes


def is_long(content: str, inline_limit: int) -> bool:
    """Whether a content is kept in the blob directory: its JSON has more bytes than `inline_limit`."""
    return len(content) > inline_limit or (not content.isascii() and len(encode(content)) > inline_limit)


def stored(message: Message) -> Stored:
    """The stored form of a message whose content is not long."""
    return Stored(encode(message), _wrap_flag(message.content))


def long_content(message: Message, inline_limit: int) -> bytes | None:
    """The content of a message as the blob directory holds it; None if it is not long."""
    return encode(message.content) if is_long(message.content, inline_limit) else None


def stored_beside(message: Message, sha256: str) -> Stored:
    """The stored form of a message whose content is in a blob; it is taken out of `message`."""
    flags = _wrap_flag(message.content)
    message.content = ""
    return Stored(encode(message), flags + _BLOB + sha256.encode())


def _wrap_flag(content: str) -> bytes:
    return b"" if is_encoded(content) else _WRAP


def content_blob(flags: bytes) -> str | None:
    """The SHA-256 of the blob that holds the content of a message with these flags; None if none does."""
    _, blob, sha256 = flags.partition(_BLOB)
    return sha256.decode() if blob else None


def inline(stored: Entry | Incoming, dialect: Dialect) -> bytes | None:
    """The message for a reader of this dialect; None if its content lies in a blob."""
    if not stored.flags:
        return stored.message
    if _BLOB in stored.flags:
        return None
    return _wrapped(stored.message) if dialect.wraps else stored.message


async def whole(stored: Entry | Incoming, dialect: Dialect, blobs: Blobs) -> bytes:
    """The message for a reader of this dialect, wherever its content lies."""
    message = stored.message
    wrap, blob, sha256 = stored.flags.partition(_BLOB)
    if blob:
        try:
            content = await blobs.get(sha256.decode())
        except BlobMissing as missing:
            # One damaged file must not keep all later messages from being delivered.
            log.error("The content of a message is lost: {missing}", missing=missing)
            content = b'""'
        message = message.replace(_NO_CONTENT, b'"content":' + content, 1)
    return _wrapped(message) if wrap and dialect.wraps else message


def _wrapped(data: bytes) -> bytes:
    message = _message(data)
    message.content = encoded(message.content)
    return encode(message)


def timestamp_of(stored: Incoming) -> int:
    """The timestamp of a stored message, in ms."""
    return _timestamp(stored.message).timestamp


class News:
    """Entries on their way to any number of connections; they are read, and their frames built, once."""

    __slots__ = ("_entries", "_frames", "published")

    def __init__(self, published: Published) -> None:
        self.published = published
        self._entries: list[Entry] | None = None
        self._frames: dict[str, list[bytes | None]] = {}

    @property
    def entries(self) -> list[Entry]:
        """The entries, in mailbox order."""
        if self._entries is None:
            self._entries = self.published.entries()
        return self._entries

    def frames(self, dialect: Dialect) -> list[bytes | None]:
        """Each entry's FORWARDMSG frame; None where the message must be read from a blob first."""
        found = self._frames.get(dialect.name)
        if found is None:
            found = self._frames[dialect.name] = [
                None if message is None else push_frame(message, dialect)
                for message in (inline(entry, dialect) for entry in self.entries)
            ]
        return found


def push_frame(message: bytes, dialect: Dialect) -> bytes:
    """The FORWARDMSG frame of a message."""
    return frame(dialect, _PUSH % message)
