"""Lua scripts, and what they are sent through. What they do stands with the data that they are about."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

from chatsvc.store.protocol import Arg


class Script:
    """A Lua script on a record and on parts of it, which are locals of their names there.

    KEYS[1] is the record. All keys that are touched are declared, so that a cluster that is moving some of
    them refuses before the first write. A script that writes looks at its deadline, ARGV[1], first.
    What it writes is `lasting` unless it may be lost with a primary: no replica is waited for then.
    """

    _DEADLINE = (
        "local t = redis.call('TIME')\n"
        "local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
        "if now > tonumber(ARGV[1]) then return redis.error_reply('DEADLINE passed') end\n"
    )

    def __init__(self, source: str, *parts: str, writes: bool = True, lasting: bool = True) -> None:
        self.writes = writes
        self.lasting = writes and lasting
        self.parts = parts
        locals_ = "".join(f"local {part} = KEYS[{index}]\n" for index, part in enumerate(parts, 2))
        self.source = (locals_ + (self._DEADLINE if writes else "") + source).encode()
        # What the store itself calls a script; nothing rests on its strength.
        name = hashlib.sha1(self.source, usedforsecurity=False)  # nosemgrep: insecure-hash-algorithm-sha1
        self.sha = name.hexdigest().encode()

    def keys(self, record: bytes, also: tuple[bytes, ...]) -> tuple[bytes | int, ...]:
        """The number of its keys, and the keys, for a record; the keys that it takes `also` come last."""
        parts = (b"%b:%b" % (record, part.encode()) for part in self.parts)
        return (1 + len(self.parts) + len(also), record, *parts, *also)


#: Any one command that writes, with a deadline. KEYS[1] is its key, ARGV[2] its name.
COMMAND = Script("return redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))")


class Route(Protocol):
    """What the parts of this floor send through: a `Link`, or in a cluster a `Router`.

    Its methods give the reply, or raise `Refusal` with what the client is to be told.
    """

    async def call(self, *args: Arg) -> Any:
        """The reply to one command that does not write; its first argument is its key."""

    async def write(self, command: bytes, key: bytes, *args: Arg) -> Any:
        """The reply to one command that writes: executed within its deadline or not at all."""

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: Arg,
        also: tuple[bytes, ...] = (),
        expires: float | None = None,
    ) -> Any:
        """The reply of a script."""
