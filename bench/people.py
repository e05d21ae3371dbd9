"""Users for the load: registered in numbers, with connections to their devices.

What they say to each other is in ``talks``.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from bench.wire import Address, Line

#: Who registers at once: servers let only so many wait for a password to be hashed.
AT_ONCE = 32
PASSWORD = "5ebe2294ecd0e0f08eab7690d2a6ee69"


class Person(NamedTuple):
    """A user, and a connection of one device that is logged in."""

    user: int
    name: str
    line: Line


def register(server: Address, count: int) -> list[Person]:
    """New users, whose devices have fetched their mail: from then on what is pushed counts as delivered."""
    found: list[Person] = []
    while len(found) < count:
        names = [f"b{secrets.token_hex(6)}" for _ in range(min(AT_ONCE, count - len(found)))]
        lines = [Line(server) for _ in names]
        for line, name in zip(lines, names, strict=True):
            line.send("REGISTER", {"username": name, "passwd": PASSWORD})
        for line, name in zip(lines, names, strict=True):
            found.append(Person(line.answer().body["userid"], name, line))
        fetch(lines)
    return found


def more_devices(server: Address, person: Person, count: int) -> list[Line]:
    """So many further devices of a user, logged in."""
    lines = [Line(server) for _ in range(count)]
    for line in lines:
        line.ask("LOGIN", {"username": person.name, "passwd": PASSWORD})
    fetch(lines)
    return lines


def fetch(lines: list[Line]) -> None:
    """Fetch mail, of which there is none yet."""
    for line in lines:
        line.send("FETCHMSG")
    for line in lines:
        line.answer()
