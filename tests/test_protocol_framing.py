"""The header forms over sockets: ``docs/protocol.md`` section 1, to the letter.

What the frame reader makes of any bytes is in ``test_frames.py``; limits are in ``test_protocol_limits.py``.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any
from uuid import uuid4

import pytest

from tests.raw import Raw
from tests.service import Service

#: What somebody without a login may ask in any number, with the status that it gets.
CHEAP = {"STATE": "ERR", "LOGOUT": "OK", "FETCHCONTACT": "ERR", "NOSUCH": "ERR", "FETCHMSG": "ERR"}


def unique(stem: str = "user") -> str:
    """A name that no other test uses."""
    return f"{stem}-{uuid4().hex[:12]}"


def request_of(length: int, kind: str = "STATE") -> bytes:
    """A request of exactly this many bytes of JSON."""
    bare = json.dumps({"request": kind, "pad": ""}).encode()
    return bare[:-2] + b"x" * (length - len(bare)) + bare[-2:]


def in_pieces(raw: Raw, data: bytes, size: int) -> None:
    """Send `data` so that it travels in segments of `size` bytes."""
    raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), size):
        raw.socket.sendall(data[at : at + size])


@pytest.fixture
def user(server: Service, dialect: str) -> Raw:
    """A connection in each dialect with somebody logged in."""
    return server.user(dialect)


def test_each_dialect_is_answered_in_itself(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    raw.send("STATE")
    token = raw.receive()
    assert (token.response, token.status) == ("TOKEN", "OK")
    assert 1 <= token.body["tokenid"] < 2**53
    answer = raw.receive()
    assert (answer.response, answer.status, answer.info) == ("STATE", "ERR", "User not logged in")
    assert raw.silent(0.05)


def test_each_dialect_is_pushed_to_in_itself(user: Raw, server: Service, dialect: str) -> None:
    other = server.user(dialect)
    for sender_dialect in ("released", "seed", "network"):
        sender = server.user(sender_dialect)
        assert sender.ask("SENDMSG", sender.message(other.user or 0, "aGVsbG8=")).ok
        assert other.push()["content"] == "aGVsbG8="


@pytest.mark.parametrize("size", [1, 2, 7, 9])
def test_frames_may_arrive_in_pieces_of_any_size(server: Service, dialect: str, size: int) -> None:
    raw, name = server.connect(dialect), unique()
    register = {"request": "REGISTER", "body": {"username": name, "passwd": "x"}}
    in_pieces(raw, raw.frame(register) + raw.frame({"request": "STATE"}), size)
    assert raw.answer().ok
    assert raw.answer().response == "STATE"


def test_a_payload_may_arrive_byte_by_byte(user: Raw) -> None:
    body = user.message(
        user.user or 0, contenttype="file", filemd5="5d41402abc4b2a76b9719d911017c592", md5encoded="m"
    )
    value = {"request": "SENDMSG", "body": body, "tokenid": user.token}
    in_pieces(user, user.frame(value, b"hello") + user.frame({"request": "STATE"}), 1)
    assert user.answer() == ("SENDMSG", "OK", None, {"md5encoded": "m"}, b"")
    assert user.answer().response == "STATE"
    found = user.ask("FETCHFILE", {"msgmd5": "m"})
    assert (found.payload, found.body["size"]) == (b"hello", 5)


def test_many_first_frames_in_one_write_are_answered_in_order(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    kinds = list(CHEAP) * 60
    raw.socket.sendall(b"".join(raw.frame({"request": kind}) for kind in kinds))
    assert raw.receive().response == "TOKEN"  # once, before the first answer
    for kind in kinds:
        answer = raw.receive()
        assert (answer.response, answer.status) == ("UNKNOWN" if kind == "NOSUCH" else kind, CHEAP[kind])


@pytest.mark.parametrize("length", [256, 512, 0xFF00, 0x10000, 0x20000, 0x010200, 0x020100, 0x030000])
@pytest.mark.parametrize("short", ["seed", "network"])
def test_a_first_length_that_reads_two_ways_is_found_out(server: Service, short: str, length: int) -> None:
    raw = server.connect(short)
    raw.socket.sendall(raw.frame(request_of(length)))
    assert raw.answer().response == "STATE"
    assert raw.ask("LOGOUT").ok


@pytest.mark.parametrize("short", ["seed", "network"])
def test_a_first_length_that_reads_two_ways_may_come_in_pieces(server: Service, short: str) -> None:
    raw = server.connect(short)
    in_pieces(raw, raw.frame(request_of(512)) + raw.frame({"request": "LOGOUT"}), 1)
    assert [raw.answer().response, raw.answer().response] == ["STATE", "LOGOUT"]


@pytest.mark.parametrize("short", ["seed", "network"])
def test_the_smaller_reading_is_not_fooled_by_what_looks_like_an_end(server: Service, short: str) -> None:
    # At the smaller reading's end, the text so far is an object but for a bracket or a quote.
    for at_end in (b"}", b"{}", b'\\"}', b"]}"):
        bare = b'{"request":"STATE","pad":"'
        pad = b"x" * (256 - len(bare) - len(at_end)) + at_end
        data = bare + pad + b"y" * (0x10000 - 256 - 2) + b'"}'
        assert len(data) == 0x10000
        raw = server.connect(short)
        raw.socket.sendall(raw.frame(data))
        assert raw.answer().response == "STATE", at_end


def test_the_smaller_reading_wins_whatever_follows_it(server: Service) -> None:
    for short in ("seed", "network"):
        raw = server.connect(short)
        raw.socket.sendall(raw.frame(request_of(256)) + raw.frame({"request": "LOGOUT"}) * 2000)
        assert raw.answer().response == "STATE"
        for _ in range(2000):
            assert raw.answer().response == "LOGOUT"


@pytest.mark.parametrize("length", [0x010100, 0x020200])
def test_a_length_that_is_the_same_both_ways_is_seed(server: Service, length: int) -> None:
    raw = server.connect("seed")
    raw.socket.sendall(struct.pack("<ii", length, 0) + request_of(length))
    assert struct.pack("<i", length) == struct.pack(">i", length)
    assert raw.answer().response == "STATE"
    assert raw.ask("LOGOUT").ok


def test_the_first_frame_alone_decides(user: Raw) -> None:
    for length in (100, 256, 0x10000, 0x010100):
        user.socket.sendall(user.frame(request_of(length)))
        assert user.answer().ok
    user.socket.sendall(user.frame(b'  {"request" : "STATE"}\r\n'))
    assert user.answer().ok


UNDETECTABLE = {
    "no order fits": b"\x01\x00\x00\x01" + b"\0\0\0\0" + b'{"request":"STATE"}',
    "text": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a brace after text": b"GET {id}{{{{{{",
    "no JSON in a 4+4 frame": b"\0\0\0\0" + b"\0\0\0\0" + b'{"request":"STATE"}',
    "no JSON in a 4+4 frame with a payload": b"\0\0\0\0" + b"\1\0\0\0" + b"{",
    "negative, 4+4, and no more": struct.pack("<ii", -1, 0),
    "negative, 4+4": struct.pack("<ii", -1, 0) + b'{"request":"STATE"}',
    "the least number": struct.pack("<ii", -(2**31) + 1, 0),
    "the largest, little-endian, and no more": struct.pack("<ii", 2**31 - 1, 0),
    "the largest, big-endian, and no more": struct.pack(">ii", 2**31 - 1, 0),
}


@pytest.mark.parametrize("data", UNDETECTABLE.values(), ids=UNDETECTABLE)
def test_a_first_header_that_fits_no_form_is_answered_in_released(server: Service, data: bytes) -> None:
    raw = server.connect("released")
    raw.socket.sendall(data)
    (answer,) = raw.rest()
    assert (answer.response, answer.status, answer.body) == ("UNKNOWN", "ERR", None)


VIOLATIONS: dict[str, Any] = {
    "negative JSON length": (-1, 0),
    "least JSON length": (-(2**31), 0),
    "negative payload length": (50, -1),
    "both negative": (-5, -5),
}


@pytest.mark.parametrize("lengths", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_answered_once_in_the_dialect_and_ends_the_connection(
    user: Raw, lengths: tuple[int, int]
) -> None:
    bad = user.header.pack(*lengths)
    user.socket.sendall(user.frame({"request": "STATE"}) * 3 + bad + b"{" * 100 + bad * 3)
    answers = user.rest()
    assert [answer.response for answer in answers] == ["STATE", "STATE", "STATE", "UNKNOWN"]
    assert answers[-1].status == "ERR"
    assert "negative" in str(answers[-1].info)


def test_a_first_released_header_is_a_violation_as_any(server: Service) -> None:
    for lengths in ((-1, 0), (30, -1), (-(2**31), 2**62), (2**26 + 1, 0), (2**31 - 1, 0)):
        raw = server.connect("released")
        raw.socket.sendall(raw.header.pack(*lengths))
        assert [answer.response for answer in raw.rest()] == ["UNKNOWN"]


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"STATE"',
    b'{"request":"STATE"',
    b'{"request":"STATE"}}',
    b'{"request":"STATE"} {}',
    b"{'request':'STATE'}",
    b'{"request":STATE}',
    b'{"request":"STA\xff"}',
    '{"request":"STATE"}'.encode("utf-16"),
    b"\xef\xbb\xbf",
    b"\0" * 40,
]


def test_broken_json_is_answered_and_the_connection_lives(user: Raw) -> None:
    for data in BROKEN:
        user.socket.sendall(user.frame(data) + user.frame({"request": "LOGIN"}))
        answer = user.answer()
        assert (answer.status, answer.body) == ("ERR", None), data
        assert user.answer().response == "LOGIN"
    assert user.ask("STATE").ok


def test_a_first_frame_of_broken_json_is_answered_in_its_dialect(server: Service, dialect: str) -> None:
    for data in (b"{", b"{}", b'{"request":"STATE"', b'{"request":7}'):
        raw = server.connect(dialect)
        raw.socket.sendall(raw.frame(data))
        assert raw.answer().status == "ERR"
        assert not raw.ask("STATE").ok


def test_a_released_first_frame_need_not_be_json(server: Service) -> None:
    for data in (b"", b"[]", b"x" * 300, b" {}"):
        raw = server.connect("released")
        raw.socket.sendall(raw.frame(data))
        assert raw.answer()[:2] == ("UNKNOWN", "ERR")
        assert raw.ask("LOGOUT").ok


def test_text_beyond_ascii_comes_back_as_it_was_sent(server: Service) -> None:
    # Raw.receive checks that every answer is ASCII on the wire.
    text = unique("größe-漢字-🙂-\u2028")
    for short in ("seed", "network"):
        raw = server.connect(short)
        name = f"{text}{short}"
        data = {"request": "REGISTER", "body": {"username": name, "passwd": "Straße"}}
        raw.socket.sendall(raw.frame(json.dumps(data, ensure_ascii=False).encode()))
        assert raw.answer().body["username"] == name
        raw.user = raw.ask("STATE").body["userid"]
        target = server.user(short)
        message = raw.message(target.user or 0, 'ß🙂\u0000\u001f"\\/')
        assert raw.ask("SENDMSG", message).ok
        assert target.push()["content"] == 'ß🙂\u0000\u001f"\\/'


def test_answers_of_all_kinds_stand_in_the_order_of_their_requests(user: Raw) -> None:
    target = user.user or 0
    file = user.message(target, contenttype="file", filemd5="5d41402abc4b2a76b9719d911017c592")
    kinds: list[tuple[str, Any, bytes]] = [
        ("SENDMSG", user.message(target, timestamp=1), b""),
        ("SENDMSG", file, b"hello"),
        ("PROFILE", {"userid": target}, b""),
        ("SENDMSG", user.message(target, timestamp=2), b""),
        ("ACKFETCH", {"timestamp": 0}, b""),
        ("SEARCHUSR", {"userid": target}, b""),
        ("FETCHMSG", None, b""),
        ("LOGIN", {"username": "nobody", "passwd": "x"}, b""),
        ("SENDMSG", user.message(target, "A" * 50_000, timestamp=3), b""),
        ("NOSUCH", None, b""),
        ("SENDMSG", user.message(target, timestamp=4), b""),
        ("STATE", None, b""),
    ] * 5
    stream = b""
    for kind, body, payload in kinds:
        stream += user.frame({"request": kind, "body": body, "tokenid": user.token}, payload)
    user.socket.sendall(stream)
    for kind, _, _ in kinds:
        if kind != "ACKFETCH":
            answer = user.answer()
            assert answer.response == ("UNKNOWN" if kind == "NOSUCH" else kind)
            assert answer.ok == (kind not in ("LOGIN", "NOSUCH")), answer
