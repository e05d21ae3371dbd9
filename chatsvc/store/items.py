"""What a store holds, as *items* that any store can take whatever its kind, and their written form.

How they are read from a store and put into one is in ``transfer`` beside this.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

#: Fields of a hash, or members of a set, in one item.
FIELDS = 400


class Counter(Struct, tag="counter", array_like=True, frozen=True):
    """The user id that was given last."""

    newest: int


class User(Struct, tag="user", array_like=True, frozen=True):
    """A user's record, as fields and values by turns."""

    id: int
    fields: list[bytes]


class Mail(Struct, tag="mail", array_like=True, frozen=True):
    """The next entries of a mailbox: ids, each with fields and values by turns."""

    user: int
    entries: list[tuple[bytes, list[bytes]]]


class End(Struct, tag="end", array_like=True, frozen=True):
    """The end of a mailbox, after its entries: the newest id that it ever had."""

    user: int
    last: bytes


class Cursors(Struct, tag="cursors", array_like=True, frozen=True):
    """Some devices' cursors in a mailbox: devices and ids by turns."""

    user: int
    fields: list[bytes]


class Files(Struct, tag="files", array_like=True, frozen=True):
    """A part of a user's index of files, as fields and values by turns."""

    user: int
    fields: list[bytes]


class Sent(Struct, tag="sent", array_like=True, frozen=True):
    """Some of what a user's files add up to, as digests and sizes by turns."""

    user: int
    fields: list[bytes | int]


class Added(Struct, tag="added", array_like=True, frozen=True):
    """Whom a user added; who added the user follows from it."""

    user: int
    others: list[int]


class Blocked(Struct, tag="blocked", array_like=True, frozen=True):
    """Whom a user blocks."""

    user: int
    others: list[int]


class Marks(Struct, tag="marks", array_like=True, frozen=True):
    """Some of the marks between a user and contacts, as fields and values by turns."""

    user: int
    fields: list[bytes]


class Device(Struct, tag="device", array_like=True, frozen=True):
    """A device's record, and to whom it is bound: 0 if to nobody."""

    id: bytes
    fields: list[bytes]
    expires: int
    user: int


class Repeat(Struct, tag="repeat", array_like=True, frozen=True):
    """The key of a stored message, by which a repeat of it is recognised."""

    key: bytes
    expires: int


Item = Counter | User | Mail | End | Cursors | Files | Sent | Added | Blocked | Marks | Device | Repeat

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Item])


def packed(items: list[Item]) -> bytes:
    """Some items as bytes."""
    return _encoder.encode(items)


def unpacked(data: bytes) -> list[Item]:
    """The items in what `packed` gave. Raises `msgspec.DecodeError` for anything else."""
    return _decoder.decode(data)


def in_parts(pairs: list[tuple[bytes, bytes]]) -> Iterator[list[bytes]]:
    """Fields and values by turns, as many as an item has."""
    for start in range(0, len(pairs), FIELDS):
        yield [part for pair in pairs[start : start + FIELDS] for part in pair]
