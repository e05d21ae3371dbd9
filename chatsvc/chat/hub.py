"""The hub of one node: which connections belong to which device and user, and who is told of new mail.

A node holds nothing here that it cannot lose; the store knows all of it, or the client says it again.
"""

from __future__ import annotations

from heapq import nsmallest

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatsvc.blobs import Blobs
from chatsvc.chat.delivery import Deliveries, Delivery
from chatsvc.chat.extras import Extras
from chatsvc.chat.guard import Guard
from chatsvc.chat.rendering import News
from chatsvc.chat.room import Room
from chatsvc.chat.session import Device, Gone, OnlineUser, Session
from chatsvc.passwords import Passwords
from chatsvc.stats import Stats
from chatsvc.store import keys
from chatsvc.store.mail import Published
from chatsvc.store.store import Store
from chatsvc.tasks import Clock, gather, spawn
from chatsvc.wire import errors
from chatsvc.wire.errors import Refusal
from chatsvc.wire.limits import Limits

log = Logger()

#: Seconds to wait for a subscription before going on without it; catching up follows when it stands.
SUBSCRIBE_WAIT = 1.0
#: Seconds between two looks at a user's mailbox and bindings, however quiet the channel is.
HEARTBEAT = 50
#: Users that are looked at side by side.
LOOKS = 50
#: Seconds after which a device that is in use has its time to live renewed.
TOUCH_INTERVAL = 3600


class Hub:
    """What the handlers and sessions of one node share."""

    def __init__(
        self, clock: Clock, store: Store, blobs: Blobs, passwords: Passwords, limits: Limits
    ) -> None:
        self.clock = clock
        self.store = store
        self.blobs = blobs
        self.passwords = passwords
        self.limits = limits
        self.deliveries = Deliveries()
        self.stats = Stats()
        self.guard = Guard(self)
        self.room = Room(self)
        self.extras = Extras(self)
        self._devices: dict[str, Device] = {}
        self._users: dict[int, OnlineUser] = {}
        self._unsettled: set[Device] = set()  # the store could not say whose mailbox they follow
        self._looking = False  # at those who were due
        self._leaving: dict[str, int] = {}  # devices that are offline, and that is still to be noted
        self._noting = False
        self._beat = LoopingCall(self._heartbeat)
        self._beat.clock = clock  # type: ignore[assignment]  # a Clock will do
        store.channels.on_message = self._published
        store.channels.on_subscribed = self._subscribed

    def start(self) -> None:
        """Begin to look after the users."""
        self._beat.start(1.0, now=False).addErrback(
            lambda failure: log.failure("The heartbeat stopped", failure=failure)
        )

    def stop(self) -> None:
        """Stop to."""
        if self._beat.running:
            self._beat.stop()

    def last(self, user_id: int | None) -> int:
        """The newest entry of an online user's mailbox, as far as this node has heard."""
        user = None if user_id is None else self._users.get(user_id)
        return 0 if user is None else user.last

    def online(self) -> tuple[int, int]:
        """How many users, and how many of their devices, have connections here."""
        return len(self._users), sum(device.user_id is not None for device in self._devices.values())

    # Devices.

    async def device(self, token: int) -> Device | None:
        """The device with this token; None if it was never issued or has expired.

        Whether it still is bound to whom its record names shows when it is to `join`.
        """
        device_id = keys.device_id(token)
        known = self._devices.get(device_id)
        if known is not None:
            return known
        record = await self.store.devices.use(device_id)
        if record is None:
            return None
        device = Device(device_id, token, None, record.explicit)
        device.last_user = record.last_user_id
        device.touched = self.clock.seconds()
        self._belongs(device, record.user_id)
        return device

    async def new_device(self) -> Device:
        """A device for a client that has none. Raises `Refusal` if the store is nearly full."""
        if self.room.full.store:
            raise Refusal(errors.STORAGE_FULL)
        token = await self.store.devices.create()
        device = Device(keys.device_id(token), token, None, False)
        device.touched = self.clock.seconds()
        return device

    def attach(self, session: Session, device: Device) -> Device:
        """From now on the session belongs to this device (or the same one that is known here already)."""
        if session.closed:
            raise Gone
        self.detach(session)
        device = self._devices.setdefault(device.id, device)
        device.sessions.add(session)
        session.device = device
        self._listen(device.id)
        return device

    def detach(self, session: Session) -> None:
        """The session belongs to no device any more: it has ended, or changes it."""
        device = session.device
        if device is None:
            return
        user_id = session.user_id
        self._leave(session)
        session.ledger.reset()
        session.device = None
        device.sessions.discard(session)
        if not device.sessions:
            self._devices.pop(device.id, None)
            self._listen(device.id)
            if user_id is not None:
                self._leaving[device.id] = user_id
                if not self._noting:
                    spawn(self._go_offline(), "noting that devices are offline")

    async def _go_offline(self) -> None:
        """Note some at a time: when a network fails, thousands are gone in one turn."""
        self._noting = True
        try:
            while self._leaving:
                some = [self._leaving.popitem() for _ in range(min(LOOKS, len(self._leaving)))]
                await gather(self._note_offline(*one) for one in some if one[0] not in self._devices)
        finally:
            self._noting = False

    async def _note_offline(self, device_id: str, user_id: int) -> None:
        try:
            await self.store.devices.go_offline(user_id, device_id)
        except Refusal:
            log.debug("Presence could not be taken back; it expires by itself")

    def is_fresh(self, device: Device, now: float) -> bool:
        """Whether a request of this device needs no `refresh`."""
        return device.user_id is not None and now - device.touched <= TOUCH_INTERVAL

    async def refresh(self, device: Device) -> None:
        """An unbound device may have been bound through another node; a used one lives on."""
        await self._find_binding(device)
        now = self.clock.seconds()
        if now - device.touched > TOUCH_INTERVAL:
            device.touched = now
            await self.store.devices.touch(device.id, bound=device.user_id is not None)

    async def _find_binding(self, device: Device) -> None:
        if device.user_id is not None:
            return
        record = await self.store.devices.load(device.id)
        if record is not None and record.user_id is not None and device.user_id is None:
            device.explicit |= record.explicit
            self._rebind(device, record.user_id)

    def _listen(self, device_id: str) -> None:
        """A device that is unbound and has connections here may be bound through another node."""
        device = self._devices.get(device_id)
        if device is not None and device.user_id is None:
            spawn(self.store.channels.subscribe(device_id, SUBSCRIBE_WAIT), "listening for a login elsewhere")
        else:
            self.store.channels.unsubscribe(device_id)

    def _belongs(self, device: Device, user_id: int | None) -> None:
        """The device is bound to this user; what was delivered to the two is known, if anything was."""
        device.user_id = user_id
        if user_id is not None:
            device.last_user = user_id
        device.delivery = None if user_id is None else self.deliveries.find(device.id, user_id)

    def acknowledge(self, device: Device, delivery: Delivery, position: int) -> None:
        """The device has what lies up to a position of the mailbox."""
        if position > delivery.cursor:
            delivery.acknowledge(position)
            self.store.mail.acknowledge(delivery.user_id, device.id, position)

    # Users.

    async def join(self, session: Session) -> None:
        """Follow the mailbox of the user to whom the session's device is bound, if it is.

        All the device's connections follow from the same place: what is stored after this returns, each
        of them is pushed.
        """
        device = session.device
        if device is None or device.user_id is None:
            return
        user_id = device.user_id
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = OnlineUser(user_id, self.clock.seconds() + HEARTBEAT)
        user.sessions.add(session)
        try:
            await self.store.channels.subscribe(user_id, SUBSCRIBE_WAIT)
            last, gone = await self.store.devices.stay_online(user_id, [device.id])
        except Refusal:
            self._leave(session)
            self._unsettled.add(device)
            raise
        if gone:
            self.unbound(device)
        user = self._users.get(user_id)
        if user is None or device.user_id != user_id:
            return
        user.last = max(user.last, last)
        for each in device.sessions:
            if each.position is None:  # once: a second join must not skip what is not pushed yet
                user.sessions.add(each)
                each.follow(user_id, last)
        self._crowd_out(user, session)

    def _crowd_out(self, user: OnlineUser, newest: Session) -> None:
        """Of a user with too many connections, cut the longest idle; what is cut comes back if it lives."""
        cap = self.limits.connections_per_user
        if cap is None or len(user.sessions) <= cap:
            return
        for session in nsmallest(len(user.sessions) - cap, user.sessions - {newest}, key=Session.idleness):
            self.stats.dropped["user"] += 1
            session.close()
            session.outlet.abort()

    def _leave(self, session: Session) -> None:
        """The session follows no mailbox any more."""
        device = session.device
        for user_id in {session.user_id, None if device is None else device.user_id} - {None}:
            assert user_id is not None
            user = self._users.get(user_id)
            if user is not None:
                user.sessions.discard(session)
                if not user.sessions:
                    del self._users[user_id]
                    self.store.channels.unsubscribe(user_id)
        session.restart()

    def unbound(self, device: Device) -> None:
        """The device's binding has ended: its connections here are nobody's."""
        self._rebind(device, None)

    def _rebind(self, device: Device, user_id: int | None) -> None:
        for session in device.sessions:
            self._leave(session)
        self._belongs(device, user_id)
        self._listen(device.id)

    async def bind(self, device: Device, user_id: int, password_hash: bytes, asking: Session) -> bool:
        """Bind the device: its connections here follow the user's mailbox.

        False if the password has changed meanwhile. `asking` is the connection on which the login came.
        """
        self.store.channels.unsubscribe(device.id)  # what is done here need not be heard from the store
        try:
            most = self.limits.devices_per_user
            if not await self.store.devices.bind(device.id, user_id, password_hash, most):
                return False
            self._rebind(device, user_id)
        finally:
            self._listen(device.id)
        device.touched = self.clock.seconds()
        await self.join(asking)
        await self._settle(device)  # who asked may be gone, and the others are not
        return True

    async def _settle(self, device: Device) -> None:
        """See whose the device is, and let its connections follow that user's mailbox."""
        try:
            await self._find_binding(device)
            for session in tuple(device.sessions):
                if session.position is None:  # the first one takes the others along, unless it ends meanwhile
                    await self.join(session)
        except Refusal:
            self._unsettled.add(device)  # the heartbeat tries again

    # What the store tells.

    def _published(self, whose: keys.Whose, data: bytes) -> None:
        if isinstance(whose, str):
            self._bound_elsewhere(whose)
            return
        if isinstance(whose, keys.PresenceOf):
            self.extras.came_or_went(whose.user_id, data)
            return
        user = self._users.get(whose)
        if user is None:
            return
        if data.startswith(b"m "):
            news = News(Published(data))
            user.last = max(user.last, news.published.last)
            if user.gaps != user.looked:
                return  # the look comes to it
            for session in tuple(user.sessions):
                session.offer(news)
        elif data.startswith(b"r "):
            device = self._devices.get(data[2:].decode())
            if device is not None and device.user_id == user.id:
                self.doubt(device)
        elif data.startswith(b"e "):
            self.extras.published(user.sessions, data)
        elif data == b"o":  # somebody noted that the user is offline, and is not
            user.due = 0.0

    def doubt(self, device: Device) -> None:
        """The device's binding seems to have ended: ask the store, and end it here too."""
        if device.user_id is not None:
            spawn(self._revoked(device, device.user_id), "ending a binding")

    async def _revoked(self, device: Device, user_id: int) -> None:
        """A binding was ended; not at once unbound, for it may have been made anew since."""
        sessions = list(device.sessions)
        for session in sessions:
            session.hold()
        try:
            holds = await self.store.devices.is_bound(device.id, user_id)
        except Refusal:
            holds = False  # who is unbound listens, and that begins with asking again
        if not holds and device.user_id == user_id:
            self.unbound(device)
        for session in sessions:
            session.release()

    def _bound_elsewhere(self, device_id: str) -> None:
        """A device was bound, or may have been while this node did not hear of it."""
        device = self._devices.get(device_id)
        if device is not None and device.user_id is None:
            spawn(self._settle(device), "following a mailbox")

    def _subscribed(self, whose: keys.Whose) -> None:
        if isinstance(whose, str):
            self._bound_elsewhere(whose)
            return
        if isinstance(whose, keys.PresenceOf):
            self.extras.subscribed(whose.user_id)
            return
        user = self._users.get(whose)
        if user is not None and any(session.position is not None for session in user.sessions):
            user.gaps += 1
            spawn(self._look(user), "looking for missed mail")
            self.extras.missed(user.sessions)

    def _heartbeat(self) -> None:
        now = self.clock.seconds()
        self.extras.beat(now)
        due = [user for user in self._users.values() if user.due <= now]
        if due and not self._looking:
            spawn(self._look_at(due), "the heartbeat")
        unsettled, self._unsettled = self._unsettled, set()
        for device in unsettled:
            spawn(self._settle(device), "following a mailbox")

    async def _look_at(self, users: list[OnlineUser]) -> None:
        """Look at some at a time: those who came together, after a restart, are due together."""
        self._looking = True
        try:
            for start in range(0, len(users), LOOKS):
                await gather(self._look(user) for user in users[start : start + LOOKS])
        finally:
            self._looking = False

    async def _look(self, user: OnlineUser) -> None:
        """Say that the user's devices are online, and see whether anything was missed."""
        user.due, gaps = self.clock.seconds() + HEARTBEAT, user.gaps
        devices = user.devices()
        if not devices:
            return
        try:
            last, gone = await self.store.devices.stay_online(user.id, list(devices))
        except Refusal:
            user.due = self.clock.seconds() + 1.0
            return
        user.last = max(user.last, last)
        for device_id in gone:
            if devices[device_id].user_id == user.id:
                self.unbound(devices[device_id])
        user.looked = max(user.looked, gaps)
        for session in tuple(user.sessions):
            if session.position is not None and session.position < user.last:
                session.fall_behind()
