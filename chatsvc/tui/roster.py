"""Who there is for the application: names, relations, presence, unread messages, and that put in words.

It asks nobody and draws nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from chatsvc.wire.schema import Contacts, Presence

#: What stands beside a name, by relation.
_HINTS = {"contacts": "", "pending": "asked", "requesting": "asks; /add", "blocked": "blocked"}
_STRANGER = "no contact"


class Person(NamedTuple):
    """Somebody in the list. `hint` is for who is no contact."""

    userid: int
    name: str
    hint: str = ""
    unread: int = 0
    online: bool = False


class Roster:
    """Everybody whom the application has heard of."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._hints: dict[int, str] = {}
        self._presence: dict[int, Presence] = {}
        #: Messages that were not shown, by their senders.
        self.unread: Counter[int] = Counter()

    def name(self, userid: int) -> str | None:
        """Somebody's name, if it was heard."""
        return self._names.get(userid)

    def meet(self, userid: int, name: str) -> None:
        """Somebody is called so."""
        self._names[userid] = name

    def relate(self, found: Contacts) -> None:
        """These are all relations that there are now."""
        self._hints.clear()
        for relation, hint in _HINTS.items():
            for user in getattr(found, relation) or ():
                self._names[user.userid] = user.username
                self._hints[user.userid] = hint

    def hear(self, presence: Presence) -> None:
        """Somebody is online, or is not."""
        self._presence[presence.userid] = presence

    def disconnected(self) -> None:
        """Nobody's presence is known any more."""
        self._presence.clear()

    def listed(self) -> list[Person]:
        """Everybody: those with unread messages first, then by name."""
        people = (
            Person(at, name, self._hints.get(at, _STRANGER), self.unread[at], self._online(at))
            for at, name in self._names.items()
        )
        return sorted(people, key=lambda person: (-person.unread, person.name.casefold()))

    def seen(self, userid: int, now: float) -> str:
        """Whether somebody is online, or when that was; empty if it is not known. `now` is in s."""
        presence = self._presence.get(userid)
        if presence is None:
            return ""
        if presence.online:
            return "online"
        if presence.lastseen is None:
            return ""
        try:
            then = datetime.fromtimestamp(presence.lastseen / 1000)
        except (OverflowError, OSError, ValueError):
            return ""
        form = "%H:%M" if then.date() == datetime.fromtimestamp(now).date() else "%d %b %Y"
        return f"last seen {then:{form}}"

    def _online(self, userid: int) -> bool:
        presence = self._presence.get(userid)
        return presence is not None and presence.online
