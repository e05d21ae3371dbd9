"""What must hold besides what the oracle of all fault tests knows, as here the store can be looked into.

Who is told what happens here, and by whom, is in ``world``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatsvc.store.mail import Entry
from tests.chaos.oracle import Message, Oracle, Receipts
from tests.fake_data import Data
from tests.fake_store import FakeMail, FakeStore
from tests.simulation.clock import SimClock

#: Seconds after which the end of a binding is in effect, everywhere and whatever is away.
REVOKED_WITHIN = 1.0


class Judge(Oracle):
    """The oracle, with eyes on what the store does to cursors and bindings."""

    def __init__(self, clock: SimClock, report: Callable[[str], None]) -> None:
        super().__init__()
        self._clock = clock
        self._report = report
        self.data = _Data(clock, self)
        self.store = FakeStore(clock, self.data)  # type: ignore[arg-type]  # a clock will do
        self.store.mail = _Mail(self.data, self.store.gate, self)
        #: By the id of a device.
        self.receipts: dict[str, Receipts] = {}
        self._left: dict[str, float] = {}
        self._got: dict[Receipts, set[str]] = {}

    def got(self, receipts: Receipts, message: Message) -> bool:
        """A device got a message; gives whether it is new to it."""
        self._got.setdefault(receipts, set()).add(message["md5encoded"])
        return receipts.get(message)

    def was_pushed(self, device: str, receipts: Receipts, message: Message) -> None:
        """A message was pushed to a device, which must be bound, or have been when it was stored."""
        ended = self._left.get(device)
        if ended is None or self.data.is_bound(device, receipts.user):
            return
        stored = next(
            entry.position
            for entry in reversed(self.data.users[receipts.user].mail)
            if name_of(entry) == message["md5encoded"]
        )
        if (stored >> 32) / 1000 > ended + REVOKED_WITHIN:
            self._report("a device was pushed a message that was stored after its binding had ended")

    def has_left(self, device: str) -> None:
        """A binding ends."""
        self._left[device] = self._clock.now

    def left_since(self, device: str, moment: float) -> bool:
        """Whether the device's binding ended after a moment."""
        return self._left.get(device, 0.0) >= moment

    def moves(self, user: int, device: str, cursor: int) -> None:
        """A device's cursor moves: all before it, but what the device sent itself, has reached it."""
        receipts = self.receipts.get(device)
        if receipts is None:
            return
        got = self._got.setdefault(receipts, set())
        for entry in self.data.users[user].mail:
            if entry.position <= cursor and entry.origin != device and name_of(entry) not in got:
                self._report(f"a cursor moved past a message that its device did not get: {name_of(entry)}")
                return

    def awaited(self, receipts: Receipts) -> int:
        """How many messages the device is to get."""
        names = [name_of(entry) for entry in self.data.users[receipts.user].mail]
        return len(self.foreign(receipts, names))


def name_of(entry: Entry) -> str:
    """The `md5encoded` of a stored message."""
    start = entry.message.index(_NAME) + len(_NAME)
    return entry.message[start : entry.message.index(b'"', start)].decode()


_NAME = b'"md5encoded":"'


class _Data(Data):
    def __init__(self, clock: SimClock, judge: Judge) -> None:
        super().__init__(clock)  # type: ignore[arg-type]  # a clock will do
        self._judge = judge

    def leave(self, user_id: int, device: str) -> None:
        if self.is_bound(device, user_id):
            self._judge.has_left(device)
        super().leave(user_id, device)


class _Mail(FakeMail):
    def __init__(self, data: Data, gate: Any, judge: Judge) -> None:
        super().__init__(data, gate)
        self._judge = judge

    def acknowledge(self, user_id: int, device: str, cursor: int) -> None:
        self._judge.moves(user_id, device, cursor)
        super().acknowledge(user_id, device, cursor)
