"""What a chat server is, in plain Python: mailboxes, devices, cursors, contacts, from docs/protocol.md alone.

Nothing is sent here, and no code of the server's is used. A position in a mailbox is a number of messages.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

#: An answer and a later request, of a device that knows no ACKFETCH, are this far apart, in seconds, if the
#: request says that the answer was read (and is no FETCHMSG).
APART = 1.0


def for_reader(text: str, dialect: str) -> str:
    """A name or content as a client that speaks this dialect gets it."""
    if dialect != "released":
        return text
    try:
        raw = base64.b64decode(text, validate=True)
        raw.decode()
    except (ValueError, binascii.Error):
        raw = b""
    if base64.b64encode(raw).decode() == text:
        return text
    return base64.b64encode(text.encode()).decode()


class Entry:
    """A message in one user's mailbox."""

    def __init__(self, message: dict[str, Any], origin: Device | None) -> None:
        self.message = message
        #: The device that sent it as this mailbox's user.
        self.origin = origin

    @property
    def timestamp(self) -> int:
        """Its client's or, without one, the server's."""
        return int(self.message["timestamp"])


class User:
    """Somebody: a mailbox, and whom they added."""

    def __init__(self, user_id: int, name: str, password: str) -> None:
        self.id = user_id
        self.name = name
        self.password = password
        self.mailbox: list[Entry] = []
        self.added: set[int] = set()


class Inbox:
    """How far one device got in one user's mailbox."""

    def __init__(self, device: Device, user: User) -> None:
        self.device = device
        self.user = user
        #: Where the cursor may be: more than one place where it depends on times that nobody knows exactly.
        self.cursors = {0}
        #: What lies before it was delivered, or is the device's own.
        self.delivered = 0
        #: Timestamp of the first message, and end, of each FETCHMSG answer.
        self.answers: list[tuple[int, int]] = []

    def foreign(self, start: int, end: int | None = None) -> list[int]:
        """The places from `start` on of messages that the device did not send itself."""
        mailbox = self.user.mailbox
        places = range(start, len(mailbox) if end is None else end)
        return [place for place in places if mailbox[place].origin is not self.device]

    def deliver(self, start: int, end: int, newest: int | None) -> bool:
        """What lies between was written out; gives whether it counts: if all before it did."""
        if self.foreign(self.delivered, start):
            return False
        self.delivered = max(self.delivered, end)
        if newest is not None:
            self.answers.append((newest, end))
        return True

    def acknowledge(self, end: int, *, certain: bool = True) -> None:
        """The cursor moves to `end`, if it is not beyond; perhaps, if that is not certain."""
        moved = {max(cursor, end) for cursor in self.cursors}
        self.cursors = moved if certain else moved | self.cursors

    def acknowledge_time(self, timestamp: int) -> None:
        """ACKFETCH."""
        self.cursors = {max(cursor, self._end(cursor, timestamp)) for cursor in self.cursors}

    def _end(self, cursor: int, timestamp: int) -> int:
        for newest, end in self.answers:
            if newest == timestamp and self.foreign(cursor, end):
                return end
        places = self.foreign(cursor, self.delivered)
        times = [self.user.mailbox[place].timestamp for place in places]
        if timestamp in times:
            return places[times.index(timestamp)] + 1
        return next(
            (place for place, time in zip(places, times, strict=True) if time > timestamp), self.delivered
        )


class Device:
    """A device, with what it knows of each user that it ever was bound to."""

    def __init__(self) -> None:
        self.user: User | None = None
        #: It has used ACKFETCH.
        self.explicit = False
        self.inboxes: dict[User, Inbox] = {}
        self.connections: list[Connection] = []

    def bind(self, user: User | None) -> None:
        """A binding begins, and another one ends; or one just ends."""
        self.user = user
        for connection in self.connections:
            connection.fetched = False
            connection.limit_end = None

    @property
    def inbox(self) -> Inbox:
        """That of the user to whom it is bound."""
        assert self.user is not None
        return self.inboxes.setdefault(self.user, Inbox(self, self.user))


class Connection:
    """A connection of a device."""

    def __init__(self, device: Device, dialect: str, clock: Callable[[], float]) -> None:
        self.device = device
        self.dialect = dialect
        self._clock = clock
        #: It has made a request, so it is pushed to.
        self.online = False
        #: A FETCHMSG was answered OK here since the device was bound.
        self.fetched = False
        #: Where the next FETCHMSG with a limit continues.
        self.limit_end: int | None = None
        #: What was delivered here.
        self._delivered: dict[Inbox, int] = {}
        #: What of it by the end of the last answer, and between which times that was written out.
        self._answered: dict[Inbox, int] = {}
        self._answered_within: tuple[float, float] | None = None
        self._asked_at = 0.0
        device.connections.append(self)

    def asks(self) -> None:
        """A request is about to be sent."""
        self._asked_at = self._clock()
        self.online = True

    def was_asked(self, kind: str) -> None:
        """Its answer has begun to come: the request said that the answer before was read."""
        if self._answered_within is None or self.device.explicit:
            return
        earliest, latest = self._answered_within
        at_once = kind == "FETCHMSG"
        if at_once or self._clock() - earliest >= APART:
            for inbox, end in self._answered.items():
                inbox.acknowledge(end, certain=at_once or self._asked_at - latest >= APART)

    def answered(self) -> None:
        """Its answer has come to the end."""
        self._answered = dict(self._delivered)
        self._answered_within = (self._asked_at, self._clock())

    def deliver(self, start: int, end: int, newest: int | None = None) -> None:
        """Messages were read here: a push, or an answer whose first message has the timestamp `newest`."""
        inbox = self.device.inbox
        if self.fetched and inbox.deliver(start, end, newest):
            self._delivered[inbox] = max(end, self._delivered.get(inbox, 0))

    def close(self, *, cleanly: bool) -> None:
        """It ends."""
        self.device.connections.remove(self)
        if cleanly and not self.device.explicit:
            for inbox, end in self._delivered.items():
                inbox.acknowledge(end)


class World:
    """All users, and what was sent between them."""

    def __init__(self) -> None:
        self.users: dict[int, User] = {}
        self.devices: list[Device] = []
        self._sent: set[tuple[Any, ...]] = set()

    def send(self, device: Device, message: dict[str, Any], *, timed: bool) -> bool:
        """A message was answered OK; gives whether it is new. `timed`: its client gave the timestamp."""
        key = tuple(message[field] for field in ("userid", "targetid", "md5encoded", "timestamp"))
        if timed and key in self._sent:
            return False
        if timed:
            self._sent.add(key)
        self.users[message["userid"]].mailbox.append(Entry(message, device))
        if message["targetid"] != message["userid"]:
            self.users[message["targetid"]].mailbox.append(Entry(message, None))
        return True

    def listeners(self, sender: Device, message: dict[str, Any]) -> list[Connection]:
        """Who is pushed a new message."""
        users = (message["userid"], message["targetid"])
        return [
            connection
            for device in self.devices
            if device is not sender and device.user is not None and device.user.id in users
            for connection in device.connections
            if connection.online
        ]

    def relations(self, user: User) -> dict[str, set[int]]:
        """The answer of FETCHCONTACT, as ids."""
        added_me = {other.id for other in self.users.values() if user.id in other.added}
        return {
            "contacts": user.added & added_me,
            "pending": user.added - added_me,
            "requesting": added_me - user.added,
        }
