"""Running coroutines without a Deferred each, and never losing a failure.

`Pending` is a value that comes later; `run` drives a coroutine that awaits such values, or Deferreds,
and calls back with its outcome. The path of a message crosses here once, so what a Deferred costs (ten
times as much, see ``docs/adr/0003-coroutines.md``) is paid only at the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")
log = Logger()


class Clock(Protocol):
    """What we need of a reactor to know the time; `twisted.internet.task.Clock` in tests."""

    def seconds(self) -> float:
        """Now, in seconds since some moment."""

    def callLater(self, delay: float, function: Callable[..., object], *args: object) -> Any:  # noqa: N802
        """Call `function` in `delay` seconds; the result can be cancelled."""


class Pending(Generic[T]):
    """A result that comes later, for exactly one waiter."""

    __slots__ = ("_error", "_resume", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._resume: Callable[[], None] | None = None

    def succeed(self, value: T) -> None:
        """Give the waiter its result; later outcomes are ignored."""
        self._finish(value, None)

    def fail(self, error: BaseException) -> None:
        """Raise `error` where it is awaited; later outcomes are ignored."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: BaseException | None) -> None:
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def when_done(self, resume: Callable[[], None]) -> None:
        """Call `resume` at the outcome, which is still to come."""
        self._resume = resume

    def result(self) -> T:
        """The outcome, which has come."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.done:
            yield self
        return self.result()


class _Run(Generic[T]):
    """A coroutine under way. A class rather than closures: those would refer to themselves, and each
    request would leave garbage that only the cycle collector can take away."""

    __slots__ = ("_on_error", "_on_result", "_work")

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        on_result: Callable[[T], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._work = work
        self._on_result = on_result
        self._on_error = on_error

    def step(self, error: BaseException | None = None) -> None:
        """Go on until the coroutine awaits something, or ends."""
        try:
            awaited = self._work.send(None) if error is None else self._work.throw(error)
        except StopIteration as stop:
            self._on_result(stop.value)
        except Exception as raised:
            self._on_error(raised)
        else:
            if isinstance(awaited, Pending):
                awaited.when_done(self.step)
            else:
                awaited.addCallbacks(self._arrived, self._failed)

    def _arrived(self, result: Any) -> Any:
        self.step()  # the coroutine takes the result from the Deferred itself
        return result

    def _failed(self, failure: Failure) -> None:
        self.step(failure.value)


def run(
    work: Coroutine[Any, Any, T],
    on_result: Callable[[T], None],
    on_error: Callable[[Exception], None],
) -> None:
    """Drive `work` to its end; one of the two callbacks hears the outcome, possibly before this returns."""
    _Run(work, on_result, on_error).step()


def as_failure(error: BaseException) -> Failure:
    """`error` as Twisted's logging and Deferreds want it."""
    return Failure(error)  # type: ignore[no-untyped-call]


def spawn(work: Coroutine[Any, Any, Any], what: str) -> None:
    """Run `work` on its own; a failure is logged with `what` was tried."""

    def failed(error: Exception) -> None:
        log.failure("{what} failed", failure=as_failure(error), what=what)

    run(work, lambda _: None, failed)


class Turn:
    """What is to be done once at the end of the reactor's turn, when all that had arrived was looked at.

    Messages gather meanwhile, and go on together: to the store in one call, to a peer in one write. What a
    turn costs by itself (system calls, mostly) is then paid once, however many messages it had.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[Callable[[], None]] = []

    def at_end(self, function: Callable[[], None]) -> None:
        """Call `function` at the end of this turn; what it asks for itself is done in the same turn."""
        if not self._due:
            self._clock.callLater(0, self._end)
        self._due.append(function)

    def _end(self) -> None:
        for function in self._due:  # which may grow meanwhile
            try:
                function()
            except Exception:
                log.failure("The end of a turn failed")
        self._due.clear()


async def pause(clock: Clock, seconds: float) -> None:
    """Return after a while."""
    over: Pending[None] = Pending()
    clock.callLater(seconds, over.succeed, None)
    await over


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, which run side by side; once all have ended, the first failure is raised."""
    started = list(works)
    results: list[Any] = [None] * len(started)
    errors: list[Exception] = []
    all_done: Pending[None] = Pending()
    left = len(started)

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            all_done.succeed(None)

    def start(index: int, work: Coroutine[Any, Any, T]) -> None:
        def on_result(result: T) -> None:
            results[index] = result
            ended()

        def on_error(error: Exception) -> None:
            errors.append(error)
            ended()

        run(work, on_result, on_error)

    for index, work in enumerate(started):
        start(index, work)
    if started:
        await all_done
    if errors:
        raise errors[0]
    return results


def started(work: Coroutine[Any, Any, T]) -> Pending[T]:
    """The outcome of `work`, which runs on its own from now on."""
    outcome: Pending[T] = Pending()
    run(work, outcome.succeed, outcome.fail)
    return outcome


def deferred(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """`work` as a Deferred, for Twisted's side of an edge."""
    result: Deferred[T] = Deferred()
    run(work, result.callback, lambda error: result.errback(as_failure(error)))
    return result
