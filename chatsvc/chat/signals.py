"""Requests about what contacts signal to each other: who types, and how far was read.

Connections that asked for them have them (``docs/protocol.md`` section 5.3). What is told of them stands in
`chatsvc.chat.extras`.
"""

from __future__ import annotations

from chatsvc.chat.calls import Call, request
from chatsvc.store.accounts import USER_ID_MAX
from chatsvc.wire import schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.schema import MESSAGE_NAME_LENGTH, TIMESTAMP_MAX


@request("TYPING", schema.Typing, feature="typing")
async def typing(call: Call, body: schema.Typing) -> None:
    """Tell a contact that the user types, or does no more; nobody is told whether that is one."""
    if 1 <= body.userid <= USER_ID_MAX:
        told = schema.encode(schema.Typing(call.user_id, body.typing))
        await call.hub.store.signals.typing(call.user_id, body.userid, told)


@request("MARK", schema.Mark, feature="marks", grows=True)
async def mark(call: Call, body: schema.Mark) -> None:
    """Keep how far the user has got, or read, what a contact sent, and tell both."""
    if len(body.md5encoded) > MESSAGE_NAME_LENGTH or abs(body.timestamp) > TIMESTAMP_MAX:
        raise Refusal("No message can have this name and time.")
    sender, reader = body.userid, call.user_id
    if 1 <= sender <= USER_ID_MAX and sender != reader:
        kept = schema.encode(schema.MarkOf(reader, sender, body.mark, body.timestamp, body.md5encoded))
        await call.hub.store.signals.mark(reader, sender, body.mark, kept, call.device.id)
