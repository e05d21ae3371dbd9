"""A message's file on its way to this machine's disk: there whole, or not at all.

Which message is meant, and how its progress is shown, is decided by who calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from chatsvc.cli import output
from chatsvc.cli.archive import Stored
from chatsvc.cli.session import Failed, Session
from chatsvc.wire.schema import Message


def stored(message: Message) -> Stored:
    """A message as the archive has it."""
    assert message.timestamp is not None  # the server sets one, and so does `Client.compose`
    return Stored(
        message.userid, message.targetid, message.contenttype, message.content,
        message.timestamp, message.md5encoded, message.filemd5,
    )  # fmt: skip


async def fetch(
    session: Session,
    message: Stored,
    path: Path | None,
    *,
    force: bool,
    progress: Callable[[int, int], None],
) -> tuple[Path, int]:
    """Write a message's file to `path`, or to one of its own name; gives where it is, and its size.

    Raises `Failed` for a text, and for a file that is there, unless `force` has it replaced.
    """
    to = path or Path(output.file_name(message))
    if to.exists() and not force:
        raise Failed(f"{to} is there already; name another place, or replace it with --force.")
    partial = to.with_name(f".{to.name}.part")
    try:
        with partial.open("wb") as file:
            size = await pour(session, message, file, progress)
        os.replace(partial, to)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return to, size


async def pour(
    session: Session, message: Stored, file: IO[bytes], progress: Callable[[int, int], None]
) -> int:
    """Write a message's file to one that is open; gives its size. Raises `Failed` for a text."""
    if message.kind == "plaintext":
        raise Failed(f"Message {message.name[: output.SHOWN_ID]} is a text; it has no file.")
    picture = output.picture(message) if message.file is None else None
    if picture is not None:
        return file.write(picture)
    info = await session.client.fetch_file(message.name, file, progress=progress)  # type: ignore[arg-type]
    return info.size
