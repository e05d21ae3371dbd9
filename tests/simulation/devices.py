"""Users and their devices: how one connects, logs in and gets its messages, and what it remembers of that.

What else it does is in ``habits``; what must hold of what it gets is its judge's to say.
"""

from __future__ import annotations

from collections.abc import Coroutine
from random import Random
from typing import Any, Protocol

from chatsvc.store import keys
from chatsvc.tasks import Pending, pause
from chatsvc.wire import errors
from chatsvc.wire.frames import Dialect
from tests.chaos.oracle import Message
from tests.fakes import Frame
from tests.simulation.client import Client, Cut
from tests.simulation.clock import SimClock
from tests.simulation.judge import Judge
from tests.simulation.node import SimNode

#: Seconds after which an acknowledgement is in effect (docs/protocol.md section 5), and some more.
EFFECT = 1.5
#: Either is a user's, for as long as nobody is known to have changed it.
PASSWORDS = "secret", "other"


class World(Protocol):
    """What a device knows of the simulation."""

    clock: SimClock
    random: Random
    judge: Judge
    users: list[User]
    #: Nobody does anything new any more, as what is missing is to come; nothing of before is still under way
    #: to the store; and then everybody is to end.
    calm: bool
    still: bool
    ending: bool

    def node(self) -> SimNode | None:
        """One that takes connections, if there is one."""

    def note(self, who: object, what: str) -> None:
        """Something happens."""

    def violation(self, what: str) -> None:
        """Something does not hold that must."""

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on by itself."""

    def message(self, sender: int) -> tuple[Message, bytes]:
        """A new message, and its payload."""


class User:
    """Somebody; who knows the password may have to try."""

    def __init__(self, user_id: int, name: str) -> None:
        self.id = user_id
        self.name = name
        self.password, self.other_password = PASSWORDS

    def changes_mind(self) -> None:
        """It is the other password."""
        self.password, self.other_password = self.other_password, self.password


class Device:
    """A device of a user: it logs in, fetches its messages, and is pushed to.

    An `explicit` one uses ACKFETCH; of the others the server infers what they have.
    """

    def __init__(self, world: World, user: User, name: str, dialect: Dialect, *, explicit: bool) -> None:
        self.name = name
        self.user = user
        self.explicit = explicit
        self.receipts = world.judge.device(user.id)
        self.client: Client | None = None
        #: It is logged in, and knows what became of all that it sent.
        self.settled = False
        #: It has acknowledged all, and that is so for good.
        self.drained = False
        self._world = world
        self._dialect = dialect
        self._token: int | None = None
        self._id = ""
        self._node: SimNode | None = None
        #: A FETCHMSG was answered to its end on this connection; what was pushed before is thrown away.
        self._fetched = False
        self._logged_out = False
        #: What came on this connection and is not acknowledged, in the order in which it came.
        self._here: list[Message] = []
        self._places: dict[str, int] = {}
        self._files: list[str] = []  # of messages, still to be fetched
        self._trouble_at = 0.0
        self._explicit_at: float | None = None
        self._is_careful = True

    def __repr__(self) -> str:
        return self.name

    async def live(self) -> None:
        """Connect, and again whenever the connection ends."""
        while not self.drained:
            try:
                await self._visit()
            except Cut:
                self._note("has no connection")
            await self._pause(0.05, 0.6)

    async def _visit(self) -> None:
        node = self._world.node()
        if node is None:
            return
        self._node = node
        self.client = self._connect(node, main=True)
        self._start_over()
        self._look_whether_it_is_explicit()
        self._here.clear()
        await self._enter()
        while not self.drained:
            await self._pause(0.05, 0.7)
            await self._act()

    def _connect(self, node: SimNode, *, main: bool) -> Client:
        """A connection; only on a `main` one are pushes and parts of answers listened to."""
        self._note(f"connects to node {node.number}")
        client = Client(
            self._dialect,
            self._is_known,
            (lambda message: self._pushed(client, message)) if main else (lambda message: None),
            self._part if main else (lambda body: None),
        )
        client.wire = node.connect(client)
        return client

    def _is_known(self, token: int) -> None:
        self._token, self._id = token, keys.device_id(token)
        self._world.judge.receipts[self._id] = self.receipts

    def _look_whether_it_is_explicit(self) -> None:
        """Whether the server may take what is asked here for a sign that what came before was read.

        That a device uses ACKFETCH is told by one node to the others as late as what it acknowledges.
        """
        now = self._world.clock.now
        if self._explicit_at is None and self._id in self._world.judge.data.explicit:
            self._explicit_at = now
        self._is_careful = self._explicit_at is None or now - self._explicit_at < 2 * EFFECT

    def _start_over(self) -> None:
        self._fetched = self._logged_out = self.settled = False
        self._trouble()

    async def _act(self) -> None:
        """Do something, once it is logged in and has fetched."""

    async def _enter(self) -> None:
        """Log in if need be, and fetch."""
        while not self._fetched:
            answer = await self._ask("STATE")
            if not answer.ok and answer.info == errors.NOT_LOGGED_IN:
                self._start_over()
                body = {"username": self.user.name, "passwd": self.user.password}
                answer = await self._ask("LOGIN", body)
                if answer.info == errors.BAD_CREDENTIALS:
                    self.user.changes_mind()
            if answer.ok:
                await self._fetch()
            else:
                await self._pause(0.1, 0.5)

    async def _fetch(self) -> None:
        if not self._is_careful or not self._connection.waits:
            answer = await self._ask("FETCHMSG")
            if answer.ok:
                self._part(answer.body)
                self._fetched = True
            elif not self._fetched:
                self._connection.reset()  # it may have begun to come, and what is pushed then is not in order
            elif answer.info == errors.NOT_LOGGED_IN:
                self._start_over()

    async def read_all(self) -> list[Message]:
        """As a new device, all that its user's mailbox holds."""
        node = self._world.node()
        assert node is not None
        self.client = self._connect(node, main=True)
        await self._enter()
        return self._here

    # What comes.

    def _pushed(self, client: Client, message: Message) -> None:
        self._world.judge.was_pushed(self._id, self.receipts, message)
        if self._logged_out:
            self._world.violation(f"{self} was pushed something after it had logged out")
        if self._fetched and client is self.client:  # what comes late on a connection that was left is lost
            self._get(message)

    def _part(self, body: Any) -> None:
        for message in reversed(body["messages"]):
            self._get(message)

    def _get(self, message: Message) -> None:
        name = message["md5encoded"]
        self._note(f"gets {name}")
        self._places.setdefault(name, len(self.receipts.first))
        self._here.append(message)
        if self._world.judge.got(self.receipts, message) and message["filemd5"] is not None:
            self._files.append(name)

    # How it does that.

    @property
    def _connection(self) -> Client:
        if self.client is None or self.client.over:
            raise Cut
        return self.client

    async def _ask(self, kind: str, body: Any = None) -> Frame:
        answer = await self._begin(kind, body)
        if not answer.ok:
            self._note(f"is told: {answer.info}")
            if answer.info not in _EXPECTED:
                self._world.violation(f"{kind} was answered: {answer.info}")
        return answer

    def _begin(self, kind: str, body: Any = None, payload: bytes = b"", about: str = "") -> Pending[Frame]:
        self._note(f"asks {kind} {about}".rstrip())
        return self._connection.ask(kind, body, self._token, payload)

    async def _pause(self, least: float, most: float) -> None:
        await pause(self._world.clock, self._world.random.uniform(least, most))

    def _trouble(self) -> None:
        self._trouble_at = self._world.clock.now

    def _note(self, what: str) -> None:
        self._world.note(self, what)


#: What a client may be told.
_EXPECTED = {
    errors.STORAGE_UNAVAILABLE,
    errors.NOT_LOGGED_IN,
    errors.BAD_CREDENTIALS,
    errors.WRONG_PASSWORD,
    errors.FILE_NOT_FOUND,
}
