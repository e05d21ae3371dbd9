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
        self.on_message: Callable[[int, bytes], None] = lambda user_id, data: None
        #: Called each time a user's subscription has come to stand.
        self.on_subscribed: Callable[[int], None] = lambda user_id: None
        self._wanted: dict[int, list[Pending[None]] | None] = {}  # who waits for it; None: it stands
        self.link = Link(
            clock, endpoint, login=login, on_push=self._pushed, on_ready=self._resubscribe, name="subscriber"
        )

    async def subscribe(self, user_id: int, wait: float) -> None:
        """Hear a user's channel; returns when the subscription stands, or after `wait` seconds anyway.

        Whenever it comes to stand later, `on_subscribed` tells.
        """
        if user_id not in self._wanted:
            self._wanted[user_id] = []
            self.link.tell(b"SSUBSCRIBE", keys.user(user_id))
        waiters = self._wanted[user_id]
        if waiters is None:
            return
        stands: Pending[None] = Pending()
        waiters.append(stands)
        timer = self._clock.callLater(wait, stands.succeed, None)
        await stands
        if timer.active():
            timer.cancel()

    def unsubscribe(self, user_id: int) -> None:
        """Hear a user's channel no more."""
        if user_id in self._wanted:
            del self._wanted[user_id]
            self.link.tell(b"SUNSUBSCRIBE", keys.user(user_id))

    def _resubscribe(self) -> None:
        for user_id, waiters in self._wanted.items():
            if waiters is None:
                self._wanted[user_id] = []
        channels = [keys.user(user_id) for user_id in self._wanted]
        for start in range(0, len(channels), _CHUNK):
            self.link.tell(b"SSUBSCRIBE", *channels[start : start + _CHUNK])

    def _pushed(self, reply: list[Any]) -> None:
        kind, channel = reply[0], reply[1]
        if kind == b"smessage":
            self.on_message(keys.user_of_channel(channel), reply[2])
        elif kind == b"ssubscribe":
            user_id = keys.user_of_channel(channel)
            if user_id in self._wanted:
                # Told each time: the first of two confirmations may be that of a subscription given up.
                waiters, self._wanted[user_id] = self._wanted[user_id], None
                for stands in waiters or ():
                    stands.succeed(None)
                self.on_subscribed(user_id)
