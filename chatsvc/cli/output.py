"""What the command prints and asks: lines for people, JSON for scripts, bars while something takes long.

What others wrote is shown so that it can do nothing to a terminal.
"""

from __future__ import annotations

import base64
import binascii
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from chatsvc.cli.archive import Stored
from chatsvc.wire.schema import UserInfo

#: Digits of a message's id that are shown; any number of them names it.
SHOWN_ID = 8
#: Bytes of a file's name: less than any file system takes, with what a part of it is called.
_LONGEST_NAME = 200

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, an object a line, for scripts."
)


def harmless(text: str) -> str:
    """`text` without what could move a terminal's cursor, change its colours or turn its lines around."""
    return "".join(one if _is_harmless(one) else f"\\u{ord(one):04x}" for one in text)


def _is_harmless(one: str) -> bool:
    # Joiners are of the category Cf, and emoji and some scripts need them.
    return one in "\n\t\u200c\u200d" or unicodedata.category(one) not in ("Cc", "Cf", "Zl", "Zp")


def say(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print one thing: the object itself for scripts, `text` for people. It is out when this returns."""
    click.echo(msgspec.json.encode(record).decode() if as_json else harmless(text))
    sys.stdout.flush()


def person(user: UserInfo) -> dict[str, Any]:
    """A user, for scripts."""
    return {"userid": user.userid, "username": user.username}


def record(message: Stored, sender: str, target: str) -> dict[str, Any]:
    """A message, for scripts. A picture's content is its bytes in base64."""
    return {
        "id": message.name,
        "from": {"userid": message.sender, "username": sender},
        "to": {"userid": message.target, "username": target},
        "type": message.kind,
        "content": message.content,
        "time": datetime.fromtimestamp(message.time / 1000, UTC).isoformat(timespec="milliseconds")
        if 0 <= message.time < 253402300800000  # what a date can be
        else None,
        "timestamp": message.time,
        "file": message.file,
    }


def line(message: Stored, sender: str, target: str) -> str:
    """A message, for people."""
    try:
        when = f"{datetime.fromtimestamp(message.time / 1000):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        when = "at no time"
    return f"{when}  {sender} > {target}: {body(message)}"


def body(message: Stored) -> str:
    """What a message says, in text."""
    short = message.name[:SHOWN_ID]
    if message.kind == "plaintext":
        return message.content.replace("\n", "\n    ")
    what = "a picture" if message.kind == "image" else f"the file {message.content}"
    return f"[{what}; chatsvc get {short}]"


def picture(message: Stored) -> bytes | None:
    """The bytes of a picture that is in its message; None if it has none."""
    try:
        return base64.b64decode(message.content, validate=True) if message.kind == "image" else None
    except binascii.Error:
        return None


def file_name(message: Stored) -> str:
    """A name for a message's file that stays in the directory where it is put."""
    wanted = message.content if message.kind == "file" else ""
    return _plain(wanted) or _plain(f"{message.kind}-{message.name[:SHOWN_ID].replace('/', '_')}")


def _plain(text: str) -> str:
    name = Path(harmless(text).replace("\\", "_").replace("\n", " ")).name.lstrip(".")
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error, moved by calls with how many bytes of how many are through."""
    shown = click.progressbar(length=1, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
    with shown:

        def move(done: int, of: int) -> None:
            shown.length = max(1, of)
            shown.update(done - shown.pos)  # back to the start when it is tried again

        yield move
