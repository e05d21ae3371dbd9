"""A blocking client on a bare socket, for what a good client would never send and for whole conversations."""

from __future__ import annotations

import json
import secrets
import socket
import struct
import time
from base64 import b64encode
from typing import Any, NamedTuple, Self

HEADERS = {"released": "<iq", "seed": "<ii", "network": ">ii"}
#: Seconds to wait for anything that must come.
DEADLINE = 20.0
#: The state of a connection that was reset, as Linux counts them.
_TCP_CLOSE = 7


def unique(stem: str = "user") -> str:
    """A name that nobody else uses, and that is no base64 of anything."""
    return f"{stem}_{secrets.token_hex(6)}"


def in_base64(text: str) -> str:
    """Text as the released client writes it."""
    return b64encode(text.encode()).decode()


class Answer(NamedTuple):
    """One frame from the server."""

    response: str
    status: str
    info: str | None
    body: Any
    payload: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether it is an OK."""
        return self.status == "OK"


class Raw:
    """One connection."""

    def __init__(
        self,
        address: tuple[str, int],
        dialect: str = "released",
        token: int | None = None,
        through: socket.socket | None = None,
    ) -> None:
        """`through` is a connection that was made already, whatever it is."""
        self.address = address
        self.header = struct.Struct(HEADERS[dialect])
        self.dialect = dialect
        self.token = token
        self.name = ""
        self.user: int | None = None
        self.pushes: list[Any] = []
        self.hints: list[Answer] = []  # pushes that are no messages
        self.socket = through or socket.create_connection(address, timeout=DEADLINE)
        self._buffer = bytearray()

    def frame(self, value: Any, payload: bytes = b"", payload_length: int | None = None) -> bytes:
        """A frame with this JSON value, or these JSON bytes."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        length = len(payload) if payload_length is None else payload_length
        return self.header.pack(len(data), length) + data + payload

    def send(self, request: str, body: Any = None, payload: bytes = b"", **envelope: Any) -> None:
        """Send a request with this connection's token."""
        value = {"request": request, "body": body, "tokenid": self.token} | envelope
        self.socket.sendall(self.frame(value, payload))

    def receive(self, deadline: float = DEADLINE) -> Answer:
        """The next frame, whatever it is."""
        self.socket.settimeout(deadline)
        json_length, payload_length = self.header.unpack(self._exactly(self.header.size))
        raw = self._exactly(json_length)
        assert raw.isascii()
        value = json.loads(raw)
        assert set(value) == {"response", "status", "info", "body"}, value
        assert (value["info"] is None) == (value["status"] == "OK"), value
        return Answer(**value, payload=self._exactly(payload_length))

    def answer(self, deadline: float = DEADLINE) -> Answer:
        """The next frame that is no TOKEN and no push; those are kept."""
        while True:
            found = self.receive(deadline)
            if found.response == "TOKEN":
                self.token = found.body["tokenid"]
            elif found.response == "FORWARDMSG":
                self.pushes.append(found.body)
            elif found.response.startswith("FORWARD"):
                self.hints.append(found)
            else:
                return found

    def ask(self, request: str, body: Any = None, payload: bytes = b"", **envelope: Any) -> Answer:
        """Send a request, and give its answer."""
        self.send(request, body, payload, **envelope)
        found = self.answer()
        assert found.response in (request, "UNKNOWN"), found
        return found

    def push(self, deadline: float = DEADLINE) -> Any:
        """The next push."""
        if not self.pushes:
            found = self.receive(deadline)
            assert found.response == "FORWARDMSG", found
            return found.body
        return self.pushes.pop(0)

    def ask_features(self, *features: str) -> Any:
        """Ask for these features, and give the answer's body."""
        found = self.ask("STATE", {"features": list(features)})
        assert found.ok, found
        return found.body

    def hint(self, kind: str) -> Any:
        """The body of the next push of this type, which is no FORWARDMSG; those of others are kept."""
        while True:
            for index, found in enumerate(self.hints):
                if found.response == kind:
                    return self.hints.pop(index).body
            found = self.receive()
            assert found.response.startswith("FORWARD"), found
            if found.response == "FORWARDMSG":
                self.pushes.append(found.body)
            else:
                self.hints.append(found)

    def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while; only to check that something does not happen."""
        if self._buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self._buffer += self.socket.recv(1)
        except TimeoutError:
            return True
        return False

    def register(self, name: str, password: str = "secret") -> int:
        """Register, and give the user's id."""
        found = self.ask("REGISTER", {"username": name, "passwd": password})
        assert found.ok, found
        self.name, self.user = name, int(found.body["userid"])
        return self.user

    def login(self, name: str, password: str = "secret") -> int:
        """Log in, and give the user's id."""
        found = self.ask("LOGIN", {"username": name, "passwd": password})
        assert found.ok, found
        self.name, self.user = name, int(found.body["userid"])
        return self.user

    def message(self, target: int, content: str = "aGk=", **fields: Any) -> dict[str, Any]:
        """The body of a text message from this user."""
        return {
            "userid": self.user,
            "targetid": target,
            "contenttype": "plaintext",
            "content": content,
            "timestamp": int(time.time() * 1000),
            "md5encoded": "00000000000000000000000000000000",
            "filemd5": None,
        } | fields

    def say(self, target: int, content: str = "aGk=", payload: bytes = b"", **fields: Any) -> dict[str, Any]:
        """Have a message stored that is no repeat, and give its body."""
        message = self.message(target, content, **{"md5encoded": secrets.token_hex(16)} | fields)
        found = self.ask("SENDMSG", message, payload)
        assert found.ok, found
        return message

    def fetch(self) -> list[Any]:
        """All that FETCHMSG gives, in mailbox order (oldest first)."""
        self.send("FETCHMSG")
        messages: list[Any] = []
        while True:
            found = self.answer()
            assert (found.response, found.status) == ("FETCHMSG", "OK"), found
            messages += reversed(found.body["messages"])
            if not found.body["more"]:
                return messages

    def closed(self, deadline: float = DEADLINE) -> bool:
        """Whether the server closes the connection without sending anything more."""
        self.socket.settimeout(deadline)
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    @property
    def is_reset(self) -> bool:
        """Whether the server has reset the connection; what came before may still be read."""
        state: int = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state == _TCP_CLOSE

    @property
    def unread(self) -> int:
        """Bytes that came and were not taken as a frame."""
        return len(self._buffer)

    def sip(self, size: int) -> int:
        """Read at most this many bytes, for `receive` to take later; gives how many came."""
        data = self.socket.recv(size)
        self._buffer += data
        return len(data)

    def rest(self) -> list[Answer]:
        """All that comes until the server closes in order; `ConnectionResetError` if it resets."""
        found = []
        self.socket.settimeout(DEADLINE)
        while self._buffer or self.sip(1 << 20):
            found.append(self.receive())
        return found

    def close(self) -> None:
        """Close in order."""
        self.socket.close()

    def reset(self) -> None:
        """Cut the connection as a crash would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self.sip(1 << 20):
                raise ConnectionError("The server closed the connection.")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
