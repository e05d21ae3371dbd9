"""Frames in and out, as a sans-I/O state machine: bytes go in, events come out.

What a frame's JSON means is not known here, nor is where the bytes come from.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import msgspec

from chatsvc.wire.errors import Violation
from chatsvc.wire.limits import JSON_CEILING, JSON_DISCARD_CEILING, KIB, Limits


class Dialect(NamedTuple):
    """One of the three header forms (``docs/protocol.md`` section 1)."""

    name: str
    header: Struct
    #: A JSON part over the limit, but not over this, is read and thrown away.
    discards_to: int
    #: Its readers need names and contents in base64 of UTF-8.
    wraps: bool


RELEASED = Dialect("released", Struct("<iq"), JSON_DISCARD_CEILING, True)
SEED = Dialect("seed", Struct("<ii"), 0, False)
NETWORK = Dialect("network", Struct(">ii"), 0, False)
DIALECTS = {dialect.name: dialect for dialect in (RELEASED, SEED, NETWORK)}

_BRACE = ord("{")
_NEGATIVE = "A length in the header is negative; lengths are 0 or more."
_STEP = 64 * KIB


class Head(NamedTuple):
    """A frame's JSON, whole; its payload follows through `FrameReader.read_payload`."""

    #: None when it was over the limit and thrown away.
    json: bytes | None
    payload_length: int


def frame(dialect: Dialect, json: bytes, payload_length: int = 0) -> bytes:
    """Header and JSON of one frame; the payload, if any, follows on the stream."""
    return dialect.header.pack(len(json), payload_length) + json


class FrameReader:
    """Cuts a byte stream into frames.

    Feed it with `receive`, then call `next_head` until it gives None. After a head with a payload,
    `read_payload` must be called until `payload_left` is 0 before the next head comes. A reader
    without a dialect detects it on the first frame. Raises `Violation`; after that the stream is dead.
    """

    __slots__ = ("_buffer", "_discard", "_limits", "_need", "_offset", "dialect", "payload_left")

    def __init__(self, limits: Limits, dialect: Dialect | None = None) -> None:
        self._limits = limits
        self.dialect = dialect
        self._buffer: bytes | bytearray = b""
        self._offset = 0
        self._need = 0  # bytes without which the next head cannot be complete
        self._discard: Head | None = None  # an oversized frame whose JSON is being thrown away
        self.payload_left = 0

    @property
    def unfinished(self) -> int:
        """Bytes held of a frame that is not complete (payload bytes do not count)."""
        return 0 if self.payload_left else len(self._buffer) - self._offset

    @property
    def buffered(self) -> int:
        """Bytes that were received and are not yet taken out."""
        return len(self._buffer) - self._offset

    @property
    def at_boundary(self) -> bool:
        """Whether no part of a frame is under way."""
        return not (self.payload_left or self._discard or len(self._buffer) - self._offset)

    def receive(self, data: bytes) -> None:
        """Take in what the peer sent, in pieces of any size."""
        if self._offset == len(self._buffer):
            self._buffer = data
        else:
            # Growing a bytearray is amortised: a frame in a thousand pieces is copied once, not a
            # thousand times.
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(memoryview(self._buffer)[self._offset :])
            elif self._offset:
                del self._buffer[: self._offset]
            self._buffer += data
        self._offset = 0

    def next_head(self) -> Head | None:
        """The next frame whose JSON is complete, or None until more bytes come."""
        if self.payload_left:
            return None
        if self._discard is not None:
            return self._throw_away()
        buffer, at = self._buffer, self._offset
        have = len(buffer) - at
        if have < self._need or not have:
            return None
        if self.dialect is None and not self._detect(have):
            return None
        assert self.dialect is not None
        header = self.dialect.header
        if have < header.size:
            self._need = header.size
            return None
        json_length, payload_length = header.unpack_from(buffer, at)
        if json_length < 0 or payload_length < 0:
            raise Violation(_NEGATIVE)
        if json_length > self._limits.json:
            return self._refuse_length(json_length, payload_length)
        self._need = header.size + json_length
        if have < self._need:
            return None
        self._offset += header.size
        self._need = 0
        self.payload_left = payload_length
        return Head(self._take(json_length), payload_length)

    def read_payload(self) -> bytes:
        """What has arrived of the current payload; empty until more bytes come."""
        data = self._take(min(self.payload_left, len(self._buffer) - self._offset))
        self.payload_left -= len(data)
        return data

    def _take(self, count: int) -> bytes:
        end = self._offset + count
        data = bytes(self._buffer[self._offset : end])
        if end == len(self._buffer):
            # An idle connection must not hold on to the largest frame that it ever sent.
            self._buffer, end = b"", 0
        self._offset = end
        return data

    def _refuse_length(self, json_length: int, payload_length: int) -> Head | None:
        assert self.dialect is not None
        if json_length > self.dialect.discards_to:
            raise self._too_long(json_length)
        self._offset += self.dialect.header.size
        self._need = json_length
        self._discard = Head(None, payload_length)
        return self._throw_away()

    def _too_long(self, json_length: int) -> Violation:
        return Violation(
            f"The JSON part of a frame may have at most {self._limits.json} bytes, "
            f"this header declares {json_length}."
        )

    def _throw_away(self) -> Head | None:
        # Here _need counts down what is still to be thrown away.
        taken = min(self._need, len(self._buffer) - self._offset)
        self._offset += taken
        self._need -= taken
        if self._need:
            return None
        head, self._discard = self._discard, None
        assert head is not None
        self.payload_left = head.payload_length
        return head

    def _detect(self, have: int) -> bool:
        """Find the dialect from the first frame; False until enough of it is there."""
        at, buffer = self._offset, self._buffer
        if have >= 4 and buffer[at] and buffer[at + 3]:
            # Only a `released` length can be: if it is not, a header of 8 bytes is all that comes.
            length = int.from_bytes(buffer[at : at + 4], "little", signed=True)
            if length < 0:
                raise Violation(_NEGATIVE)
            if length > RELEASED.discards_to:
                raise self._too_long(length)
        if have < 9:
            self._need = 9 if have >= 4 else 4
            return False
        if buffer[at + 8] != _BRACE:
            self.dialect = RELEASED
            return True
        first, last = buffer[at], buffer[at + 3]
        if first and last:
            raise Violation("The header fits none of the three forms that this server speaks.")
        if first or last:
            self.dialect = SEED if first else NETWORK
            return True
        little = int.from_bytes(buffer[at : at + 4], "little")
        big = int.from_bytes(buffer[at : at + 4], "big")
        if not little:
            raise Violation("The first frame has no JSON part; a request is a JSON object.")
        if little == big:
            self.dialect = SEED
            return True
        smaller = min(little, big)
        if smaller > self._limits.json:
            raise self._too_long(smaller)  # and so is the other reading: nothing to wait for
        self._need = 8 + smaller
        if have < self._need:
            return False
        is_smaller = _is_object(bytes(buffer[at + 8 : at + 8 + smaller]))
        self.dialect = SEED if (smaller == little) == is_smaller else NETWORK
        return True


class _AnyObject(msgspec.Struct):
    """Any JSON object: checked to its end, nothing of it is kept."""


def _is_object(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=_AnyObject)
    except RecursionError:
        # Too deep for the parser; what it is a prefix of, if of anything, shows in the brackets.
        return _closes_all(data)
    except msgspec.MsgspecError:
        return False
    return True


def _closes_all(data: bytes) -> bool:
    """Whether `data` closes as many brackets as it opens, strings apart.

    Anybody may send 16 MiB of anything here, so it is linear, and goes in steps to stay small.
    """
    text = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # leaves only the quotes around strings
    opened = inside = 0
    for at in range(0, len(text), _STEP):
        parts = text[at : at + _STEP].split(b'"')
        rest = b"".join(parts[inside::2])
        opened += rest.count(b"{") + rest.count(b"[") - rest.count(b"}") - rest.count(b"]")
        inside ^= (len(parts) - 1) & 1
    return not opened


assert Limits().json <= JSON_CEILING
