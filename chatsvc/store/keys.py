"""Every key and channel of the store, made in this one place; ``docs/architecture.md`` has the table.

What concerns a user carries the hash tag of that user, so that one script touches one slot of a cluster.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

#: Where user ids are counted.
USER_COUNTER = b"chatsvc:users"
#: Which node of a cluster's looks for pending messages at the moment.
SWEEPER = b"chatsvc:sweeper"
#: What is being restored, until all of it is there.
RESTORING = b"chatsvc:restoring"


class PresenceOf(NamedTuple):
    """Names the channel on which is published that a user comes or goes."""

    user_id: int


#: What a channel is about: a user, by id; a device; whether a user is online.
Whose = int | str | PresenceOf


def name(key: str) -> bytes:
    """Who has a name, under the form in which names are compared (`chatsvc.wire.text.name_key`)."""
    return b"{n:%b}" % key.encode()


def name_at(key: bytes) -> str:
    """The name, in the form in which names are compared, that a key of `name` is for."""
    return key[3:-1].decode()


def user(user_id: int) -> bytes:
    """A user's record."""
    return b"{u:%d}" % user_id


def part(user_id: int, what: bytes) -> bytes:
    """A key beside a user's record: devices, out, in, blocked, marks, mail, last, cursors, repeat, files,
    sent, online, pending."""
    return b"{u:%d}:%b" % (user_id, what)


#: What match the keys by which repeats are recognised; the second ones are a cluster's (`got`).
REPEATS = (b"{u:*}:repeat:*", b"{u:*}:got:*")
#: What match the names, and all that belongs to users.
NAMES, USERS = b"{n:*}", b"{u:*"
#: What matches the keys of all pending messages.
PENDING_PATTERN = b"{u:*}:pending"


def got(user_id: int, sender: int, repeat: str) -> bytes:
    """What says that a sender's message has come into this user's mailbox, in a cluster."""
    return b"{u:%d}:got:%d:%b" % (user_id, sender, repeat.encode())


def user_of(key: bytes) -> int:
    """The user to whose slot a key belongs."""
    return int(key[3 : key.index(b"}")])


def device(device_id: str) -> bytes:
    """A device's record."""
    return b"{d:%b}" % device_id.encode()


#: What matches the keys of all invites.
INVITES = b"{i:*}"


def invite(invite_id: str) -> bytes:
    """An invite's record."""
    return b"{i:%b}" % invite_id.encode()


def invite_id(code: str) -> str:
    """What an invite is called everywhere but where its code is typed, which is in its normal form here."""
    return hashlib.sha256(code.encode()).hexdigest()[:32]


def id_of_invite(key: bytes) -> str:
    """The invite whose record is at a key."""
    return key[3:-1].decode()


def is_repeat(key: bytes) -> bool:
    """Whether repeats are recognised by a user's key, which outlives the user then."""
    return key.removeprefix(part(user_of(key), b"")).startswith((b"repeat", b"got"))


def id_of_device(key: bytes) -> bytes:
    """The device whose record is at a key."""
    return key[3:-1]


def mark(key: bytes) -> bytes:
    """What is written before replicas are waited for, in the slot of a key."""
    tag = key[1 : key.index(b"}")] if key.startswith(b"{") else key
    return b"{%b}:mark" % tag


def device_id(token: int) -> str:
    """What a device is called everywhere but on the wire.

    The store and the logs hold this hash alone: who reads them cannot pose as the device.
    """
    return hashlib.sha256(b"%d" % token).hexdigest()[:32]


def repeat(target: int, timestamp: int, md5encoded: str) -> str:
    """What makes two requests of a sender one message, as a key of its own."""
    name = md5encoded if len(md5encoded) <= 32 else "#" + message_key(md5encoded)  # no short name is as long
    return f"{target}:{timestamp}:{name}"


def message_key(md5encoded: str) -> str:
    """What a message's name, which is the client's to choose, is called in a user's index of files."""
    return hashlib.sha256(md5encoded.encode()).hexdigest()[:32]


def channel(whose: Whose) -> bytes:
    """The channel of all that concerns a user's online devices, of one device's binding, or of presence."""
    if isinstance(whose, PresenceOf):
        return part(whose.user_id, b"presence")
    return user(whose) if isinstance(whose, int) else device(whose)


def whose_channel(channel: bytes) -> Whose:
    """What this channel is about."""
    if channel[1:2] != b"u":
        return channel[3:-1].decode()
    return user_of(channel) if channel.endswith(b"}") else PresenceOf(user_of(channel))
