"""The subscriptions of one node: a sharded channel for each user who has a device online here.

What was published while a subscription did not stand is lost; who is told that it stands (again) must
look into the mailbox for what it missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from chatsvc.store import keys
from chatsvc.store.link import Link
from chatsvc.tasks import Clock, Pending

log = Logger()

#: Channels in one SSUBSCRIBE when all are made anew.
_CHUNK = 500


class Channels:
    """Which users' channels this node hears."""

    def __init__(
        self,
        clock: Clock,
        endpoint: IStreamClientEndpoint,
        login: tuple[tuple[bytes | str | int, ...], ...] = (),
    ) -> None:
        self._clock = clock
        #: Called with the user and the text of each publication.
        self.on_message: Callable[[int | str, bytes], None] = lambda whose, data: None
        #: Called each time a user's subscription has come to stand.
        self.on_subscribed: Callable[[int | str], None] = lambda whose: None
        self._wanted: dict[int | str, list[Pending[None]] | None] = {}  # who waits for it; None: it stands
        self.link = Link(
            clock, endpoint, login=login, on_push=self._pushed, on_ready=self._resubscribe, name="subscriber"
        )

    async def subscribe(self, whose: int | str, wait: float) -> None:
        """Hear a user's channel; returns when the subscription stands, or after `wait` seconds anyway.

        Whenever it comes to stand later, `on_subscribed` tells.
        """
        if whose not in self._wanted:
            self._wanted[whose] = []
            self.link.tell(b"SSUBSCRIBE", keys.channel(whose))
        waiters = self._wanted[whose]
        if waiters is None:
            return
        stands: Pending[None] = Pending()
        waiters.append(stands)
        timer = self._clock.callLater(wait, stands.succeed, None)
        await stands
        if timer.active():
            timer.cancel()

    def unsubscribe(self, whose: int | str) -> None:
        """Hear a user's channel no more."""
        if whose in self._wanted:
            del self._wanted[whose]
            self.link.tell(b"SUNSUBSCRIBE", keys.channel(whose))

    def _resubscribe(self) -> None:
        for whose, waiters in self._wanted.items():
            if waiters is None:
                self._wanted[whose] = []
        channels = [keys.channel(whose) for whose in self._wanted]
        for start in range(0, len(channels), _CHUNK):
            self.link.tell(b"SSUBSCRIBE", *channels[start : start + _CHUNK])

    def _pushed(self, reply: list[Any]) -> None:
        kind, channel = reply[0], reply[1]
        if kind == b"smessage":
            self.on_message(keys.whose_channel(channel), reply[2])
        elif kind == b"ssubscribe":
            whose = keys.whose_channel(channel)
            if whose in self._wanted:
                # Told each time: the first of two confirmations may be that of a subscription given up.
                waiters, self._wanted[whose] = self._wanted[whose], None
                for stands in waiters or ():
                    stands.succeed(None)
                self.on_subscribed(whose)
