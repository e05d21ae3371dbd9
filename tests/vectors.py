"""What the released Flutter clients (1.0, 1.1, 2.0) send, byte for byte, and what they read of the answers.

Data, derived from those clients' behaviour and written out by hand, so that no change of our encoder can
change it; nothing here talks to a server or imports our framing.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from chatsvc.wire import schema

#: In the vectors: the device's token, the id of the user who sends, and that of the one he talks to.
TOKEN, ME, PEER = 4503599627370497, 70001, 70002

#: A client has one connection for as long as it runs, and opens others for a single request each, which it
#: closes in both directions once that request's answer is there.
MAIN, OWN = "main", "own"
ALL = ("1.0", "1.1", "2.0")
SINCE_IMAGES = ("1.1", "2.0")
#: The client's code can build it, but no page of any release does.
NONE = ()

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde"
    b"@IDAT@"
)
PDF = b'%PDF-1.4\n{"request":"STATE"}\0\0\0\0\xff\xfe%%EOF\n'


class Vector(NamedTuple):
    """One request. Its four parts are what goes over the wire for `TOKEN`, `ME` and `PEER`."""

    kind: str
    versions: tuple[str, ...]
    connection: str
    head: bytes
    json: bytes
    #: The body in our terms.
    means: Any
    #: Type and status of what comes back on that connection, in order, in the course of `STORY`.
    answers: tuple[tuple[str, str], ...]
    payload: bytes = b""


def writes(vector: Vector, token: int = TOKEN, me: int = ME, peer: int = PEER) -> list[bytes]:
    """`vector` for this device and these users, in the pieces in which the client writes it."""
    values = {b"%d" % TOKEN: token, b"%d" % ME: me, b"%d" % PEER: peer}
    text = re.sub(
        rb"(?<=:)(%d|%d|%d)(?=[,}])" % (TOKEN, ME, PEER), lambda found: b"%d" % values[found[0]], vector.json
    )
    return [struct.pack("<i", len(text)), struct.pack("<q", len(vector.payload)), text, vector.payload]


VECTORS = {
    # The very first start: there is no token yet.
    "first_start": Vector(
        "STATE",
        ALL,
        OWN,
        b"\x2c\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"STATE","body":{},"tokenid":null}',
        schema.Nothing(),
        (("TOKEN", "OK"), ("STATE", "ERR")),
    ),
    "next_start": Vector(
        "STATE",
        ALL,
        OWN,
        b"\x38\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"STATE","body":{},"tokenid":4503599627370497}',
        schema.Nothing(),
        (("STATE", "OK"),),
    ),
    # "Zoë", with the password "pässwörd": its MD5 is that of its Latin-1 bytes.
    "register": Vector(
        "REGISTER",
        ALL,
        MAIN,
        b"\x8d\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"REGISTER","body":{"username":"Wm/Dqw==","passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        schema.Credentials("Wm/Dqw==", "2ca67a2dbf3a2f52ef5126a2ae8f8a2f"),
        (("REGISTER", "OK"),),
    ),
    # "bob", with the password "hunter2".
    "register_bob": Vector(
        "REGISTER",
        ALL,
        MAIN,
        b"\x89\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"REGISTER","body":{"username":"Ym9i","passwd":"2ab96390c7dbe3439de74d0c9b0b1767",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        schema.Credentials("Ym9i", "2ab96390c7dbe3439de74d0c9b0b1767"),
        (("REGISTER", "OK"),),
    ),
    "login": Vector(
        "LOGIN",
        ALL,
        MAIN,
        b"\x8a\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"LOGIN","body":{"username":"Wm/Dqw==","passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        schema.Credentials("Wm/Dqw==", "2ca67a2dbf3a2f52ef5126a2ae8f8a2f"),
        (("LOGIN", "OK"),),
    ),
    "login_with_a_wrong_password": Vector(
        "LOGIN",
        ALL,
        MAIN,
        b"\x8a\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"LOGIN","body":{"username":"Wm/Dqw==","passwd":"5f4dcc3b5aa765d61d8327deb882cf99",'
        b'"newPasswd":null},"tokenid":4503599627370497}',
        schema.Credentials("Wm/Dqw==", "5f4dcc3b5aa765d61d8327deb882cf99"),
        (("LOGIN", "ERR"),),
    ),
    "logout": Vector(
        "LOGOUT",
        ALL,
        MAIN,
        b"\x39\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"LOGOUT","body":{},"tokenid":4503599627370497}',
        schema.Nothing(),
        (("LOGOUT", "OK"),),
    ),
    "own_profile": Vector(
        "PROFILE",
        ALL,
        MAIN,
        b"\x48\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"PROFILE","body":{"userid":70001},"tokenid":4503599627370497}',
        schema.UserRef(ME),
        (("PROFILE", "OK"),),
    ),
    "profile": Vector(
        "PROFILE",
        ALL,
        MAIN,
        b"\x48\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"PROFILE","body":{"userid":70002},"tokenid":4503599627370497}',
        schema.UserRef(PEER),
        (("PROFILE", "OK"),),
    ),
    "search": Vector(
        "SEARCHUSR",
        ALL,
        MAIN,
        b"\x4d\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"SEARCHUSR","body":{"username":"Ym9i"},"tokenid":4503599627370497}',
        schema.Search(username="Ym9i"),
        (("SEARCHUSR", "OK"),),
    ),
    # Outside of the basic plane; nobody has that name.
    "search_for_nobody": Vector(
        "SEARCHUSR",
        ALL,
        MAIN,
        b"\x59\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"SEARCHUSR","body":{"username":"5bCP5piO8J+YgA=="},"tokenid":4503599627370497}',
        schema.Search(username="5bCP5piO8J+YgA=="),
        (("SEARCHUSR", "ERR"),),
    ),
    # From a profile's page.
    "add_contact": Vector(
        "ADDCONTACT",
        ALL,
        OWN,
        b"\x4b\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"ADDCONTACT","body":{"userid":70002},"tokenid":4503599627370497}',
        schema.UserRef(PEER),
        (("ADDCONTACT", "OK"), ("FETCHCONTACT", "OK")),
    ),
    # From the list of contacts.
    "accept_contact": Vector(
        "ADDCONTACT",
        ALL,
        MAIN,
        b"\x4b\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"ADDCONTACT","body":{"userid":70002},"tokenid":4503599627370497}',
        schema.UserRef(PEER),
        (("ADDCONTACT", "OK"), ("FETCHCONTACT", "OK")),
    ),
    "fetch_contacts": Vector(
        "FETCHCONTACT",
        ALL,
        MAIN,
        b"\x3f\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"FETCHCONTACT","body":{},"tokenid":4503599627370497}',
        schema.Nothing(),
        (("FETCHCONTACT", "OK"),),
    ),
    "fetch_messages": Vector(
        "FETCHMSG",
        ALL,
        MAIN,
        b"\x3b\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"FETCHMSG","body":{},"tokenid":4503599627370497}',
        schema.FetchRange(),
        (("FETCHMSG", "OK"),),
    ),
    # For a FETCHMSG answer whose first message is that of "send_reply".
    "acknowledge": Vector(
        "ACKFETCH",
        ("2.0",),
        MAIN,
        b"\x54\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"ACKFETCH","body":{"timestamp":1666525565123},"tokenid":4503599627370497}',
        schema.Ack(1666525565123),
        (),
    ),
    # A text with quotes, an emoji and a line's end. A tap on a failed message sends the same once more.
    "send_text": Vector(
        "SENDMSG",
        ALL,
        MAIN,
        b"\xf5\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"plaintext",'
        b'"content":"SMOrbGxvIHsiYm9iIn0g8J+Riwo=","timestamp":1666525564321,'
        b'"md5encoded":"c0742a437f3d591fb548f31659369b0d","filemd5":null},"tokenid":4503599627370497}',
        schema.Message(
            userid=ME,
            targetid=PEER,
            contenttype="plaintext",
            content="SMOrbGxvIHsiYm9iIn0g8J+Riwo=",
            timestamp=1666525564321,
            md5encoded="c0742a437f3d591fb548f31659369b0d",
        ),
        (("SENDMSG", "OK"),),
    ),
    "send_reply": Vector(
        "SENDMSG",
        ALL,
        MAIN,
        b"\xe1\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"plaintext",'
        b'"content":"aGkgem9l","timestamp":1666525565123,"md5encoded":"75c13a430a23988c8c23a75d854e308f",'
        b'"filemd5":null},"tokenid":4503599627370497}',
        schema.Message(
            userid=ME,
            targetid=PEER,
            contenttype="plaintext",
            content="aGkgem9l",
            timestamp=1666525565123,
            md5encoded="75c13a430a23988c8c23a75d854e308f",
        ),
        (("SENDMSG", "OK"),),
    ),
    # `PNG`, in base64 twice.
    "send_image": Vector(
        "SENDMSG",
        SINCE_IMAGES,
        MAIN,
        b"@IMGHEAD@",
        b"@IMGJSON@",
        schema.Message(
            userid=ME,
            targetid=PEER,
            contenttype="image",
            content=IMAGE,
            timestamp=1666525566000,
            md5encoded="@IMGMD5@",
        ),
        (("SENDMSG", "OK"),),
    ),
    # "Übersicht 1.pdf"; the name of the message does not cover what is in the file.
    "send_file": Vector(
        "SENDMSG",
        ALL,
        OWN,
        b"\x0a\x01\0\0\x28\0\0\0\0\0\0\0",
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"file",'
        b'"content":"w5xiZXJzaWNodCAxLnBkZg==","timestamp":1666525567000,'
        b'"md5encoded":"51655eb9545b0e18e380803faf4e2b0e",'
        b'"filemd5":"c4451a183893a1a4df6109775e85b850"},"tokenid":4503599627370497}',
        schema.Message(
            userid=ME,
            targetid=PEER,
            contenttype="file",
            content="w5xiZXJzaWNodCAxLnBkZg==",
            timestamp=1666525567000,
            md5encoded="51655eb9545b0e18e380803faf4e2b0e",
            filemd5="c4451a183893a1a4df6109775e85b850",
        ),
        (("SENDMSG", "OK"),),
        PDF,
    ),
    # "empty.txt": no payload, and the MD5 of nothing.
    "send_empty_file": Vector(
        "SENDMSG",
        ALL,
        OWN,
        b"\xfe\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"SENDMSG","body":{"userid":70001,"targetid":70002,"contenttype":"file",'
        b'"content":"ZW1wdHkudHh0","timestamp":1666525568000,"md5encoded":"7bf6eea3d770b05d4dc3e2368b69eb04",'
        b'"filemd5":"d41d8cd98f00b204e9800998ecf8427e"},"tokenid":4503599627370497}',
        schema.Message(
            userid=ME,
            targetid=PEER,
            contenttype="file",
            content="ZW1wdHkudHh0",
            timestamp=1666525568000,
            md5encoded="7bf6eea3d770b05d4dc3e2368b69eb04",
            filemd5="d41d8cd98f00b204e9800998ecf8427e",
        ),
        (("SENDMSG", "OK"),),
    ),
    # The file of "send_file".
    "fetch_file": Vector(
        "FETCHFILE",
        ALL,
        OWN,
        b"\x67\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"FETCHFILE","body":{"msgmd5":"51655eb9545b0e18e380803faf4e2b0e"},"tokenid":4503599627370497}',
        schema.MessageRef("51655eb9545b0e18e380803faf4e2b0e"),
        (("FETCHFILE", "OK"),),
    ),
    "find_file": Vector(
        "FINDFILE",
        NONE,
        OWN,
        b"\x67\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"FINDFILE","body":{"filemd5":"c4451a183893a1a4df6109775e85b850"},"tokenid":4503599627370497}',
        schema.FileRef("c4451a183893a1a4df6109775e85b850"),
        (("FINDFILE", "OK"),),
    ),
    # A new avatar, `PNG`; the name goes along as it is.
    "modify_profile": Vector(
        "MODIFYPROFILE",
        SINCE_IMAGES,
        MAIN,
        b"@AVHEAD@",
        b"@AVJSON@",
        schema.ProfileChange("Wm/Dqw==", AVATAR),
        (("MODIFYPROFILE", "OK"),),
    ),
    # From "pässwörd" to "new".
    "modify_password": Vector(
        "MODIFYPASSWD",
        NONE,
        MAIN,
        b"\xaf\0\0\0\0\0\0\0\0\0\0\0",
        b'{"request":"MODIFYPASSWD","body":{"username":"Wm/Dqw==","passwd":"2ca67a2dbf3a2f52ef5126a2ae8f8a2f",'
        b'"newPasswd":"22af645d1859cb5ca6da0c484f1f37ea"},"tokenid":4503599627370497}',
        schema.PasswordChange("2ca67a2dbf3a2f52ef5126a2ae8f8a2f", "22af645d1859cb5ca6da0c484f1f37ea"),
        (("MODIFYPASSWD", "OK"),),
    ),
}
