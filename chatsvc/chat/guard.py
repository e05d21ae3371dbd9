"""Who may ask how much of this node: the rules about addresses, accounts and users, and their buckets.

How a bucket fills is in ``chatsvc/rates.py``; what is admitted is carried out by the runner and the handlers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from hashlib import sha256
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chatsvc.passwords import Turn
from chatsvc.rates import Buckets, neighbourhood
from chatsvc.stats import Limited
from chatsvc.wire import errors
from chatsvc.wire.errors import Refusal, Violation
from chatsvc.wire.limits import Rate

if TYPE_CHECKING:
    from chatsvc.chat.hub import Hub
    from chatsvc.chat.session import Device, Session

log = Logger()

#: Different tokens that are not known, on one connection; one more is a violation.
UNKNOWN_TOKENS = 8
#: How often it is logged that the same one is over the same limit.
_TOLD_RATE = Rate(1, 1 / 60)
#: For how long somebody who was written to is no stranger: a day.
_MEETING_RATE = Rate(1, 1 / 86_400)


class Attempt:
    """Something that was counted beforehand; it is given back at the end, unless it `counts`.

    Beforehand, as of a thousand attempts at once none would have failed yet.
    """

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken: list[tuple[Buckets, Hashable]] = []

    def took(self, buckets: Buckets, key: Hashable) -> None:
        """This is to be given back."""
        self._taken.append((buckets, key))

    def counts(self) -> None:
        """It was what the limit is about: nothing is given back."""
        self._taken.clear()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        for buckets, key in self._taken:
            buckets.give_back(key)


class Guard:
    """The limits of one node on what is asked (``docs/protocol.md`` section 2), in memory of its own.

    A connection without an address, as over a UNIX socket, is not counted by address. What is over a limit
    raises `Refusal` with `TOO_MANY_REQUESTS`, is counted, and is logged once a minute for whoever it is.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub  # asked at each use: limits may change
        self._buckets: defaultdict[Limited, Buckets] = defaultdict(Buckets)
        self._met = Buckets()
        self._told = Buckets()

    def admit(self, limit: Limited, session: Session) -> None:
        """Count a request for the user, or for the address (or else the device) of who is not logged in."""
        rate: Rate | None = getattr(self._hub.limits, limit)
        if rate is None or session.device is None:
            return
        key: Hashable = session.device.user_id
        if key is None:
            key = neighbourhood(session.address) or session.device.id
        if not self._buckets[limit].take(key, rate, self._hub.clock.seconds()):
            raise self._refusal(limit, key, session)

    def admit_device(self, session: Session, token: int | None) -> None:
        """Count a token that is not known, or a device that is to be made for who has none.

        Raises `Violation` for a connection that shows one such token after the other. One that it repeats
        is no guess: a client may not have noticed that its token has expired.
        """
        if self._hub.limits.token_rate is None:
            return
        if token is not None and token != session.unknown_token:
            session.unknown_token = token
            session.unknown_tokens += 1
            if session.unknown_tokens > UNKNOWN_TOKENS:
                self._tell("unknown tokens on one connection", session.address, session)
                raise Violation(f"A connection may show at most {UNKNOWN_TOKENS} tokens that are not known.")
        elif session.device is not None:
            return
        self._take(Attempt(), "token_rate", neighbourhood(session.address), session)

    # Passwords and accounts.

    def password(self, session: Session, name: str) -> Attempt:
        """The password of an account with this name is to be checked, whether there is one or not.

        The name is in the form in which names are compared.
        """
        attempt = Attempt()
        key = sha256(name.encode()).digest()  # one that nobody bears may have any length
        self._take(attempt, "account_failures", key, session)
        self._take(attempt, "address_failures", neighbourhood(session.address), session)
        return attempt

    def own_password(self, session: Session, device: Device) -> Attempt:
        """The password of the user is to be checked whose this device is, or was last.

        It has a bucket of its own, so that nobody can lock a user out of it.
        """
        attempt = Attempt()
        self._take(attempt, "account_failures", (device.id, device.last_user), session)
        return attempt

    def probe(self, session: Session) -> Attempt:
        """Something is to be asked that can be guessed: whether a name is taken, or an invite."""
        attempt = Attempt()
        self._take(attempt, "address_failures", neighbourhood(session.address), session)
        return attempt

    def registration(self, session: Session) -> Attempt:
        """An account is to be made."""
        attempt = Attempt()
        self._take(attempt, "registration_rate", neighbourhood(session.address), session)
        return attempt

    def turn(self, session: Session) -> Turn:
        """Whose turn it is when this session's password is to be hashed."""
        return Turn(neighbourhood(session.address), self._hub.limits.passwords_per_address)

    # Messages.

    async def meet(self, session: Session, sender: int, target: int) -> None:
        """Count a message if it is the first one in a day to somebody who has not added its sender.

        Who was written to may answer.
        """
        if self._hub.limits.stranger_rate is None or sender == target:
            return
        now = self._hub.clock.seconds()
        if not self._met.take((sender, target), _MEETING_RATE, now):
            return
        with Attempt() as meeting:
            meeting.took(self._met, (sender, target))
            if not await self._hub.store.contacts.has_added(target, sender):
                self._take(meeting, "stranger_rate", sender, session)
            meeting.counts()
        self._met.take((target, sender), _MEETING_RATE, now)

    def spoofed(self, session: Session) -> None:
        """A message named another one than its sender as its sender."""
        self._tell("messages in another user's name", session.address, session)

    def _take(self, attempt: Attempt, limit: Limited, key: Hashable, session: Session) -> None:
        """Take one for `key`, to be given back by `attempt`; if there is none, what it took before is."""
        rate: Rate | None = getattr(self._hub.limits, limit)
        if rate is None or key == "":
            return
        if not self._buckets[limit].take(key, rate, self._hub.clock.seconds()):
            with attempt:
                raise self._refusal(limit, key, session)
        attempt.took(self._buckets[limit], key)

    def _refusal(self, limit: Limited, key: Hashable, session: Session) -> Refusal:
        self._hub.stats.refused[limit] += 1
        self._tell(limit.replace("_", " "), key, session)
        return Refusal(errors.TOO_MANY_REQUESTS)

    def _tell(self, what: str, key: Hashable, session: Session) -> None:
        """Log it, but not each time. No name that was typed: it may be a password in the wrong field."""
        if self._told.take((what, key), _TOLD_RATE, self._hub.clock.seconds()):
            user = None if session.device is None else session.device.user_id
            log.warn(
                "Refused: {what}, from the address {address!r}, user {user}",
                what=what,
                address=session.address,
                user=user,
            )
