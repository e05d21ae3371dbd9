"""The other end of a WebSocket, without a library: frames as bytes, and a socket made of them."""

from __future__ import annotations

import base64
import socket
import struct
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0


def handshake(host: str = "chat.example", origin: str | None = None, **headers: str) -> bytes:
    """The request of a browser that opens a WebSocket; `headers` replace its own, empty ones remove them."""
    told = {
        "Host": host,
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    }
    if origin is not None:
        told["Origin"] = origin
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in told.items() if value]
    return "\r\n".join(["GET /ws HTTP/1.1", *lines, "", ""]).encode()


def message(data: bytes, kind: int = BINARY, *, last: bool = True, length: int | None = None) -> bytes:
    """A frame as clients send it, masked (with zeros, which is a mask too).

    `length` is what it says of itself, if it has still to come in part.
    """
    size = len(data) if length is None else length
    first = kind | 0x80 * last
    if size < 126:
        head = struct.pack(">BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + data


class Frame(NamedTuple):
    """A frame from the server."""

    kind: int
    data: bytes


def frames(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames in `data`, and what is left. No server's frame is masked, compressed or a part."""
    found = []
    while len(data) >= 2:
        first, size = data[0], data[1]
        assert first & 0xF0 == 0x80, "compressed, or a part of a message"
        assert size < 128, "masked"
        start = 2
        if size == 126:
            start, size = 4, int.from_bytes(data[2:4])
        elif size == 127:
            start, size = 10, int.from_bytes(data[2:10])
        if len(data) < start + size:
            break
        found.append(Frame(first & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return found, data


class WebSocket:
    """A blocking socket whose bytes travel in messages: `tests.raw.Raw` takes it for its own."""

    def __init__(self, through: socket.socket, size: int = 1 << 20) -> None:
        """`through` is connected; `size` is that of the largest message that is sent."""
        self._size = size
        self._socket = through
        self._got = b""
        self._stream = b""
        self._closed = False
        self._socket.sendall(handshake())
        while b"\r\n\r\n" not in self._got:
            part = self._socket.recv(1 << 16)
            assert part, self._got
            self._got += part
        self.head, _, self._got = self._got.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head

    def settimeout(self, seconds: float) -> None:
        """How long `recv` waits."""
        self._socket.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        """Send bytes in one message, or in several if they are many."""
        for at in range(0, len(data), self._size):
            self._socket.sendall(message(data[at : at + self._size]))

    def recv(self, size: int) -> bytes:
        """Some bytes of the stream; none at its end."""
        while not self._stream and not self._closed:
            part = self._socket.recv(1 << 20)
            if not part:
                return b""
            found, self._got = frames(self._got + part)
            for frame in found:
                self._closed = self._closed or frame.kind == CLOSE
                if frame.kind == BINARY:
                    self._stream += frame.data
        data, self._stream = self._stream[:size], self._stream[size:]
        return data

    def close(self) -> None:
        """Hang up, as a browser does whose tab is closed."""
        self._socket.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
