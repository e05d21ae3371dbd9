"""Every key and channel of the store, made in this one place; ``docs/architecture.md`` has the table.

What concerns a user carries the hash tag of that user, so that one script touches one slot of a cluster.
"""

from __future__ import annotations

import hashlib

#: Where user ids are counted.
USER_COUNTER = b"chatsvc:users"


def name(key: str) -> bytes:
    """Who has a name, under the form in which names are compared (`chatsvc.wire.text.name_key`)."""
    return b"{n:%b}" % key.encode()


def user(user_id: int) -> bytes:
    """A user's record."""
    return b"{u:%d}" % user_id


def part(user_id: int, what: bytes) -> bytes:
    """A key beside a user's record: devices, out, in, mail, last, cursors, repeat, files, online."""
    return b"{u:%d}:%b" % (user_id, what)


def device(device_id: str) -> bytes:
    """A device's record."""
    return b"{d:%b}" % device_id.encode()


def device_id(token: int) -> str:
    """What a device is called everywhere but on the wire.

    The store and the logs hold this hash alone: who reads them cannot pose as the device.
    """
    return hashlib.sha256(b"%d" % token).hexdigest()[:32]


def message_key(md5encoded: str) -> str:
    """What a message's name, which is the client's to choose, is called in a user's index of files."""
    return hashlib.sha256(md5encoded.encode()).hexdigest()[:32]


def channel(whose: int | str) -> bytes:
    """The channel of all that concerns a user's online devices, or of one device's binding."""
    return user(whose) if isinstance(whose, int) else device(whose)


def whose_channel(channel: bytes) -> int | str:
    """The user, or the device, whose channel this is."""
    inside = channel[3:-1]
    return int(inside) if channel[1:2] == b"u" else inside.decode()
