"""The client library against a server in memory that is told what to answer, push and break.

The real server is not tested here; the last test uses real sockets and threads.
"""

from __future__ import annotations

import hashlib
import io
import random
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from chatsvc.client import (
    RAW,
    Client,
    Connection,
    NotConnected,
    RequestRefused,
    State,
    TimedOut,
    Upload,
    forms,
    inbox,
)
from chatsvc.tasks import deferred
from chatsvc.wire import errors
from chatsvc.wire.frames import DIALECTS, NETWORK, RELEASED, SEED, Dialect, FrameReader, frame
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import (
    Contacts,
    FileInfo,
    Message,
    MessageList,
    MessageName,
    MessageRef,
    Token,
    UserInfo,
    UserRef,
    decode_request,
    encode,
    envelope,
)
from chatsvc.wire.text import encoded

T = TypeVar("T")
Failures = list[LogEvent]
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
        return Reply(info=errors.NOT_LOGGED_IN) if self.user is None else Reply(self.user)

    def login(self, line: Line, request: Seen) -> Reply:
        self.user = ME
        return Reply(ME)

    register = login

    def logout(self, line: Line, request: Seen) -> Reply:
        self.user = None
        return Reply()

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


def result_of(work: Coroutine[Any, Any, T] | Deferred[T]) -> list[T | Failure]:
    """A list that will hold the outcome."""
    outcome: list[T | Failure] = []
    running = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    running.addBoth(outcome.append)
    return outcome


def error_of(outcome: list[Any]) -> Exception:
    assert len(outcome) == 1, outcome
    assert isinstance(outcome[0], Failure), outcome
    assert isinstance(outcome[0].value, Exception)
    return outcome[0].value


class World:
    """A client and its server in memory."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeReactor()
        self.clock.advance(1_700_000_000)
        self.server = Server(self.clock)
        self.shown: list[str] = []
        self.states: list[State] = []
        options = {"token": 77, "on_message": self.show, "on_state": self.states.append, **options}
        self.client = Client(
            self.clock,
            self.server,
            now=self.clock.seconds,
            random=options.pop("random", lambda: 1.0),
            **options,
        )

    def show(self, message: Message) -> Any:
        self.shown.append(message.content)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`, which needs no time to pass."""
        outcome = result_of(work)
        self.clock.advance(0)
        assert outcome, "still waiting"
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]

    def start(self) -> World:
        self.do(self.client.start())
        return self

    def stop(self) -> None:
        """Stop, and make sure that nothing is left."""
        self.do(self.client.stop())
        assert self.clock.getDelayedCalls() == []
        assert not self.server.lines
        assert self.state() is State.DISCONNECTED

    def post(self, *numbers: int) -> None:
        for number in numbers:
            self.server.post(message(number))
        self.clock.advance(0)

    def state(self) -> State:
        return self.client.state

    @property
    def line(self) -> Line:
        return self.server.lines[0]


@pytest.fixture
def world() -> Any:
    made = World().start()
    yield made
    made.stop()


def texts(*numbers: int) -> list[str]:
    return [f"message {number}" for number in numbers]


# How strings are written.


def test_message_names_are_those_of_the_released_client() -> None:
    assert forms.message_name("héllo", 7, 9, 1700000000123) == "8b1f4e5a04b1daec7202e3c485f417b5"


def test_passwords_are_hashed_as_the_released_client_does() -> None:
    assert forms.PLAIN.password("secret") == "5ebe2294ecd0e0f08eab7690d2a6ee69"
    assert forms.PLAIN.password("pé€") == hashlib.md5(b"\x70\xe9\xac").hexdigest()
    assert RAW.password("secret") == "secret"


@pytest.mark.parametrize(
    ("wire", "plain"), [("Ym9i", "bob"), ("bob!", "bob!"), ("Ym9", "Ym9"), ("", ""), ("gICA", "gICA")]
)
def test_what_is_no_canonical_base64_is_shown_as_it_is(wire: str, plain: str) -> None:
    assert forms.PLAIN.read(wire) == plain
    assert forms.RAW.read(wire) == wire


# One connection.


class Talk:
    """A bare connection and a server that answers only what it is told."""

    def __init__(self, dialect: Dialect = RELEASED) -> None:
        self.clock = FakeReactor()
        self.server = Server(self.clock)
        self.server.script = dict.fromkeys(
            ["STATE", "PROFILE", "ADDCONTACT", "FETCHCONTACT", "SENDMSG", "FETCHFILE"],
            lambda _line, _seen: None,
        )
        self.pushed: list[Message] = []
        self.tokens: list[int] = []
        self.connection = Connection(self.clock, dialect, 5, 10.0, self.pushed.append, self.tokens.append)
        self.line = Line(self.server)
        self.server.lines.append(self.line)
        join(self.clock, self.connection, self.line)

    def ask(self, kind: str, body: object = None, shape: Any = UserInfo, **payload: Any) -> list[Any]:
        outcome = result_of(self.connection.request(kind, body, shape, **payload))
        self.clock.advance(0)
        return outcome

    def say(self, kind: str, body: object = None, info: str | None = None, payload: bytes = b"") -> None:
        self.line.say(kind, Reply(body, info, payload))
        self.clock.advance(0)


@pytest.mark.parametrize("dialect", DIALECTS.values())
def test_answers_come_in_the_order_of_the_requests_with_pushes_between(dialect: Dialect) -> None:
    talk = Talk(dialect)
    first, second, third = talk.ask("PROFILE", UserRef(1)), talk.ask("PROFILE", UserRef(2)), talk.ask("STATE")
    talk.say("TOKEN", Token(6))
    talk.say("PROFILE", ME)
    talk.say("FORWARDMSG", message(1))
    talk.say("SOMETHINGNEW", [1, 2])
    talk.say("PROFILE", None, errors.USER_NOT_FOUND)
    assert first == [ME]
    assert isinstance(error_of(second), RequestRefused)
    assert str(error_of(second)) == errors.USER_NOT_FOUND
    assert not third
    talk.say("STATE", BOB)
    assert third == [BOB]
    assert talk.pushed == [message(1)]
    assert talk.tokens == [6]
    assert [seen.tokenid for seen in talk.server.seen] == [5, 5, 5]
    talk.ask("STATE")
    assert talk.server.seen[-1].tokenid == 6


@pytest.mark.parametrize(("dialect", "extra"), [(RELEASED, True), (SEED, False), (NETWORK, False)])
def test_only_a_released_connection_gets_contacts_after_addcontact(dialect: Dialect, extra: bool) -> None:
    talk = Talk(dialect)
    added, contacts = talk.ask("ADDCONTACT", UserRef(2), type(None)), talk.ask("FETCHCONTACT", None, Contacts)
    talk.say("ADDCONTACT")
    assert added == [None]
    if extra:
        talk.say("FETCHCONTACT", Contacts([], [], []))
        assert not contacts
    talk.say("FETCHCONTACT", Contacts([BOB], [], []))
    assert contacts == [Contacts([BOB], [], [])]


def test_an_unknown_answer_refuses_the_request_it_is_for() -> None:
    talk = Talk()
    outcome = talk.ask("STATE")
    talk.say("UNKNOWN", None, "What is that?")
    assert str(error_of(outcome)) == "What is that?"


def test_a_request_without_progress_times_out() -> None:
    talk = Talk()
    outcome, other = talk.ask("STATE"), talk.ask("STATE")
    talk.clock.advance(9)
    talk.say("FORWARDMSG", message(1))  # no progress of the request
    talk.clock.advance(0.9)
    assert not outcome
    talk.clock.advance(0.2)
    assert isinstance(error_of(outcome), TimedOut)
    assert isinstance(error_of(other), TimedOut)
    assert not talk.server.lines
    assert isinstance(error_of(talk.ask("STATE")), TimedOut)


def test_an_answer_under_way_is_progress() -> None:
    talk = Talk()
    outcome = talk.ask("STATE")
    data = frame(RELEASED, envelope("STATE", encode(ME)))
    for byte in data:
        talk.clock.advance(8)
        talk.line.transport.write(bytes([byte]))
        talk.clock.advance(0)
    assert outcome == [ME]
    assert talk.clock.getDelayedCalls() == []


def test_nothing_outstanding_means_no_deadline() -> None:
    talk = Talk()
    talk.ask("STATE")
    talk.say("STATE", ME)
    talk.clock.advance(1000)
    assert talk.connection.ended is None


@pytest.mark.parametrize(
    "noise",
    [
        frame(RELEASED, b"no json"),
        frame(RELEASED, b'{"response":"STATE","status":"FINE"}'),
        frame(RELEASED, envelope("STATE", b'{"userid":"one"}')),
        frame(RELEASED, envelope("FORWARDMSG", b"{}")),
        RELEASED.header.pack(-1, 0),
        RELEASED.header.pack(2**30, 0),
    ],
)
def test_what_is_no_answer_ends_the_connection(noise: bytes) -> None:
    talk = Talk()
    outcome, other = talk.ask("STATE"), talk.ask("PROFILE", UserRef(1))
    talk.line.transport.write(noise)
    talk.clock.advance(0)
    assert isinstance(error_of(outcome), NotConnected)
    assert isinstance(error_of(other), NotConnected)
    assert not talk.server.lines
    assert talk.clock.getDelayedCalls() == []


def test_requests_that_no_server_takes_are_not_sent() -> None:
    talk = Talk()
    with pytest.raises(ValueError, match="at most 16777215 bytes"):
        talk.connection.request("STATE", "x" * 2**24, UserInfo)
    with pytest.raises(ValueError, match="at most 2147483647 bytes"):
        talk.connection.request("SENDMSG", message(1), MessageName, upload=Upload(2**31, Source(0).read))
    talk.clock.advance(0)
    assert not talk.server.seen


class Source:
    """A file of zeros that counts what was read."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.largest = 0

    def read(self, most: int) -> Deferred[bytes]:
        data = bytes(min(most, self.left))
        self.left -= len(data)
        self.largest = max(self.largest, len(data))
        return succeed(data)


@pytest.mark.parametrize("dialect", DIALECTS.values())
def test_an_upload_waits_for_a_server_that_does_not_read(dialect: Dialect) -> None:
    talk, size, progress = Talk(dialect), 20 * BUFFER + 7, []
    talk.line.transport.paused = True
    source = Source(size)
    outcome = talk.ask(
        "SENDMSG",
        message(1),
        MessageName,
        upload=Upload(size, source.read),
        progress=lambda *at: progress.append(at),
    )
    assert size - source.left <= 4 * BUFFER
    with pytest.raises(RuntimeError, match="another one"):
        talk.connection.request("STATE", None, UserInfo)
    talk.line.transport.resumeProducing()
    talk.clock.advance(0)
    assert talk.line.payload == bytes(size)
    assert source.largest <= BUFFER
    assert progress[-1] == (size, size)
    assert progress == sorted(progress)
    talk.say("SENDMSG", MessageName("x"))
    assert outcome == [MessageName("x")]


def test_an_upload_that_the_server_does_not_take_times_out() -> None:
    talk = Talk()
    talk.line.transport.paused = True
    size = 10 * BUFFER
    outcome = talk.ask("SENDMSG", message(1), MessageName, upload=Upload(size, Source(size).read))
    talk.clock.advance(11)
    assert isinstance(error_of(outcome), TimedOut)


def test_an_upload_may_take_long_as_long_as_it_goes_on() -> None:
    talk = Talk()
    talk.line.transport.paused = True
    size = 10 * BUFFER
    outcome = talk.ask("SENDMSG", message(1), MessageName, upload=Upload(size, Source(size).read))
    for _ in range(6):
        talk.clock.advance(8)
        talk.line.transport.paused = False
        for _ in range(3):
            talk.line.transport.peer.move()
        talk.line.transport.paused = True
    assert not outcome
    assert talk.line.payload


def test_a_file_that_got_shorter_ends_the_connection() -> None:
    talk = Talk()
    outcome = talk.ask("SENDMSG", message(1), MessageName, upload=Upload(100, Source(60).read))
    talk.clock.advance(0)
    assert isinstance(error_of(outcome), EOFError)
    assert not talk.server.lines


def test_a_refusal_may_come_before_the_upload_is_through() -> None:
    talk = Talk()
    reading: list[Deferred[bytes]] = []

    def read(most: int) -> Deferred[bytes]:
        reading.append(Deferred())
        return reading[-1]

    outcome = talk.ask("SENDMSG", message(1), MessageName, upload=Upload(100, read))
    talk.say("SENDMSG", MessageName("x"), "Too large.")
    assert str(error_of(outcome)) == "Too large."
    talk.connection.close()
    talk.clock.advance(0)
    reading[0].callback(b"late")
    assert len(reading) == 1
    assert talk.clock.getDelayedCalls() == []


def test_a_download_waits_for_its_sink() -> None:
    talk, progress = Talk(), []
    data = random.Random(1).randbytes(10 * BUFFER + 5)
    got: list[bytes] = []
    waits: list[Deferred[None]] = []

    def sink(piece: bytes) -> Deferred[None]:
        got.append(piece)
        waits.append(Deferred())
        return waits[-1]

    outcome = talk.ask(
        "FETCHFILE", MessageRef("x"), FileInfo, sink=sink, progress=lambda *at: progress.append(at)
    )
    info = FileInfo("0" * 32, len(data))
    talk.say("FETCHFILE", info, payload=data)
    talk.clock.advance(1000)  # it is the sink that takes its time
    assert len(got) == 1
    assert len(talk.line.transport.buffer) > len(data) - 2 * BUFFER  # and that the rest stays where it is
    while waits:
        assert not outcome
        waits.pop().callback(None)
        talk.clock.advance(0)
    assert outcome == [info]
    assert b"".join(got) == data
    assert progress[-1] == (len(data), len(data))
    assert talk.ask("STATE") == []
    talk.say("STATE", ME)
    assert talk.connection.ended is None


def test_a_sink_that_fails_fails_the_request() -> None:
    talk = Talk()
    outcome = talk.ask("FETCHFILE", MessageRef("x"), FileInfo, sink=lambda _: fail(OSError("disk full")))
    talk.say("FETCHFILE", FileInfo("0" * 32, 3), payload=b"abc")
    assert isinstance(error_of(outcome), OSError)
    assert not talk.server.lines


def test_a_payload_that_nobody_asked_for_is_thrown_away() -> None:
    talk = Talk()
    outcome = talk.ask("STATE")
    talk.say("FETCHFILE", FileInfo("0" * 32, 3), payload=b"abc")
    talk.say("STATE", ME, payload=b"abc")
    assert outcome == [ME]


def test_who_no_longer_waits_is_no_trouble() -> None:
    talk = Talk()
    gone = talk.connection.request("STATE", None, UserInfo)
    result_of(gone)
    after = talk.ask("STATE")
    gone.cancel()
    talk.say("STATE", ME)
    talk.say("STATE", BOB)
    assert after == [BOB]


def test_a_connection_whose_peer_does_not_read_is_closed_all_the_same() -> None:
    talk = Talk()
    talk.line.transport.paused = True
    outcome = talk.ask("STATE")
    talk.connection.close()
    assert isinstance(error_of(outcome), NotConnected)
    ended = result_of(talk.connection.when_lost())
    talk.clock.advance(4)
    assert not ended
    talk.clock.advance(2)
    assert ended == [None]
    assert result_of(talk.connection.when_lost()) == [None]


# Accounts and people.


def test_a_new_device_logs_in_and_keeps_its_token() -> None:
    world = World(token=None)
    world.server.user = None
    world.start()
    assert world.state() is State.CONNECTED

    def login(line: Line, request: Seen) -> Reply:
        line.say("TOKEN", Reply(Token(42)))
        return world.server.login(line, request)

    world.server.script["LOGIN"] = login
    assert world.do(world.client.login("me", "secret")).username == "me"
    assert world.server.bodies("LOGIN") == [
        {"username": encoded("me"), "passwd": "5ebe2294ecd0e0f08eab7690d2a6ee69"}
    ]
    assert world.client.token == 42
    assert world.states == [State.CONNECTED, State.LOGGED_IN]
    world.server.drop()
    world.clock.advance(1)
    assert Seen("STATE", None, 42) in world.server.seen
    assert world.state() is State.LOGGED_IN
    world.stop()


def test_resuming_says_who_it_is(world: World) -> None:
    assert world.client.user == UserInfo(1, "me", None)
    assert world.do(world.client.resume()) == UserInfo(1, "me", None)
    world.do(world.client.logout())
    assert world.state() is State.CONNECTED
    assert world.do(world.client.resume()) is None
    world.post(1)
    assert not world.shown
    with pytest.raises(RequestRefused, match=errors.NOT_LOGGED_IN):
        world.client.compose(2, "hello")
    world.do(world.client.register("me", "secret"))
    assert world.state() is State.LOGGED_IN
    assert world.shown == texts(1)
    assert world.states == [State.LOGGED_IN, State.CONNECTED, State.LOGGED_IN]


def test_a_device_that_the_server_forgot_gets_a_new_token() -> None:
    world = World()
    world.server.user = None

    def state(line: Line, request: Seen) -> Reply:
        line.say("TOKEN", Reply(Token(78)))
        return world.server.state(line, request)

    world.server.script["STATE"] = state
    world.start()
    assert world.client.token == 78
    assert world.state() is State.CONNECTED
    world.stop()


def test_methods_run_without_a_deferred_too(world: World) -> None:
    world.server.script["PROFILE"] = lambda _line, _seen: Reply(BOB)
    outcome = result_of(deferred(world.client.profile(2)))
    world.clock.advance(0)
    assert outcome == [UserInfo(2, "bob", None)]


def test_a_store_that_is_away_does_not_log_anybody_out() -> None:
    world = World()
    world.server.script["STATE"] = lambda _line, _seen: Reply(info=errors.STORAGE_UNAVAILABLE)
    started = result_of(world.client.start())
    world.clock.advance(0)
    assert not started
    del world.server.script["STATE"]
    world.clock.advance(1)
    assert started == [None]
    assert world.states == [State.LOGGED_IN]
    world.stop()


def test_a_login_that_was_ended_elsewhere_is_noticed(world: World) -> None:
    world.server.script["PROFILE"] = lambda _line, _seen: Reply(info=errors.NOT_LOGGED_IN)
    with pytest.raises(RequestRefused):
        world.do(world.client.profile(2))
    assert world.client.user is None
    assert world.states[-1] is State.CONNECTED


def test_people(world: World) -> None:
    script = world.server.script
    script["PROFILE"] = script["SEARCHUSR"] = lambda _line, _seen: Reply(BOB)
    script["FETCHCONTACT"] = lambda _line, _seen: Reply(Contacts([BOB], [ME], [UserInfo(3, "raw!", "pic")]))

    def addcontact(line: Line, _seen: Seen) -> None:
        line.say("ADDCONTACT", Reply())
        line.say("FETCHCONTACT", Reply(Contacts([], [], [])))

    script["ADDCONTACT"] = addcontact
    script["MODIFYPROFILE"] = lambda _line, _seen: Reply(UserInfo(1, encoded("new"), None))
    script["MODIFYPASSWD"] = lambda _line, _seen: Reply()
    bob = UserInfo(2, "bob", None)
    assert world.do(world.client.profile(2)) == bob
    assert world.do(world.client.search(name="bob")) == bob
    assert world.do(world.client.search(userid=2)) == bob
    world.do(world.client.add_contact(2))
    assert world.do(world.client.contacts()) == Contacts(
        [bob], [UserInfo(1, "me", None)], [UserInfo(3, "raw!", "pic")]
    )
    assert world.do(world.client.modify_profile("new")).username == "new"
    world.do(world.client.modify_profile(avatar=None))
    world.do(world.client.modify_password("old", "new"))
    assert world.server.bodies("SEARCHUSR") == [
        {"username": encoded("bob"), "userid": None},
        {"username": None, "userid": 2},
    ]
    assert world.server.bodies("MODIFYPROFILE") == [
        {"username": encoded("new")},
        {"username": None, "avatar": None},
    ]
    assert world.client.user == UserInfo(1, "new", None)


def test_a_program_can_choose_the_bytes() -> None:
    world = World(form=RAW).start()
    world.do(world.client.login("me", "secret"))
    assert world.server.bodies("LOGIN") == [{"username": "me", "passwd": "secret"}]
    world.do(world.client.send_text(2, "hi"))
    assert world.server.bodies("SENDMSG")[0]["content"] == "hi"
    world.post(1)
    assert world.shown == [encoded("message 1")]
    world.stop()


# Sending.


def test_a_text_is_sent_as_the_released_client_does(world: World) -> None:
    sent = world.do(world.client.send_text(2, "héllo"))
    stamp = 1_700_000_000_000
    assert world.server.bodies("SENDMSG") == [
        {
            "userid": 1,
            "targetid": 2,
            "contenttype": "plaintext",
            "content": encoded("héllo"),
            "timestamp": stamp,
            "md5encoded": forms.message_name("héllo", 1, 2, stamp),
            "filemd5": None,
        }
    ]
    assert sent.content == "héllo"


def test_a_picture_is_base64_twice(world: World) -> None:
    world.do(world.client.send_image(2, b"\x89PNG"))
    body = world.server.bodies("SENDMSG")[0]
    assert body["contenttype"] == "image"
    assert body["content"] == encoded("iVBORw==")


def test_equal_texts_of_one_millisecond_are_two_messages(world: World) -> None:
    world.do(world.client.send_text(2, "hi"))
    world.do(world.client.send_text(2, "hi"))
    first, second = world.server.bodies("SENDMSG")
    assert first["timestamp"] < second["timestamp"]
    assert first["md5encoded"] != second["md5encoded"]


def test_a_lost_answer_makes_a_repeat(world: World) -> None:
    world.server.script["SENDMSG"] = lambda line, _seen: line.transport.abortConnection()
    outcome, other = result_of(world.client.send_text(2, "one")), result_of(world.client.send_text(2, "two"))
    world.clock.advance(0)
    assert world.state() is State.DISCONNECTED
    del world.server.script["SENDMSG"]
    world.clock.advance(1)
    assert len(outcome) == len(other) == 1
    sent = world.server.bodies("SENDMSG")
    assert sent[-2:] == sent[:2] if len(sent) == 4 else sent[1:] == [sent[0], sent[2]]
    assert isinstance(outcome[0], Message)


@pytest.mark.parametrize("info", [errors.STORAGE_UNAVAILABLE, errors.SERVER_BUSY])
def test_a_refusal_that_passes_is_tried_again(world: World, info: str) -> None:
    world.server.script["SENDMSG"] = lambda _line, _seen: Reply(info=info)
    outcome = result_of(world.client.send_text(2, "one"))
    world.clock.advance(0)
    del world.server.script["SENDMSG"]
    world.clock.advance(0.5)
    first, second = world.server.bodies("SENDMSG")
    assert first == second
    assert isinstance(outcome[0], Message)


def test_a_refusal_is_final(world: World) -> None:
    world.server.script["SENDMSG"] = lambda _line, _seen: Reply(info=errors.USER_NOT_FOUND)
    with pytest.raises(RequestRefused, match=errors.USER_NOT_FOUND):
        world.do(world.client.send_text(99, "hi"))
    assert len(world.server.bodies("SENDMSG")) == 1


def test_sending_is_given_up_at_the_deadline(world: World) -> None:
    world.server.up = False
    world.server.drop()
    outcome = result_of(world.client.send_text(2, "one", timeout=20))
    world.server.script["SENDMSG"] = lambda _line, _seen: None
    for _ in range(201):
        world.clock.advance(0.1)
    assert isinstance(error_of(outcome), TimedOut)
    refused = result_of(world.client.profile(2))
    assert isinstance(error_of(refused), NotConnected)
    world.server.up = True
    world.clock.advance(100)
    assert not world.server.bodies("SENDMSG")


# Files.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo é.jpg"
    path.write_bytes(random.Random(2).randbytes(5 * BUFFER + 3))
    return path


def test_a_file_goes_on_a_connection_of_its_own(world: World, file: Path) -> None:
    data, progress, uploads = file.read_bytes(), [], []

    def sendmsg(line: Line, request: Seen) -> Reply:
        uploads.append(line.payload)
        assert len(world.server.lines) == 2
        return Reply(MessageName(request.body["md5encoded"]))

    world.server.script["SENDMSG"] = sendmsg
    sent = world.do(world.client.send_file(2, file, progress=lambda *at: progress.append(at)))
    assert uploads == [data]
    assert sent.filemd5 == hashlib.md5(data).hexdigest()
    assert sent.content == "photo é.jpg"
    assert world.server.bodies("SENDMSG")[0]["content"] == encoded("photo é.jpg")
    assert progress[-1] == (len(data), len(data))
    assert len(world.server.lines) == 1


def test_an_empty_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    sent = world.do(world.client.send_file(2, tmp_path / "empty"))
    assert sent.filemd5 == "d41d8cd98f00b204e9800998ecf8427e"


def test_a_file_is_sent_again_from_its_start(world: World, file: Path) -> None:
    uploads: list[bytes] = []

    def sendmsg(line: Line, request: Seen) -> Reply | None:
        uploads.append(line.payload)
        if len(uploads) == 1:
            line.transport.abortConnection()
            return None
        return Reply(MessageName(request.body["md5encoded"]))

    world.server.script["SENDMSG"] = sendmsg
    outcome = result_of(world.client.send_file(2, file))
    world.clock.advance(0)
    world.clock.advance(0.5)
    assert isinstance(outcome[0], Message)
    assert uploads == [file.read_bytes()] * 2
    first, second = world.server.bodies("SENDMSG")
    assert first == second


def test_a_file_that_is_refused_early_is_not_sent_to_its_end(world: World, file: Path) -> None:
    def refuse(line: Line, request: Seen) -> None:
        if request.kind == "SENDMSG":
            line.say("SENDMSG", Reply(MessageName("x"), "A file may have at most 3 bytes."))

    world.server.on_begin = refuse
    with pytest.raises(RequestRefused, match="at most 3"):
        world.do(world.client.send_file(2, file))
    world.clock.advance(5)
    assert len(world.server.lines) == 1


def test_a_file_that_is_not_there(world: World, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        world.do(world.client.send_file(2, tmp_path / "none"))


def test_fetching_a_range_of_a_file(world: World, file: Path) -> None:
    data = file.read_bytes()

    def fetchfile(line: Line, request: Seen) -> Reply:
        body = request.body
        start = body["offset"] or 0
        part = data[start:] if body["length"] is None else data[start : start + body["length"]]
        return Reply(FileInfo("0" * 32, len(data)), payload=part)

    world.server.script["FETCHFILE"] = fetchfile
    whole, part, progress = io.BytesIO(), io.BytesIO(), []
    assert world.do(world.client.fetch_file("name", whole)).size == len(data)
    world.do(
        world.client.fetch_file("name", part, offset=10, length=100, progress=lambda *at: progress.append(at))
    )
    assert whole.getvalue() == data
    assert part.getvalue() == data[10:110]
    assert progress == [(100, 100)]
    assert world.server.bodies("FETCHFILE")[1] == {"msgmd5": "name", "offset": 10, "length": 100}
    world.server.script["FETCHFILE"] = lambda _line, _seen: Reply(info=errors.FILE_NOT_FOUND)
    with pytest.raises(RequestRefused, match=errors.FILE_NOT_FOUND):
        world.do(world.client.fetch_file("name", io.BytesIO()))
    assert len(world.server.lines) == 1


def test_finding_a_file(world: World) -> None:
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply()
    assert world.do(world.client.find_file("0" * 32)) is True
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply(info=errors.FILE_NOT_FOUND)
    assert world.do(world.client.find_file("0" * 32)) is False
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply(info="A filemd5 has 32 digits.")
    with pytest.raises(RequestRefused):
        world.do(world.client.find_file("0"))


# Receiving.


def test_the_mailbox_is_shown_in_its_order_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PAGE", 3)
    world = World()
    world.server.mail = [message(number) for number in range(8)]
    world.start()
    assert world.shown == texts(*range(8))
    assert world.server.kinds()[1:] == ["ACKFETCH", *["FETCHMSG", "ACKFETCH"] * 3]
    assert [body["timestamp"] for body in world.server.bodies("ACKFETCH")][1:] == [1002, 1005, 1007]
    assert world.server.cursor == 8
    world.stop()


def test_a_client_that_takes_no_messages_fetches_none() -> None:
    world = World(on_message=None).start()
    world.post(1)
    world.do(world.client.caught_up())
    assert world.server.kinds() == ["STATE"]
    world.stop()


def test_the_device_says_that_it_acknowledges_before_anything_is_delivered() -> None:
    world = World()
    world.server.mail = [message(1)]
    world.server.cursor = 0
    seen: list[int] = []
    world.server.on_begin = lambda _line, _seen: seen.append(world.server.cursor)
    world.start()
    assert world.server.kinds()[:3] == ["STATE", "ACKFETCH", "FETCHMSG"]
    assert seen[:3] == [0, 0, 0]
    world.stop()


def test_pushes_are_shown_and_then_acknowledged_together(world: World) -> None:
    before = len(world.server.bodies("ACKFETCH"))
    for number in range(5):
        world.server.post(message(number))
    world.clock.advance(0)
    assert world.shown == texts(*range(5))
    acks = world.server.bodies("ACKFETCH")[before:]
    assert len(acks) < 5
    assert acks[-1] == {"timestamp": 1004}
    assert world.server.cursor == 5


def test_equal_and_backward_timestamps_are_acknowledged_to_the_end(world: World) -> None:
    stamps = [5, 5, 9, 3, 5]
    json = b"".join(
        frame(RELEASED, envelope("FORWARDMSG", encode(message(number, stamp))))
        for number, stamp in enumerate(stamps)
    )
    world.server.mail = [message(number, stamp) for number, stamp in enumerate(stamps)]
    world.server.delivered = 5
    world.line.transport.write(json)
    world.clock.advance(0)
    assert world.shown == texts(*range(5))
    assert world.server.cursor == 5


def test_a_push_waits_for_what_is_older_and_is_shown_once() -> None:
    world = World()
    world.server.mail = [message(1), message(2)]

    def fetch(line: Line, request: Seen) -> Reply:
        line.push(message(2))  # is in the answer too
        answer = world.server.fetchmsg(line, request)
        world.server.post(message(3))  # is not
        return answer

    world.server.script["FETCHMSG"] = fetch
    world.start()
    assert world.shown == texts(1, 2, 3)
    assert world.server.cursor == 3
    world.stop()


def test_nothing_is_missed_or_shown_twice_over_a_reconnect(world: World) -> None:
    world.server.script["ACKFETCH"] = lambda _line, _seen: None  # lost on its way
    world.post(1, 2)
    world.server.drop()
    world.server.mail.append(message(3))
    del world.server.script["ACKFETCH"]
    world.clock.advance(1)
    assert world.shown == texts(1, 2, 3)
    assert world.server.cursor == 3


def test_a_message_is_acknowledged_when_its_callback_has_finished(world: World) -> None:
    waits: list[Deferred[None]] = []

    def slow(message: Message) -> Deferred[None]:
        world.shown.append(message.content)
        waits.append(Deferred())
        return waits[-1]

    world.client._on_message = slow
    world.post(1, 2)
    assert world.shown == texts(1)
    assert world.server.cursor == 0
    waits.pop().callback(None)
    world.clock.advance(0)
    assert world.shown == texts(1, 2)
    assert world.server.cursor == 1
    waits.pop().callback(None)
    world.clock.advance(0)
    assert world.server.cursor == 2


def test_a_callback_may_outlive_its_connection(world: World) -> None:
    waits: list[Deferred[None]] = []

    def slow(message: Message) -> Deferred[None]:
        world.shown.append(message.content)
        waits.append(Deferred())
        return waits[-1]

    world.client._on_message = slow
    world.post(1, 2)
    world.server.drop()
    world.clock.advance(1)
    assert world.state() is State.LOGGED_IN
    assert world.shown == texts(1)
    while waits:
        waits.pop().callback(None)
        world.clock.advance(0)
    assert world.shown == texts(1, 2)
    assert world.server.cursor == 2


def test_a_callback_may_use_the_client(world: World) -> None:
    async def answer(message: Message) -> None:
        world.shown.append(message.content)
        await world.client.send_text(2, f"re: {message.content}")

    world.client._on_message = answer
    world.post(1, 2)
    assert world.shown == texts(1, 2)
    assert len(world.server.bodies("SENDMSG")) == 2
    assert world.server.cursor == 2


def test_a_callback_that_fails_gets_the_message_again(world: World, no_unhandled_failure: Failures) -> None:
    def broken(message: Message) -> None:
        world.shown.append(message.content)
        raise KeyError("no such chat")

    world.client._on_message = broken
    world.post(1, 2)
    assert world.shown == texts(1)
    assert world.server.cursor == 0
    world.clock.advance(1)
    world.clock.advance(2)
    assert world.shown == texts(1, 1, 1)
    world.client._on_message = world.show
    world.clock.advance(4)
    assert world.shown == texts(1, 1, 1, 1, 2)
    assert world.server.cursor == 2
    assert len(no_unhandled_failure) == 3
    assert "message 1" not in str(no_unhandled_failure[0]["log_format"])
    no_unhandled_failure.clear()


def test_a_failing_callback_is_given_up_with_its_login(world: World, no_unhandled_failure: Failures) -> None:
    def broken(message: Message) -> None:
        raise KeyError("no such chat")

    world.client._on_message = broken
    world.post(1)
    world.do(world.client.logout())
    world.client._on_message = world.show
    world.clock.advance(1000)
    assert not world.shown
    world.do(world.client.login("me", "secret"))
    assert world.shown == texts(1)
    no_unhandled_failure.clear()


def test_pushes_that_do_not_fit_are_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "WAITING", 10)
    waits: list[Deferred[None]] = []

    def slow(message: Message) -> Deferred[None]:
        world.shown.append(message.content)
        waits.append(Deferred())
        return waits[-1]

    world.client._on_message = slow
    world.post(*range(40))
    assert world.client._inbox is not None
    assert len(world.client._inbox._pushes) <= 10
    while waits:
        waits.pop().callback(None)
        world.clock.advance(0)
    assert world.shown == texts(*range(40))
    assert world.server.cursor == 40
    assert len(world.server.bodies("FETCHMSG")) >= 2


def test_a_late_acknowledgement_does_not_reach_what_was_fetched_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAITING", 2)
    waits: list[Deferred[None]] = []

    def slow(message: Message) -> Deferred[None]:
        waits.append(Deferred())
        return waits[-1]

    world.client._on_message = slow
    for number in range(10):
        world.server.post(message(number, 5))
    world.clock.advance(0)
    waits[0].callback(None)
    world.clock.advance(0)
    assert len(waits) == 2
    assert world.server.cursor == 1
    world.client._on_message = world.show
    waits[1].callback(None)
    world.clock.advance(0)
    assert world.server.cursor == 10


def test_pushes_of_what_later_pages_hold_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PAGE", 2)
    monkeypatch.setattr(inbox, "REMEMBERED", 2)
    world = World()
    world.server.mail = [message(number) for number in range(6)]

    def push_early(line: Line, request: Seen) -> None:
        if request.kind == "FETCHMSG" and not line.fetched:
            line.push(message(2))

    world.server.on_begin = push_early
    world.start()
    assert world.shown == texts(*range(6))
    world.stop()


def test_large_pushes_are_bounded_by_their_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "WAITING_CONTENT", 1000)
    for number in range(5):
        world.server.post(message(number, content="x" * 2000))
    world.clock.advance(0)
    assert len(world.shown) == 5
    assert world.server.cursor == 5


def test_a_fetch_that_is_refused_is_tried_again(world: World) -> None:
    world.server.script["FETCHMSG"] = lambda _line, _seen: Reply(info=errors.STORAGE_UNAVAILABLE)
    world.server.drop()
    world.server.mail = [message(1)]
    world.clock.advance(1)
    assert not world.shown
    asked = len(world.server.bodies("FETCHMSG"))
    world.clock.advance(0.9)
    assert len(world.server.bodies("FETCHMSG")) == asked
    del world.server.script["FETCHMSG"]
    world.clock.advance(0.2)
    assert world.shown == texts(1)


def test_each_user_of_a_client_gets_their_own_mailbox(world: World) -> None:
    world.post(1)
    assert world.shown == texts(1)
    world.do(world.client.logout())
    world.server.cursor = 0  # Bob's mailbox has the same message
    world.server.script["LOGIN"] = lambda _line, _seen: Reply(BOB)
    world.line.position = 0
    world.do(world.client.login("bob", "secret"))
    assert world.shown == texts(1, 1)


def test_waiting_until_everything_was_shown(world: World) -> None:
    waits: list[Deferred[None]] = []

    def slow(message: Message) -> Deferred[None]:
        waits.append(Deferred())
        return waits[-1]

    world.do(world.client.caught_up())
    world.client._on_message = slow
    world.post(1)
    outcome, hasty = result_of(world.client.caught_up()), result_of(world.client.caught_up(timeout=1))
    world.clock.advance(1)
    assert not outcome
    assert isinstance(error_of(hasty), TimedOut)
    waits[0].callback(None)
    assert outcome == [None]


# Connecting, again and again.


def test_pauses_grow_up_to_a_limit_and_are_jittered() -> None:
    numbers = random.Random(3)
    world = World(random=numbers.random)
    world.server.up = False
    started = result_of(world.client.start(timeout=100))
    attempts, since = 1, 0.0
    pauses: list[float] = []
    while len(pauses) < 12:
        world.clock.advance(0.01)
        since += 0.01
        if world.server.attempts > attempts:
            attempts = world.server.attempts
            pauses.append(since)
            since = 0.0
    for attempt, pause in enumerate(pauses):
        longest = min(30.0, 0.5 * 2**attempt)
        assert longest / 2 - 0.02 <= pause <= longest + 0.02
    assert len({round(pause, 1) for pause in pauses[6:]}) > 1
    assert isinstance(error_of(started), TimedOut)
    assert "refused" in str(error_of(started))
    world.server.up = True
    world.clock.advance(30)
    assert world.state() is State.LOGGED_IN
    world.stop()


def test_a_server_that_drops_connections_at_once_is_not_hammered(world: World) -> None:
    world.server.script["STATE"] = lambda line, _seen: line.transport.abortConnection()
    before = world.server.attempts
    world.server.drop()
    for _ in range(600):
        world.clock.advance(0.1)
    assert 3 <= world.server.attempts - before <= 8


def test_after_a_good_connection_the_first_pause_is_short_again(world: World) -> None:
    for _ in range(5):
        world.clock.advance(60)
        world.server.drop()
        assert world.state() is State.DISCONNECTED
        world.clock.advance(0.5)
        assert world.state() is State.LOGGED_IN
    assert world.states == [State.LOGGED_IN] + [State.DISCONNECTED, State.LOGGED_IN] * 5


def test_stopping_fails_what_is_outstanding() -> None:
    world = World().start()
    for kind in ("PROFILE", "SENDMSG", "FETCHFILE"):
        world.server.script[kind] = lambda _line, _seen: None
    work: list[Coroutine[Any, Any, object]] = [
        world.client.profile(2),
        world.client.send_text(2, "hi"),
        world.client.fetch_file("name", io.BytesIO()),
    ]
    outcomes = [result_of(each) for each in work]
    world.clock.advance(0)
    stopped = result_of(world.client.stop())
    for outcome in outcomes:
        assert isinstance(error_of(outcome), NotConnected)
    world.clock.advance(0)
    assert stopped == [None]
    assert isinstance(error_of(result_of(world.client.send_text(2, "late"))), NotConnected)
    assert isinstance(error_of(result_of(world.client.logout())), NotConnected)
    world.stop()


def test_stopping_ends_every_kind_of_wait() -> None:
    world = World()
    world.server.up = False
    outcomes: list[list[Any]] = [result_of(world.client.start())]
    world.clock.advance(0.1)
    world.client.user = ME
    outcomes.append(result_of(world.client.send_text(2, "hi")))
    outcomes.append(result_of(world.client.caught_up()))
    world.stop()
    assert all(isinstance(error_of(outcome), NotConnected) for outcome in outcomes)


def test_stopping_while_connecting_and_while_greeting() -> None:
    world = World()
    never: Deferred[Any] = Deferred()
    world.server.connect = lambda _factory: never  # type: ignore[method-assign,assignment]
    outcome = result_of(world.client.start())
    world.stop()
    assert isinstance(error_of(outcome), NotConnected)
    world = World()
    world.server.script["STATE"] = lambda _line, _seen: None
    outcome = result_of(world.client.start())
    world.clock.advance(0)
    world.stop()
    assert isinstance(error_of(outcome), NotConnected)


def test_a_connection_that_takes_too_long_is_tried_again() -> None:
    world = World()
    connect, attempts = world.server.connect, []

    def first_hangs(factory: Any) -> Deferred[Any]:
        attempts.append(factory)
        return Deferred() if len(attempts) == 1 else connect(factory)

    world.server.connect = first_hangs  # type: ignore[method-assign]
    outcome = result_of(world.client.start(timeout=60))
    world.clock.advance(30)
    world.clock.advance(0.5)
    assert outcome == [None]
    world.stop()


def test_what_was_shown_is_acknowledged_before_the_client_stops(world: World) -> None:
    json = frame(RELEASED, envelope("FORWARDMSG", encode(message(1))))
    world.server.mail, world.server.delivered = [message(1)], 1
    world.client._link._main.dataReceived(json)  # type: ignore[union-attr]
    assert world.shown == texts(1)
    world.stop()
    assert world.server.cursor == 1


def test_a_program_whose_state_callback_fails_goes_on(no_unhandled_failure: Failures) -> None:
    def broken(state: State) -> None:
        raise KeyError(state)

    world = World(on_state=broken).start()
    assert world.state() is State.LOGGED_IN
    world.stop()
    assert len(no_unhandled_failure) == 2
    no_unhandled_failure.clear()


def weather(seed: int) -> World:
    """Pushes, lost connections, lost acknowledgements and slow callbacks; then it clears up."""
    chance = random.Random(seed)
    world = World(random=chance.random)
    posted = 0
    waits: list[Deferred[None]] = []
    finished: list[str] = []

    async def show(message: Message) -> None:
        assert waits == []  # one at a time
        world.shown.append(message.content)
        if chance.random() < 0.5:
            waits.append(Deferred())
            await waits[-1]
        finished.append(message.content)

    world.client._on_message = show
    world.do(world.client.start())
    for _ in range(200):
        match chance.randrange(8):
            case 0 | 1 | 2:
                for _ in range(chance.choice([1, 1, 2, 30])):
                    world.server.post(message(posted, chance.randrange(10**6)))
                    posted += 1
            case 3:
                world.server.drop()
            case 4:
                for line in list(world.server.lines):  # what is under way is lost too
                    line.transport.end(ConnectionLost(), ConnectionLost())
            case 5:
                world.server.script["ACKFETCH"] = lambda line, _seen: line.transport.abortConnection()
            case 6:
                world.server.script.pop("ACKFETCH", None)
            case 7:
                if waits:
                    waits.pop().callback(None)
        if chance.random() < 0.8:
            world.clock.advance(chance.choice([0, 0, 0.3, 5]))
        assert world.server.cursor <= len(finished)
    world.server.script.pop("ACKFETCH", None)
    if chance.random() < 0.5:
        world.server.drop()
    world.clock.advance(60)
    while waits:
        waits.pop().callback(None)
        world.clock.advance(1)
    world.stop()
    return world


@pytest.mark.parametrize("seed", range(30))
def test_in_any_weather_each_message_is_shown_once_and_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PAGE", 7)
    monkeypatch.setattr(inbox, "WAITING", 20)
    world = weather(seed)
    assert world.shown == texts(*range(len(world.server.mail)))


def test_the_weather_finds_a_client_that_forgets_what_it_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "REMEMBERED", 0)
    shown = [weather(seed).shown for seed in range(10)]
    assert any(len(set(texts)) < len(texts) for texts in shown)


# Real sockets and threads.


async def until(true: Callable[[], bool]) -> None:
    clock: Any = real_reactor
    give_up = clock.seconds() + 10
    while not true():
        assert clock.seconds() < give_up
        await deferLater(clock, 0.01)


@pytest_twisted.ensureDeferred
async def test_over_a_real_socket(tmp_path: Path) -> None:
    clock: Any = real_reactor
    server = Server(clock)
    factory = Factory.forProtocol(Protocol)
    factory.protocol = lambda: server.lines.append(Line(server)) or server.lines[-1]  # type: ignore
    port = clock.listenTCP(0, factory, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(clock, "127.0.0.1", port.getHost().port)
    shown: list[str] = []
    client = Client(clock, endpoint, token=7, on_message=lambda message: shown.append(message.content))
    data = random.Random(4).randbytes(1_000_000)
    (tmp_path / "in").write_bytes(data)
    server.script["FETCHFILE"] = lambda _line, _seen: Reply(FileInfo("0" * 32, len(data)), payload=data)
    uploads: list[bytes] = []

    def sendmsg(line: Line, request: Seen) -> Reply:
        uploads.append(line.payload)
        return Reply(MessageName("x"))

    server.script["SENDMSG"] = sendmsg
    try:
        await client.start()
        handle = client._link._main.transport.socket  # type: ignore[union-attr]
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        server.post(message(1))
        await until(lambda: server.cursor == 1)
        assert shown == texts(1)
        await client.send_file(2, tmp_path / "in")
        with (tmp_path / "out").open("wb") as sink:
            await client.fetch_file("x", sink)
        assert uploads == [data]
        assert (tmp_path / "out").read_bytes() == data
    finally:
        await client.stop()
        await port.stopListening()
    await until(lambda: not server.lines)
