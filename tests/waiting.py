"""Waiting with a deadline, on the installed reactor.

A test that drives a child process in blocking code waits with `tests.service.wait_for`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from chatsvc.tasks import deferred

reactor: Any = installed_reactor  # to a type checker it is a module
T = TypeVar("T")
#: How long anything may take, in seconds.
DEADLINE = 20.0


def within(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Start `work`, and fail if it takes too long."""
    return deferred(work).addTimeout(DEADLINE, reactor)


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds, and fail if that takes too long."""
    end = reactor.seconds() + DEADLINE
    while not condition():
        assert reactor.seconds() < end, "the condition did not come true in time"
        await deferLater(reactor, 0.005)
