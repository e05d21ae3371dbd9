"""Pushing: sessions and the hub on a store in memory, with a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.json import decode
from twisted.logger import LogEvent, LogLevel, capturedLogs

from chatsvc.chat.hub import HEARTBEAT
from chatsvc.wire.frames import NETWORK, SEED
from chatsvc.wire.schema import Message
from tests.fake_store import SEND_BUFFER, Scene
from tests.fakes import FakeClient, Running, now


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def logged() -> Iterator[Any]:
    with capturedLogs() as events:
        yield events


def warnings(events: list[LogEvent]) -> list[str]:
    return [str(event["log_format"]) for event in events if event["log_level"] is LogLevel.warn]


# New mail.


def test_a_message_is_pushed_to_all_other_devices_of_both_users(scene: Scene) -> None:
    alice2, bob2 = scene.login("alice"), scene.login("bob", scene.elsewhere)
    same_device = scene.node.client(SEED, scene.alice.token)
    same_device.ask("STATE")
    scene.write("one", "two")
    for client in (scene.bob, bob2, alice2):
        assert client.contents() == ["one", "two"]
    for client in (scene.alice, same_device):
        assert client.contents() == []


def test_a_message_to_oneself_is_pushed_to_ones_other_devices(scene: Scene) -> None:
    second = scene.login("bob")
    scene.bob.send(scene.bob.user, "note")
    assert (second.contents(), scene.bob.contents()) == (["note"], [])


def test_who_is_not_logged_in_is_pushed_nothing(scene: Scene) -> None:
    stranger = scene.node.client(SEED)
    stranger.ask("LOGOUT")
    scene.write("one")
    assert stranger.contents() == []


def test_each_reader_gets_a_form_that_it_can_read(scene: Scene) -> None:
    readers = [scene.node.client(dialect, scene.bob.token) for dialect in (SEED, NETWORK)]
    released = scene.node.client(token=scene.bob.token)
    for client in (*readers, released):
        client.ask("STATE")
    scene.write("hi", "aGk=", "Zo\u00eb")
    for client in readers:
        assert client.contents() == ["hi", "aGk=", "Zo\u00eb"]
    assert released.contents() == ["aGk=", "aGk=", "Wm/Dqw=="]


def test_what_was_missed_comes_with_the_next_message(scene: Scene) -> None:
    scene.write("one")
    scene.lose("two", "three")
    assert scene.bob.contents() == ["one"]
    scene.write("four")
    assert scene.bob.contents() == ["two", "three", "four"]


@pytest.mark.parametrize("before", [[], ["one"]])
def test_what_was_missed_comes_when_the_subscription_stands_again(scene: Scene, before: list[str]) -> None:
    scene.write(*before)
    scene.lose("two", "three")
    scene.store.channels.stand()
    assert scene.bob.contents() == [*before, "two", "three"]


def test_what_was_missed_comes_with_the_heartbeat(scene: Scene) -> None:
    scene.lose("one")
    scene.clock.advance(HEARTBEAT - 1)
    assert scene.bob.contents() == []
    scene.clock.pump([1.0, 1.0])
    assert scene.bob.contents() == ["one"]


def test_a_heartbeat_that_fails_is_soon_repeated(scene: Scene) -> None:
    scene.lose("one")
    scene.store.gate.fail("stay_online", times=2)  # for Alice and for Bob
    scene.clock.advance(HEARTBEAT)
    assert scene.bob.contents() == []
    scene.clock.advance(1.0)
    assert scene.bob.contents() == ["one"]


def test_large_contents_are_pushed_in_their_place(scene: Scene) -> None:
    contents = ["one", "x" * 5000, "two", "\u00eb" * 5000, "three"]
    scene.write(*contents)
    while scene.bob.outlet.written < scene.bob.outlet.offset:
        scene.bob.flush()
    assert scene.bob.contents() == contents


def test_a_lost_content_stops_no_other(scene: Scene, no_unhandled_failure: list[LogEvent]) -> None:
    scene.bob.session.hold()
    scene.write("one", "x" * 1001, "two")
    scene.node.blobs.kept.clear()
    scene.bob.session.release()
    assert scene.bob.contents() == ["one", "", "two"]
    assert not no_unhandled_failure


@pytest.mark.parametrize("part", ["store", "blobs"])
def test_pushing_waits_while_it_cannot_read(scene: Scene, part: str, logged: list[LogEvent]) -> None:
    if part == "store":
        scene.store.gate.fail("read", times=2)
    else:
        scene.node.blobs.gate.fail("get", OSError(5, "Input/output error"), times=2)
    scene.write("x" * 1001, "two")
    assert scene.bob.contents() == []
    scene.clock.pump([1.0, 0.9])
    assert scene.bob.contents() == []
    scene.clock.advance(0.1)
    assert scene.bob.contents() == ["x" * 1001, "two"]
    assert warnings(logged) == ["Pushing waits: {error}"] * 2


# Holding, and clients that do not read.


def test_a_push_does_not_come_before_older_messages_of_a_fetch(scene: Scene) -> None:
    second = scene.login("bob")
    scene.write("one", "two")
    second.contents()
    scene.store.gate.hold("read_for")
    fetching = second.start("FETCHMSG")
    scene.write("three")
    assert second.frames() == []
    scene.store.gate.release("read_for")
    fetching.result()
    answer, push = second.frames()
    assert [message["content"] for message in answer.body["messages"]] == ["two", "one"]
    assert push.body["content"] == "three"


def test_what_a_fetch_has_is_not_pushed_behind_it(scene: Scene) -> None:
    scene.store.gate.hold("open")
    fetching = scene.bob.start("FETCHMSG")
    scene.write("one")
    scene.store.gate.release("open")
    fetching.result()
    [answer] = scene.bob.frames()
    assert [message["content"] for message in answer.body["messages"]] == ["one"]


def test_what_a_limited_fetch_leaves_is_pushed_behind_it(scene: Scene) -> None:
    scene.store.gate.hold("open")
    fetching = scene.bob.start("FETCHMSG", {"limit": 1})
    scene.write("one", "two")
    scene.store.gate.release("open")
    fetching.result()
    answer, push = scene.bob.frames()
    assert [message["content"] for message in answer.body["messages"]] == ["one"]
    assert push.body["content"] == "two"


def test_a_push_does_not_come_into_a_file(scene: Scene) -> None:
    scene.bob.session.hold()
    scene.bob.session.hold()
    scene.write("one")
    scene.bob.session.release()
    assert scene.bob.contents() == []
    scene.bob.session.release()
    assert scene.bob.contents() == ["one"]


def test_what_is_stored_while_nothing_more_was_found_is_pushed(scene: Scene) -> None:
    """The answer to a read may be older than what was published meanwhile."""
    scene.write("one")
    scene.bob.contents()
    scene.bob.session.hold()
    scene.write("two")
    scene.store.gate.hold("read reply")
    scene.bob.session.release(scene.hub.last(scene.bob.user))  # the answer that was written has "two"
    scene.write("three")
    scene.store.gate.release("read reply")
    assert scene.bob.contents() == ["three"]


def test_a_client_that_does_not_read_is_not_pushed_to_beyond_a_mark(scene: Scene) -> None:
    second = scene.login("bob")
    contents = [f"message {n}" for n in range(200)]
    start = scene.bob.outlet.offset
    for content in contents:
        scene.write(content)
        second.flush()
    queued = scene.bob.outlet.offset - start
    assert SEND_BUFFER < queued < SEND_BUFFER + 500
    assert second.contents() == contents
    most = 0
    while scene.bob.outlet.written < scene.bob.outlet.offset:
        most = max(most, scene.bob.outlet.offset - scene.bob.outlet.written)
        scene.bob.flush()
    assert scene.bob.contents() == contents
    assert most < SEND_BUFFER + 500


def test_a_client_that_goes_while_it_is_behind_is_forgotten(scene: Scene) -> None:
    scene.write(*(f"message {n}" for n in range(50)))
    scene.bob.close()
    scene.alice.close()
    scene.clock.advance(HEARTBEAT + 1)
    assert (scene.hub._users, scene.hub._devices) == ({}, {})
    assert (scene.store.channels.wanted, scene.store.data.online) == (set(), set())


# All of it, in any order.

turns = st.lists(
    st.sampled_from(
        [
            "alice writes",
            "alice writes much",
            "bob writes",
            "bob2 writes",
            "bob reads",
            "bob fetches",
            "bob2 leaves",
            "publications are lost",
            "publications arrive",
            "the subscription stands",
            "answers take long",
            "answers come",
            "reading fails",
            "a file is sent",
            "a file is sent to its end",
            "time passes",
        ]
    ),
    max_size=60,
)


#: How a mailbox is read, to push and to answer.
READS = ("read", "read_for")


class Story:
    """A scene in which things happen, and what Bob's first device must see in the end."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.bob, self.store = self.scene.bob, self.scene.store
        self.bob.reads = False
        self.bob2 = self.scene.login("bob")
        self.count = 0
        self.slow = self.sends_file = False
        self.fetches: list[Running[None]] = []

    def write(self, sender: FakeClient, size: int = 1) -> None:
        self.count += 1
        sender.send(self.bob.user, f"{self.count}:" + "x" * size)

    def is_idle(self) -> bool:
        """Whether Bob's first connection is answering nothing."""
        return not self.sends_file and all(fetch.done for fetch in self.fetches)

    def answers_come(self) -> None:
        if self.slow:
            self.slow = False
            for name in READS:
                self.store.gate.release(name)
                self.store.gate.release(f"{name} reply")

    def turn(self, what: str) -> None:
        match what:
            case "alice writes":
                self.write(self.scene.alice)
            case "alice writes much":
                self.write(self.scene.alice, 700)
            case "bob writes" if self.is_idle():
                self.count += 1
                text = self.bob.message(self.scene.alice.user, f"{self.count}:x")
                self.bob.start("SENDMSG", text).result()
            case "bob2 writes":
                self.write(self.bob2)
            case "bob reads":
                self.bob.flush()
            case "bob fetches" if self.is_idle():
                self.fetches.append(self.bob.start("FETCHMSG"))
            case "bob2 leaves" if not self.store.channels.deaf:
                self.bob2.close()
                self.bob2 = self.scene.login("bob")
            case "publications are lost":
                self.store.channels.deaf = True
            case "publications arrive":
                self.store.channels.deaf = False
            case "the subscription stands":
                self.store.channels.stand()
            case "answers take long" if not self.slow:
                self.slow = True
                for name in READS:
                    self.store.gate.hold(name)
                    self.store.gate.hold(f"{name} reply")
            case "answers come":
                self.answers_come()
            case "reading fails":
                for name in READS:
                    self.store.gate.fail(name)
            case "a file is sent" if self.is_idle():
                self.sends_file = True
                self.bob.session.hold()
            case "a file is sent to its end" if self.sends_file:
                self.sends_file = False
                self.bob.session.release()
            case "time passes":
                self.scene.clock.advance(1.0)

    def end(self) -> None:
        """All trouble is over, and Bob reads."""
        self.answers_come()
        self.turn("a file is sent to its end")
        self.store.channels.stand()
        for _ in range(HEARTBEAT + 65):
            self.scene.clock.advance(1.0)
            self.bob.flush()

    def seen(self) -> list[str]:
        """What Bob's first device saw, as often as it saw it."""
        contents: list[str] = []
        for frame in self.bob.frames():
            if frame.response == "FORWARDMSG":
                contents.append(frame.body["content"])
            elif frame.response == "FETCHMSG" and frame.ok:
                contents += [message["content"] for message in reversed(frame.body["messages"])]
        return contents


@given(turns)
@settings(max_examples=300)
def test_each_device_sees_all_others_wrote_in_mailbox_order(story: list[str]) -> None:
    told = Story()
    for what in story:
        told.turn(what)
    told.end()
    mailbox = now(told.store.sibling().mail.read(told.bob.user, 0, 1000))
    device = told.bob.session.device
    assert device is not None
    expected = [decode(entry.message, type=Message).content for entry in mailbox if entry.origin != device.id]
    seen = told.seen()
    assert list(dict.fromkeys(seen)) == expected
    if not told.fetches:
        assert seen == expected  # nothing is pushed twice
