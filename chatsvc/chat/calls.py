"""The closed table of requests, and a request under way. How one is carried out stands in ``requests``.

What a request type means stands with its handler, in the modules beside this one; its shape in
`chatsvc.wire.schema`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Device, Gone, Session
from chatsvc.stats import Limited, Outcome
from chatsvc.store.link import LINK_WAIT
from chatsvc.wire import errors, schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.frames import Head
from chatsvc.wire.schema import BadEnvelope


class Payload(Protocol):
    """The payload of a request, as it arrives."""

    async def read(self) -> bytes:
        """The next part; empty at the end. Raises `Gone`."""


class Row(NamedTuple):
    """A request type."""

    kind: str
    shape: type[Any]
    handler: Callable[[Call, Any], Awaitable[Any]]
    #: Needs a bound device.
    login: bool
    #: The handler's own script looks whether the binding holds; else the runner asks the store first.
    checks_binding: bool
    #: May have a payload.
    payload: bool
    #: The request types that may still be running when this one starts.
    joins: frozenset[str]
    #: False: there is no answer, ever.
    answers: bool
    #: The limit that it counts for; None if it may come as often as it likes.
    limit: Limited | None
    #: What it stores makes the store grow: not while the store's disk is nearly full.
    grows: bool
    #: The handler is a plain function whose own script asks all there is to ask: what it returns is all that
    #: there is to wait for.
    direct: bool
    #: The body of an ERR, from the request's.
    error_body: Callable[[Raw], bytes]
    #: A request without body that is answered after this one, unasked, on a `released` connection.
    followed_by: str | None
    #: What a connection must have asked for, or there is no such request on it.
    feature: str | None


TABLE: dict[str, Row] = {}


def request(
    kind: str,
    shape: type[Any],
    *,
    login: bool = True,
    checks_binding: bool = False,
    payload: bool = False,
    joins: tuple[str, ...] = (),
    answers: bool = True,
    limit: Limited | None = "request_rate",
    grows: bool = False,
    error_body: Callable[[Raw], bytes] = lambda body: b"null",
    followed_by: str | None = None,
    feature: str | None = None,
) -> Callable[[Callable[[Call, Any], Awaitable[Any]]], Callable[[Call, Any], Awaitable[Any]]]:
    """Put a handler into the table.

    It is called with the `Call` and the body in its `shape`, and returns the answer's body: a struct of
    `chatsvc.wire.schema`, JSON as bytes, None, a `FileAnswer`, or an iterator of `Part`. It raises
    `Refusal` for an ERR. A plain function that returns an awaitable costs less than a coroutine, where
    nothing else is to be waited for.
    """

    def register(handler: Callable[[Call, Any], Awaitable[Any]]) -> Callable[[Call, Any], Awaitable[Any]]:
        assert kind not in TABLE
        asks_itself = login and checks_binding and answers and followed_by is None
        TABLE[kind] = Row(
            kind,
            shape,
            handler,
            login,
            checks_binding,
            payload,
            frozenset(joins),
            answers,
            limit,
            grows,
            asks_itself and not iscoroutinefunction(handler),
            error_body,
            followed_by,
            feature,
        )
        return handler

    return register


class Call:
    """One request under way: what a handler may know of it."""

    __slots__ = (
        "answer",
        "arrived",
        "body",
        "closes",
        "echo",
        "kind",
        "outcome",
        "payload",
        "payload_length",
        "problem",
        "readable",
        "received",
        "row",
        "session",
        "settled",
        "size",
        "tokenid",
    )

    def __init__(
        self, session: Session, head: Head, arrived: float | None, received: float | None = None
    ) -> None:
        """`arrived` is when its first byte came, in seconds, if nothing was outstanding then.

        `received` is when its last byte had come; by default, now.
        """
        self.session = session
        self.arrived = arrived
        self.received = session.hub.clock.seconds() if received is None else received
        self.outcome: Outcome = "none"
        self.payload: Payload | None = None
        self.payload_length = head.payload_length
        #: Bytes of JSON that it holds as long as it is not answered.
        self.size = 0 if head.json is None else len(head.json)
        #: The frames that end its answer, once they are there, and whether the connection closes after them.
        self.answer: bytes | None = None
        self.closes = False
        #: What a handler has said of an OK's body beforehand, as JSON.
        self.echo = b"null"
        #: It is a request, whatever else is wrong with it.
        self.readable = False
        self.problem: str | None = None
        self.tokenid: int | None = None
        #: It is known whose it is; that holds until anything is waited for.
        self.settled = False
        self.body = Raw(b"null")
        kind = self._read(head.json)
        self.row = TABLE.get(kind) if kind is not None else None
        if self.row is not None and self.row.feature is not None and not self._has(self.row):
            self.row = None
        self.kind = "UNKNOWN" if self.row is None else self.row.kind
        if self.row is None and self.problem is None:
            there_are = ", ".join(sorted(row.kind for row in TABLE.values() if self._has(row)))
            self.problem = f"There is no such request type. There are {there_are}."

    def _has(self, row: Row) -> bool:
        """Whether there is such a request on this connection."""
        return row.feature is None or self.session.has(row.feature)

    def _read(self, json: bytes | None) -> str | None:
        if json is None:
            limit = self.session.hub.limits.json
            self.problem = f"The JSON part of a request may have at most {limit} bytes."
            return None
        try:
            envelope = schema.decode_request(json)
        except BadEnvelope as bad:
            self.problem, self.body = str(bad), bad.body
            return bad.kind
        self.readable = True
        self.body, self.tokenid = envelope.body, envelope.tokenid
        return envelope.request

    @property
    def hub(self) -> Hub:
        """What all requests of this node share."""
        return self.session.hub

    @property
    def device(self) -> Device:
        """The device that the request came from."""
        device = self.session.device
        if device is None:
            raise Gone
        return device

    @property
    def user_id(self) -> int:
        """The user to whom that device is bound."""
        user_id = self.device.user_id
        if user_id is None:
            raise Refusal(errors.NOT_LOGGED_IN)  # the binding has just ended
        return user_id

    @property
    def is_late(self) -> bool:
        """Whether it has waited behind others for a store that is away, and so has no time left to wait."""
        waited = self.hub.clock.seconds() - self.received
        return waited > LINK_WAIT and not self.hub.store.up

    @property
    def wraps(self) -> bool:
        """Whether the reader needs names and contents in base64."""
        return self.session.outlet.dialect.wraps

    def may_start(self, running: Collection[str]) -> bool:
        """Whether it may run beside requests of these types: only if they cannot change whose it is."""
        if not running:
            return True
        return (
            self.row is not None
            and self.problem is None
            and not self.payload_length
            and self.row.joins.issuperset(running)
            and not self.session.exclusive
            and self.settle()
        )

    def settle(self) -> bool:
        """Whether it is known whose request this is, as it is for all but a connection's first."""
        session = self.session
        device = session.device
        self.settled = (
            device is not None
            and (self.tokenid == device.token or self.tokenid is None)
            and session.position is not None
            and session.hub.is_fresh(device, self.received)
        )
        return self.settled
