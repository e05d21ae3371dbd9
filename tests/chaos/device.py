"""One device under load: a thread with a blocking client that sends, reads, acknowledges and comes back.

Who else there is, and when it all ends, is in `tests/chaos/load.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tests.chaos.oracle import Message, Violated
from tests.raw import Answer, Raw

if TYPE_CHECKING:
    from tests.chaos.load import Load

UNAVAILABLE = "Storage unavailable, try again"
UNKNOWN_USER = "User not found"
#: The id of a user whom there will not be.
NOBODY = 10**9
#: Seconds within which each request is answered (docs/architecture.md), and what a busy machine adds.
ANSWERED = 5.0 + 5.0
#: Seconds after which an acknowledgement is in effect (docs/protocol.md section 5), and some more.
EFFECT = 1.5
#: Seconds for which a device reads before it sends again, or looks whether it should end.
PACE = 0.02
#: Messages that a device sends without waiting for answers, at most; and gets between acknowledgements.
BURST = 8
UNACKNOWLEDGED = 20
#: How many of a hundred messages have a file, a long content, or nobody who gets it.
FILES, LONG_CONTENTS, REFUSED = 3, 3, 2
FILE_BYTES = 60_000
#: One that passes through the store, and one over what is kept there.
LONG_CONTENT = "long " * 4_000, "long " * 8_000


class Door(Protocol):
    """Where a device can connect."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""


class Attempt(NamedTuple):
    """A message that was sent once: when, in seconds, it was and it was answered, and whether with OK."""

    name: str
    began: float
    ended: float
    ok: bool


class _Acknowledged(NamedTuple):
    """The messages before the place `upto` were, at a time at which so many `faults` had been injected."""

    when: float
    upto: int
    faults: int


class Device(Thread):
    """It sends what comes to its mind, and reads; when its connection ends it makes another.

    One that `infers` never uses ACKFETCH: a FETCHMSG acknowledges what came up to the answer before it.
    """

    def __init__(self, load: Load, number: int, name: str, *, talks: bool, infers: bool) -> None:
        super().__init__(name=f"device {number} of {name}", daemon=True)
        self._load = load
        self._random = random.Random(load.random.random())
        # The talking devices and the others of each user begin at different nodes.
        doors = load.doors
        first = number % len(doors) + number // len(load.people)
        self._doors = itertools.cycle([*doors[first % len(doors) :], *doors[: first % len(doors)]])
        self._raw = Raw(next(self._doors).address, "seed")
        self._raw.login(name)
        self.user = user_of(self._raw)
        self.talks = talks
        self.infers = infers
        self.receipts = load.oracle.device(self.user)
        self.stored = 0
        #: Names of messages whose files it has not fetched yet.
        self.files: list[str] = []
        #: Set when it sends no more, and waits for no answer.
        self.is_quiet = Event()
        self._again: list[tuple[Message, bytes]] = []  # not known whether they are stored
        #: How much it had got up to the end of the last answer on this connection.
        self._answered = 0
        #: The newest message that came on this connection since the last ACKFETCH. One that names a message
        #: which is acknowledged already would acknowledge older ones that are still on their way.
        self._newest: Message | None = None
        #: What was acknowledged and may not be in effect yet.
        self._acknowledged: list[_Acknowledged] = []
        #: When it first was not answered OK, in seconds; None if all is well.
        self._out_since: float | None = None

    def run(self) -> None:
        """Go on until the load is over."""
        try:
            is_new = True
            while not self._load.over:
                try:
                    if is_new:
                        self._fetch(is_first=True)
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
        self._perhaps_cut()
        if self.talks and (self._load.talking or self._again):
            self._talk()
        else:
            self.is_quiet.set()
        while self._raw.pushes or not self._raw.silent(PACE):
            self._get(self._raw.push())
        self._fetch_files()
        self._acknowledge()

    # The connection.

    def _perhaps_cut(self) -> None:
        if self._load.talking and self._random.random() < self._load.cuts:
            self._load.tally.faults.append("connection cut by its client")
            self._raw.reset()
            raise ConnectionError

    def _reconnect(self) -> None:
        """At the next door, as often as it takes."""
        self._acknowledged.clear()
        self._answered, self._newest = 0, None
        token = self._raw.token
        self._raw.close()
        while not self._load.over:
            try:
                self._raw = Raw(next(self._doors).address, "seed", token)
                return
            except ConnectionError:
                time.sleep(PACE)  # or this would take what the server needs to start

    def _answer(self) -> Answer:
        """The next answer; what was pushed before it is taken first."""
        answer = self._raw.answer(ANSWERED)
        while self._raw.pushes:
            self._get(self._raw.push())
        self._answered = len(self.receipts.first)
        return answer

    def _went_wrong(self, info: str | None) -> None:
        if (info, self._load.errors) != (UNAVAILABLE, True):
            raise Violated([f"O1: a device of user {self.user} that is logged in was answered {info!r}"])
        self._acknowledged.clear()

    # Receiving.

    def _get(self, message: Message) -> None:
        self._newest = message
        if self.receipts.get(message) and message["filemd5"] is not None:
            self.files.append(message["md5encoded"])

    def _fetch(self, *, is_first: bool = False) -> None:
        """Ask for what it has not acknowledged, until it gets that."""
        more = True
        self._raw.send("FETCHMSG")
        while more and not self._load.over:
            answer = self._raw.answer(ANSWERED)
            if is_first:
                # What is pushed before the first answer's end is not delivered, and stands in it too.
                self._raw.pushes.clear()
            while self._raw.pushes:
                self._get(self._raw.push())
            if answer.ok:
                more = answer.body["more"]
                for message in reversed(answer.body["messages"]):
                    self._get(message)
            else:
                self._went_wrong(answer.info)
                self._raw.send("FETCHMSG")
        self._answered = len(self.receipts.first)

    def _fetch_files(self) -> None:
        while self.files and not self._load.over:
            self._raw.send("FETCHFILE", {"msgmd5": self.files[0]})
            answer = self._answer()
            if not answer.ok and answer.info == UNAVAILABLE:
                self._went_wrong(answer.info)
                return
            self.receipts.get_file(self.files.pop(0), answer.payload if answer.ok else None)

    def _acknowledge(self) -> None:
        """Acknowledge what came, and see which acknowledgements are in effect by now."""
        got = self.receipts.first
        done = self._acknowledged[-1].upto if self._acknowledged else self.receipts.acknowledged
        upto = self._answered if self.infers else len(got)
        if len(got) - done < UNACKNOWLEDGED or self._newest is None:
            return
        now, faults = time.monotonic(), self._load.faults
        if self.infers:
            self._fetch()
        else:
            self._raw.send("ACKFETCH", {"timestamp": self._newest["timestamp"]})
            self._newest = None
            self._raw.send("STATE")
            answer = self._answer()
            if not answer.ok:
                self._went_wrong(answer.info)
        if upto > done:
            self._acknowledged.append(_Acknowledged(now, upto, faults))
        while self._acknowledged and self._acknowledged[0].when < now - EFFECT:
            sooner = self._acknowledged.pop(0)
            if sooner.faults == faults:  # else a node may not have come to save it
                self.receipts.acknowledged = sooner.upto

    # Sending.

    def _talk(self) -> None:
        """Send some messages at once, first of all again those of which nobody knows what became of them."""
        tried, self._again = self._again[:BURST], self._again[BURST:]
        is_full = len(tried) == BURST
        new = range(self._random.randint(1, BURST) if self._load.talking and not is_full else 0)
        waiting = [*tried, *(self._message() for _ in new)]
        began = time.monotonic()
        try:
            for message, file in waiting:
                self._load.oracle.means_to_send(self.receipts, message)
                self._raw.send("SENDMSG", message, file)
            self._perhaps_cut()
            for at, (message, file) in enumerate(tuple(waiting)):
                self._hear(message, file, began, at_once=at >= len(tried))
                waiting.pop(0)
        finally:
            self._load.tally.outcomes += ["unknown"] * len(waiting)
            if waiting and self._out_since is None:
                self._out_since = began
            self._again += [each for each in waiting if self._random.random() < self._load.insist]

    def _message(self) -> tuple[Message, bytes]:
        """A message to anybody, and its file."""
        fields: dict[str, Any] = {"userid": self.user, "timestamp": next(self._load.times)}
        fields["md5encoded"] = secrets.token_hex(16)
        target, content, file = self._random.choice(list(self._load.people)), "aGk=", b""
        kind = self._random.randrange(100)
        if kind < FILES:
            file = self._random.randbytes(self._random.randint(1, FILE_BYTES))
            fields |= {"contenttype": "file", "filemd5": hashlib.md5(file).hexdigest()}
        elif kind < FILES + LONG_CONTENTS:
            content = self._random.choice(LONG_CONTENT)
        elif kind < FILES + LONG_CONTENTS + REFUSED:
            target = NOBODY
        return self._raw.message(target, content, **fields), file

    def _hear(self, message: Message, file: bytes, began: float, *, at_once: bool) -> None:
        load, answer = self._load, self._answer()
        assert (answer.response, answer.body) == ("SENDMSG", {"md5encoded": message["md5encoded"]})
        attempt = Attempt(message["md5encoded"], began, time.monotonic(), answer.ok)
        assert attempt.ended - attempt.began < ANSWERED
        load.attempts.append(attempt)
        load.tally.outcomes.append(answer.status)
        if answer.ok:
            load.oracle.was_stored(self.receipts, message, at_once=at_once)
            self.stored += 1
            if self._out_since is not None:
                load.tally.outage = max(load.tally.outage, attempt.ended - self._out_since)
                self._out_since = None
            return
        if (message["targetid"], answer.info) == (NOBODY, UNKNOWN_USER):
            load.oracle.was_refused(message)
            return
        self._went_wrong(answer.info)
        if self._out_since is None:
            self._out_since = began
        if self._random.random() < load.insist:
            self._again.append((message, file))


def user_of(client: Raw) -> int:
    """Who is logged in on a connection."""
    assert client.user is not None
    return client.user
