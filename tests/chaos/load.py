"""People who write to each other all the time, on several devices and nodes, whatever happens to those.

What one device does is in `tests/chaos/device.py`, and what must hold of all that they send and get in
`tests/chaos/oracle.py`; what happens to the servers and their store is the test's.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from tests.chaos.device import Attempt, Device, Door, user_of
from tests.chaos.oracle import Message, Oracle, Violated
from tests.chaos.report import Tally
from tests.raw import DEADLINE, Raw
from tests.service import Service, wait_for

#: How long a test goes on making trouble, in seconds.
SECONDS = float(os.environ.get("CHAOS_SECONDS", "2"))
#: Whether there is time for what CI has none for.
LONG = SECONDS >= 10
#: How many people there are if a test does not say.
USERS = 10 if LONG else 2
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
#: A bug that is planted is looked for during so many seconds, and what is missing then is waited for so long.
CONTROL = 2.0


class Load:
    """Users who write to each other and to themselves, from one device each, and read on several.

    `doors` are where the devices connect if not to the nodes. `insist` is how probably a message is sent
    again when it is not known what became of it, and `cuts` how probably a device cuts its connection
    before it reads on; `errors` says whether a client may be told that the store is away. The devices begin
    at different nodes; the last one of each user acknowledges by what it does, the others by ACKFETCH.
    """

    def __init__(
        self,
        nodes: Sequence[Service],
        tally: Tally,
        *,
        doors: Sequence[Door] = (),
        users: int = USERS,
        insist: float = 0.5,
        cuts: float = 0.0,
        errors: bool = True,
    ) -> None:
        self.nodes = nodes
        self.doors = doors or nodes
        self.tally = tally
        self.insist = insist
        self.cuts = cuts
        self.errors = errors
        self.oracle = Oracle()
        self.attempts: list[Attempt] = []
        self.failures: list[BaseException] = []
        self.talking, self.over = True, False
        self.faults = 0  # of nodes and stores
        self.times = itertools.count(int(time.time() * 1000))  # no two messages have the same
        self.random = random.Random(SEED)
        tally.seed = SEED
        print(f"To have the same again as far as can be: CHAOS_SEED={SEED}")
        people = [nodes[0].user("seed") for _ in range(users)]
        self.people = {user_of(person): person.name for person in people}
        ways = 1 + len(self.doors)
        self.devices = [
            Device(self, at, person.name, talks=at < users, infers=at >= users * (ways - 1))
            for at, person in enumerate(people * ways)
        ]
        for person in people:
            person.close()

    def __enter__(self) -> Self:
        for device in self.devices:
            device.start()
        try:
            self.flow()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.tally.deliveries += self.oracle.deliveries

    def stop(self) -> None:
        """End all devices, whatever they are at."""
        self.over = True
        for device in self.devices:
            device.join(DEADLINE)

    def rounds(self, in_control: int = 2) -> Iterator[int]:
        """Numbers, two at least, until the time is over.

        `in_control` are those at least with a planted bug, however little a busy machine does in that time.
        """
        least, seconds = (in_control, CONTROL) if self.tally.bug else (2, SECONDS)
        end = time.monotonic() + seconds
        number = 0
        while number < least or time.monotonic() < end:
            yield number
            number += 1

    def fault(self, kind: str) -> None:
        """Note that a node or a store is about to suffer one."""
        self.faults += 1
        self.tally.faults.append(kind)

    def flow(self, count: int = 20) -> None:
        """Return when so many more messages are stored, by each device that sends."""
        talking = [device for device in self.devices if device.talks]
        before = [device.stored for device in talking]
        self.wait_for(
            lambda: all(one.stored >= was + count for one, was in zip(talking, before, strict=True)),
            "messages flow",
        )

    def acknowledge(self) -> None:
        """Return when each device has acknowledged more, and that is in effect."""
        before = [device.receipts.acknowledged for device in self.devices]
        self.wait_for(
            lambda: all(
                device.receipts.acknowledged > was for device, was in zip(self.devices, before, strict=True)
            ),
            "what is acknowledged is so for good",
        )

    def wait_for(self, condition: Callable[[], object], what: str, deadline: float = 2 * DEADLINE) -> None:
        """Return once the condition holds; fails as soon as a device does."""
        wait_for(lambda: self.failures or condition(), what, deadline)
        self._raise()

    def _raise(self) -> None:
        for failure in self.failures:
            if isinstance(failure, Violated):
                self.tally.violations += len(failure.found)
                raise failure
        assert not self.failures, self.failures

    def settle(self) -> None:
        """Send no more; then each device gets what it lacks without asking, and all holds that must."""
        self.talking = False
        self.wait_for(lambda: all(device.is_quiet.is_set() for device in self.devices), "all is answered")
        read = [self._mailboxes(node) for node in self.nodes]
        if any(mailboxes != read[0] for mailboxes in read):
            self.tally.violations += 1
            raise Violated(["a mailbox changed after all was answered, or differs from node to node"])
        names = {user: [one["md5encoded"] for one in found] for user, found in read[0].items()}
        end = time.monotonic() + (CONTROL if self.tally.bug else 2 * DEADLINE)
        while time.monotonic() < end and not self.failures and any(map(self._lacks(names), self.devices)):
            time.sleep(0.01)
        self.stop()
        self._raise()
        try:
            self.oracle.check(read[0])
        except Violated as violated:
            self.tally.violations += len(violated.found)
            raise
        assert all("Traceback" not in node.log() for node in self.nodes)

    def _lacks(self, mailboxes: dict[int, list[str]]) -> Callable[[Device], bool]:
        def lacks(device: Device) -> bool:
            receipts = device.receipts
            expected = len(self.oracle.foreign(receipts, mailboxes[receipts.user]))
            return len(receipts.first) < expected or bool(device.files)

        return lacks

    def _mailboxes(self, node: Service) -> dict[int, list[Message]]:
        found = {}
        for user, name in self.people.items():
            with Raw(node.address, "seed") as client:
                client.login(name)
                found[user] = client.fetch()
        return found
