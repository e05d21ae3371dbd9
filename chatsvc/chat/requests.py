"""The one runner of requests: guard, validate, await, map the error, answer.

Which types there are, and what is known of one under way, stands in ``calls`` beside this.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from errno import EDQUOT, EMFILE, ENFILE, ENOSPC
from typing import Any

from twisted.logger import Logger

from chatsvc.chat.answers import FileAnswer, Part
from chatsvc.chat.calls import Call, Payload, Row
from chatsvc.chat.session import Gone
from chatsvc.passwords import Busy
from chatsvc.stats import Limited
from chatsvc.tasks import Pending, as_failure, started
from chatsvc.wire import errors, schema
from chatsvc.wire.errors import Refusal, Violation
from chatsvc.wire.frames import RELEASED, Head, frame
from chatsvc.wire.schema import envelope

log = Logger()

#: What a client is told that there is no room for what it sends, and what that counts as.
_NO_ROOM: dict[str, Limited] = {errors.STORAGE_FULL: "storage", errors.QUOTA_EXCEEDED: "quota"}
#: Seconds after an answer from which on a request other than FETCHMSG says that the answer was read:
#: the released client sends several at its start without waiting.
IMPLICIT_AFTER = 1.0


class Closing(Exception):  # noqa: N818 - carries the last answer
    """The connection is to be closed after this answer; what is left of the payload is not read."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


def begin(call: Call) -> Pending[Any] | None:
    """Begin a request that has one thing to wait for, and nothing to ask before; None if it is another one.

    Most that come are messages, and such; in this way they cost no coroutine. `conclude` ends it.
    """
    row = call.row
    if row is None or not row.direct or call.problem is not None or call.payload_length:
        return None
    if not (call.settled or call.settle()) or call.is_late:
        return None
    if call.arrived is not None:
        _acknowledge_before(call)
    try:
        if row.limit is not None:
            call.hub.guard.admit(row.limit, call.session)
        work = row.handler(call, schema.decode_body(call.body, row.shape))
    except Exception as error:
        refused: Pending[Any] = Pending()
        refused.fail(error)
        return refused
    return work if isinstance(work, Pending) else started(_of(work))


async def _of(work: Awaitable[Any]) -> Any:
    return await work


def conclude(call: Call, work: Pending[Any]) -> bytes:
    """The frames that answer a request, when what `begin` gave is done. Raises `Gone`."""
    try:
        return _done(call, work.result())
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
    row = call.row
    try:
        _acknowledge_before(call)
        if call.is_late and (row is None or row.answers):
            raise Refusal(errors.STORAGE_UNAVAILABLE)  # it has waited behind others for the store already
        if call.readable and not call.settle():
            await _identify(call)
        if call.payload_length:
            _admit_payload(call)
        if call.problem is not None or row is None:
            raise Refusal(call.problem)
        if row.limit is not None:
            call.hub.guard.admit(row.limit, call.session)
        if row.login:
            await _guard(call, row)
        if row.grows and call.hub.room.full.store:
            raise Refusal(errors.STORAGE_FULL)
        result = await row.handler(call, schema.decode_body(call.body, row.shape))
        await discard(call.payload)
        if isinstance(result, AsyncGenerator):
            return await _send_parts(call, result)
    except (Gone, Closing):
        raise
    except Violation as violation:
        call.hub.stats.violations += 1
        call.outcome = "err"
        outlet = call.session.outlet
        raise Closing(frame(outlet.dialect, envelope("UNKNOWN", info=str(violation)))) from None
    except Exception as error:
        answer = _told(call, error)
        await discard(call.payload)
        return answer
    if isinstance(result, FileAnswer):
        return await _send_file(call, result)
    if not row.answers:
        return b""
    return _done(call, result)


def _done(call: Call, result: Any) -> bytes:
    """The OK with what a handler has given."""
    call.outcome = "ok"
    body = result if isinstance(result, bytes) else call.echo if result is None else schema.encode(result)
    return frame(call.session.outlet.dialect, envelope(call.kind, body))


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
        else:
            _admit_device(call)
        if device is None:
            device = hub.attach(session, await hub.new_device())
            body = schema.encode(schema.Token(device.token))
            session.outlet.send(frame(session.outlet.dialect, envelope("TOKEN", body)))
            return
    await hub.refresh(device)
    if device.user_id is not None and session.position is None:
        await hub.join(session)


def _admit_device(call: Call) -> None:
    """Decide whether a request with a token that is not known, or with none, will be carried out."""
    try:
        call.hub.guard.admit_device(call.session, call.tokenid)
    except Refusal as refusal:
        if call.payload_length and call.session.device is None:
            raise Closing(_refusal(call, refusal.info)) from None  # it is not worth the reading
        raise


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
    if info in _NO_ROOM:
        call.hub.stats.refused[_NO_ROOM[info]] += 1
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
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE):
        log.error("There are too many open files for one more: {error}", error=error)
        return errors.SERVER_BUSY
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
