"""One node's connections to the store: what takes time on them, and what is lost with them.

The store itself is `tests.fake_store`; what a message goes through before it gets there is the real code.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from msgspec.structs import replace

from chatsvc.store import keys
from chatsvc.store.append import GroupCommit, Waiting
from chatsvc.store.channels import Channels
from chatsvc.store.errors import Unavailable
from chatsvc.store.link import LINK_WAIT, REPLY_TIMEOUT, Link
from chatsvc.store.mail import SAVE_PAUSE
from chatsvc.tasks import Pending, pause, spawn
from tests.fake_store import FakeStore
from tests.fakes import Gate, now
from tests.simulation.clock import Life, Line, NodeClock, SimClock

#: Seconds that a command, and a reply, are under way.
LATENCY = 0.0005, 0.01
#: Seconds for which a store that was frozen may have a command before it executes it.
LATE = 2.0


class _Lost(Exception):  # noqa: N818 - handled here, seen nowhere else
    """The connection went before the reply came."""


class _Asked:
    """A command under way: what it does, once in the store, and its reply."""

    __slots__ = ("_work", "executed", "reply", "said")

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.executed = False
        #: What the store says, when it has executed it.
        self.said: Pending[Any] = Pending()
        #: That, when it is here.
        self.reply: Pending[None] = Pending()

    def execute(self) -> None:
        """It has come to the store."""
        if not self.executed:
            self.executed = True
            try:
                self.said.succeed(self._work())
            except Exception as error:
                self.said.fail(error)


class SimLink:
    """One connection, in order both ways. While it is down nothing goes, as `chatsvc.store.link` has it."""

    def __init__(self, clock: SimClock, node: NodeClock, random: Random) -> None:
        self.up = True
        #: What each command takes longer at the moment, in seconds.
        self.slower = 0.0
        self._clock = clock
        self._node = node
        self._random = random
        self._asked: list[_Asked] = []
        self._waiting: list[Pending[None]] = []
        self._renew()

    def _renew(self) -> None:
        self._there, self._back = (Line(self._clock, self._node.life) for _ in range(2))

    def delay(self) -> float:
        """How long something is under way this time."""
        return self._random.uniform(*LATENCY) + self.slower

    async def call(self, work: Callable[[], Any], expires: float | None = None) -> Any:
        """Have the store work, again if the reply is lost soon; raises `Unavailable` and what that raises."""
        last_start = LINK_WAIT + self._node.seconds() if expires is None else expires - REPLY_TIMEOUT
        if self._node.life.over:
            await Pending()  # what was killed may still be tidied up, whenever Python comes to it
        while True:
            if not self.up:
                await self._usable(last_start)
            asked = _Asked(work)
            self._asked.append(asked)
            self._there.later(self.delay(), self._arrive, asked)
            try:
                await asked.reply
                return asked.said.result()
            except _Lost:
                if self._node.seconds() >= last_start:
                    raise Unavailable from None

    async def _usable(self, until: float) -> None:
        if self._node.seconds() >= until:
            raise Unavailable
        there: Pending[None] = Pending()
        self._waiting.append(there)
        self._node.callLater(until - self._node.seconds(), there.fail, Unavailable())
        await there

    def _arrive(self, asked: _Asked) -> None:
        asked.execute()
        self._back.later(self.delay(), self._reply, asked)

    def _reply(self, asked: _Asked) -> None:
        if asked in self._asked:
            self._asked.remove(asked)
            asked.reply.succeed(None)

    def cut(self) -> None:
        """It is lost; the node finds out."""
        self.up = False
        asked, self._asked = self._asked, []
        self._strand(asked)
        for each in asked:
            each.reply.fail(_Lost())

    def end(self) -> None:
        """The node is no more."""
        self._strand(self._asked)

    def _strand(self, asked: list[_Asked]) -> None:
        """What was under way was executed, is executed some time, or never is."""
        for each in asked:
            fate = self._random.randrange(3)
            if fate == 0:
                each.execute()
            elif fate == 1:
                self._clock.callLater(self._random.uniform(0, LATE), each.execute)
            else:
                each.executed = True

    def mend(self) -> None:
        """There is a connection again."""
        if not self.up:
            self.up = True
            self._renew()
            waiting, self._waiting = self._waiting, []
            for there in waiting:
                there.succeed(None)


class SimSubscriber:
    """The connection for subscriptions, as `chatsvc.store.channels.Channels` needs it."""

    def __init__(self, clock: SimClock, random: Random, channels: Channels, publishers: list[Any]) -> None:
        self.up = True
        #: How probable it is that a publication is lost though the connection stands.
        self.loses = 0.0
        self._clock = clock
        self._random = random
        self._channels = channels
        self._publishers = publishers
        self._life = Life()
        self._link: Any = self
        publishers.append(self)
        self._connect()

    def _connect(self) -> None:
        self._stands: set[keys.Whose] = set()
        self._life.over = True
        self._life = Life()
        self._there, self._back = (Line(self._clock, self._life) for _ in range(2))

    def of(self, key: bytes) -> Link | None:
        """The link to whoever serves this channel: this one."""
        link: Link | None = self._link
        return link

    def outdated(self) -> None:
        """It can be nowhere else."""

    def tell(self, command: bytes, channel: bytes) -> bool:
        """Send a command whose replies come as pushes."""
        if self.up:
            self._there.later(self._random.uniform(*LATENCY), self._told, command, channel)
        return self.up

    def _told(self, command: bytes, channel: bytes) -> None:
        whose = keys.whose_channel(channel)
        if command == b"SSUBSCRIBE":
            self._stands.add(whose)
        else:
            self._stands.discard(whose)
        self._push([command.lower(), channel, 1])

    def hear(self, whose: keys.Whose, text: bytes) -> None:
        """The store publishes something.

        What a real store loses goes with the connection. That mail is missed without that shows that gaps are
        seen; that a binding ended can be seen by nothing else.
        """
        if whose not in self._stands:
            return
        if not self.loses or self._random.random() >= self.loses:
            self._push([b"smessage", keys.channel(whose), text])
        elif text.startswith(b"r "):
            self._there.later(self._random.uniform(*LATENCY), self._renew)

    def _renew(self) -> None:
        self.cut()
        self.mend()

    def _push(self, reply: list[Any]) -> None:
        self._back.later(self._random.uniform(*LATENCY), self._channels.pushed, self._link, reply)

    def cut(self, why: str = "") -> None:
        """It is lost, and with it all subscriptions."""
        self.up = False
        self._connect()

    def mend(self) -> None:
        """There is a connection again."""
        if not self.up:
            self.up = True
            self._channels.ready(self._link)

    def end(self) -> None:
        """The node is no more."""
        self.cut()
        self._publishers.remove(self)


class _Part:
    """A part of the fake store, asked through a link."""

    def __init__(self, part: Any, link: SimLink) -> None:
        self._part = part
        self._link = link

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self._part, name)

        async def call(*args: Any, **more: Any) -> Any:
            return await self._link.call(lambda: now(method(*args, **more)))

        setattr(self, name, call)
        return call


class _Appends(GroupCommit):
    """The real queue of messages, in front of the fake store."""

    def __init__(self, link: SimLink, data: Any, clock: NodeClock) -> None:
        super().__init__(link, clock)  # type: ignore[arg-type]  # it is `_commit` that would use it
        self._sim_link = link
        self._data = data

    async def _commit(self, group: list[Waiting]) -> None:
        messages = [replace(waiting.outgoing, repeat=waiting.repeat) for waiting in group]
        results = await self._sim_link.call(lambda: self._data.append(messages), group[0].expires)
        for waiting, result in zip(group, results, strict=True):
            waiting.settle(result)


class _Mail(_Part):
    """Mailboxes; cursors are saved within a moment, as `chatsvc.store.mail` does it."""

    def __init__(self, store: FakeStore, link: SimLink, clock: NodeClock) -> None:
        super().__init__(store.mail, link)
        self.append = _Appends(link, store.data, clock).append
        self._clock = clock
        self._save = store.mail.acknowledge
        self._unsaved: dict[tuple[int, str], int] = {}

    async def open(self, user_id: int, device: str) -> tuple[int, int] | None:
        """The device's cursor and the mailbox's end; None if it is not bound."""
        found = await self._link.call(lambda: now(self._part.open(user_id, device)))
        if found is None:
            return None
        return max(found[0], self._unsaved.get((user_id, device), 0)), found[1]

    def acknowledge(self, user_id: int, device: str, cursor: int) -> None:
        """Move a cursor forward."""
        under_way = (user_id, device) in self._unsaved
        self._unsaved[user_id, device] = max(cursor, self._unsaved.get((user_id, device), 0))
        if not under_way:
            spawn(self._save_cursor(user_id, device), "saving a cursor")

    async def _save_cursor(self, user_id: int, device: str) -> None:
        saved = 0
        while saved < (cursor := self._unsaved[user_id, device]):
            try:
                await self._link.call(lambda at=cursor: self._save(user_id, device, at))  # type: ignore[misc]
                saved = cursor
            except Unavailable:
                await pause(self._clock, SAVE_PAUSE)
        del self._unsaved[user_id, device]


class SimStore:
    """One node's way to the store, for as long as the node runs."""

    def __init__(self, fake: FakeStore, clock: SimClock, node: NodeClock, random: Random) -> None:
        self.state, self.mails = (SimLink(clock, node, random) for _ in range(2))
        self.channels = Channels(node)
        self.subscriber = SimSubscriber(clock, random, self.channels, fake.data.nodes)
        self.channels.links = self.subscriber
        for name, part in vars(fake).items():
            if isinstance(getattr(part, "gate", None), Gate):
                setattr(self, name, _Part(part, self.state))
        self.mail = _Mail(fake, self.mails, node)

    @property
    def links(self) -> list[SimLink | SimSubscriber]:
        """All connections."""
        return [self.mails, self.state, self.subscriber]

    def end(self) -> None:
        """The node is no more."""
        for link in self.links:
            link.end()

    @property
    def up(self) -> bool:
        """Whether the store can be asked right now."""
        return all(link.up for link in self.links)
