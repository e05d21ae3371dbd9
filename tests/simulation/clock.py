"""Time that passes when nothing is left to do at this moment, and in which a node's part can end.

Who waits for what is not known here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Timer:
    """A call that is due some time; what `callLater` gives."""

    __slots__ = ("_args", "_function", "_life", "time")

    def __init__(
        self, time: float, function: Callable[..., object], args: tuple[object, ...], life: Life
    ) -> None:
        self.time = time
        self._function: Callable[..., object] | None = function
        self._args = args
        self._life = life

    def active(self) -> bool:
        """Whether it is still to come."""
        return self._function is not None

    def cancel(self) -> None:
        """Let it never come."""
        self._function = None

    def run(self) -> None:
        """It is due."""
        if self._life.over:
            self._life.left.append(self)
            return
        function, self._function = self._function, None
        if function is not None:
            function(*self._args)


class Life:
    """What a timer belongs to: when that is over, the timer does nothing."""

    def __init__(self) -> None:
        self.over = False
        #: What was due after that: kept, lest Python tidies up what was cut short whenever it comes to it.
        self.left: list[Timer] = []


class SimClock:
    """A clock in the manner of `twisted.internet.task.Clock`, but one that a thousand timers do not slow.

    What is due at the same moment happens in the order in which it was asked for.
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self._life = Life()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def seconds(self) -> float:
        """Now."""
        return self.now

    def callLater(self, delay: float, function: Callable[..., object], *args: object) -> Timer:  # noqa: N802
        """Call `function` in `delay` seconds."""
        return self.at(self.now + delay, function, args, self._life)

    def at(self, time: float, function: Callable[..., object], args: tuple[object, ...], life: Life) -> Timer:
        """Call `function` at a time, unless the life to which that belongs is over then."""
        timer = Timer(time, function, args, life)
        heapq.heappush(self._timers, (time, next(self._numbers), timer))
        return timer

    def run_until(self, time: float, *, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until then, or until `done` holds; gives whether it did."""
        timers = self._timers
        while not done():
            if not timers or timers[0][0] > time:
                self.now = time
                return done()
            self.now, _, timer = heapq.heappop(timers)
            timer.run()
        return True


class NodeClock:
    """The clock as one run of a node has it: when the node is killed, nothing is due there any more."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self.life = Life()

    def seconds(self) -> float:
        """Now."""
        return self._clock.now

    def callLater(self, delay: float, function: Callable[..., object], *args: object) -> Timer:  # noqa: N802
        """Call `function` in `delay` seconds, if the node still runs then."""
        return self._clock.at(self._clock.now + delay, function, args, self.life)


class Line:
    """A way on which things take their time, but never overtake each other."""

    def __init__(self, clock: SimClock, life: Life) -> None:
        self._clock = clock
        self._life = life
        self._last = 0.0

    def later(self, delay: float, function: Callable[..., Any], *args: object) -> None:
        """Call `function` after a delay, and after all that was put on the line before."""
        self._last = max(self._last, self._clock.now + delay)
        self._clock.at(self._last, function, args, self._life)
