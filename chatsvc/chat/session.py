"""One connection as the chat floor sees it: whose it is, and how far it follows that user's mailbox.

What a request means is not here, nor are sockets: the connection is an `Outlet`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from chatsvc.chat import rendering
from chatsvc.chat.delivery import Delivery, Ledger
from chatsvc.chat.rendering import News
from chatsvc.store.errors import Unavailable
from chatsvc.store.mail import Entry
from chatsvc.tasks import pause, spawn
from chatsvc.wire.frames import Dialect

if TYPE_CHECKING:
    from chatsvc.blobs import Download
    from chatsvc.chat.extras import Wishes
    from chatsvc.chat.hub import Hub

log = Logger()

#: Entries that catching up reads at a time.
PAGE = 50


class Gone(Exception):  # noqa: N818 - nobody is left to hear of it
    """The connection ended."""


class Outlet(Protocol):
    """Where a session's bytes go; the network floor's side of it."""

    #: How many bytes were given to `send` so far, and how many of them are written out.
    offset: int
    written: int

    @property
    def dialect(self) -> Dialect:
        """The header form that the peer speaks."""

    def send(self, data: bytes) -> None:
        """Queue whole frames, or the next part of one."""

    async def send_file(self, file: Download) -> None:
        """Send what is left of a file; raises `Gone`, and what reading it does."""

    async def drained(self, below: int) -> None:
        """Return once at most `below` bytes wait to be written; raises `Gone` when the peer is."""

    def abort(self) -> None:
        """Cut the connection: a frame that was begun cannot be finished."""


class Device:
    """A device that has connections to this node; they share what was delivered to it."""

    __slots__ = ("acks", "delivery", "explicit", "id", "last_user", "sessions", "token", "touched", "user_id")

    def __init__(self, device_id: str, token: int, user_id: int | None, explicit: bool) -> None:
        self.id = device_id
        self.token = token
        self.user_id = user_id
        #: To whom it is bound, or was bound last.
        self.last_user = user_id
        #: It has used ACKFETCH: it acknowledges in no other way.
        self.explicit = explicit
        #: None until it has asked for its messages.
        self.delivery: Delivery | None = None
        #: What is still to be done for its ACKFETCHs, in their order: what one acknowledges depends on those
        #: before it.
        self.acks: list[Callable[[], Awaitable[None]]] = []
        self.sessions: set[Session] = set()
        #: When its time to live was last renewed, in seconds.
        self.touched = 0.0


class OnlineUser:
    """A user with connections to this node."""

    __slots__ = ("due", "gaps", "id", "last", "looked", "sessions")

    def __init__(self, user_id: int, due: float) -> None:
        self.id = user_id
        self.sessions: set[Session] = set()
        #: The newest entry of the mailbox that this node has heard of.
        self.last = 0
        #: When to look again, in seconds.
        self.due = due
        #: How often something may have been missed, and how often it was when the last look began. While they
        #: differ nothing is pushed as it is published: what was missed may be the end of a binding.
        self.gaps = self.looked = 0

    def devices(self) -> dict[str, Device]:
        """The user's devices here, by id."""
        return {s.device.id: s.device for s in self.sessions if s.device is not None}


class Session:
    """One connection: its device, and how far pushing to it has come.

    `position` is the last entry of the mailbox that was pushed here, or passed over. As long as each new
    entry follows on it, entries go out as they are published; else the session is *behind*, and reads
    the mailbox until it is not.
    """

    __slots__ = (
        "_behind",
        "_catching_up",
        "_holds",
        "address",
        "closed",
        "device",
        "exclusive",
        "fetched",
        "hub",
        "ledger",
        "limit_position",
        "outlet",
        "position",
        "unknown_token",
        "unknown_tokens",
        "user_id",
        "wishes",
    )

    def __init__(self, hub: Hub, outlet: Outlet) -> None:
        self.hub = hub
        self.outlet = outlet
        self.closed = False
        #: From where the client has connected; empty if that has no address, or is not known yet.
        self.address = ""
        #: The latest token that it showed and nobody knows, and how many different ones there were.
        self.unknown_token: int | None = None
        self.unknown_tokens = 0
        self.device: Device | None = None
        #: The user whose mailbox it follows; None until it has joined.
        self.user_id: int | None = None
        #: A FETCHMSG was answered here since the device was bound: what is pushed now is delivered.
        self.fetched = False
        #: A request is under way beside which no other may start.
        self.exclusive = False
        #: Where the next FETCHMSG with a limit continues.
        self.limit_position: int | None = None
        #: What it asked for beside what all get.
        self.wishes: Wishes | None = None
        self.ledger = Ledger()
        self.position: int | None = None
        self._behind = False
        self._catching_up = False
        self._holds = 0

    def close(self) -> None:
        """The connection has ended."""
        self.closed = True
        self.hub.detach(self)

    def idleness(self) -> tuple[bool, float]:
        """What sorts the sessions of a user by how long they are idle, the longest first.

        One that is being sent something, or that waits for its first answer, as an upload does, is not idle.
        """
        answered_at = self.ledger.answered_at
        return self.outlet.offset != self.outlet.written or answered_at is None, answered_at or 0.0

    def peer_closed(self, arrived: int) -> None:
        """The peer closed its side in order, when it had what was sent up to the offset `arrived`.

        That acknowledges what was delivered so far, for a device that knows no better way.
        """
        if self.device is not None and not self.device.explicit:
            for delivery, end in self.ledger.reached_peer(arrived).items():
                self.hub.acknowledge(self.device, delivery, end)

    def restart(self) -> None:
        """Forget what belongs to the binding that ended; what it delivered stays delivered."""
        self.user_id = None
        self.position = None
        self.fetched = False
        self.limit_position = None
        self._behind = False
        if self.wishes is not None:
            self.hub.extras.forget(self)

    def has(self, feature: str) -> bool:
        """Whether it asked for a feature."""
        return self.wishes is not None and feature in self.wishes.features

    # Pushing.

    @property
    def is_held(self) -> bool:
        """Whether something is being written that no push may interrupt."""
        return self._holds > 0

    def tell(self, frames: bytes) -> bool:
        """Push a hint; False if it has to be left out, as it cannot go out before long."""
        if self._holds or self.outlet.offset - self.outlet.written > self.hub.limits.send_buffer:
            return False
        self.outlet.send(frames)
        return True

    def follow(self, user_id: int, position: int) -> None:
        """Push what comes after `position` in this user's mailbox."""
        self.user_id = user_id
        self.position = position
        if position < self.hub.last(user_id):
            self.fall_behind()

    def hold(self) -> None:
        """Push nothing until `release`: something is being written that a push must not come before."""
        self._holds += 1

    def release(self, position: int = 0) -> None:
        """End a `hold`; `position` is how far what was written reaches."""
        self._holds -= 1
        if self.position is not None:
            self.position = max(self.position, position)
            if not self._holds and (self._behind or self.position < self.hub.last(self.user_id)):
                self.fall_behind()
        if self.wishes is not None and not self._holds:
            self.hub.extras.resume(self)

    def offer(self, news: News) -> None:
        """Entries were published: push those that are next, as long as the client keeps up."""
        position, outlet, published = self.position, self.outlet, news.published
        if position is None or published.last <= position or self.device is None:
            return
        waits = self._holds or self._behind
        if published.origin == self.device.id and not waits and published.before <= position:
            self._pass(published.last, [])  # all are its own, as mostly those of a device that sends are
            return
        room = self.hub.limits.send_buffer - (outlet.offset - outlet.written)
        passed: list[bytes] = []
        for index, entry in enumerate(news.entries):
            if entry.position <= position:
                continue
            if waits or entry.before > position or room < 0:
                break
            frame = b"" if self._is_own(entry) else news.frames(outlet.dialect)[index]
            if frame is None:
                break
            passed.append(frame)
            room -= len(frame)
            position = entry.position
        if passed:
            self._pass(position, passed)
        if position < published.last:
            self.fall_behind()

    def fall_behind(self) -> None:
        """Something is in the mailbox that was not pushed: read it from there."""
        self._behind = True
        if not self._catching_up and not self._holds:
            self._catching_up = True
            self.hub.stats.catch_ups += 1
            spawn(self._catch_up(), "catching up")

    def _is_own(self, entry: Entry) -> bool:
        """Whether the device sent it itself: then it is passed over, and not pushed."""
        return self.device is not None and entry.origin == self.device.id

    def _pass(self, position: int, frames: list[bytes]) -> None:
        """Send what the mailbox has up to a position: frames, empty for what is the device's own."""
        assert self.position is not None
        assert self.device is not None
        before, self.position = self.position, position
        if pushed := sum(map(bool, frames)):
            self.outlet.send(b"".join(frames))
            lag = self.hub.clock.seconds() - (position >> 32) / 1000
            self.hub.stats.delivery_lag.observe(lag, pushed)
        if self.fetched and self.device.delivery is not None:
            self.ledger.give(self.outlet.offset, self.device.delivery, before, position)

    async def _catch_up(self) -> None:
        try:
            while self._behind and not self._holds:
                try:
                    await self._catch_up_a_page()
                except (Unavailable, OSError) as error:
                    log.warn("Pushing waits: {error}", error=error)
                    await pause(self.hub.clock, 1.0)
        except Gone:
            pass
        finally:
            self._catching_up = False

    async def _catch_up_a_page(self) -> None:
        hub, outlet = self.hub, self.outlet
        await outlet.drained(hub.limits.send_buffer // 2)
        user_id, position, device = self.user_id, self.position, self.device
        if user_id is None or position is None or device is None:
            self._behind = False
            return
        published = hub.last(user_id)  # asked first: more may come while the answer is on its way
        entries = await hub.store.mail.read(user_id, position, PAGE)
        if not await hub.store.devices.is_bound(device.id, user_id):
            hub.doubt(device)  # that it ended was not heard of: perhaps nothing is heard now
            return
        if not entries and self.position == position:
            # Nothing more, though more was published: it was trimmed meanwhile.
            self.position = max(position, published)
        for entry in entries:
            frame = b"" if self._is_own(entry) else await self._frame(entry)
            if self.user_id != user_id or self._holds or self.position is None:
                return
            if entry.position > self.position:
                self._pass(entry.position, [frame])
            if outlet.offset - outlet.written > hub.limits.send_buffer:
                return
        if self.position is not None and self.position >= hub.last(self.user_id):
            self._behind = False

    async def _frame(self, entry: Entry) -> bytes:
        dialect = self.outlet.dialect
        message = rendering.inline(entry, dialect)
        if message is None:
            message = await rendering.whole(entry, dialect, self.hub.blobs)
        return rendering.push_frame(message, dialect)
