"""The closed table of requests, and the one runner: guard, validate, await, map the error, answer.

What a request type means stands with its handler, in the modules beside this one; its shape in
`chatsvc.wire.schema`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from errno import EDQUOT, ENOSPC
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol

from msgspec import Raw
from twisted.logger import Logger

from chatsvc.chat.answers import FileAnswer, Part
from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Device, Gone, Session
from chatsvc.passwords import Busy
from chatsvc.stats import Outcome
from chatsvc.store.link import LINK_WAIT
from chatsvc.tasks import Pending, as_failure, started
from chatsvc.wire import errors, schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.frames import RELEASED, Head, frame
from chatsvc.wire.schema import BadEnvelope, envelope

log = Logger()

#: Seconds after an answer from which on a request other than FETCHMSG says that the answer was read:
#: the released client sends several at its start without waiting.
IMPLICIT_AFTER = 1.0


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
    #: The handler is a plain function: what it returns is all that there is to wait for.
    direct: bool
    #: The body of an ERR, from the request's.
    error_body: Callable[[Raw], bytes]
    #: A request without body that is answered after this one, unasked, on a `released` connection.
    followed_by: str | None


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
    error_body: Callable[[Raw], bytes] = lambda body: b"null",
    followed_by: str | None = None,
) -> Callable[[Callable[[Call, Any], Awaitable[Any]]], Callable[[Call, Any], Awaitable[Any]]]:
    """Put a handler into the table.

    It is called with the `Call` and the body in its `shape`, and returns the answer's body: a struct of
    `chatsvc.wire.schema`, JSON as bytes, None, a `FileAnswer`, or an iterator of `Part`. It raises
    `Refusal` for an ERR. A plain function that returns an awaitable costs less than a coroutine.
    """

    def register(handler: Callable[[Call, Any], Awaitable[Any]]) -> Callable[[Call, Any], Awaitable[Any]]:
        assert kind not in TABLE
        TABLE[kind] = Row(
            kind,
            shape,
            handler,
            login,
            checks_binding,
            payload,
            frozenset(joins),
            answers,
            not iscoroutinefunction(handler),
            error_body,
            followed_by,
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
        self.kind = "UNKNOWN" if self.row is None else self.row.kind
        if self.row is None and self.problem is None:
            self.problem = f"There is no such request type. There are {', '.join(sorted(TABLE))}."

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
            and _settle(self)
        )


class Closing(Exception):  # noqa: N818 - carries the last answer
    """The connection is to be closed after this answer; what is left of the payload is not read."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


def begin(call: Call) -> Pending[None] | None:
    """Begin a request that has one thing to wait for, and nothing to ask before; None if it is another one.

    Most that come are messages, and such; in this way they cost no coroutine. `conclude` ends it.
    """
    row = call.row
    if row is None or not row.direct or call.problem is not None or call.payload_length:
        return None
    if not (call.settled or _settle(call)) or call.is_late:
        return None
    if call.arrived is not None:
        _acknowledge_before(call)
    try:
        work = row.handler(call, schema.decode_body(call.body, row.shape))
    except Exception as error:
        refused: Pending[None] = Pending()
        refused.fail(error)
        return refused
    return work if isinstance(work, Pending) else started(_of(work))


async def _of(work: Awaitable[None]) -> None:
    await work


def conclude(call: Call, work: Pending[None]) -> bytes:
    """The frames that answer a request, when what `begin` gave is done. Raises `Gone`."""
    try:
        work.result()
        call.outcome = "ok"
        return frame(call.session.outlet.dialect, envelope(call.kind, call.echo))
    except Gone:
        raise
    except Exception as error:
        return _told(call, error)
    finally:
        _count(call)


async def perform(call: Call) -> bytes:
    """Carry a request out; gives the frames that end its answer. Raises `Closing` or `Gone`."""
    try:
        answer = await _perform(call)
    finally:
        _count(call)
    if call.row is not None and call.row.followed_by is not None and call.session.outlet.dialect is RELEASED:
        json = schema.encode({"request": call.row.followed_by})
        answer += await _perform(Call(call.session, Head(json, 0), None, call.received))
    return answer


def _count(call: Call) -> None:
    hub = call.session.hub
    hub.stats.requests[call.kind][call.outcome].observe(hub.clock.seconds() - call.received)


async def _perform(call: Call) -> bytes:
    session, row = call.session, call.row
    try:
        _acknowledge_before(call)
        if call.is_late and (row is None or row.answers):
            raise Refusal(errors.STORAGE_UNAVAILABLE)  # it has waited behind others for the store already
        if call.readable and not _settle(call):
            await _identify(call)
        if call.payload_length:
            _admit_payload(call)
        if call.problem is not None or row is None:
            raise Refusal(call.problem)
        if row.login:
            await _guard(call, row)
        result = await row.handler(call, schema.decode_body(call.body, row.shape))
        await discard(call.payload)
        if isinstance(result, AsyncGenerator):
            return await _send_parts(call, result)
    except (Gone, Closing):
        raise
    except Exception as error:
        answer = _told(call, error)
        await discard(call.payload)
        return answer
    if isinstance(result, FileAnswer):
        return await _send_file(call, result)
    if not row.answers:
        return b""
    call.outcome = "ok"
    body = result if isinstance(result, bytes) else call.echo if result is None else schema.encode(result)
    return frame(session.outlet.dialect, envelope(row.kind, body))


async def discard(payload: Payload | None) -> None:
    """Read what is left of a payload, and throw it away."""
    while payload is not None and await payload.read():
        pass


def _acknowledge_before(call: Call) -> None:
    """A later request of a device that knows no ACKFETCH says that what came before it was read."""
    ledger, device = call.session.ledger, call.session.device
    if call.arrived is None or device is None or device.explicit or call.kind == "ACKFETCH":
        return
    if not call.readable or ledger.answered_at is None:
        return
    if call.arrived - ledger.answered_at >= (0 if call.kind == "FETCHMSG" else IMPLICIT_AFTER):
        for delivery, end in ledger.answered.items():
            call.hub.acknowledge(device, delivery, end)


def _settle(call: Call) -> bool:
    """Whether it is known whose request this is, as it is for all but a connection's first."""
    session = call.session
    device = session.device
    call.settled = (
        device is not None
        and (call.tokenid == device.token or call.tokenid is None)
        and session.position is not None
        and session.hub.is_fresh(device, call.received)
    )
    return call.settled


async def _identify(call: Call) -> None:
    """Find the device of a request; a client without one is told its new TOKEN before the answer."""
    session, hub = call.session, call.hub
    device = session.device
    if device is None or call.tokenid not in (None, device.token):
        known = None
        if call.tokenid is not None and 1 <= call.tokenid <= schema.TOKEN_MAX:
            known = await hub.device(call.tokenid)
        if known is not None:
            device = hub.attach(session, known)
        elif device is None:
            device = hub.attach(session, await hub.new_device())
            body = schema.encode(schema.Token(device.token))
            session.outlet.send(frame(session.outlet.dialect, envelope("TOKEN", body)))
            return
    await hub.refresh(device)
    if device.user_id is not None and session.position is None:
        await hub.join(session)


def _admit_payload(call: Call) -> None:
    """Decide before the first byte of a payload is read whether it will be."""
    device, limit = call.session.device, call.hub.limits.payload
    if device is None or device.user_id is None:
        raise Closing(_refusal(call, errors.NOT_LOGGED_IN))
    if call.payload_length > limit:
        raise Closing(_refusal(call, f"A payload may have at most {limit} bytes, not {call.payload_length}."))
    if call.problem is None and call.row is not None and not call.row.payload:
        raise Refusal(f"{call.kind} takes no payload.")


async def _guard(call: Call, row: Row) -> None:
    device, hub = call.device, call.hub
    if device.user_id is not None and not row.checks_binding:
        if await hub.store.devices.is_bound(device.id, device.user_id):
            return
        # Ended through another node; perhaps there is a new one already.
        hub.unbound(device)
        await hub.refresh(device)
        if device.user_id is not None:
            await hub.join(call.session)
    if device.user_id is None:
        raise Refusal(errors.NOT_LOGGED_IN)


def _told(call: Call, error: Exception) -> bytes:
    """The answer to a request that failed."""
    info = _info(call, error)
    if info == errors.NOT_LOGGED_IN and call.session.device is not None:
        call.hub.doubt(call.session.device)
    return _refusal(call, info)


def _info(call: Call, error: Exception) -> str:
    """What a client is told; whatever is not meant for clients is logged, and told as our fault."""
    if isinstance(error, Refusal):
        return error.info
    if isinstance(error, Busy):
        return errors.SERVER_BUSY
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        log.error("There is no room for files: {error}", error=error)
        return errors.STORAGE_FULL
    log.failure("{kind} failed", failure=as_failure(error), kind=call.kind)
    return errors.INTERNAL


def _refusal(call: Call, info: str) -> bytes:
    if call.row is not None and not call.row.answers:
        return b""
    call.outcome = "err"
    body = b"null" if call.row is None else call.row.error_body(call.body)
    return frame(call.session.outlet.dialect, envelope(call.kind, body, info))


async def _send_parts(call: Call, parts: AsyncGenerator[Part, None]) -> bytes:
    """Send the answers of a FETCHMSG; each next one is made when the client has read most of the last."""
    session, device = call.session, call.device
    outlet = session.outlet
    try:
        async for part in parts:
            if device.delivery is not part.delivery:
                raise Refusal(errors.NOT_LOGGED_IN)  # the binding has just ended
            outlet.send(frame(outlet.dialect, envelope(call.kind, part.body)))
            session.ledger.give(outlet.offset, part.delivery, part.start, part.end, part.newest)
            session.fetched = True
            await outlet.drained(call.hub.limits.send_buffer)
    finally:
        await parts.aclose()
    call.outcome = "ok"
    return b""


async def _send_file(call: Call, answer: FileAnswer) -> bytes:
    """Send an answer and its payload in constant memory; nothing may come between."""
    outlet, download = call.session.outlet, answer.download
    call.session.hold()
    try:
        json = envelope(call.kind, schema.encode(answer.body))
        outlet.send(frame(outlet.dialect, json, download.size))
        await outlet.send_file(download)
    except Gone:
        raise
    except Exception as error:
        log.failure("A file could not be sent to its end", failure=as_failure(error))
        outlet.abort()
        raise Gone from None
    finally:
        download.close()
        call.session.release()
    call.outcome = "ok"
    call.hub.stats.downloads += 1
    call.hub.stats.download_bytes += download.size
    return b""
