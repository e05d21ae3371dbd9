"""Parts that end in the opposite order, whatever happens in between; and sentences for a failed start."""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from chatsvc.net.listening import CannotListen
from chatsvc.parts import CannotStart, Parts, why_not_started
from chatsvc.store.checks import Unfit
from chatsvc.tasks import Pending, run
from chatsvc.valkey import StoreError


class Life:
    """Three parts that are started one after the other, the second of them in its time."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.ended: list[str] = []
        self.second: Pending[None] = Pending()
        self.failure: Exception | None = None
        self.over = False

    async def begin(self) -> None:
        self.parts.add(lambda: self.ended.append("first"))
        self.parts.add(self.end_second)
        await self.second
        self.parts.add(lambda: self.ended.append("third"))

    async def end_second(self) -> None:
        self.ended.append("second")
        self.second.fail(CannotStart("It was cut short."))

    def start(self) -> None:
        run(self.parts.start(self.begin()), lambda _: None, lambda error: setattr(self, "failure", error))

    def stop(self) -> None:
        run(self.parts.stop(), lambda _: setattr(self, "over", True), lambda _: None)


def test_what_was_started_last_is_stopped_first() -> None:
    life = Life()
    life.start()
    life.second.succeed(None)
    life.stop()
    assert (life.ended, life.over) == (["third", "second", "first"], True)
    life.stop()
    assert life.ended == ["third", "second", "first"]


def test_a_start_is_cut_short() -> None:
    life = Life()
    life.start()
    life.stop()
    assert (life.ended, life.over) == (["second", "first"], True)
    assert isinstance(life.failure, CannotStart)


def test_a_start_that_goes_on_is_waited_for_and_its_parts_end_too() -> None:
    parts, step = Parts(), Pending[None]()
    ended: list[str] = []
    over: list[None] = []

    async def begin() -> None:
        parts.add(lambda: ended.append("first"))
        await step
        parts.add(lambda: ended.append("second"))

    run(parts.start(begin()), lambda _: None, lambda _: None)
    run(parts.stop(), over.append, lambda _: None)
    assert (ended, over) == (["first"], [])
    step.succeed(None)
    assert (ended, over) == (["first", "second"], [None])


def test_a_part_that_cannot_be_stopped_does_not_keep_the_others(no_unhandled_failure: list[LogEvent]) -> None:
    parts = Parts()
    ended: list[str | None] = []

    def broken() -> None:
        raise ValueError("broken")

    parts.add(lambda: ended.append("first"))
    parts.add(broken)
    run(parts.stop(), ended.append, lambda _: None)
    assert ended == ["first", None]
    assert [event["log_failure"].value.args for event in no_unhandled_failure] == [("broken",)]
    no_unhandled_failure.clear()


@pytest.mark.parametrize("kind", [CannotStart, CannotListen, StoreError, Unfit, OSError])
def test_what_was_foreseen_is_told_as_it_is(kind: type[Exception]) -> None:
    assert why_not_started(kind("The disk is full.")) == "The disk is full."


def test_what_was_not_foreseen_is_in_the_log(no_unhandled_failure: list[LogEvent]) -> None:
    assert "the log has the details" in why_not_started(KeyError("x"))
    assert [event["log_failure"].type for event in no_unhandled_failure] == [KeyError]
    no_unhandled_failure.clear()
