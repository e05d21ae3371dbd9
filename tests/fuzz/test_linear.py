"""The work that a frame in many pieces makes, counted: no clock is looked at here.

Its time is measured by ``python -m tests.fuzz attacks``; how often it is looked at, in ``test_frames.py``.
"""

from __future__ import annotations

import pytest

from chatsvc.wire.frames import RELEASED, FrameReader
from chatsvc.wire.limits import KIB, Limits
from tests.fuzz.linear import CopiesEachTime, moved

#: A length, and the size of the pieces: bytes, and what a segment on an Ethernet holds.
EACH_WAY = pytest.mark.parametrize(("length", "piece"), [(16 * KIB, 1), (240 * KIB, 1460)])
#: How often a byte may be moved: a buffer that grows by an eighth moves it eight or nine times.
MOVES = 16


@EACH_WAY
def test_a_byte_is_moved_a_few_times_in_however_many_pieces_a_frame_comes(length: int, piece: int) -> None:
    assert moved(FrameReader(Limits(), RELEASED), length, piece) < MOVES * length


@EACH_WAY
def test_a_reader_that_copies_its_buffer_for_each_piece_is_found_out(length: int, piece: int) -> None:
    assert moved(CopiesEachTime(Limits(), RELEASED), length, piece) > MOVES * length
