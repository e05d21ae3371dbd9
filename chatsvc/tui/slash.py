"""What is typed on the last line: a text to send, or a command that begins with a slash.

What the commands do is known to the application.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Known(NamedTuple):
    """A command: the words that it takes, and what it does, in a few words."""

    takes: str
    does: str


#: All commands. A word in [ ] may be left out, the last one may hold blanks.
COMMANDS = {
    "help": Known("", "show this"),
    "open": Known("USER", "open the conversation with somebody, by name or id"),
    "add": Known("USER", "ask somebody to be a contact, or accept"),
    "remove": Known("USER", "have somebody no longer as a contact"),
    "block": Known("USER", "remove somebody, and take no messages from them"),
    "unblock": Known("USER", "take messages from somebody again"),
    "file": Known("PATH", "send a file"),
    "image": Known("PATH", "send a picture"),
    "get": Known("ID [PATH]", "fetch a file or a picture; the id stands beside it"),
    "retry": Known("", "send again what could not be sent"),
    "find": Known("TEXT", "show where that was written in this conversation"),
    "quit": Known("", "leave; what is new will be here next time"),
}


class Typed(NamedTuple):
    """A line, understood: `command` is empty for a text."""

    command: str
    words: tuple[str, ...]


class Misunderstood(Exception):  # noqa: N818 - a sentence for whoever typed it
    """A command that there is not, or with other words than it takes."""


def read(line: str) -> Typed:
    """What a line means; two slashes at its beginning stand for one that is text. Raises `Misunderstood`."""
    if line.startswith("//"):
        return Typed("", (line[1:],))
    if not line.startswith("/"):
        return Typed("", (line,))
    name, _, rest = line[1:].partition(" ")
    found = [known for known in COMMANDS if known.startswith(name)] if name else []
    if name in COMMANDS:
        found = [name]
    if len(found) != 1:
        raise Misunderstood(
            f"There is no command /{name}. There are: {', '.join(f'/{one}' for one in COMMANDS)}."
        )
    (command,) = found
    takes = COMMANDS[command].takes.split()
    words = _split(rest, len(takes))
    needed = [word for word in takes if not word.startswith("[")]
    if len(words) < len(needed) or (words and not takes):
        raise Misunderstood(f"Type it as /{' '.join([command, *takes])}.")
    return Typed(command, tuple(words))


def _split(text: str, most: int) -> list[str]:
    """Up to `most` words; quotes keep blanks together, and a last word keeps them anyway."""
    text = text.strip()
    if most <= 1:
        return [text] if text else []
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed is an apostrophe
        words = text.split()
    return [*words[: most - 1], " ".join(words[most - 1 :])] if len(words) >= most else words


def shown() -> str:
    """All commands, a line each."""
    lines = (" ".join(filter(None, (f"/{name}", known.takes))) for name, known in COMMANDS.items())
    return "\n".join(f"{line:16} {known.does}" for line, known in zip(lines, COMMANDS.values(), strict=True))
