"""The limits of ``docs/protocol.md`` section 2 in one place; a limit is a row here and an option."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: A JSON length in a 4+4 header stays under 2^24: the detection of the byte order rests on it.
JSON_CEILING = 16 * MIB - 1
#: A ``released`` frame up to here is read and thrown away; beyond it is a violation.
JSON_DISCARD_CEILING = 64 * MIB
#: A signed 32-bit length, which two of the three dialects use, holds no more.
PAYLOAD_CEILING = 2**31 - 1


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one node allows. Sizes in bytes, times in seconds."""

    json: int = JSON_CEILING
    payload: int = GIB
    avatar: int = MIB
    answer_bytes: int = MIB
    answer_messages: int = 500
    unfinished: int = 256 * MIB
    unfinished_unbound: int = 64 * MIB
    frame_timeout: float = 60.0
    unbound_idle: float = 30 * 60.0
    unbound_per_address: int = 64
    read_ahead: int = 32
    send_buffer: int = 256 * KIB
    send_timeout: float = 120.0
    #: Content longer than this lives in the blob directory, not in the store's memory.
    inline_content: int = 32 * KIB
