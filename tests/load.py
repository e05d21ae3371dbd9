"""People who write to each other all the time, on several devices and nodes, whatever happens to those.

Each device is a thread with a blocking client. What must hold of all that they send and get is in
`tests/oracle.py`; what happens to the servers and their store is the test's.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event, Thread
from typing import NamedTuple, Self

from tests.oracle import Message, Oracle
from tests.raw import DEADLINE, Raw
from tests.service import Service, wait_for

#: How long a test goes on making trouble, in seconds.
SECONDS = float(os.environ.get("CHAOS_SECONDS", "2"))
UNAVAILABLE = "Storage unavailable, try again"
#: Seconds within which each request is answered (docs/architecture.md), and what a busy machine adds.
ANSWERED = 5.0 + 2.0
#: Seconds after which an acknowledgement is in effect (docs/protocol.md section 5), and some more.
EFFECT = 1.5
#: Seconds for which a device reads before it sends again, or looks whether it should end.
PACE = 0.02
#: Messages that a device sends without waiting for answers, at most; and gets between acknowledgements.
BURST = 8
UNACKNOWLEDGED = 20


def rounds() -> Iterator[int]:
    """Numbers, two at least, until the time is over."""
    end = time.monotonic() + SECONDS
    number = 0
    while number < 2 or time.monotonic() < end:
        yield number
        number += 1


class Attempt(NamedTuple):
    """A message that was sent once: when, in seconds, it was and it was answered, and whether with OK."""

    name: str
    began: float
    ended: float
    ok: bool


class Load:
    """Users who write to each other and to themselves, from one device each, and read on several.

    `insist` is how probably a message is sent again when it is not known what became of it; `errors` says
    whether a client may be told that the store is away. The devices begin at different nodes.
    """

    def __init__(
        self, nodes: Sequence[Service], *, users: int = 3, insist: float = 0.5, errors: bool = True
    ) -> None:
        self.nodes = nodes
        self.insist = insist
        self.errors = errors
        self.oracle = Oracle()
        self.attempts: list[Attempt] = []
        self.failures: list[BaseException] = []
        self.talking, self.over = True, False
        self.times = itertools.count(int(time.time() * 1000))  # no two messages have the same
        self.seed = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
        print(f"To have the same again as far as can be: CHAOS_SEED={self.seed}")
        people = [nodes[0].user("seed") for _ in range(users)]
        self.people = {_user(person): person.name for person in people}
        self.devices = [
            _Device(self, at, person.name, talks=not at // users)
            for at, person in enumerate(people * (1 + len(nodes)))
        ]

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

    def stop(self) -> None:
        """End all devices, whatever they are at."""
        self.over = True
        for device in self.devices:
            device.join(DEADLINE)

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

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return once the condition holds; fails as soon as a device does."""
        wait_for(lambda: self.failures or condition(), what)
        assert not self.failures, self.failures

    def settle(self) -> None:
        """Send no more; then each device gets what it lacks without asking, and all holds that must."""
        self.talking = False
        self.wait_for(lambda: all(device.is_quiet.is_set() for device in self.devices), "all is answered")
        read = [self._mailboxes(node) for node in self.nodes]
        assert all(mailboxes == read[0] for mailboxes in read)
        oracle = self.oracle
        names = {user: [one["md5encoded"] for one in found] for user, found in read[0].items()}
        self.wait_for(
            lambda: all(
                len(device.receipts.first)
                >= len(oracle.foreign(device.receipts, names[device.receipts.user]))
                for device in self.devices
            ),
            "all devices get everything",
        )
        self.stop()
        assert not self.failures, self.failures
        oracle.check(read[0])
        assert all("Traceback" not in node.log() for node in self.nodes)

    def _mailboxes(self, node: Service) -> dict[int, list[Message]]:
        found = {}
        for user, name in self.people.items():
            with Raw(node.address, "seed") as client:
                client.login(name)
                found[user] = client.fetch()
        return found


class _Device(Thread):
    """One device: it sends what comes to its mind, and reads; when its connection ends it makes another."""

    def __init__(self, load: Load, number: int, name: str, *, talks: bool) -> None:
        super().__init__(name=f"device {number} of {name}", daemon=True)
        self._load = load
        self._random = random.Random(load.seed + number)
        # The talking devices and the others of each user begin at different nodes.
        first = number % len(load.nodes) + number // len(load.people)
        self._nodes = itertools.cycle([*load.nodes[first % len(load.nodes) :], *load.nodes])
        self._raw = Raw(next(self._nodes).address, "seed")
        self._raw.login(name)
        self.user = _user(self._raw)
        self.talks = talks
        self.receipts = load.oracle.device(self.user)
        self.stored = 0
        #: Set when it sends no more, and waits for no answer.
        self.is_quiet = Event()
        self._again: list[Message] = []  # not known whether they are stored
        #: When what was acknowledged, and how much it was, since anything went wrong.
        self._acknowledged: list[tuple[float, int]] = []

    def run(self) -> None:
        """Go on until the load is over."""
        try:
            is_new = True
            while not self._load.over:
                try:
                    if is_new:
                        self._fetch()
                        is_new = False
                    self._turn()
                except ConnectionError:
                    self._reconnect()
                    is_new = True
        except BaseException as error:
            self._load.failures.append(error)
        finally:
            self._raw.close()

    def _turn(self) -> None:
        if self.talks and (self._load.talking or self._again):
            self._talk()
        else:
            self.is_quiet.set()
        while self._raw.pushes or not self._raw.silent(PACE):
            self.receipts.get(self._raw.push())
        self._acknowledge()

    def _reconnect(self) -> None:
        """At the next node, as often as it takes."""
        self._acknowledged.clear()
        token = self._raw.token
        self._raw.close()
        while not self._load.over:
            try:
                self._raw = Raw(next(self._nodes).address, "seed", token)
                return
            except ConnectionError:
                time.sleep(PACE)  # or this would take what the server needs to start

    def _fetch(self) -> None:
        """Ask for what it has not acknowledged, until it gets that."""
        more = True
        self._raw.send("FETCHMSG")
        while more and not self._load.over:
            answer = self._raw.answer(ANSWERED)
            if answer.ok:
                more = answer.body["more"]
                for message in reversed(answer.body["messages"]):
                    self.receipts.get(message)
            else:
                self._went_wrong(answer.info)
                self._raw.send("FETCHMSG")
        # What was pushed before is not delivered, and stands in the answer too.
        self._raw.pushes.clear()

    def _went_wrong(self, info: str | None) -> None:
        assert (info, self._load.errors) == (UNAVAILABLE, True)
        self._acknowledged.clear()

    def _talk(self) -> None:
        """Send some messages at once, first of all again those of which nobody knows what became of them."""
        tried, self._again = self._again, []
        new = range(self._random.randint(1, BURST) if self._load.talking else 0)
        waiting = [*tried, *(self._message() for _ in new)]
        began = time.monotonic()
        try:
            for message in waiting:
                self._load.oracle.means_to_send(self.receipts, message)
                self._raw.send("SENDMSG", message)
            for at, message in enumerate(tuple(waiting)):
                self._hear(message, began, at_once=at >= len(tried))
                waiting.remove(message)
        finally:
            self._again += [message for message in waiting if self._random.random() < self._load.insist]

    def _message(self) -> Message:
        target = self._random.choice(list(self._load.people))
        name = secrets.token_hex(16)
        return self._raw.message(target, timestamp=next(self._load.times), md5encoded=name) | {
            "userid": self.user
        }

    def _hear(self, message: Message, began: float, *, at_once: bool) -> None:
        answer = self._raw.answer(ANSWERED)
        assert (answer.response, answer.body) == ("SENDMSG", {"md5encoded": message["md5encoded"]})
        attempt = Attempt(message["md5encoded"], began, time.monotonic(), answer.ok)
        assert attempt.ended - attempt.began < ANSWERED
        self._load.attempts.append(attempt)
        if answer.ok:
            self._load.oracle.was_stored(self.receipts, message, at_once=at_once)
            self.stored += 1
            return
        self._went_wrong(answer.info)
        if self._random.random() < self._load.insist:
            self._again.append(message)

    def _acknowledge(self) -> None:
        """Acknowledge what came, and see which acknowledgements are in effect by now."""
        got = self.receipts.first
        done = self._acknowledged[-1][1] if self._acknowledged else self.receipts.acknowledged
        if len(got) - done < UNACKNOWLEDGED:
            return
        self._raw.send("ACKFETCH", {"timestamp": self._load.oracle.sent[got[-1]]["timestamp"]})
        now = time.monotonic()
        self._acknowledged.append((now, len(got)))
        self._raw.send("STATE")
        answer = self._raw.answer(ANSWERED)
        if not answer.ok:
            self._went_wrong(answer.info)
        while self._acknowledged and self._acknowledged[0][0] < now - EFFECT:
            self.receipts.acknowledged = self._acknowledged.pop(0)[1]


def _user(client: Raw) -> int:
    assert client.user is not None
    return client.user
