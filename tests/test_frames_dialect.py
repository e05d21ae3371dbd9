"""How the frame reader tells the dialect from the first frame, ``docs/protocol.md`` section 1.

What it makes of all other frames is in ``test_frames.py``.
"""

from __future__ import annotations

import json
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.wire import frames
from chatsvc.wire.errors import Violation
from chatsvc.wire.frames import NETWORK, RELEASED, SEED, Dialect, FrameReader
from chatsvc.wire.limits import KIB, Limits
from tests.framing import Frame, an_object, bytewise, memory, on_the_wire, read

SHORT = [SEED, NETWORK]
#: Too deep for any recursive parser, closed again; then a string begins.
DEEP = b'{"d":' + b"[" * 3000 + b"]" * 3000 + b',"s\\\\":"'


@pytest.mark.parametrize(
    ("start", "dialect"),
    [
        (b"\0\0\0\x02\0\0\0\0{", NETWORK),
        (b"\x02\0\0\0\0\0\0\0{", SEED),  # as a `released` payload length it would be over any limit
        (b"\x02\0\0\0\0\0\0\0\0", RELEASED),
        (b"\x02\0\0\0\xff\xff\xff\xff\x7a", RELEASED),
        (b"\0\0\0\0\0\0\0\0\0", RELEASED),
        (b"\0\x01\x01\0\0\0\0\0{", SEED),  # 65,792 reads the same both ways
        (b"\xff\xff\xff\0\0\0\0\0{", SEED),  # and not -256, big-endian
        (b"\0\xff\xff\xff\0\0\0\0{", NETWORK),
    ],
)
def test_the_ninth_byte_and_the_zeros_of_the_length_tell_the_dialect(start: bytes, dialect: Dialect) -> None:
    reader = FrameReader(Limits())
    assert read(reader, bytewise(start[:8])) == []
    assert reader.dialect is None
    assert reader.unfinished == 8
    assert read(reader, [start[8:]]) == []
    assert reader.dialect is dialect


@pytest.mark.parametrize("length", [b"\x01\0\0\x01", b"\xff\xff\xff\xff", b"GET ", b"\0\0\0\0"])
def test_a_first_frame_that_fits_no_dialect_is_a_violation(length: bytes) -> None:
    for start in ([length + b"\0\0\0\0{"], bytewise(length + b"\0\0\0\0{")):
        reader = FrameReader(Limits())
        with pytest.raises(Violation, match=r"\.$"):
            read(reader, start)
        assert reader.dialect is None  # so the answer goes out as `released`


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x01\0\0\x04", b"GET "])
def test_a_length_that_no_dialect_allows_needs_no_ninth_byte(length: bytes) -> None:
    reader = FrameReader(Limits())
    assert read(reader, [length[:3]]) == []
    with pytest.raises(Violation, match=r"negative|declares"):
        read(reader, [length[3:]])


#: Two bytes between two zeros: the lengths that a 4+4 header leaves open.
MIDDLES = [(1, 0), (0, 1), (1, 2), (2, 1), (0, 9), (0xFF, 0xFE)]


def ambiguous(middle: tuple[int, int], dialect: Dialect) -> tuple[bytes, int, int]:
    """The header with `middle`, the length that it has in `dialect`, and the smaller of its two lengths."""
    length = bytes([0, *middle, 0])
    little, big = int.from_bytes(length, "little"), int.from_bytes(length, "big")
    return length + bytes(4), big if dialect is NETWORK else little, min(little, big)


@pytest.mark.parametrize("decoy", ["x", "{", "}", "]", "\\", '"', "\u00e9"])
@pytest.mark.parametrize("dialect", SHORT, ids=lambda dialect: dialect.name)
def test_an_ambiguous_length_is_the_one_at_which_an_object_ends(dialect: Dialect, decoy: str) -> None:
    for middle in MIDDLES:
        start, length, smaller = ambiguous(middle, dialect)
        text = an_object(length, filler=decoy)
        reader = FrameReader(Limits())
        assert read(reader, [start, text[: smaller - 1]]) == []
        assert reader.dialect is None
        assert read(reader, [text[smaller - 1 :]]) == [Frame(text, 0, b"")]
        assert reader.dialect is dialect


@pytest.mark.parametrize("dialect", SHORT, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("length", [256, 65536])
def test_an_ambiguous_frame_may_come_byte_by_byte(length: int, dialect: Dialect) -> None:
    frame = Frame(an_object(length), 3, b"abc")
    reader = FrameReader(Limits())
    assert read(reader, bytewise(on_the_wire(dialect, frame))) == [frame]
    assert reader.dialect is dialect


@pytest.mark.parametrize("broken", [b"{" * 256, b"{}" * 128, b'{"a":1' + b" " * 250, b'{"a":"' + b"\n" * 250])
def test_when_the_smaller_reading_is_no_object_it_is_the_other(broken: bytes) -> None:
    for start, other in ((b"\0\x01\0\0", NETWORK), (b"\0\0\x01\0", SEED)):
        reader = FrameReader(Limits())
        assert read(reader, [start + bytes(4) + broken]) == []
        assert reader.dialect is other


@pytest.mark.parametrize("inside", [b"x", b"}", b"]}", b"{", b'\\"', b'\\"}', b"\\\\", b"\\n}"])
def test_an_ambiguous_first_frame_may_be_too_deep_for_the_parser(inside: bytes) -> None:
    for length, dialect in ((0x2000, SEED), (0x2000, NETWORK), (0x200000, SEED), (0x200000, NETWORK)):
        text = DEEP + inside + b"x" * (length - len(DEEP) - len(inside) - 2) + b'"}'
        frame = Frame(text, 0, b"")
        reader = FrameReader(Limits())
        assert read(reader, [on_the_wire(dialect, frame)]) == [frame]
        assert reader.dialect is dialect


tricky = st.text('"\\{}[]a', max_size=6)
nested = st.recursive(
    tricky,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([1, 3, 64 * KIB]), nested)
def test_brackets_close_at_the_end_of_an_object_and_nowhere_before(step: int, value: object) -> None:
    text = json.dumps({"": value}).encode()
    with mock.patch.object(frames, "_STEP", step):
        closed = [end for end in range(1, len(text) + 1) if frames._closes_all(text[:end])]
    assert closed == [len(text)]


def test_small_limits_hold_before_the_dialect_is_known() -> None:
    limits = Limits(json=1000)
    for middle in ((4, 5), (0xFF, 0xFE)):  # both readings are over the limit
        start = bytes([0, *middle, 0, 0, 0, 0, 0])
        with pytest.raises(Violation, match="at most 1000 bytes"):
            read(FrameReader(limits), [start + b"{"])
    reader = FrameReader(limits)  # 768, or else 196,608
    assert read(reader, [b"\0\x03\0\0" + bytes(4), an_object(2000)[:767]]) == []
    with pytest.raises(Violation, match="declares 196608"):
        read(reader, [b"x"])


def test_an_ambiguous_frame_in_many_pieces_is_parsed_once() -> None:
    frame = Frame(an_object(65536), 0, b"")
    with mock.patch.object(frames, "_is_object", wraps=frames._is_object) as parse:
        assert read(FrameReader(Limits()), bytewise(on_the_wire(NETWORK, frame))) == [frame]
    assert parse.call_count == 1


@pytest.mark.parametrize("unit", [b'\\"', b'"a",', b'"{', b"\\\\", b"a", b"["])
def test_hostile_deep_json_costs_linear_time_and_little_memory(unit: bytes) -> None:
    def hostile(size: int) -> bytes:
        return DEEP + unit * (size // len(unit))

    def cost(data: bytes) -> float:
        def once() -> float:
            start = time.process_time()
            assert not frames._is_object(data)
            return time.process_time() - start

        return min(once() for _ in range(5))

    small, large = hostile(32 * KIB), hostile(256 * KIB)
    assert cost(large) < 24 * cost(small)  # eight times the bytes; 64 if it were quadratic
    with memory() as counts:
        frames._is_object(large)
    assert counts[0] < 16 * len(large)
