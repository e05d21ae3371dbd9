"""What a device does all day, drawn by lot: it writes, reads or does not, acknowledges, comes and goes.

How it connects and gets its messages is in ``devices``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from chatsvc.tasks import Pending, started
from chatsvc.wire import errors
from tests.chaos.oracle import Message
from tests.fakes import Frame
from tests.simulation.client import Client, Cut
from tests.simulation.devices import EFFECT, Device

#: How probably a message is sent again of which nobody knows what became of it, and sent twice at once.
INSIST, TWICE = 0.7, 0.1
#: How probably, of all that it does, it logs out or changes its user's password.
LOGOUT, NEW_PASSWORD = 0.02, 0.01


class Sent(NamedTuple):
    """A message that is to be sent, or was."""

    message: Message
    payload: bytes
    is_new: bool


class BusyDevice(Device):
    """A device with something to do until the world is calm, and what it lacks to wait for after."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._again: list[Sent] = []
        self._actions: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[self._talk] * 8,
            *[self._fetch] * 2,
            *[self._acknowledge] * 5,
            *[self._be_deaf] * 2,
            *[self._close] * 2,
            self._reset,
            self._run_an_errand,
            self._finish,
        ]

    @property
    def has_all(self) -> bool:
        """Whether it lacks nothing of what it is to get, and knows what became of all that it sent."""
        got = len(self.receipts.first)
        return self.settled and not self._files and got >= self._world.judge.awaited(self.receipts)

    async def _act(self) -> None:
        if not self._fetched:
            await self._enter()
        elif self._files:
            await self._fetch_file(self._files[0])
        elif self._world.ending:
            await self._drain()
        elif self._world.calm:
            await self._settle()
        elif not self._is_careful or not self._connection.waits:
            random = self._world.random
            rare = random.random()
            if rare < LOGOUT:
                await self._log_out()
            elif rare < LOGOUT + NEW_PASSWORD:
                await self._change_password()
            else:
                await random.choice(self._actions)()

    async def _settle(self) -> None:
        if self._connection.wire.deaf:
            self._connection.wire.deaf = False
        elif self._again:
            await self._talk()
        elif self._world.still and not self.settled and not self._connection.waits:
            self.settled = (await self._ask("STATE")).ok
            if not self.settled:
                self._fetched = False

    # Messages and files.

    async def _fetch_file(self, name: str) -> None:
        answer = await self._ask("FETCHFILE", {"msgmd5": name})
        if answer.ok or answer.info == errors.FILE_NOT_FOUND:
            self.receipts.get_file(name, answer.payload if answer.ok else None)
            self._files.remove(name)
        elif answer.info == errors.NOT_LOGGED_IN:
            self._start_over()

    async def _talk(self) -> None:
        """Send some messages at once, those first of which nobody knows what became of them."""
        random = self._world.random
        sending, self._again = self._again, []
        if not self._world.calm:
            for _ in range(random.randint(1, 4)):
                sending.append(Sent(*self._world.message(self.user.id), True))
        patient = self._is_careful or random.random() < 0.5
        heard: list[Pending[None]] = []
        for each in sending:
            name = each.message["md5encoded"]
            self._world.judge.means_to_send(self.receipts, each.message)
            twice = random.random() < TWICE
            tries = [Sent(each.message, each.payload, False)] * 2 if twice else [each]
            for one in tries:
                answer = self._begin("SENDMSG", one.message, one.payload, name)
                heard.append(started(self._hear(one, answer)))
        if patient:
            for each_heard in heard:
                await each_heard

    async def _hear(self, sent: Sent, answer: Pending[Frame]) -> None:
        """See what became of a message."""
        name, judge = sent.message["md5encoded"], self._world.judge
        try:
            got = await answer
        except Cut:
            self._may_try_again(sent)
            return
        if got.body != {"md5encoded": name}:
            self._world.violation(f"the answer to {name} came with {got.body}")
        elif got.ok:
            self._note(f"is told that {name} is stored")
            judge.was_stored(self.receipts, sent.message, at_once=sent.is_new)
        elif got.info == errors.STORAGE_UNAVAILABLE:
            self._note(f"is not told what became of {name}")
            self._may_try_again(sent)
        elif got.info == errors.NOT_LOGGED_IN:
            self._note(f"is told that {name} is refused")
            if sent.is_new:
                judge.was_refused(sent.message)
            self._start_over()
        else:
            self._world.violation(f"{name} was answered: {got.info}")

    def _may_try_again(self, sent: Sent) -> None:
        if self._world.random.random() < INSIST:
            self._again.append(sent._replace(is_new=False))

    # Reading and acknowledging.

    async def _acknowledge(self) -> None:
        """Acknowledge what has come here, all of it or a part."""
        if not self.explicit or not self._here or not self._fetched:
            return
        at = len(self._here) - 1
        if self._world.random.random() < 0.3:
            at = self._world.random.randrange(len(self._here))
        message = self._here[at]
        del self._here[: at + 1]
        place = self._places[message["md5encoded"]] + 1
        self._note(f"acknowledges up to {message['md5encoded']}")
        self._connection.tell("ACKFETCH", {"timestamp": message["timestamp"]}, self._token)
        # Of a long slice that is being written the server does not know how much of it has left.
        certain = not self._connection.wire.server.protocol.outbox.queued and not self._connection.wire.deaf
        if certain and self._world.judge.data.is_bound(self._id, self.user.id):
            clock = self._world.clock
            clock.callLater(EFFECT, self._is_acknowledged, self.client, place, clock.now)

    def _is_acknowledged(self, client: Client, place: int, since: float) -> None:
        node, judge = self._node, self._world.judge
        if client is not self.client or client.over or node is None or not node.was_well(since):
            return
        if self._trouble_at < since and not judge.left_since(self._id, since):
            self.receipts.acknowledged = max(self.receipts.acknowledged, place)

    async def _be_deaf(self) -> None:
        """Do not read for a while."""
        wire = self._connection.wire
        if not wire.deaf:
            self._note("reads nothing")
            wire.deaf = True
            self._trouble()
            self._world.clock.callLater(self._world.random.uniform(0.5, 4.0), self._read_on, wire)
        while wire.deaf and self._is_careful:
            await self._pause(0.2, 0.2)

    def _read_on(self, wire: Any) -> None:
        wire.deaf = False
        self._trouble()

    # Coming and going.

    async def _close(self) -> None:
        self._note("closes")
        self._connection.close()
        raise Cut

    async def _finish(self) -> None:
        """Send nothing more, and read to the end."""
        client = self._connection
        self._note("sends nothing more")
        client.wire.finish()
        for _ in range(10):
            await self._pause(0.5, 0.5)
            if client.over:
                break
        client.reset()
        raise Cut

    async def _reset(self) -> None:
        self._note("cuts its connection")
        self._connection.reset()
        raise Cut

    async def _run_an_errand(self) -> None:
        """Ask something on another connection, and close that; what is pushed there is thrown away."""
        node = self._world.node()
        if node is None or self._token is None:
            return
        client = self._connect(node, main=False)
        try:
            await client.ask("STATE", None, self._token)
            await self._pause(0.0, 1.0)
        finally:
            client.close()

    async def _log_out(self) -> None:
        if (await self._ask("LOGOUT")).ok:
            self._start_over()
            self._logged_out = True

    async def _change_password(self) -> None:
        body = {"passwd": self.user.password, "newPasswd": self.user.other_password}
        answer = await self._ask("MODIFYPASSWD", body)
        if answer.ok or answer.info == errors.WRONG_PASSWORD:
            self.user.changes_mind()
        elif answer.info == errors.NOT_LOGGED_IN:
            self._start_over()

    # At the end.

    async def _drain(self) -> None:
        """Acknowledge all; then, somewhere else, there is nothing any more."""
        await self._acknowledge_all()
        self._connection.reset()
        await self._come_back()
        self.drained = True

    async def _acknowledge_all(self) -> None:
        if self.explicit:
            if self._here:
                timestamp = self._here[-1]["timestamp"]
                self._connection.tell("ACKFETCH", {"timestamp": timestamp}, self._token)
        else:
            for _ in range(2):  # each says that the answer before, and all before that, was read
                await self._ask("FETCHMSG")
        await self._pause(EFFECT, EFFECT)

    async def _come_back(self) -> None:
        node = self._world.node()
        assert node is not None
        self.client = self._connect(node, main=False)
        answer = await self._ask("FETCHMSG")
        left = answer.body["messages"] if answer.ok else answer.info
        if left:
            self._world.violation(f"O3: {self} gets again what it has acknowledged: {left}")
