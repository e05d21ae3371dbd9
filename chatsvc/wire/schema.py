"""The typed shapes of requests and answers, and their JSON: decoded strictly, encoded in ASCII.

A request type's shape lives here; what it means lives with its handler (``chatsvc/chat``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from chatsvc.wire.errors import Refusal

#: What a 64-bit float holds exactly; device tokens are 1 to this (``docs/protocol.md`` section 4).
TOKEN_MAX = 2**53 - 1
#: The range of times that clients can represent, in ms (ECMAScript's and Dart's limit for dates).
TIMESTAMP_MAX = 8_640_000_000_000_000
#: Longest ``md5encoded``: it names a message, it does not carry one.
MESSAGE_NAME_LENGTH = 256
#: Longest account of what is wrong with a request's JSON, about.
REASON_LENGTH = 200


class Request(Struct, gc=False):
    """The envelope of every request."""

    request: str
    body: Raw = Raw(b"null")
    tokenid: int | None = None


class Nothing(Struct, frozen=True):
    """A body without fields."""


class Features(Struct, frozen=True):
    """STATE: which features this connection is to have; None leaves them as they are."""

    features: list[str] | None = None


class Credentials(Struct, frozen=True):
    """LOGIN."""

    username: str
    passwd: str


class Registration(Credentials, frozen=True, omit_defaults=True):
    """REGISTER: some servers want an invite."""

    invite: str | None = None


class PasswordChange(Struct, frozen=True):
    """MODIFYPASSWD."""

    passwd: str
    newPasswd: str


class ProfileChange(Struct, frozen=True):
    """MODIFYPROFILE: what is absent stays; a null avatar is cleared."""

    username: str | None = None
    avatar: str | UnsetType | None = UNSET


class UserRef(Struct, frozen=True):
    """PROFILE, and the requests that change a relation."""

    userid: int


class Search(Struct, frozen=True):
    """SEARCHUSR: by one of the two."""

    username: str | None = None
    userid: int | None = None


class Typing(Struct, frozen=True):
    """TYPING, to whom; FORWARDTYPING, who."""

    userid: int
    typing: bool = True


class Mark(Struct, frozen=True):
    """MARK: what `userid` sent, up to a message, was got or read."""

    userid: int
    mark: Literal["delivered", "read"]
    timestamp: int
    md5encoded: str


class FetchRange(Struct, frozen=True):
    """FETCHMSG: at most `limit` messages in one answer, or all that is left."""

    limit: int | None = None


class Ack(Struct, frozen=True):
    """ACKFETCH."""

    timestamp: int


class FileRef(Struct, frozen=True):
    """FINDFILE."""

    filemd5: str


class MessageRef(Struct, frozen=True):
    """FETCHFILE: the file of a message, or a range of it in bytes."""

    msgmd5: str
    offset: int | None = None
    length: int | None = None


class Message(Struct, kw_only=True, gc=False):
    """A message, in SENDMSG, FORWARDMSG and FETCHMSG; the fields go out in this order."""

    userid: int
    targetid: int
    contenttype: Literal["plaintext", "image", "file"]
    content: str
    timestamp: int | None = None
    md5encoded: str
    filemd5: str | None = None


class UserInfo(Struct, frozen=True):
    """A user as others see them."""

    userid: int
    username: str
    avatar: str | None


class OwnInfo(UserInfo, frozen=True):
    """The answer of a STATE that asks for features: those that the server has."""

    features: list[str] | None = None


class Contacts(Struct, frozen=True, omit_defaults=True):
    """The answer of FETCHCONTACT; `blocked` is for those who asked for the feature."""

    contacts: list[UserInfo]
    pending: list[UserInfo]
    requesting: list[UserInfo]
    blocked: list[UserInfo] | None = None


class Presence(Struct, frozen=True):
    """Whether a contact is online, and else since when not (ms), if that is known."""

    userid: int
    online: bool
    lastseen: int | None


class PresenceList(Struct, frozen=True):
    """The push FORWARDPRESENCE."""

    users: list[Presence]


class MarkOf(Struct, frozen=True):
    """How far a reader has got, or read, what a sender sent."""

    userid: int
    targetid: int
    mark: Literal["delivered", "read"]
    timestamp: int
    md5encoded: str


class MarkList(Struct, frozen=True):
    """The push FORWARDMARK."""

    marks: list[MarkOf]


class Relation(Struct, frozen=True):
    """The push FORWARDCONTACT; both are None if anything may have changed."""

    userid: int | None
    relation: Literal["contact", "pending", "requesting", "blocked", "none"] | None


class FileInfo(Struct, frozen=True):
    """The answer of FETCHFILE; `size` is that of the whole file, in bytes."""

    filemd5: str
    size: int


class Token(Struct, frozen=True):
    """The body of TOKEN."""

    tokenid: int


class MessageName(Struct, frozen=True):
    """The answer of SENDMSG, OK or ERR."""

    md5encoded: str


class Response(Struct):
    """The envelope of every answer and push, as a client reads it."""

    response: str
    status: Literal["OK", "ERR"]
    info: str | None = None
    body: Raw = Raw(b"null")


class MessageList(Struct):
    """The answer of FETCHMSG as a client reads it: `messages` newest first."""

    messages: list[Message]
    more: bool = False


T = TypeVar("T")
_requests = msgspec.json.Decoder(Request)
_decoders: dict[type[Any], Callable[[bytes], Any]] = {}  # by shape
_encoder = msgspec.json.Encoder()


def decode_request(data: bytes) -> Request:
    """The envelope in `data`. Raises `BadEnvelope` with as much of it as could be read."""
    try:
        if not data.isascii():
            data.decode()  # the parser does not look at what it skips
        return _requests.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        named = _loose(data, _Named)
        if named is not None:
            raise BadEnvelope(_reason(error), named) from None
        named = _despite_half_pairs(data)
        reason = _reason(error) if named is None else "a string has half of a surrogate pair"
        raise BadEnvelope(reason, named) from None


def decode_body(body: bytes | Raw, shape: type[T]) -> T:
    """The body of a request in its shape; null and absent count as an empty object."""
    raw = bytes(body)
    decode = _decoders.get(shape)
    if decode is None:
        decode = _decoders[shape] = msgspec.json.Decoder(shape).decode
    try:
        found: T = decode(b"{}" if raw == b"null" else raw)
        return found
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refusal(f"The body is not valid: {_reason(error)}.") from None


def message_name(body: bytes | Raw) -> str | None:
    """The ``md5encoded`` of a SENDMSG body that is otherwise not valid, if it has one."""
    found = _loose(bytes(body), _NamedMessage)
    return None if found is None else found.md5encoded


def encode(value: Any) -> bytes:
    """`value` as JSON in ASCII: readers of Latin-1 and of UTF-8 see the same text."""
    data = _encoder.encode(value)
    # Two passes in C: escaping in Python would keep everybody waiting for one long text.
    return data if data.isascii() else json.dumps(msgspec.json.decode(data), separators=(",", ":")).encode()


def envelope(kind: str, body: bytes = b"null", info: str | None = None) -> bytes:
    """The JSON of an answer or a push; with `info` it is an ERR."""
    if info is None:
        return b'{"response":"%b","status":"OK","info":null,"body":%b}' % (kind.encode(), body)
    return b'{"response":"%b","status":"ERR","info":%b,"body":%b}' % (kind.encode(), encode(info), body)


class BadEnvelope(Exception):  # noqa: N818 - becomes an ERR answer
    """A frame whose JSON is no request; `kind` and `body` are what could be read of it."""

    def __init__(self, reason: str, named: _Named | None) -> None:
        self.kind = None if named is None else named.request
        self.body = Raw(b"null") if named is None else named.body
        super().__init__(f"The request is not valid: {reason}.")


class _Named(Struct):
    request: str
    body: Raw = Raw(b"null")


class _NamedMessage(Struct):
    md5encoded: str


def _loose(data: bytes, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _despite_half_pairs(data: bytes) -> _Named | None:
    """What can be read of a request with lone surrogates, at which the parser stops.

    Escaped surrogates and backslashes become other characters, none of them ASCII: so a name that is
    ASCII is as it was sent.
    """
    readable = data.replace(rb"\\", "\xa0".encode()).replace(rb"\ud", rb"\uf").replace(rb"\uD", rb"\uf")
    named = _loose(readable, _Named)
    if named is not None:
        name = message_name(named.body)
        named.body = Raw(b"null" if name is None or not name.isascii() else encode(MessageName(name)))
    return named


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    reason = str(error).removesuffix(".")
    if len(reason) > REASON_LENGTH:  # it quotes what the peer sent
        reason = f"{reason[: REASON_LENGTH // 2]} ... {reason[-REASON_LENGTH // 2 :]}"
    return reason
