"""Requests about files: looking for one, and fetching it. Files come with messages."""

from __future__ import annotations

from chatsvc.blobs import BlobMissing
from chatsvc.chat.answers import FileAnswer
from chatsvc.chat.calls import Call, request
from chatsvc.chat.messages import MD5
from chatsvc.wire import errors, schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.limits import PAYLOAD_CEILING


@request("FINDFILE", schema.FileRef)
async def find(call: Call, body: schema.FileRef) -> None:
    """Whether this user may have a file with this MD5. Whatever the reason is not: the same ERR."""
    if not MD5.fullmatch(body.filemd5):
        raise Refusal(errors.FILE_NOT_FOUND)
    entry = await call.hub.store.files.by_md5(call.user_id, body.filemd5.lower())
    if entry is None:
        raise Refusal(errors.FILE_NOT_FOUND)
    try:
        (await call.hub.blobs.open(entry.sha256, 0, 0)).close()
    except BlobMissing:
        raise Refusal(errors.FILE_NOT_FOUND) from None


@request("FETCHFILE", schema.MessageRef)
async def fetch_file(call: Call, body: schema.MessageRef) -> FileAnswer:
    """The file of a message in this user's mailbox, or a range of it."""
    offset = body.offset or 0
    if offset < 0 or (body.length is not None and body.length < 0):
        raise Refusal("An offset and a length are 0 or more.")
    entry = await call.hub.store.files.of_message(call.user_id, body.msgmd5)
    if entry is None:
        raise Refusal(errors.FILE_NOT_FOUND)
    if offset > entry.size:
        raise Refusal(f"The offset {offset} is past the end of the file, which has {entry.size} bytes.")
    length = entry.size - offset if body.length is None else min(body.length, entry.size - offset)
    if length > PAYLOAD_CEILING:
        raise Refusal(f"Fetch at most {PAYLOAD_CEILING} bytes at a time, with offset and length.")
    try:
        download = await call.hub.blobs.open(entry.sha256, offset, length)
    except BlobMissing:
        raise Refusal(errors.FILE_NOT_FOUND) from None
    return FileAnswer(schema.FileInfo(entry.md5, entry.size), download)
