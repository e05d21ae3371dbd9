"""Coroutines without Deferreds: values that come later, the driver, and that no failure is lost.

No reactor runs here: whoever waits is woken by hand.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure

from chatsvc.tasks import Pending, Turn, as_failure, deferred, gather, run, spawn, started


class Outcomes(list[tuple[str, Any]]):
    """What `run` called back with, results and errors told apart."""

    def of(self, work: Coroutine[Any, Any, Any]) -> Outcomes:
        run(work, lambda result: self.append(("result", result)), lambda error: self.append(("error", error)))
        return self


async def once(awaitable: Any) -> object:
    return await awaitable


async def guarded(awaitable: Any) -> object:
    """The value of `awaitable`; a failure as the coroutine itself catches it."""
    try:
        return await awaitable
    except ValueError as error:
        return "caught", error


async def at_once(value: object) -> object:
    return value


async def failing(error: BaseException) -> None:
    raise error


# -- Pending ---------------------------------------------------------------------------------------


def test_a_pending_value_may_come_before_or_after_it_is_awaited() -> None:
    early: Pending[int] = Pending()
    early.succeed(1)
    assert Outcomes().of(once(early)) == [("result", 1)]
    late: Pending[int] = Pending()
    outcomes = Outcomes().of(once(late))
    assert outcomes == []
    late.succeed(2)
    assert outcomes == [("result", 2)]


def test_a_pending_failure_is_raised_where_it_is_awaited() -> None:
    error = ValueError("no")
    early: Pending[int] = Pending()
    early.fail(error)
    late: Pending[int] = Pending()
    outcomes = Outcomes().of(guarded(early)).of(guarded(late))
    late.fail(error)
    assert outcomes == [("result", ("caught", error))] * 2


def test_only_the_first_outcome_of_a_pending_counts() -> None:
    first, later = ValueError("first"), ValueError("later")
    pending: Pending[int] = Pending()
    outcomes = Outcomes().of(once(pending))
    pending.succeed(1)
    pending.succeed(2)
    pending.fail(later)
    assert outcomes.of(once(pending)) == [("result", 1)] * 2
    failed: Pending[int] = Pending()
    failed.fail(first)
    failed.succeed(3)
    failed.fail(later)
    assert Outcomes().of(once(failed)) == [("error", first)]


def test_a_pending_says_that_it_is_done_before_it_wakes_its_waiter() -> None:
    pending: Pending[None] = Pending()
    seen = [pending.done]
    pending.when_done(lambda: seen.append(pending.done))
    pending.succeed(None)
    assert seen == [False, True]


# -- run -------------------------------------------------------------------------------------------


def test_run_tells_results_from_errors() -> None:
    error = ValueError()
    assert Outcomes().of(at_once(error)).of(failing(error)) == [("result", error), ("error", error)]


def fired(outcome: Any) -> tuple[Any, Callable[[], None]]:
    """Something to await that has `outcome` already, and nothing left to do for it."""
    return (fail(outcome) if isinstance(outcome, Exception) else succeed(outcome)), lambda: None


def waiting(outcome: Any) -> tuple[Any, Callable[[], None]]:
    """A Deferred, and what brings it to `outcome`."""
    result: Deferred[Any] = Deferred()
    return (
        result,
        lambda: result.errback(outcome) if isinstance(outcome, Exception) else result.callback(outcome),
    )


def chained(outcome: Any) -> tuple[Any, Callable[[], None]]:
    """A Deferred that has fired, but waits for another one."""
    inner, finish = waiting(outcome)
    return succeed(None).addCallback(lambda _: inner), finish


def pending(outcome: Any) -> tuple[Any, Callable[[], None]]:
    """A Pending, and what brings it to `outcome`."""
    result: Pending[Any] = Pending()
    return result, lambda: result.fail(outcome) if isinstance(outcome, Exception) else result.succeed(outcome)


EACH_AWAITABLE = pytest.mark.parametrize("make", [fired, waiting, chained, pending])


@EACH_AWAITABLE
@pytest.mark.parametrize("outcome", [7, None, ValueError("caught"), KeyError("not caught")], ids=repr)
def test_run_awaits_deferreds_and_pendings_alike(make: Any, outcome: Any) -> None:
    awaitable, finish = make(outcome)
    outcomes = Outcomes().of(guarded(awaitable))
    finish()
    if isinstance(outcome, ValueError):
        assert outcomes == [("result", ("caught", outcome))]
    else:
        assert outcomes == [("error" if isinstance(outcome, KeyError) else "result", outcome)]


def test_run_goes_on_through_one_await_after_another() -> None:
    steps = [make(value) for value, make in enumerate([waiting, fired, pending, chained, waiting, pending])]

    async def through() -> list[object]:
        inner = await gather([once(steps[0][0]), at_once("x")])
        return [inner, *[await guarded(awaitable) for awaitable, _ in steps[1:]]]

    outcomes = Outcomes().of(through())
    for _, finish in reversed(steps):
        assert outcomes == []
        finish()
    assert outcomes == [("result", [[0, "x"], 1, 2, 3, 4, 5])]


@EACH_AWAITABLE
def test_awaiting_without_end_needs_no_stack(make: Any) -> None:
    async def through() -> int:
        total = 0
        for _ in range(10_000):
            awaitable, finish = make(1)
            finish()
            total += await awaitable
        return total

    assert Outcomes().of(through()) == [("result", 10_000)]


def test_a_deferred_that_was_awaited_keeps_its_value() -> None:
    awaitable, finish = waiting("value")
    outcomes = Outcomes().of(once(awaitable))
    seen: list[object] = []
    awaitable.addCallback(seen.append)
    finish()
    assert (outcomes, seen) == ([("result", "value")], ["value"])


def test_a_deferred_that_is_cancelled_ends_the_wait() -> None:
    awaitable: Deferred[None] = Deferred()
    outcomes = Outcomes().of(once(awaitable))
    awaitable.cancel()
    ((kind, error),) = outcomes
    assert kind == "error"
    assert isinstance(error, CancelledError)


def test_what_is_no_error_of_a_program_is_not_held_up() -> None:
    with pytest.raises(SystemExit):
        Outcomes().of(failing(SystemExit(1)))


# -- spawn, deferred, gather -----------------------------------------------------------------------


@EACH_AWAITABLE
def test_spawn_logs_a_failure_with_what_was_tried(make: Any, no_unhandled_failure: list[LogEvent]) -> None:
    error = ValueError("told")
    awaitable, finish = make(error)
    spawn(once(awaitable), "feeding the cat")
    finish()
    (event,) = no_unhandled_failure
    assert event["log_level"] is LogLevel.critical
    assert event["log_format"].format(**event) == "feeding the cat failed"
    assert event["log_failure"].value is error
    no_unhandled_failure.clear()


def test_spawn_logs_nothing_else(no_unhandled_failure: list[LogEvent]) -> None:
    awaitable, finish = waiting(1)
    spawn(once(awaitable), "feeding the cat")
    spawn(guarded(fail(ValueError())), "feeding the dog")
    finish()
    gc.collect()
    assert no_unhandled_failure == []


@EACH_AWAITABLE
def test_a_coroutine_as_a_deferred(make: Any) -> None:
    error = ValueError("no")
    outcomes: list[object] = []
    for outcome in (7, error):
        awaitable, finish = make(outcome)
        deferred(once(awaitable)).addBoth(outcomes.append)
        finish()
    value, failure = outcomes
    assert value == 7
    assert isinstance(failure, Failure)
    assert failure.value is error


def test_a_failure_in_a_deferred_that_nobody_heard_of_is_logged(no_unhandled_failure: list[LogEvent]) -> None:
    deferred(failing(ValueError("unheard")))
    gc.collect()
    failures = [event["log_failure"] for event in no_unhandled_failure if "log_failure" in event]
    assert [failure.getErrorMessage() for failure in failures] == ["unheard"]
    no_unhandled_failure.clear()


def test_a_deferred_that_was_given_up_may_still_finish() -> None:
    awaitable, finish = waiting(7)
    outcomes: list[Any] = []
    result = deferred(once(awaitable))
    result.addBoth(outcomes.append)
    result.cancel()
    finish()
    (failure,) = outcomes
    assert failure.check(CancelledError)


def test_a_failure_keeps_where_it_came_from() -> None:
    (outcome,) = Outcomes().of(failing(ValueError("here")))
    failure = as_failure(outcome[1])
    assert "in failing" in failure.getTraceback()


def test_gather_gives_all_results_in_the_order_of_the_works() -> None:
    assert Outcomes().of(gather([])) == [("result", [])]
    assert Outcomes().of(gather(at_once(n) for n in range(3))) == [("result", [0, 1, 2])]
    made = [make(n) for n, make in enumerate([pending, waiting, fired, chained])]
    outcomes = Outcomes().of(gather([once(awaitable) for awaitable, _ in made]))
    for _, finish in reversed(made):
        assert outcomes == []
        finish()
    assert outcomes == [("result", [0, 1, 2, 3])]


def test_gather_raises_the_first_failure_once_all_have_ended() -> None:
    first, second = ValueError("first"), ValueError("second")
    late, finish_late = pending(second)
    early, finish_early = waiting(first)
    good, finish_good = waiting(1)
    outcomes = Outcomes().of(gather([once(late), once(early), once(good)]))
    for finish in (finish_early, finish_late, finish_good):
        assert outcomes == []
        finish()
    assert outcomes == [("error", first)]


# -- Turns -----------------------------------------------------------------------------------------


def test_what_has_gathered_is_done_at_the_end_of_the_turn_in_order() -> None:
    clock: Any = Clock()
    done = list[str]()
    turn = Turn(clock)

    def first() -> None:
        done.append("first")
        turn.at_end(lambda: done.append("asked for meanwhile"))

    turn.at_end(first)
    turn.at_end(lambda: done.append("second"))
    assert done == []
    clock.advance(0)
    assert done == ["first", "second", "asked for meanwhile"]
    turn.at_end(lambda: done.append("the next turn"))
    clock.advance(0)
    assert done[3:] == ["the next turn"]
    assert clock.getDelayedCalls() == []


def test_a_failure_at_the_end_of_a_turn_is_logged_and_stops_nothing(
    no_unhandled_failure: list[LogEvent],
) -> None:
    clock: Any = Clock()
    done = list[str]()
    turn = Turn(clock)
    turn.at_end(lambda: run(failing(ValueError("a bug")), lambda _: None, _raise))
    turn.at_end(lambda: done.append("all the same"))
    clock.advance(0)
    assert done == ["all the same"]
    assert [event["log_failure"].getErrorMessage() for event in no_unhandled_failure] == ["a bug"]
    no_unhandled_failure.clear()


def _raise(error: Exception) -> None:
    raise error


def test_what_was_started_ends_as_its_coroutine_does() -> None:
    asked: Pending[int] = Pending()
    outcome = started(once(asked))
    assert not outcome.done
    asked.succeed(3)
    assert outcome.result() == 3
    with pytest.raises(ValueError, match="no"):
        started(failing(ValueError("no"))).result()
