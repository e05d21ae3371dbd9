"""Sizes and what happens over them: ``docs/protocol.md`` section 2 over sockets.

Time-outs and the number of connections are in ``test_protocol_connections.py``.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.raw import Answer, Raw
from tests.service import Service

KIB, MIB, GIB = 1024, 1024**2, 1024**3
#: The limits of the `small` server.
JSON, PAYLOAD = 64 * KIB, 300 * KIB
#: Every request type that takes no payload, but for ACKFETCH, with a body that it would accept.
PLAIN: dict[str, Any] = {
    "STATE": None,
    "REGISTER": {"username": "x", "passwd": "x"},
    "LOGIN": {"username": "x", "passwd": "x"},
    "LOGOUT": None,
    "PROFILE": {"userid": 1},
    "MODIFYPROFILE": {"username": "x"},
    "MODIFYPASSWD": {"passwd": "secret", "newPasswd": "x"},
    "FETCHMSG": None,
    "FINDFILE": {"filemd5": "0" * 32},
    "FETCHFILE": {"msgmd5": "x"},
    "SEARCHUSR": {"userid": 1},
    "ADDCONTACT": {"userid": 1},
    "FETCHCONTACT": None,
}


def padded(length: int, **fields: Any) -> bytes:
    """A request of exactly this many bytes of JSON."""
    bare = json.dumps({**fields, "pad": ""}).encode()
    return bare[:-2] + b"x" * (length - len(bare)) + bare[-2:]


def only(raw: Raw) -> Answer:
    """The one answer (beside a TOKEN) that comes before the server closes."""
    (found,) = (answer for answer in raw.rest() if answer.response != "TOKEN")
    assert found.status == "ERR"
    return found


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server behind `small`."""
    options = ("--max-json", str(JSON), "--max-payload", str(PAYLOAD), "--max-unfinished-unbound", "1MiB")
    with Service(tmp_path_factory.mktemp("small"), *options).running() as server:
        yield server


@pytest.fixture
def small(small_server: Service) -> Iterator[Service]:
    """A server with small limits."""
    yield small_server
    small_server.hang_up()


# The JSON part.


def test_json_up_to_the_limit_is_a_request(small: Service, dialect: str) -> None:
    raw = small.connect(dialect)
    for _ in range(3):
        raw.socket.sendall(raw.frame(padded(JSON, request="LOGOUT")))
        assert raw.answer().ok


def test_longer_json_is_thrown_away_in_released_and_the_connection_lives(small: Service) -> None:
    for raw in (small.connect(), small.user()):
        for length in (JSON + 1, MIB):
            big = raw.frame(b"\xff" * length)
            raw.socket.sendall(big + raw.frame(padded(JSON, request="LOGOUT")) + big)
            for kind in ("UNKNOWN", "LOGOUT", "UNKNOWN"):
                answer = raw.answer()
                assert (answer.response, answer.ok) == (kind, kind == "LOGOUT")
            assert str(JSON) in str(answer.info)


def test_nothing_of_longer_json_is_done(small: Service) -> None:
    raw = small.user()
    raw.socket.sendall(raw.frame(padded(JSON + 1, request="LOGOUT", tokenid=raw.token)))
    assert raw.answer().response == "UNKNOWN"
    assert raw.ask("STATE").ok


def test_a_payload_behind_longer_json_is_thrown_away_too(small: Service) -> None:
    raw = small.user()
    raw.socket.sendall(raw.frame(b"x" * (JSON + 1), b"y" * PAYLOAD) + raw.frame({"request": "STATE"}))
    assert raw.answer()[:2] == ("UNKNOWN", "ERR")
    assert raw.answer()[:2] == ("STATE", "OK")


def test_a_payload_over_its_limit_behind_longer_json_ends_the_connection(small: Service) -> None:
    raw = small.user()
    raw.socket.sendall(raw.frame(b"x" * (JSON + 1), payload_length=PAYLOAD + 1))
    assert only(raw).response == "UNKNOWN"
    raw = small.connect()  # without a bound device there is no payload at all
    raw.socket.sendall(raw.frame(b"x" * (JSON + 1), payload_length=1))
    assert only(raw).response == "UNKNOWN"


@pytest.mark.parametrize("short", ["seed", "network"])
@pytest.mark.parametrize("length", [JSON + 1, MIB, 2**24, 2**24 + 1, 2**31 - 1])
def test_longer_json_is_a_violation_in_the_short_forms(small: Service, short: str, length: int) -> None:
    raw = small.user(short)
    raw.socket.sendall(raw.header.pack(length, 0))  # not a byte of it is waited for
    answer = only(raw)
    assert (answer.response, answer.body) == ("UNKNOWN", None)
    assert str(JSON) in str(answer.info)


@pytest.mark.parametrize("short", ["seed", "network"])
@pytest.mark.parametrize("length", [JSON + 1, 2 * JSON, 0x030200])
def test_a_first_frame_with_longer_json_is_a_violation(small: Service, short: str, length: int) -> None:
    raw = small.connect(short)
    raw.socket.sendall(raw.frame(padded(length, request="STATE")))
    if length == 0x030200:  # it is too long in either order, and unknown in which it is meant
        raw.header = struct.Struct("<iq")
    assert str(JSON) in str(only(raw).info)


def test_released_json_over_64_mib_is_a_violation(small: Service) -> None:
    for raw in (small.connect(), small.user()):
        raw.socket.sendall(raw.header.pack(64 * MIB + 1, 0) + b"x" * 1000)
        assert only(raw).response == "UNKNOWN"


def test_released_json_of_the_real_sizes_is_read_or_thrown_away(server: Service) -> None:
    raw = server.user()
    for length, kind in ((16 * MIB - 1, "LOGOUT"), (16 * MIB, "UNKNOWN"), (64 * MIB, "UNKNOWN")):
        raw.socket.sendall(raw.header.pack(length, 0))
        raw.socket.sendall(padded(length, request="LOGOUT", tokenid=raw.token))
        answer = raw.answer()
        assert (answer.response, answer.ok) == (kind, kind == "LOGOUT")


@pytest.mark.parametrize("short", ["seed", "network"])
def test_json_of_the_real_limit_is_read_in_the_short_forms(server: Service, short: str) -> None:
    raw = server.connect(short)  # the first frame on its connection
    raw.socket.sendall(raw.frame(padded(16 * MIB - 1, request="LOGOUT")))
    assert raw.answer().ok
    raw.socket.sendall(raw.header.pack(16 * MIB, 0))
    assert only(raw).response == "UNKNOWN"


def test_a_message_of_the_real_size_goes_through(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user("seed")
    content = "QUJD" * (3 * MIB)  # base64, as the released client sends its photos
    assert alice.ask("SENDMSG", alice.message(bob.user or 0, "QQ==")).ok
    assert alice.ask("SENDMSG", alice.message(bob.user or 0, content, md5encoded="large")).ok
    assert [bob.push()["content"] for _ in range(2)] == ["QQ==", content]
    first, second = server.device(bob, dialect).fetch()  # more than one answer may hold, so it has its own
    assert (first["content"], second["content"]) == ("QQ==", content)


# Payloads.


def test_a_payload_over_the_limit_is_refused_unread(small: Service, dialect: str) -> None:
    raw = small.user(dialect)
    body = raw.message(raw.user or 0, contenttype="file", filemd5="0" * 32, md5encoded="mine")
    value = {"request": "SENDMSG", "body": body, "tokenid": raw.token}
    raw.socket.sendall(raw.frame({"request": "STATE"}) + raw.frame(value, payload_length=PAYLOAD + 1))
    state, answer = raw.rest()
    assert state.ok
    assert (answer.response, answer.status, answer.body) == ("SENDMSG", "ERR", {"md5encoded": "mine"})
    assert str(PAYLOAD) in str(answer.info)


def test_a_payload_of_the_limit_is_taken(small: Service, dialect: str) -> None:
    raw, data = small.user(dialect), bytes(PAYLOAD)
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="mine")
    assert raw.ask("SENDMSG", body, data).ok
    assert raw.ask("FETCHFILE", {"msgmd5": "mine"}).payload == data


def test_the_real_payload_limit_is_one_gibibyte(server: Service) -> None:
    for dialect, length in (("released", GIB + 1), ("released", 2**63 - 1), ("seed", 2**31 - 1)):
        raw = server.user(dialect)
        body = raw.message(raw.user or 0, contenttype="file", filemd5="0" * 32, md5encoded="mine")
        raw.socket.sendall(raw.frame({"request": "SENDMSG", "body": body}, payload_length=length))
        answer = only(raw)
        assert (answer.response, answer.body) == ("SENDMSG", {"md5encoded": "mine"})
        assert str(GIB) in str(answer.info)


def test_a_payload_over_the_limit_ends_any_request(small: Service, dialect: str) -> None:
    for kind in ("STATE", "LOGOUT", "NOSUCH"):
        raw = small.user(dialect)
        raw.socket.sendall(raw.frame({"request": kind}, payload_length=PAYLOAD + 1))
        assert only(raw).response == ("UNKNOWN" if kind == "NOSUCH" else kind)
        again = small.connect(dialect, raw.token)
        assert again.ask("STATE").ok  # it was not carried out


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"request":7}', b""])
def test_a_payload_over_the_limit_behind_broken_json(small: Service, dialect: str, data: bytes) -> None:
    raw = small.user(dialect)
    raw.socket.sendall(raw.frame(data, payload_length=PAYLOAD + 1))
    assert only(raw).response == "UNKNOWN"


def test_no_payload_is_read_from_a_device_that_is_not_bound(small: Service, dialect: str) -> None:
    logged_out = small.user(dialect)
    assert logged_out.ask("LOGOUT").ok
    for kind, body in {**PLAIN, "SENDMSG": {"md5encoded": "mine"}, "NOSUCH": None}.items():
        for token in (None, 1, logged_out.token):
            raw = small.connect(dialect, token)
            value = {"request": kind, "body": body, "tokenid": token}
            raw.socket.sendall(raw.frame(value, payload_length=10))
            answer = only(raw)
            assert answer.response == ("UNKNOWN" if kind == "NOSUCH" else kind)
            assert answer.body == ({"md5encoded": "mine"} if kind == "SENDMSG" else None)


def test_broken_json_with_a_payload_on_a_connection_without_login(small: Service, dialect: str) -> None:
    for data in (b"{", b"{}", b'{"request":7}'):
        raw = small.connect(dialect)
        raw.socket.sendall(raw.frame(data, b"x" * 10))
        assert only(raw).response == "UNKNOWN"


def test_an_acknowledgement_with_a_payload_is_never_answered(small: Service, dialect: str) -> None:
    value = {"request": "ACKFETCH", "body": {"timestamp": 1}}
    raw = small.user(dialect)
    raw.socket.sendall(raw.frame(value, b"x" * PAYLOAD) + raw.frame({"request": "STATE"}))
    assert raw.answer().response == "STATE"
    raw.socket.sendall(raw.frame(value, payload_length=PAYLOAD + 1))
    assert raw.rest() == []
    raw = small.connect(dialect)
    raw.socket.sendall(raw.frame(value, payload_length=1))
    assert [answer.response for answer in raw.rest()] in ([], ["TOKEN"])


def test_a_payload_where_none_belongs_is_thrown_away_and_nothing_done(small: Service, dialect: str) -> None:
    raw = small.user(dialect)
    for kind, body in {**PLAIN, "NOSUCH": None}.items():
        for payload in (b"{", b"x" * PAYLOAD):
            answer = raw.ask(kind, body, payload)
            assert (answer.status, answer.body) == ("ERR", None)
            if kind == "ADDCONTACT" and dialect == "released":
                assert raw.answer().response == "FETCHCONTACT"
    raw.socket.sendall(raw.frame({"request": "STATE"}))
    assert raw.answer().body == {
        "userid": raw.user,
        "username": raw.ask("STATE").body["username"],
        "avatar": None,
    }
    assert raw.ask("FETCHCONTACT").body == {"contacts": [], "pending": [], "requesting": []}


def test_a_payload_behind_broken_json_is_thrown_away(small: Service, dialect: str) -> None:
    raw = small.user(dialect)
    inner = raw.frame({"request": "LOGOUT"}) * 100  # would be requests, were the boundary lost
    for data in (b"{", b"[]", b'{"request":7}', b'{"request":"STATE","tokenid":"x"}', b""):
        raw.socket.sendall(raw.frame(data, inner) + raw.frame({"request": "STATE"}))
        assert raw.answer().status == "ERR"
        assert raw.answer()[:2] == ("STATE", "OK")


def test_a_text_takes_no_payload(small: Service, dialect: str) -> None:
    raw = small.user(dialect)
    answer = raw.ask("SENDMSG", raw.message(raw.user or 0, md5encoded="mine"), b"x" * PAYLOAD)
    assert (answer.status, answer.body) == ("ERR", {"md5encoded": "mine"})
    assert raw.ask("STATE").ok
    assert small.connect(dialect, None).ask("STATE").status == "ERR"


# What a peer declares and what it sends after its end.


def test_the_last_answer_arrives_however_much_the_peer_goes_on_to_send(small: Service, dialect: str) -> None:
    for bound in (True, False):
        raw = small.user(dialect) if bound else small.connect(dialect)
        if not bound:
            assert raw.ask("LOGOUT").ok
        kind = {"request": "STATE"}
        bad = raw.frame(kind, payload_length=PAYLOAD + 1) if bound else raw.header.pack(-1, 0)
        raw.socket.sendall(bad)
        for _ in range(80):
            raw.socket.sendall(b"x" * 100_000)
        assert only(raw).response == ("STATE" if bound else "UNKNOWN")


def test_a_peer_that_sends_without_end_is_cut_off_and_can_still_read_why(small: Service) -> None:
    raw = small.user()
    raw.socket.sendall(raw.header.pack(-1, 0))
    with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe, as the timing has it
        raw.socket.sendall(bytes(256 * MIB))
    assert raw.receive().response == "UNKNOWN"


def test_declared_lengths_take_no_memory(small: Service) -> None:
    raws = [small.connect(("released", "seed", "network")[at % 3]) for at in range(1000)]
    bound = small.user()
    for raw in raws:
        raw.ask("LOGOUT")
    before = small.memory
    for at, raw in enumerate(raws):
        lengths = [(JSON, 2**31 - 1), (0 if raw.dialect != "released" else 64 * MIB, 2**31 - 1)][at // 3 % 2]
        raw.socket.sendall(raw.header.pack(*lengths) + b"{")
    uploads = [small.connect("released", bound.token) for _ in range(50)]
    for raw in uploads:
        body = bound.message(bound.user or 0, contenttype="file", filemd5="0" * 32)
        value = {"request": "SENDMSG", "body": body, "tokenid": bound.token}
        raw.socket.sendall(raw.frame(value, b"x", PAYLOAD))
    assert bound.ask("STATE").ok
    assert small.memory - before < 20 * MIB


def test_upload_of_a_large_file_is_not_held_in_memory(server: Service) -> None:
    raw, size = server.user(), 64 * MIB
    data = bytes(MIB)
    md5 = hashlib.md5(data * (size // MIB)).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="big")
    before = server.memory
    raw.socket.sendall(raw.frame({"request": "SENDMSG", "body": body, "tokenid": raw.token}, b"", size))
    for _ in range(size // MIB):
        raw.socket.sendall(data)
        assert server.memory - before < 20 * MIB
    assert raw.answer().ok
