"""One run of the simulation: who there is, what goes wrong, and when all must be well again.

Everything in it follows from one seed, to the byte; what runs it is in ``__main__``.
"""

from __future__ import annotations

import base64
import gc
import hashlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from chatsvc.chat import requests
from chatsvc.tasks import run
from chatsvc.wire.frames import DIALECTS
from tests.chaos.oracle import Message, Violated
from tests.fakes import FakePasswords, now
from tests.simulation.clock import SimClock
from tests.simulation.devices import PASSWORDS, Device, User
from tests.simulation.faults import Faults
from tests.simulation.habits import BusyDevice
from tests.simulation.judge import Judge
from tests.simulation.node import SimNode, in_order
from tests.simulation.store import LATE
from tests.simulation.wires import Wires

#: How long things go wrong, by default; in seconds, as all times here are, of the simulation's own.
DURATION = 8.0
#: How long it is quiet before, and may take until all is well after: within the first, but for what was
#: published and lost in silence, which only a node's regular look at the mailboxes finds.
PEACE, RECOVERY, SLOW_RECOVERY = 2.0, 20.0, 80.0


class Outcome(NamedTuple):
    """What a run came to."""

    seed: int
    #: What did not hold; empty if all did.
    violations: list[str]
    #: Of all that was done and of all bytes that arrived.
    digest: str
    sent: int
    deliveries: int
    faults: int


def simulate(seed: int, duration: float = DURATION, *, trace: bool = False) -> Outcome:
    """Run a world from its beginning to its end; with `trace`, say what happens."""
    outcome = World(seed, duration, trace=trace).run()
    with mock.patch.object(requests, "log"):  # what was cut short is tidied up, which may go wrong
        gc.collect()
    return outcome


class World:
    """The users, their devices, and the nodes that serve them."""

    def __init__(self, seed: int, duration: float = DURATION, *, trace: bool = False) -> None:
        self.seed = seed
        self.duration = duration
        self.random = Random(seed)
        self.clock = SimClock()
        self.judge = Judge(self.clock, self.violation)
        self.violations: list[str] = []
        self.calm = self.still = self.ending = False
        self._trace = trace
        self._digest = hashlib.sha256()
        self._messages = 0
        self._silent = self.random.random() < 0.25  # publications are lost though the connection stands
        self.wires = Wires(self.clock, self.random, self._digest.update)
        self.faults = Faults(self, silent=self._silent)
        kept: dict[str, bytes] = {}
        self.nodes = [
            SimNode(number, self.wires, self.judge.store, kept) for number in range(self.random.randint(2, 3))
        ]
        self.users = [self._user(name) for name in ("Alice", "Bob", "Carol")[: self.random.randint(2, 3)]]
        self.devices = [
            BusyDevice(
                self,
                user,
                f"{user.name} {number}",
                self.random.choice(list(DIALECTS.values())),
                explicit=self.random.random() < 0.6,
            )
            for user in self.users
            for number in range(self.random.randint(2, 3))
        ]

    def _user(self, name: str) -> User:
        hashed = now(FakePasswords().hash(PASSWORDS[0]))
        return User(now(self.judge.store.accounts.create(name, hashed)).id, name)

    # What devices know.

    def node(self) -> SimNode | None:
        """One that takes connections, if there is one."""
        up = [node for node in self.nodes if node.up]
        return self.random.choice(up) if up else None

    def note(self, who: object, what: str) -> None:
        """Something happens."""
        line = f"{self.clock.now - 1e6:9.4f}  {who}: {what}"
        self._digest.update(line.encode())
        if self._trace:
            print(line)

    def violation(self, what: str) -> None:
        """Something does not hold that must."""
        self.note("VIOLATION", what)
        self.violations.append(what)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on by itself."""
        run(work, lambda _: None, lambda error: self.violation(f"the run ended with {error!r}"))

    def message(self, sender: int) -> tuple[Message, bytes]:
        """A new message, and its payload."""
        self._messages += 1
        number, chance = self._messages, self.random.random()
        content = base64.b64encode(f"message {number}".encode() * (25 if chance < 0.1 else 1)).decode()
        payload, kind, md5 = b"", "plaintext", None
        if chance > 0.9:
            payload = hashlib.sha256(b"%d" % number).digest() * self.random.randrange(200)
            kind, md5 = "file", hashlib.md5(payload).hexdigest()
        message = {
            "userid": sender,
            "targetid": self.random.choice(self.users).id,
            "contenttype": kind,
            "content": content,
            # Clients' clocks are anything, but no two messages have the same time.
            "timestamp": number + 1_000_000 * self.random.randrange(100),
            "md5encoded": f"message-{number}",
            "filemd5": md5,
        }
        return message, payload

    # The run.

    def run(self) -> Outcome:
        """Let it all happen."""
        globalLogPublisher.addObserver(self._logged)  # type: ignore[arg-type]
        try:
            with in_order(self.wires):
                self._run()
        except Exception as error:  # a client that cannot read what it is sent, for one
            self.violation(f"the run ended with {error!r}")
        finally:
            for node in self.nodes:
                node.clock.life.over = True
            globalLogPublisher.removeObserver(self._logged)  # type: ignore[arg-type]
        digest = self._digest.hexdigest()
        return Outcome(
            self.seed, self.violations, digest, len(self.judge.sent), self.judge.deliveries, self.faults.count
        )

    def _logged(self, event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.critical or "log_failure" in event:
            self.violation(f"the server logged a failure: {event.get('log_failure', event)}")

    def _run(self) -> None:
        for node in self.nodes:
            node.start()
        for device in self.devices:
            self.spawn(device.live())
        self._pass(PEACE)
        self.spawn(self.faults.go_on())
        self._pass(self.duration)
        self.note("World", "nothing goes wrong any more")
        self.calm = True
        self.faults.heal()
        self._pass(LATE)
        self.still = True
        self._recover()
        if not self.violations:
            self._end()

    def _pass(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until `done`, or something does not hold."""
        violations = self.violations
        self.clock.run_until(self.clock.now + seconds, done=lambda: bool(violations) or done())
        return done()

    def _recover(self) -> None:
        """All devices get everything, without asking for it."""
        wait = SLOW_RECOVERY if self._silent else RECOVERY
        end = self.clock.now + wait
        while self.clock.now < end and not self.violations:
            if all(device.has_all for device in self.devices):
                return
            self._pass(0.5)

    def _end(self) -> None:
        mailboxes = self._read_mailboxes()
        try:
            self.judge.check(mailboxes)
        except Violated as violated:
            for what in violated.found:
                self.violation(what)
        if not self.violations:
            self._drain()
        for node in self.nodes:
            if node.up and node.blobs.open_files:
                self.violation(f"{node} holds files open for nobody")

    def _drain(self) -> None:
        self.ending = True
        if not self._pass(RECOVERY, lambda: all(device.drained for device in self.devices)):
            left = [device.name for device in self.devices if not device.drained]
            if not self.violations:
                self.violation(f"not all was acknowledged in time by {', '.join(left)}")

    def _read_mailboxes(self) -> dict[int, list[Message]]:
        """What a new device of each user is given."""
        mailboxes: dict[int, list[Message]] = {}

        async def read(user: User) -> None:
            reader = Device(self, user, f"{user.name} anew", DIALECTS["seed"], explicit=True)
            mailboxes[user.id] = await reader.read_all()
            del self.judge.in_order[reader.receipts]

        for user in self.users:
            self.spawn(read(user))
        if not self._pass(RECOVERY, lambda: len(mailboxes) == len(self.users)):
            self.violation("a new device did not get its user's mailbox in time")
        return mailboxes
