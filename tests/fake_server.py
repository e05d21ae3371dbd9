"""A server in memory that is told what to answer, push and break, and the wires and the clock it needs.

Nothing is tested here, and nothing of the real server is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from chatsvc.wire import errors
from chatsvc.wire.frames import FrameReader, frame
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import (
    Message,
    MessageList,
    MessageName,
    OwnInfo,
    UserInfo,
    decode_request,
    encode,
    envelope,
)
from chatsvc.wire.text import encoded

#: How much a wire takes before its writer has to pause, and moves at once, in bytes.
BUFFER = 64 * 1024
ME = UserInfo(1, encoded("me"), None)
BOB = UserInfo(2, encoded("bob"), None)


class FakeReactor(Clock):
    """Time that stands still until told, and threads that do their work at once."""

    def getThreadPool(self) -> FakeReactor:  # noqa: N802
        return self

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:  # noqa: N802
        call(*args)

    def callInThreadWithCallback(  # noqa: N802
        self, done: Callable[[bool, object], None], call: Callable[..., object], *args: object
    ) -> None:
        try:
            result = call(*args)
        except Exception:
            done(False, Failure())  # type: ignore[no-untyped-call]
        else:
            done(True, result)


class Wire:
    """One end of a connection in memory: bytes move when the clock advances, unless the reader has paused."""

    def __init__(self, clock: Clock, protocol: Any) -> None:
        self.clock = clock
        self.protocol = protocol
        self.buffer = bytearray()
        self.producer: Any = None
        self.paused = self.full = self.disconnecting = self.lost = False
        self.peer: Wire

    def write(self, data: bytes) -> None:
        if self.lost or self.disconnecting:
            return
        self.buffer += data
        if len(self.buffer) > BUFFER and self.producer is not None and not self.full:
            self.full = True
            self.producer.pauseProducing()
        self.clock.callLater(0, self.move)

    def move(self) -> None:
        if self.lost or self.peer.paused:
            return
        data = bytes(self.buffer[:BUFFER])
        del self.buffer[:BUFFER]
        if data:
            self.peer.protocol.dataReceived(data)
            self.clock.callLater(0, self.move)
        elif self.full:
            self.full = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            self.end(ConnectionDone(), ConnectionDone())

    def end(self, mine: Exception, theirs: Exception) -> None:
        for side, reason in ((self, mine), (self.peer, theirs)):
            if not side.lost:
                side.lost = True
                side.protocol.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:  # noqa: N802
        self.disconnecting = True
        self.clock.callLater(0, self.move)

    def abortConnection(self) -> None:  # noqa: N802
        self.disconnecting = True
        self.clock.callLater(0, self.end, ConnectionAborted(), ConnectionLost())

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self.producer, self.full = None, False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.clock.callLater(0, self.peer.move)

    def getPeer(self) -> None:  # noqa: N802
        return None


def join(clock: Clock, ours: Any, theirs: Any) -> None:
    left, right = Wire(clock, ours), Wire(clock, theirs)
    left.peer, right.peer = right, left
    theirs.makeConnection(right)
    ours.makeConnection(left)


class Seen(NamedTuple):
    kind: str
    body: Any
    tokenid: int | None


class Reply(NamedTuple):
    """What a script answers: a body, or with `info` an ERR, and a payload."""

    body: object = None
    info: str | None = None
    payload: bytes = b""


Script = Callable[["Line", Seen], Reply | None]


class Line(Protocol):
    """The server's end of a connection."""

    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server
        self.reader = FrameReader(Limits())
        self.request: Seen | None = None
        self.payload = b""
        self.fetched = False
        self.position = 0  # where the next FETCHMSG with a limit goes on

    def dataReceived(self, data: bytes) -> None:
        self.reader.receive(data)
        while not self.transport.disconnecting:
            if self.request is not None:
                self.payload += self.reader.read_payload()
                if self.reader.payload_left:
                    return
                request, self.request = self.request, None
                self.server.asked(self, request)
            head = self.reader.next_head()
            if head is None:
                return
            assert head.json is not None
            envelope = decode_request(head.json)
            self.request = Seen(envelope.request, msgspec.json.decode(envelope.body), envelope.tokenid)
            self.payload = b""
            self.server.began(self, self.request)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.server.lines.remove(self)

    def say(self, kind: str, reply: Reply) -> None:
        assert self.reader.dialect is not None
        json = envelope(kind, encode(reply.body), reply.info)
        self.transport.write(frame(self.reader.dialect, json, len(reply.payload)) + reply.payload)

    def push(self, message: Message) -> None:
        self.say("FORWARDMSG", Reply(message))


class Server:
    """A server for one user and one device of theirs, by the letter of docs/protocol.md section 5.2.

    `script` replaces what it does for a request type; a script that gives None answers nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lines: list[Line] = []
        self.seen: list[Seen] = []
        self.script: dict[str, Script] = {}
        self.up = True
        self.attempts = 0
        self.user: UserInfo | None = ME
        self.features: list[str] | None = None  # those that it knows; an older server knows of none
        self.mail: list[Message] = []
        self.cursor = self.delivered = 0
        self.answers: list[tuple[int | None, int]] = []
        self.on_begin: Callable[[Line, Seen], None] = lambda _line, _seen: None

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts += 1
        if not self.up:
            return fail(ConnectError(string="refused"))  # type: ignore[no-untyped-call]
        ours, line = factory.buildProtocol(None), Line(self)
        self.lines.append(line)
        join(self.clock, ours, line)
        return succeed(ours)

    def began(self, line: Line, request: Seen) -> None:
        self.seen.append(request)
        self.on_begin(line, request)

    def asked(self, line: Line, request: Seen) -> None:
        script = self.script.get(request.kind) or getattr(self, request.kind.lower())
        reply = script(line, request)
        if reply is not None:
            line.say(request.kind, reply)

    def kinds(self) -> list[str]:
        return [seen.kind for seen in self.seen]

    def bodies(self, kind: str) -> list[Any]:
        return [seen.body for seen in self.seen if seen.kind == kind]

    def drop(self) -> None:
        for line in list(self.lines):
            line.transport.abortConnection()
        self.clock.advance(0)

    def post(self, message: Message) -> None:
        self.mail.append(message)
        for line in self.lines:
            if line.reader.dialect is not None:
                line.push(message)
                if line.fetched and self.delivered == len(self.mail) - 1:
                    self.delivered += 1

    # What it does unless scripted.

    def state(self, line: Line, request: Seen) -> Reply:
        if self.user is None:
            return Reply(info=errors.NOT_LOGGED_IN)
        if self.features is None or not request.body:
            return Reply(self.user)
        return Reply(OwnInfo(self.user.userid, self.user.username, self.user.avatar, self.features))

    def login(self, line: Line, request: Seen) -> Reply:
        self.user = ME
        return Reply(ME)

    register = login

    def logout(self, line: Line, request: Seen) -> Reply:
        self.user = None
        return Reply()

    def typing(self, line: Line, request: Seen) -> Reply:
        return Reply()

    mark = removecontact = blockcontact = unblockcontact = typing

    def sendmsg(self, line: Line, request: Seen) -> Reply:
        return Reply(MessageName(request.body["md5encoded"]))

    def fetchmsg(self, line: Line, request: Seen) -> Reply:
        start = max(self.cursor, line.position)
        part = self.mail[start : start + request.body["limit"]]
        line.fetched = True
        line.position = start + len(part)
        self.delivered = max(self.delivered, line.position)
        if part:
            self.answers.append((part[-1].timestamp, line.position))
        return Reply(MessageList(part[::-1], line.position < len(self.mail)))

    def ackfetch(self, line: Line, request: Seen) -> None:
        stamp = request.body["timestamp"]
        waiting = range(self.cursor, self.delivered)
        ends = [end for newest, end in self.answers if newest == stamp and end > self.cursor]
        ends += [at + 1 for at in waiting if self.mail[at].timestamp == stamp]
        over = [at for at in waiting if (self.mail[at].timestamp or 0) > stamp]
        self.cursor = ends[0] if ends else over[0] if over else self.delivered
        self.answers = [answer for answer in self.answers if answer[1] > self.cursor]


def message(number: int, timestamp: int | None = None, content: str | None = None) -> Message:
    """The `number`th message of Bob."""
    text = f"message {number}" if content is None else content
    stamp = 1000 + number if timestamp is None else timestamp
    return Message(
        userid=2,
        targetid=1,
        contenttype="plaintext",
        content=encoded(text),
        timestamp=stamp,
        md5encoded=f"{number:032x}",
    )
