"""FETCHMSG and ACKFETCH on small pages and answers, beside the model of `tests/model.py`.

How the same looks on the wire is tested in `tests/test_protocol_receiving.py` and
`tests/test_protocol_acknowledging.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from chatsvc.chat import messages
from chatsvc.wire import errors
from chatsvc.wire.frames import RELEASED, SEED, Dialect
from chatsvc.wire.schema import encode
from tests.fake_store import FakeStore, Scene
from tests.fakes import Node
from tests.model import Device, Entry, Inbox, User, for_reader

#: Small, so that a few messages are many answers.
ANSWER_MESSAGES, ANSWER_BYTES, INLINE = 4, 1500, 300


@pytest.fixture(scope="module", autouse=True)
def _small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "_PAGE", 3)
        yield


class Reading:
    """Bob's device, to which nothing is pushed, and the model of what it must get."""

    def __init__(self, dialect: Dialect) -> None:
        clock = Clock()
        store = FakeStore(clock)
        limits = {"answer_messages": ANSWER_MESSAGES, "answer_bytes": ANSWER_BYTES, "inline_content": INLINE}
        node = Node(clock, store, **limits, send_buffer=ANSWER_BYTES)
        self.alice, self.bob = node.user("alice", SEED), node.user("bob", dialect)
        self.bob.ask_all("ACKFETCH", {"timestamp": 0})  # from here on nothing is acknowledged unasked
        store.channels.deaf = True
        self.user = User(self.bob.user, "bob", "secret")
        self.device = Device()
        self.inbox = Inbox(self.device, self.user)
        self.limit_end = 0

    @property
    def cursor(self) -> int:
        """How much of the mailbox is acknowledged."""
        [cursor] = self.inbox.cursors
        return cursor

    def write(self, *, own: bool, size: int, timestamp: int) -> None:
        """A message comes into the mailbox; `own` says that this device sends it."""
        content = f"{len(self.user.mailbox)}:".ljust(size, "x")
        sender, target = (self.bob, self.alice.user) if own else (self.alice, self.bob.user)
        sender.send(target, content, timestamp=timestamp, md5encoded=content[:8])
        message = {"content": content, "timestamp": timestamp}
        self.user.mailbox.append(Entry(message, self.device if own else None))

    def fetch(self, limit: int | None) -> None:
        """The answers must hold what the model says, and be neither too large nor needlessly small."""
        start = self.cursor if limit is None else max(self.cursor, self.limit_end)
        places = self.inbox.foreign(start)
        answers = [frame.body for frame in self.bob.ask_all("FETCHMSG", {"limit": limit})]
        for answer in answers:
            shown, places = places[: len(answer["messages"])], places[len(answer["messages"]) :]
            assert [message["content"] for message in reversed(answer["messages"])] == [
                for_reader(self.user.mailbox[place].message["content"], self.bob.outlet.dialect.name)
                for place in shown
            ]
            assert answer["more"] == bool(places)
            assert len(shown) <= min(ANSWER_MESSAGES, limit or ANSWER_MESSAGES)
            assert len(shown) <= 1 or size_of(answer) <= ANSWER_BYTES
            end = shown[-1] + 1 if places else len(self.user.mailbox)
            self.inbox.deliver(start, end, answer["messages"][0]["timestamp"] if shown else None)
            start = end
        for answer, following in pairwise(answers):
            with_one_more = size_of(answer) + len(encode(following["messages"][-1]))
            assert len(answer["messages"]) == ANSWER_MESSAGES or with_one_more > ANSWER_BYTES - 128
        if limit is None:
            assert not places
        else:
            assert len(answers) == 1
        self.limit_end = 0 if limit is None else start

    def acknowledge(self, timestamp: int) -> None:
        """ACKFETCH."""
        assert self.bob.ask_all("ACKFETCH", {"timestamp": timestamp}) == []
        self.inbox.acknowledge_time(timestamp)


def size_of(answer: Any) -> int:
    """Bytes of an answer's JSON."""
    return len(encode({"response": "FETCHMSG", "status": "OK", "info": None, "body": answer}))


times = st.integers(0, 9)
sizes = st.sampled_from([1, 150, INLINE, INLINE + 1, ANSWER_BYTES])
writing = st.tuples(st.just("write"), st.booleans(), sizes, st.lists(times, min_size=1, max_size=6))
fetching = st.tuples(st.just("fetch"), st.none() | st.integers(1, ANSWER_MESSAGES + 1))
acknowledging = st.tuples(st.just("acknowledge"), st.integers(-1, 10))
stories = st.lists(writing | fetching | acknowledging, max_size=20)


@given(stories, st.sampled_from([RELEASED, SEED]))
@example([("write", False, 1, [3, 1, 7]), ("fetch", None), ("acknowledge", 5)], SEED)
@example([("write", False, 1, [3, 1]), ("fetch", 1), ("acknowledge", 1)], SEED)
@example([("write", False, 1, [1, 2, 3, 4, 5]), ("fetch", ANSWER_MESSAGES + 1)], SEED)
@settings(max_examples=200)
def test_a_device_gets_what_the_model_says(story: list[Any], dialect: Dialect) -> None:
    reading = Reading(dialect)
    for what in [*story, ("fetch", None)]:
        match what:
            case ("write", own, size, timestamps):
                for timestamp in timestamps:
                    reading.write(own=own, size=size, timestamp=timestamp)
            case ("fetch", limit):
                reading.fetch(limit)
            case ("acknowledge", timestamp):
                reading.acknowledge(timestamp)
    reading.fetch(None)


def test_what_is_pushed_follows_on_an_answer_that_own_messages_end() -> None:
    scene = Scene()
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": 0}) == []
    scene.write("one")
    scene.bob.contents()
    scene.bob.send(scene.alice.user, "own")
    assert scene.bob.fetch() == ["one"]
    scene.alice.send(scene.bob.user, "two", timestamp=1)
    scene.bob.flush()
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": 1}) == []
    assert scene.node.client(SEED, scene.bob.token).fetch() == []


def test_a_fetch_whose_binding_ends_leaves_no_place_to_go_on_from() -> None:
    scene = Scene()
    scene.write("one", "two")
    scene.bob.contents()
    scene.store.gate.hold("read_for reply")
    fetching = scene.bob.start("FETCHMSG", {"limit": 1})
    other = scene.node.client(SEED, scene.bob.token)
    assert other.ask("LOGIN", {"username": "alice", "passwd": "secret"}).ok
    scene.store.gate.release("read_for reply")
    fetching.result()
    [answer] = scene.bob.answers()
    assert answer.info == errors.NOT_LOGGED_IN
    answer = scene.bob.ask("FETCHMSG", {"limit": 1})
    assert [message["content"] for message in answer.body["messages"]] == ["one"]
