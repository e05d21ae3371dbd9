"""The messages that a profile has seen, on this machine: the server gives each to a device until it has it.

How they come here is known to ``session``; how they are shown, to ``output``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from chatsvc.cli.profiles import Unusable, make_private
from chatsvc.wire.schema import Message

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  place INTEGER PRIMARY KEY,
  owner INTEGER NOT NULL, sender INTEGER NOT NULL, target INTEGER NOT NULL,
  kind TEXT NOT NULL, content TEXT NOT NULL, time INTEGER NOT NULL, name TEXT NOT NULL, file TEXT,
  UNIQUE (owner, sender, target, name, time)
);
CREATE INDEX IF NOT EXISTS by_name ON messages (owner, name);
CREATE TABLE IF NOT EXISTS people (userid INTEGER PRIMARY KEY, username TEXT NOT NULL);
"""
_COLUMNS = "sender, target, kind, content, time, name, file"


class Stored(NamedTuple):
    """A message as it is kept; `time` is in ms since 1970, `file` an MD5."""

    sender: int
    target: int
    kind: Literal["plaintext", "image", "file"]
    content: str
    time: int
    name: str
    file: str | None

    def message(self) -> Message:
        """The message as it was sent."""
        return Message(
            userid=self.sender, targetid=self.target, contenttype=self.kind, content=self.content,
            timestamp=self.time, md5encoded=self.name, filemd5=self.file,
        )  # fmt: skip


class Archive:
    """What one profile has seen, for each user who was logged in with it. Raises `Unusable`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "messages.sqlite"
        try:
            make_private(directory)
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # What is acknowledged is not given again, so it has to be on the disk before.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise Unusable(f"The messages in {path} cannot be used: {error}.") from None

    def close(self) -> None:
        """Use it no more."""
        with suppress(sqlite3.Error):
            self._db.close()

    def add(self, owner: int, message: Message) -> bool:
        """Keep a message; False if it was there, as one is that came twice."""
        row = (
            owner, message.userid, message.targetid, message.contenttype, message.content,
            message.timestamp, message.md5encoded, message.filemd5,
        )  # fmt: skip
        added = self._db.execute(
            f"INSERT OR IGNORE INTO messages (owner, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            row,
        )
        return added.rowcount > 0

    def conversation(self, owner: int, other: int, limit: int) -> list[Stored]:
        """The last messages between two users, at most `limit`, the oldest first."""
        found = self._rows(
            "owner = ? AND (sender, target) IN (VALUES (?, ?), (?, ?)) ORDER BY place DESC LIMIT ?",
            (owner, owner, other, other, owner, limit),
        )
        return list(found)[::-1]

    def after(self, owner: int, sender: int, time: int, name: str) -> int:
        """How many messages from `sender` came after one; if that is not here, how many have a later time."""
        found = self._db.execute(
            "SELECT place FROM messages "
            "WHERE owner = ? AND sender = ? AND target = ? AND name = ? AND time = ?",
            (owner, sender, owner, name, time),
        ).fetchone()
        if found is None:
            column, value = "time", time
        else:
            column, value = "place", found[0]
        # The signs keep it from the index: all that somebody sent may be much, and what is new is little.
        (count,) = self._db.execute(
            "SELECT count(*) FROM messages "  # noqa: S608
            f"WHERE +owner = ? AND +sender = ? AND +target = ? AND {column} > ?",
            (owner, sender, owner, value),
        ).fetchone()
        return int(count)

    def find(self, owner: int, prefix: str) -> list[Stored]:
        """Messages whose name begins so; several may have one name, the newest is the last."""
        end = prefix + "\U0010ffff"
        return list(self._rows("owner = ? AND name BETWEEN ? AND ? ORDER BY place", (owner, prefix, end)))

    def _rows(self, where: str, values: Sequence[object]) -> Iterator[Stored]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM messages WHERE {where}", values)  # noqa: S608
        return (Stored(*row) for row in rows)

    def meet(self, userid: int, username: str) -> None:
        """Remember somebody's name."""
        self._db.execute("INSERT OR REPLACE INTO people VALUES (?, ?)", (userid, username))

    def name_of(self, userid: int) -> str | None:
        """The name that somebody had when it was last heard."""
        found = self._db.execute("SELECT username FROM people WHERE userid = ?", (userid,)).fetchone()
        return None if found is None else str(found[0])

    def names(self) -> list[str]:
        """All names that are remembered."""
        return [str(name) for (name,) in self._db.execute("SELECT username FROM people ORDER BY username")]
