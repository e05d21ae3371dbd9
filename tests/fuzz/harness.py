"""What must hold of the ground floor whatever bytes it is given, as plain functions of those bytes.

Where the bytes come from (a corpus, or atheris) is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from struct import Struct
from typing import Any, NamedTuple

import msgspec

from chatsvc.wire import invites, schema, text
from chatsvc.wire.errors import Refusal, Violation
from chatsvc.wire.frames import DIALECTS, Dialect, FrameReader
from chatsvc.wire.limits import Limits

#: Small, so that short inputs reach them; 300 leaves ambiguous first lengths (256) below it and above.
LIMITS = [Limits(json=limit) for limit in (40, 300, 70_000)]
#: Longest text of an error that is told to a peer, about: it quotes the peer.
LONGEST_REASON = 400
SHAPES: list[type[Any]] = [
    schema.Nothing, schema.Credentials, schema.PasswordChange, schema.ProfileChange, schema.UserRef,
    schema.Search, schema.FetchRange, schema.Ack, schema.FileRef, schema.MessageRef, schema.Message,
    schema.UserInfo, schema.Contacts, schema.FileInfo, schema.Token, schema.MessageName, schema.MessageList,
]  # fmt: skip
_MANNER = Struct("<BB")
_SIZES = Struct("<HB")


class Reading(NamedTuple):
    """All that a reader has made of a stream."""

    #: JSON (None if it was thrown away), length of the payload, and as much of it as came.
    frames: list[tuple[bytes | None, int, bytes]]
    dialect: Dialect | None
    #: What was wrong with the stream, if it broke.
    violation: str | None
    #: Whether part of a frame is under way, and the bytes held of it; nobody asks that of a broken stream.
    at_boundary: bool = False
    unfinished: int = 0


def fuzz_frames(data: bytes) -> None:
    """Any stream gives the same events in any pieces, and only `Violation` may end it.

    The first byte says which limit holds, in which form the server speaks, and what the rest is: a stream as
    it is, or frames to be written in one dialect, which then have to come out as they went in. The second
    seeds the pieces.
    """
    if len(data) < _MANNER.size:
        return
    manner, seed = _MANNER.unpack_from(data)
    rest = data[_MANNER.size :]
    limits = LIMITS[manner % len(LIMITS)]
    dialect = [None, *DIALECTS.values()][manner // 4 % 4]
    if manner & 0x80 and dialect is not None:
        _written_and_read(limits, dialect, rest, seed)
    else:
        _same_in_any_pieces(limits, dialect, rest, seed)


def fuzz_schema(data: bytes) -> None:
    """Any bytes are accepted or refused; what is accepted can be written in ASCII and reads the same."""
    found: schema.Request | schema.BadEnvelope
    try:
        found = schema.decode_request(data)
    except schema.BadEnvelope as bad:
        found = bad
    if isinstance(found, schema.Request):
        assert json.loads(data, parse_int=str)["request"] == found.request  # int() has its own limit
    else:
        assert len(str(found)) < LONGEST_REASON
    _bodies(bytes(found.body))
    _bodies(data)
    _texts(data.decode(errors="replace"))


TARGETS: dict[str, Callable[[bytes], None]] = {"frames": fuzz_frames, "schema": fuzz_schema}


def read(reader: FrameReader, chunks: Iterator[bytes]) -> Reading:
    """What `reader` makes of `chunks`, up to the first violation."""
    frames: list[tuple[bytes | None, int, bytearray]] = []
    violation = None
    try:
        for chunk in chunks:
            reader.receive(chunk)
            while True:
                while reader.payload_left and (data := reader.read_payload()):
                    frames[-1][2].extend(data)
                head = reader.next_head()
                if head is None:
                    break
                frames.append((head.json, head.payload_length, bytearray()))
            assert reader.buffered == reader.unfinished
    except Violation as found:
        violation = str(found)
    complete = [(data, length, bytes(payload)) for data, length, payload in frames]
    if violation is not None:
        return Reading(complete, reader.dialect, violation)
    return Reading(complete, reader.dialect, None, reader.at_boundary, reader.unfinished)


def pieces(stream: bytes, seed: int) -> Iterator[bytes]:
    """`stream`, cut at random; some pieces are empty."""
    random, at = Random(seed), 0
    while at < len(stream):
        size = random.choice((0, 1, 2, 7, 8, 9, 64))
        yield stream[at : at + size]
        at += size


def _same_in_any_pieces(limits: Limits, dialect: Dialect | None, stream: bytes, seed: int) -> Reading:
    ways = [iter([stream]), pieces(stream, seed), (stream[at : at + 1] for at in range(len(stream)))]
    whole, *others = [read(FrameReader(limits, dialect), way) for way in ways]
    assert others == [whole, whole], (whole, others)
    for data, length, payload in whole.frames:
        assert data is None or len(data) <= limits.json
        assert len(payload) <= length
    return whole


def _written_and_read(limits: Limits, dialect: Dialect, plan: bytes, seed: int) -> None:
    """`plan` is a list of frames: two bytes for the length of the JSON, one for the payload's, then both."""
    sent: list[tuple[bytes | None, int, bytes]] = []
    stream, at = b"", 0
    while at + _SIZES.size <= len(plan) and len(sent) < 20:
        json_length, payload_length = _SIZES.unpack_from(plan, at)
        at += _SIZES.size
        data = plan[at : at + json_length]
        at += len(data)
        payload = plan[at : at + payload_length]
        at += len(payload)
        if len(data) > limits.json and not dialect.discards_to:
            break
        stream += dialect.header.pack(len(data), len(payload)) + data + payload
        sent.append((data if len(data) <= limits.json else None, len(payload), payload))
    found = _same_in_any_pieces(limits, dialect, stream, seed)
    assert found == Reading(sent, dialect, None, True, 0)


def _bodies(data: bytes) -> None:
    name = schema.message_name(data)
    for shape in SHAPES:
        body = _body(data, shape)
        if body is None:
            continue
        written = schema.encode(body)
        assert written.isascii()
        assert schema.decode_body(written, shape) == body
        if shape is schema.Message:
            assert name == body.md5encoded
            _texts(body.content)


def _body(data: bytes, shape: type[Any]) -> Any:
    """The body in that shape, or None if it is refused."""
    reason = ""
    try:
        return schema.decode_body(data, shape)
    except Refusal as refusal:
        reason = refusal.info
    assert 0 < len(reason) < LONGEST_REASON
    return None


def _texts(plain: str) -> None:
    sent = text.for_released(plain)
    assert sent.isascii()
    assert text.is_encoded(sent)
    assert text.for_released(sent) == sent
    assert text.decoded(text.encoded(plain)) == plain
    assert text.name_key(sent) == text.name_key(plain)
    account, code = invites.split(plain)
    assert code is None or (invites.normal(code) is not None and len(account) < len(plain))
    for problem in (text.check_name(plain), text.check_password(plain)):
        assert problem is None or problem.endswith(".")
    if text.check_name(plain) is None:
        answer = schema.envelope("STATE", schema.encode(schema.UserInfo(1, plain, None)))
        assert answer.isascii()
        assert msgspec.json.decode(answer)["body"]["username"] == plain
