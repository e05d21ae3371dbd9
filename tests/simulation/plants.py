"""Bugs planted in the real code, each of which the simulation must find; there are no hooks for them in it.

One is a function that breaks something for as long as its patches stand, and says in its docstring what.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from chatsvc.chat import messages
from chatsvc.chat.delivery import Ledger
from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Session
from chatsvc.net.connection import Connection
from chatsvc.net.outbox import Outbox
from chatsvc.store import keys
from chatsvc.store.append import Waiting
from chatsvc.store.channels import Channels
from chatsvc.store.keys import Whose
from chatsvc.store.mail import Published
from chatsvc.tasks import Pending, spawn

#: What stands in for a method of the class, which gives what it does to the original one.
Patch = tuple[Any, str, Callable[[Any], Any]]
PLANTS: dict[str, tuple[str, Callable[[], list[Patch]]]] = {}


def plant(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    """Put a bug among those that can be planted."""
    PLANTS[make.__name__.replace("_", "-")] = (make.__doc__ or "", make)
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have this bug in the code; none for an empty name."""
    patches = PLANTS[name][1]() if name else []
    started = [patch.object(of, what, replace(getattr(of, what))) for of, what, replace in patches]
    for each in started:
        each.start()
    try:
        yield
    finally:
        for each in reversed(started):
            each.stop()


def _instead(function: Any) -> Callable[[Any], Any]:
    return lambda original: function


@plant
def answered_before_it_is_stored() -> list[Patch]:
    """OK is said before the store has answered."""

    def early(original: Any) -> Any:
        def append(*args: Any, **more: Any) -> Pending[None]:
            spawn(_ignored(original(*args, **more)), "storing")
            done: Pending[None] = Pending()
            done.succeed(None)
            return done

        return append

    return [(messages, "_append", early)]


async def _ignored(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:
        return


@plant
def repeats_are_new() -> list[Patch]:
    """What makes two requests one message is not looked at."""
    numbers = count()
    return [(keys, "repeat", _instead(lambda *args: f"new-{next(numbers)}"))]


@plant
def repeats_of_any_sender_and_time() -> list[Patch]:
    """Two messages of different names that go to one user within a short time are taken for one."""
    return [(keys, "repeat", _instead(lambda target, timestamp, name: f"{target}:{name[:-1]}"))]


@plant
def gaps_are_not_noticed() -> list[Patch]:
    """What is published is pushed, whatever came before it."""

    def read(original: Any) -> Any:
        def init(self: Published, data: bytes) -> None:
            original(self, data)
            self.before = 0

        return init

    return [(Published, "__init__", read)]


@plant
def nothing_is_missed() -> list[Patch]:
    """Who subscribes again does not look into the mailbox for what it missed."""
    return [(Hub, "_subscribed", _instead(lambda self, whose: None))]


@plant
def subscribed_when_asked() -> list[Patch]:
    """A device is followed from before its subscription stands."""

    def at_once(original: Any) -> Any:
        async def subscribe(self: Channels, whose: Whose, wait: float) -> None:
            spawn(original(self, whose, wait), "subscribing")

        return subscribe

    return [(Channels, "subscribe", at_once), (Hub, "_subscribed", _instead(lambda self, whose: None))]


@plant
def a_reset_acknowledges() -> list[Patch]:
    """A connection that is cut counts as closed in order, by a peer that had all that was written."""

    def lost(original: Any) -> Any:
        def connection_lost(self: Connection, *args: Any) -> None:
            self.session.peer_closed(self.outbox.written)
            original(self, *args)

        return connection_lost

    return [(Connection, "connectionLost", lost)]


@plant
def what_was_written_arrived() -> list[Patch]:
    """At a close in order, what the peer's system has not acknowledged counts as received."""
    return [(Outbox, "reached_peer", _instead(lambda self: self.offset))]


@plant
def delivered_before_it_is_written() -> list[Patch]:
    """What is queued to a client counts as delivered, and the next request says that it was read."""

    def give(original: Any) -> Any:
        def give_and_count(self: Ledger, *args: Any) -> None:
            original(self, *args)
            self.written(1 << 60, 0.0)

        return give_and_count

    return [(Ledger, "give", give), (Outbox, "reached_peer", _instead(lambda self: self.offset))]


@plant
def acknowledged_in_memory_only() -> list[Patch]:
    """A cursor moves on its node, and not in the store."""
    return [
        (
            Hub,
            "acknowledge",
            _instead(lambda self, device, delivery, position: delivery.acknowledge(position)),
        )
    ]


@plant
def own_messages_come_back() -> list[Patch]:
    """The device that sent a message is pushed it too."""

    def read(original: Any) -> Any:
        def init(self: Published, data: bytes) -> None:
            original(self, data)
            self.origin = ""

        return init

    return [(Session, "_is_own", _instead(lambda self, entry: False)), (Published, "__init__", read)]


@plant
def revocations_are_not_heard() -> list[Patch]:
    """What is published of the end of a binding is not looked at."""
    return [(Hub, "doubt", _instead(lambda self, device: None))]


@plant
def answers_come_in_another_order() -> list[Patch]:
    """Of the answers of one connection that are ready at once, the last one is given first."""

    def answer(original: Any) -> Any:
        def answer_ready(self: Connection) -> None:
            ready = [call for call in self._running if call.answer is not None]
            self._running = ready[::-1] + [call for call in self._running if call.answer is None]
            original(self)

        return answer_ready

    return [(Connection, "_answer", answer)]


@plant
def pushes_come_between_answers() -> list[Patch]:
    """Nothing holds back pushes while a FETCHMSG or a file is being answered."""
    return [(Session, "hold", _instead(lambda self: None)), (Session, "release", _unhold)]


def _unhold(original: Any) -> Any:
    def release(self: Session, position: int = 0) -> None:
        self._holds += 1
        original(self, position)

    return release


@plant
def refusals_are_stored() -> list[Patch]:
    """A sender whose binding has ended is told OK."""

    def settle(original: Any) -> Any:
        return lambda self, result: self.succeed(None)

    return [(Waiting, "settle", settle)]
