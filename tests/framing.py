"""Frames as tests make and read them, by the tables of ``docs/protocol.md`` and not by the code under test.

Nothing is tested here.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from chatsvc.wire.frames import DIALECTS, NETWORK, RELEASED, Dialect, FrameReader, Head

EACH_DIALECT = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


class Frame(NamedTuple):
    """What came out of a reader for one frame."""

    json: bytes | None
    payload_length: int
    payload: bytes


def read(reader: FrameReader, chunks: Iterable[bytes]) -> list[Frame]:
    """All that `reader` makes of `chunks`; of a payload as much as has come."""
    heads: list[Head] = []
    payloads: list[bytearray] = []
    for chunk in chunks:
        reader.receive(chunk)
        while True:
            while reader.payload_left and (data := reader.read_payload()):
                payloads[-1] += data
            head = reader.next_head()
            if head is None:
                break
            heads.append(head)
            payloads.append(bytearray())
    return [Frame(*head, bytes(payload)) for head, payload in zip(heads, payloads, strict=True)]


def header(dialect: Dialect, json_length: int, payload_length: int = 0) -> bytes:
    """A header, made from the table of section 1 and not by the code under test."""
    order: Any = "big" if dialect is NETWORK else "little"
    wide = 8 if dialect is RELEASED else 4
    lengths = json_length.to_bytes(4, order, signed=True), payload_length.to_bytes(wide, order, signed=True)
    return b"".join(lengths)


def on_the_wire(dialect: Dialect, frame: Frame) -> bytes:
    assert frame.json is not None
    return header(dialect, len(frame.json), frame.payload_length) + frame.json + frame.payload


def bytewise(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def an_object(length: int, fields: dict[str, Any] | None = None, filler: str = "x") -> bytes:
    """A JSON object of `length` bytes, or of what `fields` take if that is more."""

    def dump(value: object) -> bytes:
        return json.dumps(value, ensure_ascii=False).encode()

    fields = fields or {}
    room = max(0, length - len(dump({**fields, "pad": ""})))
    times, rest = divmod(room, len(dump(filler)) - 2)
    return dump({**fields, "pad": filler * times + "x" * rest})


@contextmanager
def memory() -> Iterator[list[int]]:
    """Counts what the block allocates at its peak, and what it still holds at its end, in bytes."""
    counts: list[int] = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield counts
        held, peak = tracemalloc.get_traced_memory()
        counts += [peak - before, held - before]
    finally:
        tracemalloc.stop()
