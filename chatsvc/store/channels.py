"""The subscriptions of one node: a sharded channel for each user, device or presence of which it must hear.

What was published while a subscription did not stand is lost; who is told that it stands (again) must
look into the mailbox for what it missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from chatsvc.store import keys
from chatsvc.store.keys import Whose
from chatsvc.store.link import Link
from chatsvc.tasks import Clock, Pending

log = Logger()


class Subscribers(Protocol):
    """The links that carry subscriptions: one, or one to each primary of a cluster."""

    def of(self, key: bytes) -> Link | None:
        """The link to whoever serves this channel, as far as is known."""

    def outdated(self) -> None:
        """Something is not where it was: `Channels.look` is to be called when it is known where it is."""


class _Subscription:
    __slots__ = ("link", "stands", "waiters")

    def __init__(self) -> None:
        #: Where it was asked for.
        self.link: Link | None = None
        self.stands = False
        self.waiters: list[Pending[None]] = []


class Channels:
    """Which channels this node hears."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Where to subscribe; to be set before the first subscription.
        self.links: Subscribers
        #: Called with the text of each publication.
        self.on_message: Callable[[Whose, bytes], None] = lambda whose, data: None
        #: Called each time a subscription has come to stand.
        self.on_subscribed: Callable[[Whose], None] = lambda whose: None
        self._wanted: dict[Whose, _Subscription] = {}

    async def subscribe(self, whose: Whose, wait: float) -> None:
        """Hear a channel; returns when the subscription stands, or after `wait` seconds anyway.

        Whenever it comes to stand later, `on_subscribed` tells.
        """
        subscription = self._wanted.get(whose)
        if subscription is None:
            subscription = self._wanted[whose] = _Subscription()
            self._ask(whose, subscription)
        if subscription.stands:
            return
        stands: Pending[None] = Pending()
        subscription.waiters.append(stands)
        timer = self._clock.callLater(wait, stands.succeed, None)
        await stands
        if timer.active():
            timer.cancel()

    def unsubscribe(self, whose: Whose) -> None:
        """Hear a channel no more."""
        subscription = self._wanted.pop(whose, None)
        if subscription is not None and subscription.link is not None:
            subscription.link.tell(b"SUNSUBSCRIBE", keys.channel(whose))

    def _ask(self, whose: Whose, subscription: _Subscription) -> None:
        channel = keys.channel(whose)
        link = self.links.of(channel)
        if subscription.link not in (None, link):
            subscription.link.tell(b"SUNSUBSCRIBE", channel)
        subscription.stands, subscription.link = False, link
        if link is not None:
            link.tell(b"SSUBSCRIBE", channel)

    # What the links tell.

    def ready(self, link: Link) -> None:
        """A link has a connection (again): nothing stands there yet."""
        for whose, subscription in self._wanted.items():
            if subscription.link in (None, link):
                self._ask(whose, subscription)

    def look(self) -> None:
        """Who serves which channel was looked up: subscribe where something is not where it was."""
        for whose, subscription in self._wanted.items():
            if not subscription.stands or self.links.of(keys.channel(whose)) is not subscription.link:
                self._ask(whose, subscription)

    def pushed(self, link: Link, reply: Any) -> None:
        """A link's store has something to say."""
        if isinstance(reply, Exception):
            # It does not say which channel; the connection's end, or the look, brings them all back.
            if str(reply).startswith("MOVED"):
                self.links.outdated()
            else:
                link.cut(f"it refuses a subscription: {reply}")
            return
        kind, channel = reply[0], reply[1]
        whose = keys.whose_channel(channel)
        subscription = self._wanted.get(whose)
        if kind == b"smessage":
            self.on_message(whose, reply[2])
        elif subscription is None or subscription.link is not link:
            return
        elif kind == b"ssubscribe":
            # Told each time: the first of two confirmations may be that of a subscription given up.
            subscription.stands = True
            waiters, subscription.waiters = subscription.waiters, []
            for stands in waiters:
                stands.succeed(None)
            self.on_subscribed(whose)
        elif subscription.stands:  # its slot has left that node
            subscription.stands = False
            self.links.outdated()
