"""The load generator's side of a connection: frames built ahead, answers counted by their headers.

While something is measured nothing is decoded; what came is kept, and looked at when the clock has stopped.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
from typing import Any

import msgspec

from chatsvc.wire.frames import RELEASED, frame

Address = tuple[str, int]
#: Seconds after which a server that should say something, or should read, has failed.
PATIENCE = 60
#: Bytes that are read with one call, at most.
READ = 256 * 1024

_HEADER_SIZE = RELEASED.header.size
_unpack_header = RELEASED.header.unpack_from
_TIMEOUT = struct.pack("ll", PATIENCE, 0)
_numbers = itertools.count(1)


class Answer(msgspec.Struct):
    """An answer or a push."""

    response: str
    status: str
    info: str | None = None
    body: Any = None


_decode = msgspec.json.Decoder(Answer).decode


class Broken(Exception):  # noqa: N818 - it ends the run with its text
    """What was measured did not do its work; the message is a sentence."""


def request(kind: str, body: object = None, token: int | None = None, payload_length: int = 0) -> bytes:
    """The frame of a request, without its payload, as the released client writes it."""
    value = {"request": kind, "body": body, "tokenid": token}
    return frame(RELEASED, json.dumps(value, separators=(",", ":")).encode(), payload_length)


class Frames:
    """A stream of frames without payloads: how many have ended, and the bytes of all for later."""

    __slots__ = ("_ahead", "_chunks", "_cut", "_open")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._ahead = 0  # bytes until the next header
        self._cut = b""  # the part of a header that has come
        self._open = False  # the last frame has begun and not ended

    def add(self, data: bytes) -> int:
        """How many frames end in these bytes."""
        self._chunks.append(data)
        if self._cut:
            data = self._cut + data
        at, end, ended = self._ahead, len(data), int(self._open)
        while at + _HEADER_SIZE <= end:
            json_length, payload_length = _unpack_header(data, at)
            at += _HEADER_SIZE + json_length + payload_length
            ended += 1
        self._open = at > end
        self._ahead = at - end if self._open else 0
        self._cut = data[at:]
        return ended - self._open

    def ends_with(self, tail: bytes) -> bool:
        """Whether all that came ends with these bytes."""
        return b"".join(chunk[-len(tail) :] for chunk in self._chunks[-len(tail) :]).endswith(tail)

    def take(self) -> list[Answer]:
        """All that have ended since the last time, in order."""
        data = b"".join(self._chunks)
        found, at, end = [], 0, 0
        while (at := end + _HEADER_SIZE) <= len(data):
            json_end = at + _unpack_header(data, end)[0]
            if json_end > len(data):
                break
            found.append(_decode(data[at:json_end]))
            end = json_end
        self._chunks = [data[end:]]
        return found


class Line:
    """One connection of one device, from an address of its own: servers count what one address has open."""

    __slots__ = ("frames", "socket", "token")

    def __init__(self, server: Address, token: int | None = None, *, wait: bool = True) -> None:
        """Without `wait` it is connected once it can be written to."""
        self.token = token
        self.frames = Frames()
        self.socket = socket.socket()
        number = next(_numbers)
        self.socket.bind((f"127.{1 + (number >> 16) % 250}.{number >> 8 & 255}.{number & 255}", 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # In the kernel, so that a read is one call: Python's own time-outs ask before each.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
        if wait:
            self.socket.connect(server)
        else:
            self.socket.setblocking(False)
            self.socket.connect_ex(server)
            self.socket.setblocking(True)

    def read(self) -> int:
        """How many frames end in what has come; waits for something to come."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            raise Broken(f"The server has said nothing for {PATIENCE} s.") from None
        if not data:
            raise Broken("The server has closed a connection.")
        return self.frames.add(data)

    def send(self, kind: str, body: object = None, payload_length: int = 0) -> None:
        """Send a request of this device."""
        self.socket.sendall(request(kind, body, self.token, payload_length))

    def answer(self) -> Answer:
        """The answer to the one request that has none yet; keeps the token that may come before it."""
        while True:
            self.read()
            for found in self.frames.take():
                if found.response == "TOKEN":
                    self.token = found.body["tokenid"]
                elif found.status != "OK":
                    raise Broken(f"The server refused {found.response}: {found.info}")
                else:
                    return found

    def ask(self, kind: str, body: object = None) -> Answer:
        """Send a request, and wait for its answer."""
        self.send(kind, body)
        return self.answer()

    def close(self) -> None:
        """Close it."""
        self.socket.close()
