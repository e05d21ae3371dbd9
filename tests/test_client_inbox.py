"""How the client library shows a mailbox: in its order, each message once, acknowledged when it was shown.

What random troubles do to that is in ``test_client_whole.py``.
"""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from chatsvc.client import State, TimedOut, inbox
from chatsvc.wire import errors
from chatsvc.wire.frames import RELEASED, frame
from chatsvc.wire.schema import Message, encode, envelope
from tests.client_world import FIXTURES, World, error_of, result_of, texts
from tests.fake_server import BOB, Line, Reply, Seen, message

(world,) = FIXTURES


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
    waits = world.hold()
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
    waits = world.hold()
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


def test_a_callback_that_fails_gets_the_message_again(
    world: World, no_unhandled_failure: list[LogEvent]
) -> None:
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


def test_a_failing_callback_is_given_up_with_its_login(
    world: World, no_unhandled_failure: list[LogEvent]
) -> None:
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
    waits = world.hold()
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
    waits = world.hold()
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
    world.do(world.client.caught_up())
    waits = world.hold()
    world.post(1)
    outcome, hasty = result_of(world.client.caught_up()), result_of(world.client.caught_up(timeout=1))
    world.clock.advance(1)
    assert not outcome
    assert isinstance(error_of(hasty), TimedOut)
    waits[0].callback(None)
    assert outcome == [None]
