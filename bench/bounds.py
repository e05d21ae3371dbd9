"""Throwaway servers that do less than a chat server must: what is left costs Twisted and the machine.

`python -m bench.bounds frames|memory` prints its port and serves until it is killed; so does `sendfile PATH`.
"""

from __future__ import annotations

import socket
import sys
from collections import defaultdict
from typing import Any

import msgspec
from twisted.internet import reactor as installed_reactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from chatsvc.wire.frames import RELEASED, frame
from chatsvc.wire.schema import Request, envelope

reactor: Any = installed_reactor  # to a type checker it is a module
#: Connections that may wait to be accepted: ten thousand come back at once.
BACKLOG = 10_000

_SENDMSG = b'{"request":"SENDMSG"'
#: What stands before the name of a message, and how long that is.
_NAME, _NAME_BYTES = b'"md5encoded":"', 32
_decode = msgspec.json.Decoder(Request).decode
_decode_body = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def answer(kind: str, body: object = None) -> bytes:
    """The frame of an OK."""
    return frame(RELEASED, envelope(kind, _encode(body)))


class World:
    """What everybody shares."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.online: dict[int, list[InMemory]] = defaultdict(list)
        self.away: dict[int, list[Any]] = defaultdict(list)
        self.tokens: dict[int, int] = {}


class InMemory(Protocol):
    """The requests of the load, answered from memory: nothing is checked, and nothing stored."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.world: World = self.factory.world
        self.rest = b""
        self.user = 0

    def dataReceived(self, data: bytes) -> None:
        data = self.rest + data
        at, out = 0, []
        while at + RELEASED.header.size <= len(data):
            begin = at + RELEASED.header.size
            end = begin + RELEASED.header.unpack_from(data, at)[0]
            if end > len(data):
                break
            out.append(self.handle(data[begin:end]))
            at = end
        self.rest = data[at:]
        self.transport.write(b"".join(out))

    def handle(self, data: bytes) -> bytes:
        """The answer to a request."""
        asked = _decode(data)
        body = _decode_body(asked.body)
        match asked.request:
            case "SENDMSG":
                return self.send(body)
            case "FETCHMSG":
                self.enter(self.world.tokens[asked.tokenid or 0])
                return answer(
                    "FETCHMSG", {"messages": self.world.away.pop(self.user, [])[::-1], "more": False}
                )
            case "REGISTER" | "LOGIN":
                user = self.world.users.setdefault(body["username"], len(self.world.users) + 1)
                token = len(self.world.tokens) + 1
                self.world.tokens[token] = user
                return answer("TOKEN", {"tokenid": token}) + answer(asked.request, {"userid": user})
            case _:
                return answer(asked.request, {"userid": self.world.tokens[asked.tokenid or 0]})

    def send(self, body: Any) -> bytes:
        """Pass a message on."""
        target = body["targetid"]
        if peers := self.world.online[target]:
            push = answer("FORWARDMSG", body)
            for peer in peers:
                peer.transport.write(push)
        else:
            self.world.away[target].append(body)
        return answer("SENDMSG", {"md5encoded": body["md5encoded"]})

    def enter(self, user: int) -> None:
        """From now on pushes to this user go to this connection."""
        if not self.user:
            self.user = user
            self.world.online[user].append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.user:
            self.world.online[self.user].remove(self)


class FramesOnly(InMemory):
    """A message is answered with its name and goes nowhere; its JSON is not read."""

    def handle(self, data: bytes) -> bytes:
        if not data.startswith(_SENDMSG):
            return super().handle(data)
        begin = data.index(_NAME) + len(_NAME)
        body = b'{"md5encoded":"%b"}' % data[begin : begin + _NAME_BYTES]
        return frame(RELEASED, b'{"response":"SENDMSG","status":"OK","info":null,"body":%b}' % body)


def serve(protocol: type[InMemory]) -> None:
    """Serve with Twisted."""
    factory: Any = Factory.forProtocol(protocol)
    factory.noisy = False
    factory.world = World()
    print(reactor.listenTCP(0, factory, backlog=BACKLOG, interface="127.0.0.1").getHost().port, flush=True)
    reactor.run()


def serve_file(path: str) -> None:
    """Give a file to whoever connects, one after the other, as fast as the kernel does."""
    with socket.create_server(("127.0.0.1", 0)) as listener, open(path, "rb") as file:
        print(listener.getsockname()[1], flush=True)
        while True:
            with listener.accept()[0] as peer:
                peer.sendfile(file)


def main() -> None:
    """What the command line says."""
    match sys.argv[1:]:
        case ["frames"]:
            serve(FramesOnly)
        case ["memory"]:
            serve(InMemory)
        case ["sendfile", path]:
            serve_file(path)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
