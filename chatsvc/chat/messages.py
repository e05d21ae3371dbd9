"""Requests about messages: sending, receiving, acknowledging."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from functools import partial

from msgspec import Raw
from twisted.logger import Logger

from chatsvc.blobs import StoredBlob
from chatsvc.chat import rendering
from chatsvc.chat.answers import Part
from chatsvc.chat.calls import Call, request
from chatsvc.chat.delivery import Delivery
from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Device
from chatsvc.store import keys
from chatsvc.store.append import Outgoing
from chatsvc.store.files import FileEntry
from chatsvc.store.mail import Incoming
from chatsvc.store.sent import Brought
from chatsvc.tasks import pause, spawn
from chatsvc.wire import errors, schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import Message

log = Logger()

EMPTY_MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
MD5 = re.compile(r"[0-9A-Fa-f]{32}")
#: Entries that a FETCHMSG or an ACKFETCH reads at a time.
_PAGE = 100
#: ACKFETCHs of a device that may wait for the store; beyond it too little is acknowledged, never too much.
ACKS_KEPT = 1000
#: Seconds after which those that the store could not take are tried again.
ACK_PAUSE = 1.0
#: Bytes of a FETCHMSG answer around its messages.
_ANSWER_FRAME = 128


def checked_md5(md5: str) -> str:
    """An MD5 as files are known by. Raises `Refusal` if it is none."""
    if not MD5.fullmatch(md5):
        raise Refusal("A filemd5 has 32 hexadecimal digits.")
    return md5.lower()


def _named(body: Raw) -> bytes:
    """The body of SENDMSG's ERR: the client marks that message as failed."""
    name = schema.message_name(body)
    return b"null" if name is None else schema.encode(schema.MessageName(name))


@request(
    "SENDMSG",
    Message,
    checks_binding=True,
    payload=True,
    joins=("SENDMSG",),
    limit="message_rate",
    error_body=_named,
)
def send(call: Call, message: Message) -> Awaitable[None]:
    """Store a message in both mailboxes; who is online is told by the store."""
    hub = call.hub
    call.echo = schema.encode(schema.MessageName(message.md5encoded))
    _check_message(call, message)
    repeat = None
    if message.timestamp is None:
        message.timestamp = int(hub.clock.seconds() * 1000)
    else:
        repeat = keys.repeat(message.targetid, message.timestamp, message.md5encoded)
    if hub.room.full.store:
        return _only_a_repeat(call, repeat, Refusal(errors.STORAGE_FULL))
    limits = hub.limits
    is_plain = message.filemd5 is None and not rendering.is_long(message.content, limits.inline_content)
    if is_plain and limits.stranger_rate is None:
        return _append(call, message, repeat, rendering.stored(message))
    return _send_in_steps(call, message, repeat)


def _append(
    call: Call,
    message: Message,
    repeat: str | None,
    stored: rendering.Stored,
    file: FileEntry | None = None,
    brought: tuple[Brought, ...] = (),
) -> Awaitable[None]:
    hub, place = call.hub, None
    if file is not None:
        place = (keys.message_key(message.md5encoded), file.md5, file.packed())
    return hub.store.mail.append(
        Outgoing(
            call.user_id,
            message.targetid,
            call.device.id,
            repeat,
            stored.message,
            stored.flags,
            place,
            brought,
            hub.limits.quota,
        )
    )


async def _only_a_repeat(call: Call, repeat: str | None, refusal: Refusal) -> None:
    """There is no room for a message; OK is answered if it was stored already, when there was."""
    if repeat is None or not await call.hub.store.mail.is_repeat(call.user_id, repeat):
        raise refusal


async def _send_in_steps(call: Call, message: Message, repeat: str | None) -> None:
    """Store a message that has a file, or is long enough to be one, or that a stranger may get."""
    hub = call.hub
    call.session.exclusive = True  # a later message that needs less work would overtake this one
    try:
        # Before anything is written to the disk:
        if await hub.store.accounts.get(message.targetid) is None:
            raise Refusal(errors.USER_NOT_FOUND)
        if await hub.store.contacts.has_blocked(message.targetid, call.user_id):
            return await _only_a_repeat(call, repeat, Refusal(errors.NOT_TAKEN))
        await hub.guard.meet(call.session, call.user_id, message.targetid)
        content = rendering.long_content(message, hub.limits.inline_content)
        size = call.payload_length + len(content or b"")
        md5 = None if message.filemd5 is None or content is not None else message.filemd5.lower()
        with hub.room.coming(call.user_id, size):
            refusal = await hub.room.refusal(call.user_id, size, md5)
            if refusal is None:
                await _store_with_files(call, message, repeat, content)
            else:
                await _only_a_repeat(call, repeat, refusal)
    finally:
        call.session.exclusive = False


async def _store_with_files(call: Call, message: Message, repeat: str | None, content: bytes | None) -> None:
    """`content` is what the message has of it in the blob directory, if it is long."""
    file, brought = None, []
    if message.filemd5 is not None:
        file = await _file_of(call, message.filemd5, repeat)
        if file is None:
            return
        brought.append(Brought(*file))
    if content is None:
        stored = rendering.stored(message)
    else:
        blob = await call.hub.blobs.put(content)
        brought.append(Brought(blob.sha256, blob.sha256, blob.size))
        stored = rendering.stored_beside(message, blob.sha256)
    await _append(call, message, repeat, stored, file, tuple(brought))


def _check_message(call: Call, message: Message) -> None:
    if message.userid != call.user_id:
        call.hub.guard.spoofed(call.session)
        raise Refusal("The userid of a message is that of the user who is logged in.")
    if not 1 <= message.targetid < 2**63:
        raise Refusal(errors.USER_NOT_FOUND)
    if message.timestamp is not None and abs(message.timestamp) > schema.TIMESTAMP_MAX:
        raise Refusal(f"A timestamp is in milliseconds, at most {schema.TIMESTAMP_MAX}.")
    if len(message.md5encoded) > schema.MESSAGE_NAME_LENGTH:
        raise Refusal(f"An md5encoded has at most {schema.MESSAGE_NAME_LENGTH} characters.")
    if message.contenttype == "plaintext":
        if message.filemd5 is not None:
            raise Refusal("A message of type plaintext has no filemd5.")
        if call.payload_length:
            raise Refusal("A message of type plaintext takes no payload.")
    elif message.filemd5 is not None:
        checked_md5(message.filemd5)
    elif message.contenttype == "file" or call.payload_length:
        raise Refusal("A message with a file needs its filemd5.")


async def _file_of(call: Call, filemd5: str, repeat: str | None) -> FileEntry | None:
    """The file of a message, from its payload or from what the user may fetch already.

    None if there is no such file but the message is a repeat: the first one stands.
    """
    hub, md5 = call.hub, checked_md5(filemd5)
    refusal = Refusal(errors.FILE_NOT_FOUND)
    if call.payload is not None:
        blob = await _upload(call, md5)
        refusal = Refusal("The MD5 of the payload is not the filemd5; nothing was stored.")
    elif md5 == EMPTY_MD5:
        blob = await hub.blobs.put(b"")
    else:
        known = await hub.store.files.by_md5(call.user_id, md5)
        # Renewed, or a collector could take the file away before this message refers to it.
        if known is not None and await hub.blobs.renew(known.sha256, known.size):
            return known
        blob = None
    if blob is not None:
        return FileEntry(md5, blob.sha256, blob.size)
    if repeat is not None and await hub.store.mail.is_repeat(call.user_id, repeat):
        return None
    raise refusal


async def _upload(call: Call, md5: str) -> StoredBlob | None:
    """Stream the payload to disk; None if it is not the file that was announced."""
    assert call.payload is not None
    upload = call.hub.blobs.upload()
    try:
        while data := await call.payload.read():
            await upload.write(data)
        if upload.md5 != md5:
            return None
        stored = await upload.finish()
        call.hub.stats.uploads += 1
        call.hub.stats.upload_bytes += stored.size
        return stored
    finally:
        await upload.abandon()


@request("FETCHMSG", schema.FetchRange, checks_binding=True)
async def fetch(call: Call, body: schema.FetchRange) -> AsyncGenerator[Part, None]:
    """What this device has not acknowledged and did not send itself, in one or several answers."""
    if body.limit is not None and body.limit < 1:
        raise Refusal("A limit is 1 or more.")
    return _parts(call, body.limit)


async def _parts(call: Call, limit: int | None) -> AsyncGenerator[Part, None]:
    session, reached = call.session, 0
    session.hold()  # a push in between would come before older messages
    try:
        delivery, last = await _open(call)
        start = delivery.cursor
        if limit is None:
            session.limit_position = None
        elif session.limit_position is not None:
            start = max(start, session.limit_position)
        async for part in _answers(call, delivery, start, last, limit):
            # Else the binding has ended, and it is another mailbox that is read and pushed here.
            if limit is not None and call.device.delivery is delivery:
                session.limit_position = part.end
            yield part
            if call.device.delivery is delivery:
                reached = part.end
    finally:
        session.release(reached)


async def _open(call: Call) -> tuple[Delivery, int]:
    """What was delivered to the device, brought up to its cursor, and the mailbox's end."""
    device, user_id, hub = call.device, call.user_id, call.hub
    opened = await hub.store.mail.open(user_id, device.id)
    if opened is None or device.user_id != user_id:
        raise Refusal(errors.NOT_LOGGED_IN)
    cursor, last = opened
    if cursor > last:
        # A restored backup, or a failover: left alone it would hide new mail.
        log.warn("A cursor beyond its mailbox's end is reset", user=user_id, device=device.id[:8])
        await hub.store.mail.reset_cursor(user_id, device.id, last)
        cursor, device.delivery = last, None
    if device.delivery is None:
        device.delivery = hub.deliveries.begin(device.id, user_id, cursor)
    device.delivery.moved(cursor)
    return device.delivery, last


async def _answers(
    call: Call, delivery: Delivery, start: int, last: int, limit: int | None
) -> AsyncGenerator[Part, None]:
    """What is for this device between two positions, in answers; with a limit, the first of them."""
    hub, dialect = call.hub, call.session.outlet.dialect
    answer, read_to = _Answer(hub.limits, delivery, start, limit), start
    while read_to < last:
        page = await hub.store.mail.read_for(delivery.user_id, call.device.id, read_to, last, _PAGE)
        for stored in page.messages:
            message = rendering.inline(stored, dialect)
            if message is None:
                message = await rendering.whole(stored, dialect, hub.blobs)
            if answer.add(stored, message):
                continue
            yield answer.part(answer.end, more=True)
            if limit is not None:
                return
            answer = _Answer(hub.limits, delivery, answer.end, limit)
            answer.add(stored, message)
        read_to = page.end
    yield answer.part(last, more=False)


class _Answer:
    """One answer of a FETCHMSG while it fills."""

    def __init__(self, limits: Limits, delivery: Delivery, start: int, limit: int | None) -> None:
        self._delivery = delivery
        self._start = start
        self._left = limits.answer_messages if limit is None else min(limit, limits.answer_messages)
        self._room = limits.answer_bytes - _ANSWER_FRAME
        self._messages: list[bytes] = []
        self._newest: Incoming | None = None

    def add(self, stored: Incoming, message: bytes) -> bool:
        """Put the next message in, as this reader sees it; False if it must go into the next answer."""
        if self._messages and (not self._left or len(message) >= self._room):
            return False
        self._messages.append(message)
        self._left -= 1
        self._room -= len(message) + 1
        self._newest = stored
        return True

    @property
    def end(self) -> int:
        """Where its newest message stands in the mailbox."""
        return self._start if self._newest is None else self._newest.position

    def part(self, end: int, *, more: bool) -> Part:
        """The answer, newest message first; it takes the device to `end`."""
        body = b'{"messages":[%b],"more":%b}' % (
            b",".join(reversed(self._messages)),
            b"true" if more else b"false",
        )
        newest = None if self._newest is None else rendering.timestamp_of(self._newest)
        return Part(body, self._delivery, self._start, end, newest)


@request("ACKFETCH", Raw, checks_binding=True, answers=False, joins=("FETCHMSG", "ACKFETCH"), limit=None)
async def acknowledge(call: Call, body: Raw) -> None:
    """Move the device's cursor over what was delivered, as far as the timestamp says.

    Nobody is told what became of it, so nobody would try again: what the store cannot take now is kept.
    """
    hub, device = call.hub, call.device
    under_way = bool(device.acks)
    if not device.explicit:
        device.explicit = True  # even if the body is wrong: whoever sends this knows how to acknowledge
        device.acks.append(partial(hub.store.devices.mark_explicit, device.id))
    with suppress(Refusal):  # of a body that is wrong
        timestamp = schema.decode_body(body, schema.Ack).timestamp
        delivery = device.delivery
        if delivery is not None and len(device.acks) < ACKS_KEPT:
            device.acks.append(partial(_acknowledge, hub, device, delivery, delivery.delivered, timestamp))
    if not under_way:
        await _take_acks(hub, device)


async def _take_acks(hub: Hub, device: Device) -> None:
    """Do all that is to be done for a device's ACKFETCHs; what the store cannot take now, when it can."""
    acks = device.acks
    try:
        while acks:
            await acks[0]()
            del acks[0]
    except Refusal:
        spawn(_take_acks_later(hub, device), "acknowledging")
    except Exception:
        acks.clear()  # those to come must not wait for what cannot be done
        raise


async def _take_acks_later(hub: Hub, device: Device) -> None:
    await pause(hub.clock, ACK_PAUSE)
    await _take_acks(hub, device)


async def _acknowledge(hub: Hub, device: Device, delivery: Delivery, delivered: int, timestamp: int) -> None:
    """`delivered` is how far the delivery was when the ACKFETCH came: it says nothing of what came later."""
    end = delivery.answer_end(timestamp)
    if end is None or end > delivered:
        end = await _end_by_message(hub, device, delivery, delivered, timestamp)
    if device.delivery is delivery:
        hub.acknowledge(device, delivery, end)


async def _end_by_message(
    hub: Hub, device: Device, delivery: Delivery, delivered: int, timestamp: int
) -> int:
    """The oldest delivered message of exactly this time, or else what lies before the first later one.

    The mailbox is read again rather than kept: a device may leave any number unacknowledged.
    """
    read_to, before_later = delivery.cursor, None
    while read_to < delivered:
        page = await hub.store.mail.read_for(delivery.user_id, device.id, read_to, delivered, _PAGE)
        for stored in page.messages:
            found = rendering.timestamp_of(stored)
            if found == timestamp:
                return stored.position
            if found > timestamp and before_later is None:
                before_later = stored.position - 1
        read_to = page.end
    return delivered if before_later is None else before_later
