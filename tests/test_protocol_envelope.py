"""Section 3 of the protocol from outside: what an envelope may be, and what answers one that it may not.

Frames and their lengths are not tried here, nor what the requests mean.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.raw import Answer, Raw, unique
from tests.service import Service

#: Every request type, with a body that has the right shape.
BODIES: dict[str, Any] = {
    "STATE": None,
    "REGISTER": {"username": "x", "passwd": "x"},
    "LOGIN": {"username": "x", "passwd": "x"},
    "LOGOUT": None,
    "PROFILE": {"userid": 1},
    "MODIFYPROFILE": {},
    "MODIFYPASSWD": {"passwd": "x", "newPasswd": "x"},
    "SENDMSG": {"userid": 1, "targetid": 1, "contenttype": "plaintext", "content": "", "md5encoded": "m"},
    "FETCHMSG": None,
    "FINDFILE": {"filemd5": "0" * 32},
    "FETCHFILE": {"msgmd5": "0" * 32},
    "SEARCHUSR": {"userid": 1},
    "ADDCONTACT": {"userid": 1},
    "FETCHCONTACT": None,
}
#: Fields whose values have the wrong type, or are missing.
WRONG_BODIES: list[tuple[str, Any]] = [
    ("REGISTER", {"username": 5, "passwd": "x"}),
    ("REGISTER", {"username": None, "passwd": "x"}),
    ("REGISTER", {"username": "x"}),
    ("REGISTER", {"passwd": "x"}),
    ("LOGIN", {"username": "x", "passwd": 5}),
    ("LOGIN", {"username": "x", "passwd": None}),
    ("LOGIN", {"username": ["x"], "passwd": "x"}),
    ("PROFILE", {"userid": "1"}),
    ("PROFILE", {"userid": 1.5}),
    ("PROFILE", {"userid": True}),
    ("PROFILE", {"userid": None}),
    ("PROFILE", {"userID": 1}),
    ("MODIFYPROFILE", {"username": 5}),
    ("MODIFYPROFILE", {"avatar": 5}),
    ("MODIFYPROFILE", {"avatar": {"url": "x"}}),
    ("MODIFYPASSWD", {"passwd": "secret"}),
    ("MODIFYPASSWD", {"newPasswd": "secret"}),
    ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": None}),
    ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": 12345678}),
    ("FETCHMSG", {"limit": "1"}),
    ("FINDFILE", {"filemd5": 5}),
    ("FETCHFILE", {"msgmd5": None}),
    ("SEARCHUSR", {"username": 5}),
    ("SEARCHUSR", {"userid": "1"}),
    ("ADDCONTACT", {"userid": [1]}),
]
NO_JSON = [
    b"",
    b"{",
    b'{"request":"STATE"',
    b'{"request":"STATE","body":null,"tokenid":nul}',
    b'{"request":"STATE","body":[1',
    b'{"request":"STATE"}}',
    b'{"request":"STATE"} {"request":"STATE"}',
    b'{"request":"STATE",}',
    b"{'request':'STATE'}",
    b'{request:"STATE"}',
    b'{"request":"STATE","x":01}',
    b'{"request":"STATE","x":.5}',
    b'{"request":"STATE","x":NaN}',
    b'{"request":"STATE","tokenid":NaN}',
    b'{"request":"STATE","tokenid":Infinity}',
    b'{"request":"STATE","tokenid":-Infinity}',
    b'{"request":"STATE","x":"\n"}',
    b'{"request":"STATE","x":"\\x41"}',
    b'{"request":"STATE","x":"\\u12"}',
    b'{"request":"STATE"}//',
    b'\xef\xbb\xbf{"request":"STATE"}',
    '{"request":"STATE"}'.encode("utf-16"),
    b"STATE",
    b"\0" * 64,
]
NO_OBJECT = [b"null", b"true", b"5", b'"STATE"', b"[]", b'["STATE",null,null]', b'[{"request":"STATE"}]']
NO_TYPE = [
    b"{}",
    b'{"body":null,"tokenid":null}',
    b'{"Request":"STATE"}',
    b'{"request":null}',
    b'{"request":5}',
    b'{"request":["STATE"]}',
    b'{"request":{"request":"STATE"}}',
]
#: Not UTF-8: a stray byte, an overlong NUL, a surrogate, a character past the last, one cut short.
NO_UTF8 = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
HALF_PAIRS = ["\ud800", "\udfff", "x\ud83d", "\ude00\ud83d", "\ud83d\ud83d\ude00", "\\\ud83d"]


@pytest.fixture
def user(server: Service) -> Raw:
    """A client in the seed's form that is logged in."""
    return server.user("seed")


def post(raw: Raw, json_bytes: bytes) -> Answer:
    """The answer to a frame with just these bytes."""
    raw.socket.sendall(raw.frame(json_bytes))
    return raw.answer()


def assert_refused(answer: Answer, kind: str, asked: Any = None) -> None:
    assert (answer.response, answer.status) == (kind, "ERR"), (answer, asked)
    assert isinstance(answer.info, str), asked
    assert answer.info.strip(), asked


def assert_lives(raw: Raw) -> None:
    """The connection goes on, and is whose it was."""
    state = raw.ask("STATE")
    assert state.ok, state
    assert state.body["userid"] == raw.user


def test_an_ok_has_four_keys_and_no_info(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    raw.send("LOGOUT")
    assert raw.receive().response == "TOKEN"
    assert raw.receive() == Answer("LOGOUT", "OK", None, None)


def test_an_err_has_four_keys_and_a_sentence(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    answer = raw.ask("STATE")
    assert answer == Answer("STATE", "ERR", "User not logged in", None)


def test_answers_are_ascii_and_lose_nothing(server: Service) -> None:
    name = unique('Zoë "\\/\u2028\U0001f600\uffff')
    raw = server.connect("seed")
    raw.register(name)  # Raw itself looks whether answers are ASCII
    avatar = "".join(map(chr, [*range(0x20), 0x7F, 0x80, 0xD7FF, 0xE000, 0xFFFE, 0x10FFFF]))
    assert raw.ask("MODIFYPROFILE", {"avatar": avatar}).ok
    assert raw.ask("STATE").body == {"userid": raw.user, "username": name, "avatar": avatar}


@pytest.mark.parametrize("escape", [True, False])
def test_a_request_may_be_utf8_or_escaped(server: Service, escape: bool) -> None:
    name = unique("Zoë\U0001f600")
    raw = server.connect("seed")
    raw.register(name)
    request = {"request": "SEARCHUSR", "body": {"username": name}}
    answer = post(raw, json.dumps(request, ensure_ascii=escape).encode())
    assert answer.body["username"] == name


@pytest.mark.parametrize("value", ["x", "", "5", 1.5, True, False, [], [5], {}, {"tokenid": 5}])
def test_a_tokenid_of_the_wrong_type_is_refused(user: Raw, value: Any) -> None:
    for kind, body in BODIES.items():
        assert_refused(user.ask(kind, body, tokenid=value), kind)
    assert_lives(user)


@pytest.mark.parametrize("value", ["x", "{}", 5, 0, True, False, [], [{}]])
def test_a_body_of_the_wrong_type_is_refused(user: Raw, value: Any) -> None:
    for kind in BODIES:
        assert_refused(user.ask(kind, value), kind)
    assert_lives(user)


@pytest.mark.parametrize(
    "kind",
    [
        "REGISTER",
        "LOGIN",
        "PROFILE",
        "MODIFYPASSWD",
        "SENDMSG",
        "FINDFILE",
        "FETCHFILE",
        "SEARCHUSR",
        "ADDCONTACT",
    ],
)
def test_a_missing_body_is_refused(user: Raw, kind: str) -> None:
    for request in ({"request": kind}, {"request": kind, "body": None}, {"request": kind, "body": {}}):
        assert_refused(post(user, json.dumps(request).encode()), kind)
    assert_lives(user)


def test_a_field_of_the_wrong_type_is_refused(user: Raw) -> None:
    for kind, body in WRONG_BODIES:
        assert_refused(user.ask(kind, body), kind, body)
    assert_lives(user)


def test_body_and_tokenid_may_be_absent_or_null(user: Raw) -> None:
    for kind in ("STATE", "FETCHMSG", "FETCHCONTACT", "MODIFYPROFILE", "LOGOUT"):
        for request in ({"request": kind}, {"request": kind, "body": None, "tokenid": None}):
            answer = post(user, json.dumps(request).encode())
            assert (answer.response, answer.status) == (kind, "OK")


def test_unknown_fields_are_ignored(user: Raw) -> None:
    extra: dict[str, Any] = {"x": {"y": [1, "\U0001f600", None]}, "Request": "LOGOUT", "status": "OK", "": 0}
    name = user.ask("STATE", extra, **extra).body["username"]
    peer = user.ask("PROFILE", {"userid": user.user} | extra, **extra)
    assert peer.body["username"] == name
    for kind in ("FETCHMSG", "FETCHCONTACT", "MODIFYPROFILE"):
        assert user.ask(kind, dict(extra), **extra).ok
    assert user.ask("LOGIN", {"username": name, "passwd": "secret"} | extra, **extra).ok
    assert user.ask("SENDMSG", user.message(user.user or 0) | extra, **extra).ok
    assert (
        user.ask("REGISTER", {"username": unique(), "passwd": "p", "avatar": "x"} | extra).body["avatar"]
        is None
    )


def test_an_unknown_type_gets_unknown(user: Raw) -> None:
    for kind in (
        "",
        "state",
        "State",
        " STATE",
        "STATE ",
        "STATE\0",
        "NOSUCH",
        "UNKNOWN",
        "TOKEN",
        "FORWARDMSG",
        "É",
    ):
        assert_refused(user.ask(kind), "UNKNOWN", kind)
    assert_lives(user)


@pytest.mark.parametrize("frames", [NO_JSON, NO_OBJECT, NO_TYPE], ids=["no JSON", "no object", "no type"])
def test_what_is_no_request_gets_unknown(server: Service, dialect: str, frames: list[bytes]) -> None:
    user = server.user(dialect)
    for data in frames:
        assert_refused(post(user, data), "UNKNOWN", data)
        assert_lives(user)


@pytest.mark.parametrize("data", [b"{", b'{"request":5}', b'{"request":"STATE","tokenid":"x"}'])
def test_a_first_frame_may_be_refused_too(server: Service, dialect: str, data: bytes) -> None:
    raw = server.connect(dialect)
    # 4+8 needs nine bytes to be told from 4+4: white space at the end is no part of the object.
    assert not post(raw, data.ljust(16)).ok
    raw.register(unique())
    assert_lives(raw)


@pytest.mark.parametrize("bytes_", NO_UTF8)
def test_what_is_not_utf8_is_refused_wherever_it_stands(user: Raw, bytes_: bytes) -> None:
    for template in (
        b'{"request":"STATE","x":"%b"}',
        b'{"request":"STATE","%b":0}',
        b'{"request":"STATE","body":{"x":"%b"}}',
        b'{"request":"REGISTER","body":{"username":"%b","passwd":"p"}}',
        b'{"request":"MODIFYPROFILE","body":{"avatar":"%b"}}',
    ):
        answer = post(user, template % bytes_)
        assert not answer.ok, template
        assert answer.response in (template.split(b'"')[3].decode(), "UNKNOWN")
    assert_refused(post(user, b'{"request":"STATE%b"}' % bytes_), "UNKNOWN")
    assert_lives(user)
    assert user.ask("STATE").body["avatar"] is None


@pytest.mark.parametrize("half", HALF_PAIRS)
def test_lone_surrogates_are_refused_in_every_field(user: Raw, half: str) -> None:
    before = user.ask("STATE").body
    name = before["username"]
    for kind, body in (
        ("REGISTER", {"username": half, "passwd": "p"}),
        ("REGISTER", {"username": unique(), "passwd": half}),
        ("LOGIN", {"username": name, "passwd": half}),
        ("LOGIN", {"username": half, "passwd": "secret"}),
        ("MODIFYPROFILE", {"username": half}),
        ("MODIFYPROFILE", {"username": unique(), "avatar": half}),
        ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": half}),
        ("SEARCHUSR", {"username": half}),
        ("FINDFILE", {"filemd5": half}),
        ("FETCHFILE", {"msgmd5": half}),
        ("SENDMSG", user.message(user.user or 0, half)),
        ("SENDMSG", user.message(user.user or 0, md5encoded=half)),
        ("STATE", {"x": half}),
    ):
        assert_refused(user.ask(kind, body), kind)
    assert_refused(user.ask("STATE" + half), "UNKNOWN")
    assert user.ask("STATE").body == before
    assert user.ask("LOGIN", {"username": name, "passwd": "secret"}).ok


def test_the_err_of_a_message_names_it_however_bad_the_envelope(user: Raw) -> None:
    message = user.message(user.user or 0, md5encoded="name of it")
    cases: list[tuple[Any, dict[str, Any]]] = [
        (message, {"tokenid": "x"}),
        (message | {"content": "\ud83d"}, {}),
        (message | {"content": "\\\ud83d"}, {"tokenid": "x"}),
        (message | {"content": 5}, {}),
    ]
    for body, envelope in cases:
        answer = user.ask("SENDMSG", body, **envelope)
        assert_refused(answer, "SENDMSG")
        assert answer.body == {"md5encoded": "name of it"}


@pytest.mark.parametrize("depth", [1_100, 1_000_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"x":', b"}")])
def test_deep_nesting_is_refused(user: Raw, depth: int, brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets
    deep = opening * depth + b"0" + closing * depth
    for template in (b'{"request":"STATE","body":%b}', b'{"request":"STATE","x":%b}', b'{"request":%b}'):
        answer = post(user, template % deep)
        assert not answer.ok
        assert answer.response in ("STATE", "UNKNOWN")
    assert_lives(user)


def test_huge_numbers_are_refused_or_name_nobody(user: Raw) -> None:
    for number in (b"-9" + b"9" * 18, b"9" * 19, b"9" * 20, b"9" * 400, b"-" + b"9" * 5_000, b"9" * 100_000):
        assert_refused(post(user, b'{"request":"PROFILE","body":{"userid":%b}}' % number), "PROFILE")
        assert_refused(post(user, b'{"request":"SEARCHUSR","body":{"userid":%b}}' % number), "SEARCHUSR")
        assert post(user, b'{"request":"STATE","x":%b}' % number).ok
    for number in (b"1e400", b"-1e400"):
        assert_refused(post(user, b'{"request":"STATE","tokenid":%b}' % number), "STATE")
        assert_refused(post(user, b'{"request":"PROFILE","body":{"userid":%b}}' % number), "PROFILE")
    assert_lives(user)


def test_bad_requests_keep_their_place_among_good_ones(user: Raw) -> None:
    frames = [
        b'{"request":"STATE"}',
        b"{",
        b'{"request":"FETCHCONTACT"}',
        b'{"request":"PROFILE","body":[]}',
        b'{"request":"NOSUCH"}',
        b'{"request":"STATE","tokenid":"x"}',
        b"[]",
        b'{"request":"STATE"}',
    ]
    user.socket.sendall(b"".join(map(user.frame, frames * 20)))
    expected = ["STATE", "UNKNOWN", "FETCHCONTACT", "PROFILE", "UNKNOWN", "STATE", "UNKNOWN", "STATE"]
    answers = [user.answer() for _ in frames * 20]
    assert [answer.response for answer in answers] == expected * 20
    assert [answer.ok for answer in answers] == [True, False, True, False, False, False, False, True] * 20


def test_a_refusal_does_not_repeat_a_secret(user: Raw) -> None:
    for body in ({"username": 5, "passwd": "hunter2"}, {"username": "x", "passwd": ["hunter2"]}):
        for kind in ("LOGIN", "REGISTER"):
            assert "hunter2" not in (user.ask(kind, body).info or "")
