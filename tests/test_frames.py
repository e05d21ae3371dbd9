"""The frame reader against ``docs/protocol.md`` sections 1 and 2: any frames, any pieces, limits, memory.

How it tells the dialect is in ``test_frames_dialect.py``; what the JSON means, in ``test_schema.py``.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from struct import Struct
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chatsvc.wire import frames
from chatsvc.wire.errors import Violation
from chatsvc.wire.frames import DIALECTS, NETWORK, RELEASED, SEED, Dialect, FrameReader, Head
from chatsvc.wire.limits import KIB, MIB, Limits
from tests.framing import EACH_DIALECT, Frame, an_object, bytewise, header, memory, on_the_wire, read

# -- any frames in any pieces ----------------------------------------------------------------------

texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


class Plan(NamedTuple):
    """How to make a frame: short to draw and to print, also where the frame is long."""

    length: int
    fields: dict[str, Any]
    filler: str
    payload: bytes

    def frame(self) -> Frame:
        return Frame(an_object(self.length, self.fields, self.filler), len(self.payload), self.payload)


payloads = st.binary(max_size=300)
plans = st.builds(
    Plan,
    # Multiples of 256 are ambiguous in a 4+4 header; 65,792 and 131,584 read the same both ways.
    st.just(0) | st.integers(1, 12).map(lambda n: 256 * n) | st.sampled_from([65536, 65792, 131072, 131584]),
    st.dictionaries(texts, values, max_size=3),
    st.sampled_from("x{}["),
    payloads,
)
#: The JSON of a first frame must be an object; that of later ones need not even be JSON.
any_bytes = st.builds(
    lambda text, payload: Frame(text, len(payload), payload), st.binary(max_size=300), payloads
)
dialects = st.sampled_from(list(DIALECTS.values()))


def expected_dialect(dialect: Dialect, first: Frame) -> Dialect:
    """`dialect`; but a first length that reads the same both ways is `seed`, so nobody else may send it."""
    length = len(first.json or b"").to_bytes(4, "big")
    assume(dialect is not NETWORK or length != length[::-1])
    return dialect


def pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    """`stream`, cut anywhere (also into nothing)."""
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12))), len(stream)]
    return [stream[a:b] for a, b in pairwise(cuts)]


@settings(max_examples=200)
@given(dialects, plans, st.lists(any_bytes, max_size=4), st.data())
def test_any_frames_in_any_pieces_come_out_as_they_went_in(
    dialect: Dialect, first: Plan, later: list[Frame], data: st.DataObject
) -> None:
    sent = [first.frame(), *later]
    dialect = expected_dialect(dialect, sent[0])
    wire = b"".join(on_the_wire(dialect, frame) for frame in sent)
    ways = [[wire], pieces(data, wire)]
    if len(wire) < 8 * KIB:  # the lengths beyond have their own byte-by-byte test
        ways.append(list(bytewise(wire)))
    for way in ways:
        reader = FrameReader(Limits())
        assert read(reader, way) == sent
        assert reader.dialect is dialect
        assert reader.at_boundary
        assert reader.unfinished == 0


@given(dialects, plans, any_bytes, st.data())
def test_trailing_bytes_stay_until_their_frame_is_whole(
    dialect: Dialect, plan: Plan, second: Frame, data: st.DataObject
) -> None:
    first = plan.frame()
    dialect = expected_dialect(dialect, first)
    wire, rest = on_the_wire(dialect, first), on_the_wire(dialect, second)
    cut = data.draw(st.integers(1, len(rest) - second.payload_length - 1))
    reader = FrameReader(Limits())
    assert read(reader, [wire + rest[:cut]]) == [first]
    assert reader.unfinished == reader.buffered == cut
    assert not reader.at_boundary
    assert read(reader, [rest[cut:]]) == [second]
    assert reader.at_boundary


@given(st.lists(any_bytes, min_size=1, max_size=6), st.data())
def test_released_frames_over_the_limit_are_thrown_away_and_the_stream_goes_on(
    sent: list[Frame], data: st.DataObject
) -> None:
    limit = 100
    kept = [frame if len(frame.json or b"") <= limit else frame._replace(json=None) for frame in sent]
    wire = b"".join(on_the_wire(RELEASED, frame) for frame in sent)
    for way in ([wire], bytewise(wire), pieces(data, wire)):
        reader = FrameReader(Limits(json=limit))
        assert read(reader, way) == kept
        assert reader.at_boundary


def test_an_outgoing_frame_is_header_and_json() -> None:
    assert frames.frame(RELEASED, b"{}", 5) == b"\x02\0\0\0\x05\0\0\0\0\0\0\0{}"
    assert frames.frame(SEED, b"{}", 5) == b"\x02\0\0\0\x05\0\0\0{}"
    assert frames.frame(NETWORK, b"{}", 5) == b"\0\0\0\x02\0\0\0\x05{}"
    assert frames.frame(SEED, b"") == bytes(8)


# -- limits and violations -------------------------------------------------------------------------


@EACH_DIALECT
def test_a_negative_length_is_a_violation(dialect: Dialect) -> None:
    least = -(2**63) if dialect is RELEASED else -(2**31)
    for json_length, payload_length in ((-1, 0), (-(2**31), 0), (2, -1), (2, least), (-1, -1)):
        reader = FrameReader(Limits())
        assert len(read(reader, [header(dialect, 2) + b"{}"])) == 1
        with pytest.raises(Violation, match=r"negative.*0 or more"):
            read(reader, [header(dialect, json_length, payload_length)])
        if json_length > 0:  # any other would belong to no dialect, or to another
            with pytest.raises(Violation, match="negative"):
                read(FrameReader(Limits()), [header(dialect, json_length, payload_length) + b"{"])


@EACH_DIALECT
def test_a_json_length_over_the_limit_is_a_violation_that_names_it(dialect: Dialect) -> None:
    for limit in (16 * MIB - 1, 100):
        least = 64 * MIB + 1 if dialect is RELEASED else limit + 1
        for length in (least, 2**31 - 1):
            reader = FrameReader(Limits(json=limit), dialect)
            with pytest.raises(Violation, match=rf"at most {limit} bytes, .* declares {length}\."):
                read(reader, [header(dialect, length)])


@EACH_DIALECT
def test_a_json_length_at_the_limit_is_read(dialect: Dialect) -> None:
    for limits in (Limits(), Limits(json=100)):
        frame = Frame(an_object(limits.json), 0, b"")
        assert read(FrameReader(limits, dialect), [on_the_wire(dialect, frame)]) == [frame]


@pytest.mark.parametrize("length", [16 * MIB, 64 * MIB])
def test_released_json_over_the_limit_is_read_and_not_kept(length: int) -> None:
    reader = FrameReader(Limits())
    assert read(reader, [header(RELEASED, length, 3)]) == []
    chunk = bytes(64 * KIB)
    with memory() as counts:
        for _ in range(length // len(chunk) - 1):
            assert read(reader, [chunk]) == []
            assert reader.unfinished == 0
            assert not reader.at_boundary
    assert counts[0] < 64 * KIB
    rest = chunk + b"abc" + header(RELEASED, 2) + b"{}"
    assert read(reader, [rest]) == [Frame(None, 3, b"abc"), Frame(b"{}", 0, b"")]
    assert reader.at_boundary


# -- memory and work -------------------------------------------------------------------------------


@EACH_DIALECT
def test_a_declared_length_holds_only_what_arrived(dialect: Dialect) -> None:
    largest = 2**63 - 1 if dialect is RELEASED else 2**31 - 1
    with memory() as counts:
        reader = FrameReader(Limits(), dialect)
        start = header(dialect, 16 * MIB - 1, largest)
        assert read(reader, [start, b"{" * 10]) == []
    assert reader.unfinished == len(start) + 10
    assert counts[0] < 16 * KIB


@EACH_DIALECT
def test_a_payload_is_handed_on_as_it_comes(dialect: Dialect) -> None:
    chunk = bytes(64 * KIB)
    reader = FrameReader(Limits(), dialect)
    reader.receive(header(dialect, 2, 16 * MIB) + b"{}")
    assert reader.next_head() == Head(b"{}", 16 * MIB)
    with memory() as counts:
        for _ in range(16 * MIB // len(chunk)):
            assert not reader.at_boundary
            assert reader.next_head() is None
            reader.receive(chunk)
            assert (reader.unfinished, reader.buffered) == (0, len(chunk))
            assert reader.read_payload() == chunk
            assert reader.read_payload() == b""
    assert counts[0] < 2 * len(chunk)
    assert reader.at_boundary


@EACH_DIALECT
def test_a_finished_frame_leaves_nothing_behind(dialect: Dialect) -> None:
    frame = Frame(an_object(2 * MIB), 3, b"abc")
    wire = on_the_wire(dialect, frame)
    with memory() as counts:
        reader = FrameReader(Limits(), dialect)
        assert read(reader, (wire[at : at + 4 * KIB] for at in range(0, len(wire), 4 * KIB))) == [frame]
    assert counts[1] < 64 * KIB


class CountedHeader:
    """A header form that counts how often it was read."""

    def __init__(self, form: Struct) -> None:
        self.form = form
        self.size = form.size
        self.reads = 0

    def unpack_from(self, buffer: bytes, offset: int) -> tuple[Any, ...]:
        self.reads += 1
        return self.form.unpack_from(buffer, offset)


def test_a_frame_in_many_pieces_is_looked_at_twice_and_copied_a_few_times() -> None:
    counted: Any = CountedHeader(RELEASED.header)
    reader = FrameReader(Limits(), RELEASED._replace(header=counted))
    frame = Frame(an_object(512 * KIB), 0, b"")
    wire = on_the_wire(RELEASED, frame)
    copied = room = 0
    for at, byte in enumerate(bytewise(wire[:-1]), 1):
        reader.receive(byte)
        assert reader.next_head() is None
        if sys.getsizeof(reader._buffer) != room:  # it moved, with all that it held
            room = sys.getsizeof(reader._buffer)
            copied += at
            assert reader.unfinished == at
    assert copied < 16 * len(wire)
    assert read(reader, [wire[-1:]]) == [frame]
    assert counted.reads == 2  # when it was whole, and when the JSON was
