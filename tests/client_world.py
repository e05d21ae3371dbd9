"""A client of the library with its server in memory, and a look at what its coroutines come to.

The server is in `tests.fake_server`. A test module takes `FIXTURES` for its own.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chatsvc.client import Client, State
from chatsvc.wire.schema import Message
from tests.fake_server import FakeReactor, Line, Server, message

T = TypeVar("T")


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

    def start(self) -> Self:
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

    def hold(self) -> list[Deferred[None]]:
        """From now on a message is done with when its Deferred has fired, which is added to the result."""
        waits: list[Deferred[None]] = []

        def show(message: Message) -> Deferred[None]:
            self.shown.append(message.content)
            waits.append(Deferred())
            return waits[-1]

        self.client._on_message = show
        return waits

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


FIXTURES = (world,)
