"""One connection of the client library: answers, pushes, deadlines, noise, uploads and downloads.

What a client makes of connections that come and go is in ``test_client_link.py``.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from chatsvc.client import Connection, NotConnected, RequestRefused, TimedOut, Upload
from chatsvc.wire import errors
from chatsvc.wire.frames import DIALECTS, NETWORK, RELEASED, SEED, Dialect, frame
from chatsvc.wire.schema import (
    Contacts,
    FileInfo,
    Message,
    MessageName,
    MessageRef,
    Token,
    UserInfo,
    UserRef,
    encode,
    envelope,
)
from tests.client_world import error_of, result_of
from tests.fake_server import BOB, BUFFER, ME, FakeReactor, Line, Reply, Server, join, message


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
        self.connection = Connection(self.clock, dialect, 5, 10.0, self.push, self.tokens.append)
        self.line = Line(self.server)
        self.server.lines.append(self.line)
        join(self.clock, self.connection, self.line)

    def push(self, kind: str, body: msgspec.Raw) -> None:
        assert kind == "FORWARDMSG"
        self.pushed.append(msgspec.json.decode(body, type=Message))

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
