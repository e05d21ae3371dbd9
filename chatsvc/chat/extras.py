"""What a connection gets if it asks, beside what all get: presence, typing, marks, changes of contacts.

These are hints, which the store publishes and which may be left out; then the whole state is told (again).
The requests about them are in ``signals`` and ``people`` beside this (``docs/protocol.md`` section 5.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatsvc.chat.session import Gone, Session
from chatsvc.store.keys import PresenceOf
from chatsvc.store.signals import Seen
from chatsvc.tasks import gather, spawn
from chatsvc.wire import schema
from chatsvc.wire.errors import Refusal
from chatsvc.wire.frames import frame
from chatsvc.wire.schema import Presence, PresenceList, envelope

if TYPE_CHECKING:
    from chatsvc.chat.hub import Hub

#: The pushes, and the features with which they come.
CONTACT, MARK, PRESENCE, TYPING = "FORWARDCONTACT", "FORWARDMARK", "FORWARDPRESENCE", "FORWARDTYPING"
FEATURES = {CONTACT: "contacts", MARK: "marks", PRESENCE: "presence", TYPING: "typing"}
#: What says that any relation may have changed.
_ANY = schema.encode(schema.Relation(None, None))
#: Contacts of one connection whose presence is watched.
WATCHED_MOST = 1000
#: Seconds between two looks whether somebody is online: nobody publishes that a node died.
LOOK_INTERVAL = 50
#: Seconds to wait for a subscription before going on without it.
_SUBSCRIBE_WAIT = 1.0
#: Users about whom the store is asked at a time, and items in one push.
_AT_ONCE = 200
_IN_PUSH = 500


class Wishes:
    """What one connection has asked for, whom it watches for that, and whether it knows all of it."""

    __slots__ = ("features", "looks", "missed", "shown", "telling", "told", "watched")

    def __init__(self, features: frozenset[str]) -> None:
        self.features = features
        self.watched: set[int] = set()
        #: Of whom the client may believe something: those, and some of whom it must be told that they went.
        self.shown: set[int] = set()
        #: How often it was looked who that is to be.
        self.looks = 0
        #: Something was left out, or nothing was told yet: the whole state is to be told; that is under way;
        #: it was told before.
        self.missed = True
        self.telling = self.told = False


class _Watched:
    """A user whose presence connections here watch."""

    __slots__ = ("due", "heard", "seen", "sessions")

    def __init__(self, due: float) -> None:
        self.sessions: set[Session] = set()
        self.seen: Seen | None = None
        #: How often a change was published; what was asked before it is outdated.
        self.heard = 0
        self.due = due


class Extras:
    """The extras of one node. Who asks for nothing costs nothing here."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._watched: dict[int, _Watched] = {}
        self._waiting: set[Session] = set()  # the store could not say what they are to be told
        self._looking = False

    @property
    def watched(self) -> int:
        """How many people are watched here for whether they are online."""
        return len(self._watched)

    # What connections ask for.

    def grant(self, session: Session, wanted: Iterable[str]) -> list[str]:
        """From now on the connection gets these features, and no others; gives those that there are."""
        self.forget(session)
        granted = sorted(frozenset(FEATURES.values()).intersection(wanted))
        if granted:
            session.wishes = Wishes(frozenset(granted))
            self.resume(session)
        return granted

    def forget(self, session: Session) -> None:
        """The connection gets nothing any more."""
        wishes, session.wishes = session.wishes, None
        self._waiting.discard(session)
        if wishes is not None:
            watched, wishes.watched = wishes.watched, set()
            for user_id in watched:
                self._unwatch(session, user_id)

    def resume(self, session: Session) -> None:
        """The connection can be told what it missed, if it missed anything."""
        wishes = session.wishes
        if wishes is not None and wishes.missed and not wishes.telling:
            spawn(self._tell_all(session, wishes), "telling what was missed")

    def missed(self, sessions: Iterable[Session]) -> None:
        """These may have missed something."""
        for session in sessions:
            if session.wishes is not None:
                session.wishes.missed = True
                self.resume(session)

    # What the store tells.

    def published(self, sessions: Iterable[Session], data: bytes) -> None:
        """Something was published for a user, who has these connections: `e`, a type, a device, a body.

        The device is that of who has caused it, and knows.
        """
        _, name, origin, body = data.split(b" ", 3)
        kind = name.decode()
        if kind not in FEATURES:
            return  # of a later version's node
        for session in tuple(sessions):
            if session.wishes is None or session.device is None:
                continue
            if session.device.id.encode() != origin:
                self._push(session, session.wishes, kind, body)
            if kind == CONTACT and "presence" in session.wishes.features:
                spawn(self._watch_anew(session, session.wishes), "watching other people")

    def came_or_went(self, user_id: int, data: bytes) -> None:
        """It was published that a user is online, or since when not."""
        watched = self._watched.get(user_id)
        if watched is not None:
            watched.heard += 1
            self._note(user_id, watched, Seen(data == b"0", int(data)))

    def subscribed(self, user_id: int) -> None:
        """What was published of a user's presence until now may have been missed."""
        watched = self._watched.get(user_id)
        if watched is not None and watched.seen is not None:
            watched.due = 0.0

    def beat(self, now: float) -> None:
        """Once a second: look at who was not looked at for long."""
        waiting, self._waiting = self._waiting, set()
        for session in waiting:
            self.resume(session)
        due = [user_id for user_id, watched in self._watched.items() if watched.due <= now]
        if due and not self._looking:
            spawn(self._look_again(due), "looking who is online")

    # How it is told.

    def _push(self, session: Session, wishes: Wishes, kind: str, body: bytes) -> None:
        if FEATURES[kind] not in wishes.features:
            return
        if session.tell(frame(session.outlet.dialect, envelope(kind, body))):
            self._hub.stats.hints[kind] += 1
        elif kind != TYPING:
            wishes.missed = True
            self.resume(session)

    async def _tell_all(self, session: Session, wishes: Wishes) -> None:
        """Tell the whole state, as the client reads it; what is written in one piece comes first."""
        wishes.telling, few = True, self._hub.limits.send_buffer // 2
        try:
            while wishes.missed and session.wishes is wishes and not session.is_held:
                await session.outlet.drained(few)
                wishes.missed = False
                for kind in (PRESENCE, MARK, CONTACT) if wishes.told else (PRESENCE, MARK):
                    for body in await self._bodies(session, wishes, kind):
                        await session.outlet.drained(few)
                        if session.wishes is wishes:
                            self._push(session, wishes, kind, body)
                wishes.told = True
                if not wishes.missed:
                    wishes.shown = set(wishes.watched)
        except Refusal:
            wishes.missed = True
            self._waiting.add(session)
        except Gone:
            pass
        finally:
            wishes.telling = False

    async def _bodies(self, session: Session, wishes: Wishes, kind: str) -> list[bytes]:
        """All there is to tell of a kind."""
        user_id = session.user_id
        if user_id is None or FEATURES[kind] not in wishes.features:
            return []
        if kind == PRESENCE:
            await self._watch(session, wishes, user_id)
            return self._presence(wishes, wishes.shown)
        if kind == MARK:
            marks = await self._hub.store.signals.marks(user_id)
            return [
                b'{"marks":[%b]}' % b",".join(marks[start : start + _IN_PUSH])
                for start in range(0, len(marks), _IN_PUSH)
            ]
        return [_ANY]

    def _presence(self, wishes: Wishes, user_ids: Iterable[int]) -> list[bytes]:
        users = [self._one(wishes, user_id) for user_id in sorted(user_ids)]
        some = (users[start : start + _IN_PUSH] for start in range(0, len(users), _IN_PUSH))
        return [schema.encode(PresenceList(each)) for each in some]

    def _one(self, wishes: Wishes, user_id: int) -> Presence:
        """What is known of a user; nothing, of one whom the connection may not watch, though others do."""
        seen = self._watched[user_id].seen if user_id in wishes.watched else None
        if seen is None:
            return Presence(user_id, False, None)
        return Presence(user_id, seen.online, seen.last or None)

    # Who is watched.

    async def _watch(self, session: Session, wishes: Wishes, user_id: int) -> None:
        """Watch all contacts of the connection's user, and nobody else."""
        wishes.looks += 1
        look = wishes.looks
        relations = await self._hub.store.contacts.of(user_id)
        contacts = set(relations.contacts[:WATCHED_MOST])
        if session.wishes is not wishes or look != wishes.looks:
            return  # what was asked later holds
        for gone in wishes.watched - contacts:
            self._unwatch(session, gone)
        wishes.watched = contacts
        wishes.shown |= contacts
        for contact in contacts:
            self._watched.setdefault(contact, _Watched(self._due())).sessions.add(session)
        unknown = [contact for contact in contacts if self._watched[contact].seen is None]
        await self._look_at(unknown)

    async def _watch_anew(self, session: Session, wishes: Wishes) -> None:
        """A relation has changed: tell of a new contact what is known, of a former one nothing any more."""
        user_id, before = session.user_id, wishes.watched
        if user_id is None:
            return
        try:
            await self._watch(session, wishes, user_id)
        except Refusal:
            wishes.missed = True
            self._waiting.add(session)
            return
        if session.wishes is wishes:
            for body in self._presence(wishes, before ^ wishes.watched):
                self._push(session, wishes, PRESENCE, body)
            if not wishes.missed:
                wishes.shown = set(wishes.watched)

    def _unwatch(self, session: Session, user_id: int) -> None:
        watched = self._watched.get(user_id)
        if watched is not None:
            watched.sessions.discard(session)
            if not watched.sessions:
                del self._watched[user_id]
                self._hub.store.channels.unsubscribe(PresenceOf(user_id))

    def _due(self) -> float:
        return self._hub.clock.seconds() + LOOK_INTERVAL

    async def _look_at(self, user_ids: list[int]) -> None:
        """See who of these is online, some at a time."""
        for start in range(0, len(user_ids), _AT_ONCE):
            await gather(map(self._look, user_ids[start : start + _AT_ONCE]))

    async def _look_again(self, user_ids: list[int]) -> None:
        self._looking = True
        try:
            await self._look_at(user_ids)
        except Refusal:
            pass  # the next look is due anyway
        finally:
            self._looking = False

    async def _look(self, user_id: int) -> None:
        watched = self._watched.get(user_id)
        if watched is None:
            return
        watched.due, heard = self._due(), watched.heard
        await self._hub.store.channels.subscribe(PresenceOf(user_id), _SUBSCRIBE_WAIT)
        seen = await self._hub.store.signals.seen(user_id)
        if self._watched.get(user_id) is watched and watched.heard == heard:
            self._note(user_id, watched, seen)

    def _note(self, user_id: int, watched: _Watched, seen: Seen) -> None:
        known, watched.seen = watched.seen, seen
        if known is not None and known != seen:
            for session in tuple(watched.sessions):
                if session.wishes is not None:
                    [body] = self._presence(session.wishes, [user_id])
                    self._push(session, session.wishes, PRESENCE, body)
