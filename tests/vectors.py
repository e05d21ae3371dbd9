"""What the released Flutter clients (1.0, 1.1, 2.0) send, byte for byte, and what they read of the answers.

It is data, written down from what those clients do, so that no change of ours can change it; who plays it
against what is not known here.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

#: In the vectors: the device's token, the id of the user who sends, and that of the one he talks to.
TOKEN, ME, PEER = 4503599627370497, 70001, 70002
_VALUES = re.compile(rb"(?<=:)(4503599627370497|70001|70002)(?=[,}])")

#: A client has one connection for as long as it runs. It opens others for one request each, which it closes
#: once the answer of that request's own type is there.
MAIN, OWN = "main", "own"
ALL = ("1.0", "1.1", "2.0")
SINCE_IMAGES = ("1.1", "2.0")
#: The clients' code has it, but no page of any release sends it.
UNUSED: tuple[str, ...] = ()

#: One white pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f"
    "0005fe02fe0def46b80000000049454e44ae426082"
)
PDF = b'%PDF-1.4\n{"request":"STATE"}\0\0\0\0\xff\xfe%%EOF\n'


class Vector(NamedTuple):
    """One request, as it goes over the wire for `TOKEN`, `ME` and `PEER`: header and JSON, then a payload."""

    wire: bytes
    #: What the person and the program meant, before base64, MD5 and JSON.
    means: dict[str, Any]
    #: Type and status of each answer on that connection, in order, in the course of `STORY`.
    answers: list[str]
    connection: str = MAIN
    versions: tuple[str, ...] = ALL
    payload: bytes = b""


def writes(vector: Vector, token: int = TOKEN, me: int = ME, peer: int = PEER) -> list[bytes]:
    """`vector` for this device and these users, with its lengths put right, in the client's own pieces."""
    values = {b"%d" % TOKEN: b"%d" % token, b"%d" % ME: b"%d" % me, b"%d" % PEER: b"%d" % peer}
    text = _VALUES.sub(lambda found: values[found[0]], vector.wire[12:])
    return [struct.pack("<i", len(text)), struct.pack("<q", len(vector.payload)), text, vector.payload]


VECTORS = {
    # The very first start: there is no token yet.
    "first_start": Vector(
        b'\x2c\0\0\0\0\0\0\0\0\0\0\0{"request":"STATE","body":{},"tokenid":null}',
        {},
        ["TOKEN OK", "STATE ERR"],
        OWN,
    ),
    "next_start": Vector(
        b'\x38\0\0\0\0\0\0\0\0\0\0\0{"request":"STATE","body":{},"tokenid":4503599627370497}',
        {},
        ["STATE OK"],
        OWN,
    ),
    # The MD5 of a password is that of its Latin-1 bytes.
    "register": Vector(
        b"\x8d\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"REGISTER","body":{"username":"Wm/Dqw==","passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        {"username": "Zoë", "passwd": "pässwörd"},
        ["REGISTER OK"],
    ),
    "register_bob": Vector(
        b"\x89\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"REGISTER","body":{"username":"Ym9i","passwd":"2ab96390c7dbe3439de74d0c9b0b1767",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        {"username": "bob", "passwd": "hunter2"},
        ["REGISTER OK"],
    ),
    "login": Vector(
        b"\x8a\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"LOGIN","body":{"username":"Wm/Dqw==","passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        {"username": "Zoë", "passwd": "pässwörd"},
        ["LOGIN OK"],
    ),
    "login_wrong": Vector(
        b"\x8a\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"LOGIN","body":{"username":"Wm/Dqw==","passwd":"5f4dcc3b5aa765d61d8327deb882cf99",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        {"username": "Zoë", "passwd": "password"},
        ["LOGIN ERR"],
    ),
    "logout": Vector(
        b'\x39\0\0\0\0\0\0\0\0\0\0\0{"request":"LOGOUT","body":{},"tokenid":4503599627370497}',
        {},
        ["LOGOUT OK"],
    ),
    "own_profile": Vector(
        b'\x48\0\0\0\0\0\0\0\0\0\0\0{"request":"PROFILE","body":{"userid":70001},"tokenid":4503599627370497}',
        {"userid": ME},
        ["PROFILE OK"],
    ),
    "profile": Vector(
        b'\x48\0\0\0\0\0\0\0\0\0\0\0{"request":"PROFILE","body":{"userid":70002},"tokenid":4503599627370497}',
        {"userid": PEER},
        ["PROFILE OK"],
    ),
    "search": Vector(
        b"\x4d\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SEARCHUSR","body":{"username":"Ym9i"},"tokenid":4503599627370497}',
        {"username": "bob"},
        ["SEARCHUSR OK"],
    ),
    "search_nobody": Vector(
        b"\x59\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SEARCHUSR","body":{"username":"5bCP5piO8J+YgA=="},"tokenid":4503599627370497}',
        {"username": "小明😀"},
        ["SEARCHUSR ERR"],
    ),
    # From the page of a profile.
    "add_contact": Vector(
        b"\x4b\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"ADDCONTACT","body":{"userid":70002},"tokenid":4503599627370497}',
        {"userid": PEER},
        ["ADDCONTACT OK", "FETCHCONTACT OK"],
        OWN,
    ),
    # From the list of contacts.
    "accept_contact": Vector(
        b"\x4b\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"ADDCONTACT","body":{"userid":70002},"tokenid":4503599627370497}',
        {"userid": PEER},
        ["ADDCONTACT OK", "FETCHCONTACT OK"],
    ),
    "fetch_contacts": Vector(
        b'\x3f\0\0\0\0\0\0\0\0\0\0\0{"request":"FETCHCONTACT","body":{},"tokenid":4503599627370497}',
        {},
        ["FETCHCONTACT OK"],
    ),
    "fetch_messages": Vector(
        b'\x3b\0\0\0\0\0\0\0\0\0\0\0{"request":"FETCHMSG","body":{},"tokenid":4503599627370497}',
        {},
        ["FETCHMSG OK"],
    ),
    # After a FETCHMSG answer whose first message is "send_reply".
    "acknowledge": Vector(
        b"\x54\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"ACKFETCH","body":{"timestamp":1666525565123},"tokenid":4503599627370497}',
        {"timestamp": 1666525565123},
        [],
        versions=("2.0",),
    ),
    # A tap on a message that failed sends the same once more.
    "send_text": Vector(
        b"\xf5\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"plaintext",'
        b'"content":"SMOrbGxvIHsiYm9iIn0g8J+Riwo=","timestamp":1666525564321,'
        b'"md5encoded":"c0742a437f3d591fb548f31659369b0d","filemd5":null},"tokenid":4503599627370497}',
        {"contenttype": "plaintext", "content": 'Hëllo {"bob"} 👋\n', "timestamp": 1666525564321},
        ["SENDMSG OK"],
    ),
    "send_reply": Vector(
        b"\xe1\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"plaintext",'
        b'"content":"aGkgem9l","timestamp":1666525565123,"md5encoded":"75c13a430a23988c8c23a75d854e308f",'
        b'"filemd5":null},"tokenid":4503599627370497}',
        {"contenttype": "plaintext", "content": "hi zoe", "timestamp": 1666525565123},
        ["SENDMSG OK"],
    ),
    # In base64 twice.
    "send_image": Vector(
        b"\x51\x01\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"image",'
        b'"content":"aVZCT1J3MEtHZ29BQUFBTlNVaEVVZ0FBQUFFQUFBQUJDQUlBQUFDUWQxUGVBQUFBREVsRVFWUjRuR1A0Ly84L0FBWCtBdjRONzBhNEFBQUFBRWxGVGtTdVFtQ0M=",'
        b'"timestamp":1666525566000,"md5encoded":"468c0608db71b7dc0714635208777644","filemd5":null},'
        b'"tokenid":4503599627370497}',
        {"contenttype": "image", "content": PNG, "timestamp": 1666525566000},
        ["SENDMSG OK"],
        versions=SINCE_IMAGES,
    ),
    # The content is the name of the file.
    "send_file": Vector(
        b"\x0a\x01\0\0\x28\0\0\0\0\0\0\0"
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"file",'
        b'"content":"w5xiZXJzaWNodCAxLnBkZg==","timestamp":1666525567000,'
        b'"md5encoded":"51655eb9545b0e18e380803faf4e2b0e","filemd5":"c4451a183893a1a4df6109775e85b850"},'
        b'"tokenid":4503599627370497}',
        {"contenttype": "file", "content": "Übersicht 1.pdf", "timestamp": 1666525567000},
        ["SENDMSG OK"],
        OWN,
        payload=PDF,
    ),
    "send_empty_file": Vector(
        b"\xfe\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"file",'
        b'"content":"ZW1wdHkudHh0","timestamp":1666525568000,'
        b'"md5encoded":"7bf6eea3d770b05d4dc3e2368b69eb04","filemd5":"d41d8cd98f00b204e9800998ecf8427e"},'
        b'"tokenid":4503599627370497}',
        {"contenttype": "file", "content": "empty.txt", "timestamp": 1666525568000},
        ["SENDMSG OK"],
        OWN,
    ),
    # The file of "send_file".
    "fetch_file": Vector(
        b"\x67\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"FETCHFILE","body":{"msgmd5":"51655eb9545b0e18e380803faf4e2b0e"},'
        b'"tokenid":4503599627370497}',
        {"msgmd5": "51655eb9545b0e18e380803faf4e2b0e"},
        ["FETCHFILE OK"],
        OWN,
    ),
    "find_file": Vector(
        b"\x67\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"FINDFILE","body":{"filemd5":"c4451a183893a1a4df6109775e85b850"},'
        b'"tokenid":4503599627370497}',
        {"filemd5": "c4451a183893a1a4df6109775e85b850"},
        ["FINDFILE OK"],
        OWN,
        versions=UNUSED,
    ),
    # Whoever changes the avatar sends the name along.
    "modify_profile": Vector(
        b"\xcc\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"MODIFYPROFILE","body":{"userid":70001,"username":"Wm/Dqw==",'
        b'"avatar":"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"},'
        b'"tokenid":4503599627370497}',
        {"username": "Zoë", "avatar": PNG},
        ["MODIFYPROFILE OK"],
        versions=SINCE_IMAGES,
    ),
    "modify_password": Vector(
        b"\xaf\0\0\0\0\0\0\0\0\0\0\0"
        b'{"request":"MODIFYPASSWD","body":{"username":"Wm/Dqw==",'
        b'"passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f","newPasswd":"22af645d1859cb5ca6da0c484f1f37ea"},'
        b'"tokenid":4503599627370497}',
        {"username": "Zoë", "passwd": "pässwörd", "newPasswd": "new"},
        ["MODIFYPASSWD OK"],
        versions=UNUSED,
    ),
}

#: Who sends what, in an order in which every answer is as said above. Zoë has 2.0 on a telephone, Bob 1.1 on
#: a desktop; each is the other's `PEER`.
STORY = [
    *(("zoe", "first_start"), ("zoe", "register"), ("zoe", "fetch_messages"), ("zoe", "fetch_contacts")),
    *(("bob", "first_start"), ("bob", "register_bob"), ("bob", "own_profile")),
    *(("zoe", "own_profile"), ("zoe", "search"), ("zoe", "search_nobody"), ("zoe", "profile")),
    *(("zoe", "add_contact"), ("bob", "fetch_contacts"), ("bob", "accept_contact"), ("bob", "profile")),
    *(("zoe", "send_text"), ("zoe", "send_text"), ("zoe", "send_image"), ("zoe", "send_file")),
    *(("zoe", "send_empty_file"), ("bob", "fetch_messages"), ("bob", "fetch_file"), ("bob", "find_file")),
    *(("bob", "send_reply"), ("zoe", "fetch_messages"), ("zoe", "acknowledge"), ("zoe", "modify_profile")),
    *(("zoe", "next_start"), ("zoe", "logout"), ("zoe", "login_wrong"), ("zoe", "login")),
    ("zoe", "modify_password"),
]


# -- what the clients read of an answer ------------------------------------------------------------

Check = Callable[[Any], bool]
#: A field's check, an object's fields, or a list of one kind of item.
Shape = Check | dict[str, Any] | list[Any]


def _integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # neither 1.0 nor true nor 2^63 is one there


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _string_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _encoded(value: Any) -> bool:
    """Base64 of UTF-8."""
    try:
        base64.b64decode(value, validate=True).decode()
    except (TypeError, ValueError):
        return False
    return True


def _picture(value: Any) -> bool:
    """Nothing, or base64."""
    try:
        base64.b64decode(value or "", validate=True)
    except (TypeError, ValueError):
        return False
    return True


def _content(message: Any) -> bool:
    """An image has base64 inside its base64."""
    if message.get("contenttype") != "image" or not _encoded(message.get("content")):
        return True
    return _picture(base64.b64decode(message["content"]).decode())


USER = {"userid": _integer, "username": _encoded, "avatar": _picture}
MESSAGE = {
    "userid": _integer,
    "targetid": _integer,
    "contenttype": lambda value: value in ("plaintext", "image", "file"),
    "content": _encoded,
    "timestamp": _integer,
    "md5encoded": _string,
    "filemd5": _string_or_null,
    "": _content,  # the message as a whole
}
#: Of an answer's body, by type: what is read without a look whether it is there, and with which statuses the
#: body may be null. Of other types, also of those known, the body is not read. A failed SENDMSG whose answer
#: does not name the message is shown as being sent for ever.
READS: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "TOKEN": ({"tokenid": _integer}, ()),
    "STATE": (USER, ("ERR",)),
    "REGISTER": (USER, ("ERR",)),
    "LOGIN": (USER, ("ERR",)),
    "PROFILE": (USER, ("ERR",)),
    "MODIFYPROFILE": (USER, ("ERR",)),
    "SEARCHUSR": (USER, ("OK", "ERR")),
    "SENDMSG": ({"md5encoded": _string}, ()),
    "FORWARDMSG": (MESSAGE, ()),
    "FETCHMSG": ({"messages": [MESSAGE]}, ("OK", "ERR")),
    "FETCHCONTACT": ({"contacts": [USER], "pending": [USER], "requesting": [USER]}, ("OK", "ERR")),
}


def chokes_on(answer: bytes) -> list[str]:
    """What in the JSON of an answer or a push the released clients could not read; empty if nothing."""
    if not answer:
        return ["a frame without JSON, after which they wait for ever"]
    if not answer.isascii():
        return ["bytes that they take for Latin-1"]
    value = json.loads(answer)
    envelope = {"response": _string, "status": _string, "info": _string_or_null}
    problems = list(_mismatches(value, envelope, "answer"))
    if problems or value["response"] not in READS:
        return problems
    shape, null_with = READS[value["response"]]
    if value.get("body") is None and value["status"] in null_with:
        return []
    return list(_mismatches(value.get("body"), shape, "body"))


def _mismatches(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{path} is no object"
            return
        for name, part in shape.items():
            yield from _mismatches(value.get(name) if name else value, part, f"{path}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for index, item in enumerate(value):
            yield from _mismatches(item, shape[0], f"{path}[{index}]")
    elif not shape(value):
        yield path
