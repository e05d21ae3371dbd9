"""Ends a server at a certain step of its first SENDMSG, as a crash there would.

`python -m tests.chaos.steps NUMBER BUG ...` runs twistd with the other arguments, and with a bug if it is not
empty; the product knows nothing of it. Bugs are in `tests/chaos/plants.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from chatsvc import tasks
from chatsvc.net import connection
from tests import launch
from tests.chaos.plants import PLANTS


def command(number: int, bug: str | None) -> tuple[str, ...]:
    """What runs a server that ends before that step, for `tests.service.Service`."""
    return sys.executable, "-m", "tests.chaos.steps", str(number), bug or "", "-n", "--pidfile="


class _Steps:
    """Counts what is done from a SENDMSG's arrival on: coroutines that go on, and ends of turns."""

    def __init__(self, last: int) -> None:
        self._left = last
        self._counts = False

    def next(self) -> None:
        """One more is about to be done."""
        self._left -= self._counts
        if not self._left:
            os._exit(9)

    def begin(self, call: Any) -> None:
        """A request is about to be looked at."""
        self._counts |= call.kind == "SENDMSG"


def _end_at(number: int) -> None:
    steps = _Steps(number)
    step, at_end = tasks._Run.step, tasks.Turn.at_end

    def counted_step(self: tasks._Run[Any], error: BaseException | None = None) -> None:
        steps.next()
        step(self, error)

    def counted_end(self: tasks.Turn, function: Callable[[], None]) -> None:
        def counted() -> None:
            steps.next()
            function()

        at_end(self, counted)

    def seen(original: Callable[..., Any]) -> Callable[..., Any]:
        def look(call: Any) -> Any:
            steps.begin(call)
            return original(call)

        return look

    tasks._Run.step = counted_step  # type: ignore[method-assign]
    tasks.Turn.at_end = counted_end  # type: ignore[method-assign]
    for name in ("begin", "perform"):
        setattr(connection, name, seen(getattr(connection, name)))


if __name__ == "__main__":
    _end_at(int(sys.argv.pop(1)))
    if bug := sys.argv.pop(1):
        PLANTS[bug]()
    launch.main()
