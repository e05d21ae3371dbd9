"""A grammar of requests, good ones and mutilated ones, each with what must come back for it.

How they travel, and that what must come does, is said in ``rounds``.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.raw import HEADERS, in_base64

#: Request types, and whether a body without fields will do for them.
KINDS = {
    "STATE": True, "REGISTER": False, "LOGIN": False, "LOGOUT": True, "PROFILE": False, "MODIFYPROFILE": True,
    "MODIFYPASSWD": False, "SENDMSG": False, "FETCHMSG": True, "ACKFETCH": False, "FINDFILE": False,
    "FETCHFILE": False, "SEARCHUSR": True, "ADDCONTACT": False, "FETCHCONTACT": True,
}  # fmt: skip
#: Values of every type, at and beyond the edges.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7.0, 1e308, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64, 10**400, [], [[]], {},
    {"": {}}, "", "\0", "\r\n[critical] forged\x1b[2J", "../../etc/passwd", "Ym9i", "x" * 300, "漢字🙂\u2028",
]  # fmt: skip
#: JSON that no server may accept, or die of; all of it is a frame. `%b` is where a type may stand.
BOMBS: dict[str, bytes] = {
    "lists 1,100 deep": b'{"request":"%b","body":' + b"[" * 1100 + b"]" * 1100 + b"}",
    "objects 100,000 deep": b'{"request":"%b","body":' + b'{"x":' * 100_000 + b"0" + b"}" * 100_000 + b"}",
    "lists that stay open": b'{"request":"%b","body":' + b"[" * 200_000,
    "an integer of 5,000 digits": b'{"request":"%b","tokenid":' + b"9" * 5000 + b"}",
    "half a surrogate pair": rb'{"request":"%b","body":{"username":"\ud83d","passwd":"x"}}',
    "UTF-16": '{"request":"STATE"}'.encode("utf-16-le"),
    "not a number": b'{"request":"%b","tokenid":NaN}',
    "infinity": b'{"request":"%b","tokenid":1e999}',
    "not UTF-8": b'{"request":"%b","body":{"x":"\xff\xfe\xed\xa0\x80"}}',
    "duplicate keys": b'{"request":"STATE","request":"%b","tokenid":1,"tokenid":"x","body":{},"body":7}',
}


class Step(NamedTuple):
    """A frame, and what must come back for it."""

    data: bytes
    #: The types that its answer may have; none if there is no answer.
    kinds: frozenset[str]
    #: Nothing but ERR will do.
    refused: bool = False
    #: The connection may be closed after it.
    may_end: bool = False
    #: Of a mailbox it asks for one part.
    limited: bool = False


class Person(NamedTuple):
    """A user, and the token of a device of theirs."""

    user: int
    name: str
    password: str
    token: int


class Grammar:
    """Makes frames of one dialect, all from one source of chance.

    Each has chances of its own, so that other ids and tokens, another time, change nothing in those after it.
    """

    def __init__(
        self, random: Random, dialect: str, people: list[Person], plant: Callable[[str], str]
    ) -> None:
        """`plant` is told what no log may have."""
        self._source = random
        self._random = random
        self._header = struct.Struct(HEADERS[dialect])
        self._released = dialect == "released"
        self._people = people
        self._plant = plant

    def first(self) -> Step:
        """A frame from which the dialect can be told."""
        self._shuffle()
        return self._request()

    def next(self) -> Step:
        """Any frame that has an end."""
        self._shuffle()
        makers = {
            self._request: 8, self._mistyped: 5, self._bad_envelope: 3, self._mutilated: 4, self._upload: 3,
            self._unasked_payload: 2, self._bomb: 2, self._noise: 2, self._unknown: 1,
        }  # fmt: skip
        return self._random.choices(list(makers), list(makers.values()))[0]()

    def violation(self) -> Step:
        """A header that breaks the stream, if it is not the first one."""
        lengths = [(-1, 0), (-(2**31), 0), (2**31 - 1, 0), (0x7B7B7B7B, 0), (20, -1), (-1, -1)]
        lengths += [(64 * 1024**2 + 1, 0), (20, -(2**63))] if self._released else [(2**24, 0), (20, -(2**31))]
        data = self._header.pack(*self._random.choice(lengths)) + self._random.randbytes(
            self._random.randrange(40)
        )
        return Step(data, frozenset({"UNKNOWN"}), refused=True)

    def _shuffle(self) -> None:
        self._random = Random(self._source.getrandbits(64))

    # -- kinds of frames ---------------------------------------------------------------------------

    def _request(self) -> Step:
        kind = self._random.choice(list(KINDS))
        return self._sent(kind, self._envelope(kind, self._body(kind)))

    def _mistyped(self) -> Step:
        kind = self._random.choice(list(KINDS))
        body = self._body(kind)
        for name in self._random.sample(list(body), self._random.randint(0, len(body))):
            if self._random.random() < 0.2:
                del body[name]
            else:
                body[name] = self._random.choice(ODD)
        body[self._random.choice(["", "x", "userid "])] = self._random.choice(ODD)
        return self._sent(kind, self._envelope(kind, body))

    def _bad_envelope(self) -> Step:
        kind = self._random.choice(list(KINDS))
        envelope = self._envelope(kind, self._body(kind))
        name = self._random.choice(list(envelope))
        envelope[name] = self._random.choice(ODD)
        return self._sent("UNKNOWN" if name == "request" else kind, envelope)

    def _mutilated(self) -> Step:
        # Of these two, what comes back depends on what was left of the request.
        kind = self._random.choice([kind for kind in KINDS if kind not in ("ACKFETCH", "FETCHMSG")])
        data = bytearray(_json(self._envelope(kind, self._body(kind))))
        for _ in range(self._random.randint(1, 6)):
            at = self._random.randrange(len(data))
            size = self._random.randint(1, 8)
            piece = self._random.choice(
                [self._random.randbytes(size), b"", data[at : at + size] * self._random.randint(2, 20)]
            )
            data[at : at + size] = piece or b"\0"
        return self._step({kind, "UNKNOWN"}, bytes(data))

    def _bomb(self) -> Step:
        data = self._random.choice(list(BOMBS.values())).replace(b"%b", b"PROFILE")
        return self._step({"PROFILE", "UNKNOWN"}, data)._replace(refused=True)

    def _noise(self) -> Step:
        data = self._random.randbytes(self._random.choice([0, 1, 7, 300]))
        return self._step({"UNKNOWN"}, data)._replace(refused=True)

    def _unknown(self) -> Step:
        kind = self._random.choice(
            ["NOSUCH", "state", "", "STATE ", "UNKNOWN", "FORWARDMSG", "TOKEN", "x" * 9000]
        )
        data = _json(self._envelope(kind, {}))
        return self._step({"UNKNOWN"}, data)._replace(refused=True)

    def _upload(self) -> Step:
        payload = self._random.randbytes(self._random.choice([1, 5, 1000, 70_000]))
        md5 = hashlib.md5(payload).hexdigest() if self._random.random() < 0.7 else "0" * 32
        body = self._message() | {"contenttype": self._random.choice(["file", "image"]), "filemd5": md5}
        return self._sent("SENDMSG", self._envelope("SENDMSG", body), payload)

    def _unasked_payload(self) -> Step:
        # After ADDCONTACT, whether a second answer comes depends on whether this one ends the connection.
        kind = self._random.choice([kind for kind in KINDS if kind not in ("SENDMSG", "ADDCONTACT")])
        step = self._sent(kind, self._envelope(kind, self._body(kind)), self._random.randbytes(40))
        return step._replace(refused=True)

    # -- what they are made of -----------------------------------------------------------------------

    def _sent(self, kind: str, envelope: dict[str, Any], payload: bytes = b"") -> Step:
        body = envelope["body"]
        step = self._step({kind} - {"ACKFETCH"}, _json(envelope), payload)
        return step._replace(limited=isinstance(body, dict) and type(body.get("limit")) is int)

    def _step(self, kinds: set[str], data: bytes, payload: bytes = b"") -> Step:
        frame = self._header.pack(len(data), len(payload)) + data + payload
        # A device that is not bound may not send a payload.
        return Step(frame, frozenset(kinds), may_end=bool(payload))

    def _envelope(self, kind: str, body: Any) -> dict[str, Any]:
        envelope: dict[str, Any] = {"request": kind, "body": body}
        if KINDS.get(kind) and self._random.random() < 0.3:
            envelope["body"] = None
        if self._random.random() < 0.5:
            envelope["tokenid"] = self._random.choice(self._people).token
        elif self._random.random() < 0.2:
            envelope["tokenid"] = self._random.choice(
                [None, 0, -5, 2**53, 2**70, self._random.getrandbits(53)]
            )
        if self._random.random() < 0.1:
            envelope["pad"] = "x" * self._random.choice([200, 5000, 60_000])
        return envelope

    def _body(self, kind: str) -> dict[str, Any]:
        random = self._random
        user, name, password, _ = random.choice(self._people)
        if random.random() < 0.5:
            password = self._plant(f"password-{random.getrandbits(64):x}")
        bodies: dict[str, dict[str, Any]] = {
            "REGISTER": {"username": f"r{random.getrandbits(64):x}", "passwd": password},
            "LOGIN": {"username": random.choice([name, "nobody"]), "passwd": password},
            "PROFILE": {"userid": user},
            "MODIFYPROFILE": {"avatar": random.choice([None, "YQ==", "x" * 1000])},
            "MODIFYPASSWD": {"passwd": password, "newPasswd": password},
            "SENDMSG": self._message(),
            "FETCHMSG": random.choice([{}, {"limit": random.choice([0, 1, 50])}]),
            "ACKFETCH": {"timestamp": random.choice([0, 1, 2**53])},
            "FINDFILE": {"filemd5": f"{random.getrandbits(128):032x}"},
            "FETCHFILE": {"msgmd5": "file", "offset": random.choice([0, 1, -1, 2**63])},
            "SEARCHUSR": random.choice([{"username": name}, {"userid": user}]),
            "ADDCONTACT": {"userid": user},
        }
        return bodies.get(kind, {})

    def _message(self) -> dict[str, Any]:
        content = self._plant(f"content-{self._random.getrandbits(64):x}")
        return {
            "userid": self._random.choice(self._people).user,
            "targetid": self._random.choice(self._people).user,
            "contenttype": "plaintext",
            "content": self._random.choice([content, in_base64(content), content * 100]),
            "timestamp": self._random.getrandbits(40),
            "md5encoded": self._random.choice(["file", f"{self._random.getrandbits(128):032x}"]),
            "filemd5": None,
        }


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
