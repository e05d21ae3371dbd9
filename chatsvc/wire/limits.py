"""The limits of ``docs/protocol.md`` section 2 in one place; a limit is a row here and an option."""

from __future__ import annotations

from typing import Literal

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


class Rate(msgspec.Struct, frozen=True):
    """How often something may be done: so many times at once, and from then on so many a second."""

    burst: int
    per_second: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one node allows. Sizes in bytes, times in seconds; None: as much as anybody likes."""

    json: int = JSON_CEILING
    payload: int = GIB
    avatar: int = MIB
    answer_bytes: int = MIB
    answer_messages: int = 500
    unfinished: int = 256 * MIB
    unfinished_unbound: int = 64 * MIB
    frame_timeout: float = 60.0
    unbound_idle: float = 30 * 60.0
    read_ahead: int = 32
    send_buffer: int = 256 * KIB
    send_timeout: float = 120.0
    #: Content longer than this lives in the blob directory, not in the store's memory.
    inline_content: int = 32 * KIB

    # Why each of these has its default: docs/reliability.md.

    #: Who may REGISTER: everybody, nobody, or who has an invite.
    registration: Literal["open", "closed", "invite"] = "open"
    connections: int | None = 20_000
    connections_per_address: int | None = 64
    unbound_per_address: int | None = 64
    connections_per_user: int | None = 32
    devices_per_user: int | None = 50
    #: Passwords of one address that are hashed at a time; the others wait, but not before those of others.
    passwords_per_address: int | None = 2
    #: Bytes of all files that one user may have sent.
    quota: int | None = 5 * GIB
    #: New connections: of all together, and of one address.
    accept_rate: Rate | None = Rate(200, 200.0)
    connection_rate: Rate | None = Rate(60, 1.0)
    #: Accounts made from one address.
    registration_rate: Rate | None = Rate(10, 10 / 3600)
    #: Wrong passwords: for one account, and from one address.
    account_failures: Rate | None = Rate(5, 12 / 3600)
    address_failures: Rate | None = Rate(20, 20 / 60)
    #: Tokens from one address that were never issued, or are no more; and devices made for who has none.
    token_rate: Rate | None = Rate(60, 20 / 60)
    #: What one user asks: SENDMSG; what tells of people; all the rest but ACKFETCH and LOGOUT. An address may
    #: ask as much of the rest without a login.
    message_rate: Rate | None = Rate(60, 10.0)
    people_rate: Rate | None = Rate(60, 1.0)
    request_rate: Rate | None = Rate(240, 60.0)
    #: People whom one user writes to first, without being among their contacts.
    stranger_rate: Rate | None = None
    #: What stays free: bytes of the disk with the store, and parts of a hundred of the one with the files.
    store_floor: int = 64 * MIB
    files_floor: int = 5
