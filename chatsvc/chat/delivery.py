"""What was delivered to a device and what of it is acknowledged (``docs/protocol.md`` section 5.2).

Positions are places in the user's mailbox, see `chatsvc.store.mail`; nothing is read or sent here.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

#: FETCHMSG answers that a device may leave without acknowledgement. The oldest are forgotten beyond it,
#: which acknowledges too little, never too much.
ANSWERS_KEPT = 1000
#: Deliveries on a connection that may be under way when it is closed; likewise.
RECENT_KEPT = 1000


class Delivery:
    """How far one device of one user got in the mailbox, as far as this node knows.

    What lies up to `cursor` is acknowledged, what lies up to `delivered` was written out to the device.
    """

    __slots__ = ("_answers", "cursor", "delivered")

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.delivered = cursor
        #: (timestamp of the newest message, end) of each FETCHMSG answer, oldest first.
        self._answers: deque[tuple[int, int]] = deque(maxlen=ANSWERS_KEPT)

    def moved(self, cursor: int) -> None:
        """The store has this cursor: another node, or an earlier run of this one, moved it."""
        self.acknowledge(cursor)
        self.delivered = max(self.delivered, cursor)

    def add(self, start: int, end: int, newest: int | None) -> None:
        """What lies between two positions was written out; it counts if all before it did.

        `newest` is the timestamp of a FETCHMSG answer's first message; None for a push.
        """
        if start > self.delivered:
            return
        self.delivered = max(self.delivered, end)
        if newest is not None and (newest, end) not in self._answers:
            self._answers.append((newest, end))

    def answer_end(self, timestamp: int) -> int | None:
        """Where the oldest FETCHMSG answer ends whose first message has this timestamp."""
        return next((end for newest, end in self._answers if newest == timestamp), None)

    def acknowledge(self, end: int) -> None:
        """All up to a position is acknowledged."""
        self.cursor = max(self.cursor, end)
        while self._answers and self._answers[0][1] <= self.cursor:
            self._answers.popleft()


class _Written(NamedTuple):
    """Something that counts once the stream is written out up to `offset`."""

    offset: int
    #: None marks the end of an answer.
    delivery: Delivery | None
    start: int = 0
    end: int = 0
    newest: int | None = None


class Ledger:
    """What one connection was given to write, until it is written out; and the last answer's end."""

    __slots__ = ("_recent", "_waiting", "answered_at", "answered_position", "delivered")

    def __init__(self) -> None:
        self._waiting: deque[_Written] = deque()
        #: (offset, what was delivered by then) of what is written out but perhaps still under way.
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_KEPT)
        self.reset()

    def reset(self) -> None:
        """Start anew: the connection has another device, or the device another user."""
        self._waiting.clear()
        self._recent.clear()
        #: What was delivered on this connection and is written out.
        self.delivered = 0
        #: When the last answer was written out in full, in seconds; None if it was not.
        self.answered_at: float | None = None
        #: What was delivered on this connection up to the end of that answer.
        self.answered_position = 0

    def give(self, offset: int, delivery: Delivery, start: int, end: int, newest: int | None = None) -> None:
        """Bytes up to `offset` deliver what lies between two positions of the mailbox."""
        self._waiting.append(_Written(offset, delivery, start, end, newest))

    def answer(self, offset: int) -> None:
        """An answer ends at `offset`."""
        self.answered_at = None
        if self._waiting and self._waiting[-1].delivery is None:
            self._waiting.pop()  # nothing was delivered between the two ends
        self._waiting.append(_Written(offset, None))

    def written(self, offset: int, now: float) -> None:
        """The stream is written out up to `offset`."""
        waiting = self._waiting
        while waiting and waiting[0].offset <= offset:
            at, delivery, start, end, newest = waiting.popleft()
            if delivery is None:
                self.answered_at = now
                self.answered_position = self.delivered
                continue
            delivery.add(start, end, newest)
            if self.delivered < end <= delivery.delivered:
                self.delivered = end
                self._recent.append((at, end))

    def reached_peer(self, offset: int) -> int:
        """What was delivered by the bytes up to `offset`, which the peer's system has."""
        return next((end for at, end in reversed(self._recent) if at <= offset), 0)
