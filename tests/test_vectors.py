"""The released clients' requests, byte for byte, are read here as those clients mean them.

What a running server answers to them is not tested here.
"""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import md5
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.wire import schema
from chatsvc.wire.frames import RELEASED, FrameReader
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import TOKEN_MAX, decode_body, decode_request, envelope
from chatsvc.wire.text import for_released
from tests.framing import Frame, bytewise, read
from tests.vectors import ALL, ME, OWN, PEER, READS, STORY, TOKEN, VECTORS, Vector, chokes_on, writes

SHAPES: dict[str, type[msgspec.Struct]] = {
    "STATE": schema.Nothing,
    "REGISTER": schema.Registration,
    "LOGIN": schema.Credentials,
    "LOGOUT": schema.Nothing,
    "PROFILE": schema.UserRef,
    "MODIFYPROFILE": schema.ProfileChange,
    "MODIFYPASSWD": schema.PasswordChange,
    "SENDMSG": schema.Message,
    "FETCHMSG": schema.FetchRange,
    "ACKFETCH": schema.Ack,
    "FINDFILE": schema.FileRef,
    "FETCHFILE": schema.MessageRef,
    "SEARCHUSR": schema.Search,
    "ADDCONTACT": schema.UserRef,
    "FETCHCONTACT": schema.Nothing,
}
EACH_VECTOR = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)


def kind_of(vector: Vector) -> str:
    return str(json.loads(vector.wire[12:])["request"])


def frame_of(vector: Vector) -> Frame:
    return Frame(vector.wire[12:], len(vector.payload), vector.payload)


def in_base64(value: str | bytes) -> str:
    return b64encode(value.encode() if isinstance(value, str) else value).decode()


def as_sent(name: str, value: Any) -> Any:
    """A field as the clients put it into JSON."""
    if name in ("passwd", "newPasswd"):
        return md5(value.encode("latin-1")).hexdigest()
    if name == "avatar":
        return in_base64(value)
    if name == "content" and isinstance(value, bytes):
        return in_base64(in_base64(value))
    return in_base64(value) if name in ("username", "content") else value


def body_of(vector: Vector) -> dict[str, Any]:
    """The fields that the server reads, made from what `vector` means."""
    fields = {name: as_sent(name, value) for name, value in vector.means.items()}
    if kind_of(vector) == "SENDMSG":
        content = vector.means["content"]
        text = in_base64(content) if isinstance(content, bytes) else content
        # The name of a message covers its text, both users, and the low half of its time.
        numbers = (ME, PEER, vector.means["timestamp"] % 2**32)
        covered = text.encode() + b"".join(number.to_bytes(4, "little") for number in numbers)
        is_file = vector.means["contenttype"] == "file"
        fields |= {"userid": ME, "targetid": PEER, "md5encoded": md5(covered).hexdigest()}
        fields["filemd5"] = md5(vector.payload).hexdigest() if is_file else None
    return fields


def assert_means(data: bytes, vector: Vector, token: int = TOKEN, **ids: int) -> None:
    """That `data` is the JSON of `vector`, for another device or other users if so said."""
    request = decode_request(data)
    assert request.request == kind_of(vector)
    assert request.tokenid == (None if b'"tokenid":null' in vector.wire else token)
    fields = msgspec.structs.asdict(decode_body(request.body, SHAPES[request.request]))
    known = {name: value for name, value in (body_of(vector) | ids).items() if name in fields}
    assert fields == dict.fromkeys(fields) | known


@EACH_VECTOR
def test_the_literal_bytes_are_a_header_and_the_json_of_the_clients(vector: Vector) -> None:
    assert b"".join(writes(vector)) == vector.wire + vector.payload
    value = json.loads(vector.wire[12:])
    assert list(value) == ["request", "body", "tokenid"]
    assert json.dumps(value, separators=(",", ":")).encode() == vector.wire[12:]
    for name in value["body"].keys() & {"username", "content"}:
        assert for_released(value["body"][name]) == value["body"][name]


@EACH_VECTOR
def test_a_request_is_read_as_it_was_meant_in_any_pieces(vector: Vector) -> None:
    stream = vector.wire + vector.payload
    cuts = [[stream[:at], stream[at:]] for at in range(len(stream))]
    for way in ([stream], writes(vector), list(bytewise(stream)), *cuts):
        reader = FrameReader(Limits())
        assert read(reader, way) == [frame_of(vector)]
        assert reader.dialect is RELEASED
        assert reader.at_boundary
    assert_means(vector.wire[12:], vector)


@given(st.lists(st.sampled_from(list(VECTORS.values())), min_size=1, max_size=8), st.data())
def test_requests_may_follow_each_other_without_a_pause(vectors: list[Vector], data: st.DataObject) -> None:
    stream = b"".join(vector.wire + vector.payload for vector in vectors)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12))), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(cuts)]
    assert read(FrameReader(Limits()), pieces) == [frame_of(vector) for vector in vectors]


@EACH_VECTOR
def test_a_vector_can_be_sent_by_another_device_and_to_others(vector: Vector) -> None:
    body = body_of(vector)
    for token, me, peer in ((1, 1, 2), (TOKEN_MAX, PEER, ME), (TOKEN, 2**40, 7)):
        (frame,) = read(FrameReader(Limits()), writes(vector, token, me, peer))
        assert frame.payload == vector.payload
        assert frame.json is not None
        ids = {name: {ME: me, PEER: peer}[value] for name, value in body.items() if value in (ME, PEER)}
        assert_means(frame.json, vector, token, **ids)


def test_the_vectors_cover_every_request_and_the_story_every_vector() -> None:
    assert {kind_of(vector) for vector in VECTORS.values()} == set(SHAPES)
    assert {name for _, name in STORY} == set(VECTORS)
    for person, name in STORY:
        version = {"zoe": "2.0", "bob": "1.1"}[person]
        assert version in (VECTORS[name].versions or ALL)


@EACH_VECTOR
def test_the_answers_of_a_vector_fit_its_request(vector: Vector) -> None:
    kind = kind_of(vector)
    kinds = [answer.split()[0] for answer in vector.answers]
    if kind == "ACKFETCH":
        assert kinds == []
    else:
        assert kind in kinds
    assert set(kinds) <= {kind, "TOKEN", *(["FETCHCONTACT"] if kind == "ADDCONTACT" else [])}
    if vector.payload:
        assert vector.connection == OWN


# -- the model of what the clients can read --------------------------------------------------------

USER = {"userid": 1, "username": "Ym9i", "avatar": None}
MESSAGE = body_of(VECTORS["send_text"])
GOOD: dict[str, Any] = {
    "TOKEN": {"tokenid": TOKEN},
    "STATE": USER,
    "REGISTER": USER,
    "LOGIN": USER | {"avatar": "AAAA"},
    "PROFILE": USER,
    "MODIFYPROFILE": USER,
    "SEARCHUSR": USER,
    "SENDMSG": {"md5encoded": "abc"},
    "FORWARDMSG": MESSAGE,
    "FETCHMSG": {"messages": [body_of(VECTORS["send_image"]), body_of(VECTORS["send_file"])], "more": False},
    "FETCHCONTACT": {"contacts": [USER], "pending": [USER], "requesting": [USER]},
}
NOT_READ = sorted(SHAPES.keys() - GOOD.keys() | {"UNKNOWN"})


def answer(kind: str, body: Any, info: str | None = None) -> bytes:
    return envelope(kind, json.dumps(body).encode(), info)


def without_each_field(value: Any) -> list[Any]:
    """`value` with one field less, for each of its required fields at any depth."""
    if isinstance(value, list):
        return [
            [*value[:at], less, *value[at + 1 :]]
            for at, item in enumerate(value)
            for less in without_each_field(item)
        ]
    if not isinstance(value, dict):
        return []
    required = value.keys() - {"avatar", "filemd5", "more"}
    gone = [{k: v for k, v in value.items() if k != name} for name in required]
    return gone + [value | {name: less} for name in value for less in without_each_field(value[name])]


def test_the_model_knows_what_it_should() -> None:
    assert GOOD.keys() == READS.keys()


@pytest.mark.parametrize("kind", GOOD)
def test_the_clients_read_a_good_answer_and_choke_on_any_field_less(kind: str) -> None:
    assert chokes_on(answer(kind, GOOD[kind])) == []
    broken = without_each_field(GOOD[kind])
    assert broken
    for body in broken:
        assert len(chokes_on(answer(kind, body))) == 1
        assert chokes_on(answer(kind, body, "No."))
    assert chokes_on(answer(kind, []))


@pytest.mark.parametrize("kind", ["STATE", "LOGIN", "PROFILE", "SEARCHUSR", "FETCHMSG", "FETCHCONTACT"])
def test_the_clients_read_an_err_without_a_body(kind: str) -> None:
    assert chokes_on(answer(kind, None, "No.")) == []
    assert bool(chokes_on(answer(kind, None))) == (kind in ("STATE", "LOGIN", "PROFILE"))


@pytest.mark.parametrize("kind", NOT_READ)
def test_the_clients_do_not_look_into_other_answers(kind: str) -> None:
    for body in (None, {}, {"size": 1}):
        assert chokes_on(answer(kind, body)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"userid": 1.0},
        {"userid": 2**63},
        {"timestamp": None},
        {"timestamp": "1"},
        {"contenttype": "video"},
        {"content": "bob!"},
        {"content": "/w=="},
        {"md5encoded": None},
        {"contenttype": "image", "content": "Ym9iIQ=="},  # base64, but not of base64
    ],
)
def test_the_clients_choke_on_a_wrong_field_of_a_message(change: dict[str, Any]) -> None:
    assert len(chokes_on(answer("FORWARDMSG", MESSAGE | change))) == 1
    assert len(chokes_on(answer("FETCHMSG", {"messages": [MESSAGE, MESSAGE | change]}))) == 1


def test_the_clients_choke_on_what_is_no_envelope() -> None:
    for data in (b"", b"{}", '{"response":"STATE","status":"OK","info":"ü","body":null}'.encode()):
        assert chokes_on(data)
    assert chokes_on(b'{"response":"LOGOUT","status":"OK","info":7,"body":null}') == ["answer.info"]
    assert chokes_on(b'{"response":"LOGOUT","status":null,"info":null,"body":null}') == ["answer.status"]
