"""How much work a frame reader has with a frame that comes in many pieces, counted and timed.

What it makes of the pieces is not looked at here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from chatsvc.wire.frames import RELEASED, FrameReader, Head
from chatsvc.wire.limits import Limits


class CopiesEachTime(FrameReader):
    """The bug that this is about: the buffer is made anew of each piece."""

    def receive(self, data: bytes) -> None:
        """Take in what the peer sent."""
        self._buffer = bytes(self._buffer[self._offset :]) + data
        self._offset = 0


def moved(reader: FrameReader, length: int, piece: int) -> int:
    """Bytes that were moved in memory until all but the end of a frame of `length` bytes had come."""
    total = room = held = 0
    for data in _stream(length, piece):
        reader.receive(data)
        held += len(data)
        if sys.getsizeof(reader._buffer) != room:  # it moved, with all that it held
            room = sys.getsizeof(reader._buffer)
            total += held
        assert reader.next_head() is None
    return total


def cpu(length: int, piece: int, times: int) -> float:
    """Seconds of processor that a reader takes for such a frame: the least of so many times."""
    return min(_cpu(length, piece) for _ in range(times))


def _cpu(length: int, piece: int) -> float:
    reader = FrameReader(Limits(), RELEASED)
    head: Head | None = None
    began = time.process_time()
    for data in _stream(length, piece):
        reader.receive(data)
        head = reader.next_head()
    assert head is None
    return time.process_time() - began


def _stream(length: int, piece: int) -> Iterator[bytes]:
    whole = RELEASED.header.pack(length, 0) + bytes(length - 1)
    return (whole[at : at + piece] for at in range(0, len(whole), piece))
