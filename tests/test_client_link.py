"""How the client library connects again and again, and stops: pauses, deadlines, what waits then.

What passes over one connection is in ``test_client_connection.py``.
"""

from __future__ import annotations

import io
import random
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from chatsvc.client import NotConnected, State, TimedOut
from chatsvc.wire.frames import RELEASED, frame
from chatsvc.wire.schema import encode, envelope
from tests.client_world import FIXTURES, World, error_of, result_of, texts
from tests.fake_server import ME, message

(world,) = FIXTURES


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


def test_a_program_whose_state_callback_fails_goes_on(no_unhandled_failure: list[LogEvent]) -> None:
    def broken(state: State) -> None:
        raise KeyError(state)

    world = World(on_state=broken).start()
    assert world.state() is State.LOGGED_IN
    world.stop()
    assert len(no_unhandled_failure) == 2
    no_unhandled_failure.clear()
