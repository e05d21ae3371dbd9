"""Requests and answers as JSON: every shape with good and bad fields, hostile texts, ASCII on the way out.

The tables here are written from ``docs/protocol.md`` sections 3 to 5; what a request does is not tested here.
"""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.wire import schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.schema import (
    BadEnvelope,
    Message,
    MessageList,
    Response,
    decode_body,
    decode_request,
    encode,
    envelope,
    message_name,
)

#: One JSON value of each kind that a field may meet.
KINDS: dict[str, object] = {
    "null": None,
    "bool": True,
    "int": 7,
    "whole float": 7.0,
    "float": 7.5,
    "text": "seven",
    "type": "image",
    "status": "ERR",
    "mark": "read",
    "relation": "pending",
    "list": [],
    "object": {},
}
STR = {"text", "type", "status", "mark", "relation"}
OPTIONAL_STR = {*STR, "null", "absent"}
OPTIONAL_INT = {"int", "null", "absent"}
#: For each shape, what each of its fields may be.
SHAPES: dict[type[msgspec.Struct], dict[str, set[str]]] = {
    schema.Request: {"request": STR, "body": {*KINDS, "absent"}, "tokenid": OPTIONAL_INT},
    schema.Nothing: {},
    schema.Features: {"features": {"list", "null", "absent"}},
    schema.Credentials: {"username": STR, "passwd": STR},
    schema.Registration: {"username": STR, "passwd": STR, "invite": OPTIONAL_STR},
    schema.PasswordChange: {"passwd": STR, "newPasswd": STR},
    schema.ProfileChange: {"username": OPTIONAL_STR, "avatar": OPTIONAL_STR},
    schema.UserRef: {"userid": {"int"}},
    schema.Search: {"username": OPTIONAL_STR, "userid": OPTIONAL_INT},
    schema.Typing: {"userid": {"int"}, "typing": {"bool", "absent"}},
    schema.Mark: {"userid": {"int"}, "mark": {"mark"}, "timestamp": {"int"}, "md5encoded": STR},
    schema.FetchRange: {"limit": OPTIONAL_INT},
    schema.Ack: {"timestamp": {"int"}},
    schema.FileRef: {"filemd5": STR},
    schema.MessageRef: {"msgmd5": STR, "offset": OPTIONAL_INT, "length": OPTIONAL_INT},
    schema.Message: {
        "userid": {"int"},
        "targetid": {"int"},
        "contenttype": {"type"},
        "content": STR,
        "timestamp": OPTIONAL_INT,
        "md5encoded": STR,
        "filemd5": OPTIONAL_STR,
    },
    schema.UserInfo: {"userid": {"int"}, "username": STR, "avatar": {*STR, "null"}},
    schema.OwnInfo: {
        "userid": {"int"},
        "username": STR,
        "avatar": {*STR, "null"},
        "features": {"list", "null", "absent"},
    },
    schema.Contacts: {
        "contacts": {"list"},
        "pending": {"list"},
        "requesting": {"list"},
        "blocked": {"list", "null", "absent"},
    },
    schema.Presence: {"userid": {"int"}, "online": {"bool"}, "lastseen": {"int", "null"}},
    schema.PresenceList: {"users": {"list"}},
    schema.MarkOf: {
        "userid": {"int"},
        "targetid": {"int"},
        "mark": {"mark"},
        "timestamp": {"int"},
        "md5encoded": STR,
    },
    schema.MarkList: {"marks": {"list"}},
    schema.Relation: {"userid": {"int", "null"}, "relation": {"relation", "null"}},
    schema.FileInfo: {"filemd5": STR, "size": {"int"}},
    schema.Token: {"tokenid": {"int"}},
    schema.MessageName: {"md5encoded": STR},
    schema.Response: {
        "response": STR,
        "status": {"status"},
        "info": OPTIONAL_STR,
        "body": {*KINDS, "absent"},
    },
    schema.MessageList: {"messages": {"list"}, "more": {"bool", "absent"}},
}
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


def good(shape: type[msgspec.Struct]) -> dict[str, object]:
    """A body with every field of `shape`, each of an allowed kind."""
    return {name: KINDS[min(kinds - {"absent", "null"})] for name, kinds in SHAPES[shape].items()}


def value_of(struct: msgspec.Struct, name: str) -> object:
    value = getattr(struct, name)
    return json.loads(bytes(value)) if isinstance(value, msgspec.Raw) else value


def test_the_table_knows_every_shape() -> None:
    structs = inspect.getmembers(schema, lambda x: isinstance(x, type) and issubclass(x, msgspec.Struct))
    public = {struct for name, struct in structs if name != "Struct" and not name.startswith("_")}
    assert public == set(SHAPES)


@EACH_SHAPE
def test_a_field_takes_what_it_may_be_and_nothing_else(shape: type[msgspec.Struct]) -> None:
    for name, allowed in SHAPES[shape].items():
        for kind, value in KINDS.items():
            body = json.dumps({**good(shape), name: value}).encode()
            if kind in allowed:
                read = value_of(decode_body(body, shape), name)
                assert (type(read), read) == (type(value), value)
            else:
                with pytest.raises(Refusal, match=rf"^The body is not valid: .*`\$\.{name}`\.$"):
                    decode_body(body, shape)


@EACH_SHAPE
def test_a_field_may_be_absent_only_where_the_table_says_so(shape: type[msgspec.Struct]) -> None:
    for name, allowed in SHAPES[shape].items():
        rest = {key: value for key, value in good(shape).items() if key != name}
        if "absent" in allowed:
            absent = value_of(decode_body(json.dumps(rest).encode(), shape), name)
            assert absent in (None, msgspec.UNSET, name == "typing")  # whoever sends TYPING types, as a rule
        else:
            with pytest.raises(Refusal, match=f"missing required field `{name}`"):
                decode_body(json.dumps(rest).encode(), shape)


@EACH_SHAPE
def test_a_body_is_an_object(shape: type[msgspec.Struct]) -> None:
    for kind in KINDS.keys() - {"object", "null"}:
        with pytest.raises(Refusal, match="Expected `object`"):
            decode_body(json.dumps(KINDS[kind]).encode(), shape)


def test_no_body_is_an_empty_body() -> None:
    for request in (b'{"request":"A"}', b'{"request":"A","body":null}', b'{"request":"A","body": {} }'):
        assert decode_body(decode_request(request).body, schema.FetchRange) == schema.FetchRange()
        with pytest.raises(Refusal, match="missing required field `userid`"):
            decode_body(decode_request(request).body, schema.UserRef)


def test_an_absent_avatar_is_not_a_null_one() -> None:
    assert decode_body(b"{}", schema.ProfileChange).avatar is msgspec.UNSET
    assert decode_body(b'{"avatar":null}', schema.ProfileChange).avatar is None


@EACH_SHAPE
def test_unknown_fields_are_ignored(shape: type[msgspec.Struct]) -> None:
    body = good(shape)
    strange = {"zzz": {"a": [1, {"b": None}]}, **body, "": "ü", "USERID": 5, "username ": 1}
    assert encode(decode_body(json.dumps(strange).encode(), shape)) == encode(
        decode_body(json.dumps(body).encode(), shape)
    )


def test_of_two_fields_with_one_name_the_last_wins() -> None:
    request = decode_request(
        b'{"request":"A","body":{"a":1},"tokenid":1,"body":{"userid":1,"userid":2},"tokenid":3}'
    )
    assert (request.request, bytes(request.body), request.tokenid) == ("A", b'{"userid":1,"userid":2}', 3)
    assert decode_body(request.body, schema.UserRef) == schema.UserRef(2)


def test_integers_of_any_size_are_read_exactly() -> None:
    for number in (0, -1, schema.TOKEN_MAX, schema.TOKEN_MAX + 2, 2**63, 2**64 + 1, -(2**70), 10**300):
        assert decode_request(b'{"request":"A","tokenid":%d}' % number).tokenid == number
    assert schema.TOKEN_MAX == int(float(schema.TOKEN_MAX)) == 2**53 - 1


@pytest.mark.parametrize("contenttype", ["", "text", "Image", "plaintext ", "x" * 100_000])
def test_a_message_has_one_of_three_content_types(contenttype: str) -> None:
    for known in ("plaintext", "image", "file"):
        body = json.dumps({**good(Message), "contenttype": known}).encode()
        assert decode_body(body, Message).contenttype == known
    with pytest.raises(Refusal, match=r"`\$\.contenttype`") as caught:
        decode_body(json.dumps({**good(Message), "contenttype": contenttype}).encode(), Message)
    assert len(caught.value.info) < 300  # it does not send back what it was sent


def test_lists_are_checked_to_their_members() -> None:
    user = {"userid": 1, "username": "a", "avatar": None}
    lists = {"contacts": [user], "pending": [], "requesting": [user, user]}
    assert json.loads(encode(decode_body(json.dumps(lists).encode(), schema.Contacts))) == lists
    with pytest.raises(Refusal, match=r"`\$\.requesting\[0\]\.userid`"):
        decode_body(json.dumps({**lists, "requesting": [{**user, "userid": "1"}]}).encode(), schema.Contacts)
    with pytest.raises(Refusal, match=r"`\$\.messages\[0\]\.contenttype`"):
        decode_body(json.dumps({"messages": [{**good(Message), "contenttype": "x"}]}).encode(), MessageList)


# -- hostile texts ---------------------------------------------------------------------------------

#: Not JSON, wherever a value may stand, read or not.
NO_VALUES = [
    *(b"", b"NaN", b"Infinity", b"-Infinity", b"nul", b"True", b"01", b"+1", b".5", b"1.", b"0x1", b"1e"),
    *(b"'a'", b"[1,]", b'{"a":1,}', b"{a:1}", b"[1 2]", b"[", b'{"a"', b"]", b"1 /*x*/"),
    *(b"\xff", b"\xc3\xbc"),
    *(b'"', b'"\x01"', b'"\n"', b'"\\x"', b'"\\u12"', b'"\\u12x4"', b'"\\'),
    *(b'"\\ud800"', b'"\\udc00"', b'"\\ud800\\ud800"', b'"\\ud800\\n"', b'"\\udc00\\ud800"'),
    *(b"[" * 1100 + b"]" * 1100, b"[" * 1_000_000, b'{"a":' * 1100 + b"1" + b"}" * 1100),
]
#: Not text, where a string is read.
NO_TEXTS = [b'"\xff"', b'"\xc3"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe9t\xe9"']
ENVELOPE = '{"request":"A","body":null}'


@pytest.mark.parametrize("value", NO_VALUES, ids=lambda value: repr(value[:16]))
def test_what_is_not_json_is_refused_wherever_it_stands(value: bytes) -> None:
    for text in (value, b'{"request":%b}', b'{"request":"A","tokenid":%b}', b'{"request":"A","x":[0,%b]}'):
        with pytest.raises(BadEnvelope, match=r"^The request is not valid: .*\.$"):
            decode_request(text % value if b"%b" in text else text)
    for text in (b'{"username":%b,"passwd":"b"}', b'{"username":"a","passwd":"b","x":%b}'):
        with pytest.raises(Refusal, match=r"^The body is not valid: .*\.$"):
            decode_body(text % value, schema.Credentials)


@pytest.mark.parametrize("value", NO_TEXTS)
def test_what_is_not_utf8_is_refused_where_it_is_read(value: bytes) -> None:
    with pytest.raises(BadEnvelope, match="not UTF-8"):
        decode_request(b'{"request":%b}' % value)
    with pytest.raises(Refusal, match="not UTF-8"):
        decode_body(b'{"username":"a","passwd":%b}' % value, schema.Credentials)
    assert message_name(b'{"md5encoded":%b}' % value) is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(encoding: str) -> None:
    assert decode_request(ENVELOPE.encode()).request == "A"
    with pytest.raises(BadEnvelope):
        decode_request(ENVELOPE.encode(encoding))


def test_numbers_without_end_are_refused() -> None:
    for number in (b"9" * 5000, b"1e999", b"-1e400"):
        with pytest.raises(BadEnvelope, match="out of range"):
            decode_request(b'{"request":"A","tokenid":%b}' % number)


@pytest.mark.parametrize(
    "text", [b"null", b"[]", b'"A"', b"7", b"{}", b'{"request":null}', b'{"Request":"A"}']
)
def test_a_request_is_an_object_with_a_type(text: bytes) -> None:
    with pytest.raises(BadEnvelope) as caught:
        decode_request(text)
    assert caught.value.kind is None


def test_a_bad_envelope_still_tells_its_type_where_that_can_be_read() -> None:
    for text in (b'{"request":"LOGIN","tokenid":"1"}', b'{"tokenid":1.0,"request":"LOGIN"}'):
        with pytest.raises(BadEnvelope) as caught:
            decode_request(text)
        assert caught.value.kind == "LOGIN"
    with pytest.raises(BadEnvelope) as caught:
        decode_request(b'{"request":"LOGIN","body":{"a":}}')
    assert caught.value.kind is None


def test_bytes_that_are_not_utf8_are_refused_where_they_are_not_read_too() -> None:
    with pytest.raises(BadEnvelope, match="not UTF-8") as caught:
        decode_request(b'{"request":"SENDMSG","body":{"md5encoded":"abc"},"x":"\xff"}')
    assert caught.value.kind == "SENDMSG"
    assert bytes(caught.value.body) == b'{"md5encoded":"abc"}'


@pytest.mark.parametrize("half", [rb"\ud800", rb"\uDFff", rb"\ud800\ud800", rb"\\\udbff", rb"\ud83d\\ude00"])
def test_half_a_surrogate_pair_is_refused_and_hides_no_more_than_it_must(half: bytes) -> None:
    def refusal(body: bytes, more: bytes = b"") -> BadEnvelope:
        with pytest.raises(BadEnvelope, match="half of a surrogate pair") as caught:
            decode_request(b'{"request":"SENDMSG","body":%b%b}' % (body, more))
        assert caught.value.kind == "SENDMSG"
        return caught.value

    for error in (
        refusal(b'{"content":"a%bb","md5encoded":"abc"}' % half),
        refusal(b'{"md5encoded":"abc","x":{"%b":[]}}' % half),
        refusal(b'{"md5encoded":"abc"}', b',"x":"%b"' % half),
    ):
        assert message_name(error.body) == "abc"
    for name in (half, rb"\\abc", rb"\ud83d\ude00", "\u00fc".encode()):  # not for sure as it was sent
        assert message_name(refusal(b'{"content":"%b","md5encoded":"%b"}' % (half, name)).body) is None
    with pytest.raises(BadEnvelope) as caught:
        decode_request(b'{"request":"A","body":{"a":"%b"},}' % half)
    assert caught.value.kind is None


def test_a_message_that_is_not_valid_still_tells_its_name() -> None:
    assert message_name(b'{"userid":"?","md5encoded":"abc"}') == "abc"
    for text in (
        b"null",
        b"[]",
        b"{}",
        b'{"md5encoded":null}',
        b'{"md5encoded":7}',
        b'{"md5encoded":"a"',
        b"[",
    ):
        assert message_name(text) is None
    assert message_name(b"[" * 100_000) is None
    assert message_name(msgspec.Raw(b'{"md5encoded":"abc"}')) == "abc"


#: JSON with holes in it, and bytes that fit some of them.
scraps = st.sampled_from(
    [
        b'{"request":',
        b'"A"',
        b'"body":',
        b'"tokenid":',
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\ud8",
        b"1",
        b"e9",
    ]
)


@given(st.lists(scraps | st.binary(max_size=4), max_size=12).map(b"".join))
def test_no_bytes_at_all_raise_anything_else(data: bytes) -> None:
    try:
        request = decode_request(data)
    except BadEnvelope:
        pass
    else:
        assert json.loads(data.decode(errors="replace"))["request"] == request.request
    assert message_name(data) is None
    for shape in SHAPES:
        with suppress(Refusal):
            decode_body(data, shape)


# -- on the way out --------------------------------------------------------------------------------

texts = st.text()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "bool": st.booleans(),
    "int": st.integers(),
    "text": texts,
    "type": st.sampled_from(["plaintext", "image", "file"]),
    "status": st.sampled_from(["OK", "ERR"]),
    "mark": st.sampled_from(["delivered", "read"]),
    "relation": st.sampled_from(["contact", "pending", "requesting", "blocked", "none"]),
    "list": st.just([]),
}


@given(values)
def test_any_value_goes_out_in_ascii_and_comes_back(value: object) -> None:
    data = encode(value)
    assert data.isascii()
    assert json.loads(data) == value
    raw = json.dumps(value, ensure_ascii=False).encode()
    assert json.loads(encode(msgspec.Raw(raw))) == value
    assert encode(msgspec.Raw(raw)).isascii()


@given(st.data(), st.sampled_from(list(SHAPES)), st.booleans())
def test_every_shape_survives_the_round_trip(
    data: st.DataObject, shape: type[msgspec.Struct], ascii_only: bool
) -> None:
    fields: dict[str, Any] = {}
    for name, kinds in SHAPES[shape].items():
        kind = data.draw(st.sampled_from(sorted(kinds & {*DRAWN, "absent"})))
        if kind != "absent":
            fields[name] = data.draw(DRAWN[kind])
    sent = json.dumps(fields, ensure_ascii=ascii_only).encode()
    back = encode(decode_body(sent, shape))
    assert back.isascii()
    read = json.loads(back)
    if fields.get("invite", "") is None:
        del fields["invite"]  # who has none says nothing of it: older servers take it for nothing else
    assert {name: value for name, value in read.items() if name in fields} == fields
    absent = {name: value for name, value in read.items() if name not in fields}
    assert all(value in (None, False, name == "typing") for name, value in absent.items())
    assert encode(decode_body(back, shape)) == back


def test_escapes_are_those_of_json() -> None:
    assert encode('aé😀\x7f\u2028"\\\n\x00') == rb'"a\u00e9\ud83d\ude00\u007f\u2028\"\\\n\u0000"'


def test_half_a_character_does_not_go_out() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode("\ud800")


def test_a_message_goes_out_with_all_fields_in_order() -> None:
    message = Message(userid=1, targetid=2, contenttype="plaintext", content="é", md5encoded="m")
    assert encode(message) == (
        rb'{"userid":1,"targetid":2,"contenttype":"plaintext","content":"\u00e9",'
        rb'"timestamp":null,"md5encoded":"m","filemd5":null}'
    )


def test_an_envelope_has_four_keys_in_order() -> None:
    assert envelope("STATE") == b'{"response":"STATE","status":"OK","info":null,"body":null}'
    assert envelope("TOKEN", b'{"tokenid":1}') == (
        b'{"response":"TOKEN","status":"OK","info":null,"body":{"tokenid":1}}'
    )
    assert envelope("LOGIN", info='No "é".') == (
        rb'{"response":"LOGIN","status":"ERR","info":"No \"\u00e9\".","body":null}'
    )


@given(st.sampled_from(["STATE", "SENDMSG", "UNKNOWN"]), values, st.none() | texts)
def test_any_envelope_is_ascii_and_reads_back(kind: str, body: object, info: str | None) -> None:
    data = envelope(kind, encode(body), info)
    assert data.isascii()
    status = "OK" if info is None else "ERR"
    assert json.loads(data) == {"response": kind, "status": status, "info": info, "body": body}
    read = decode_body(data, Response)
    assert (read.response, read.status, read.info) == (kind, status, info)
    assert json.loads(bytes(read.body)) == body
