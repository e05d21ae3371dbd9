"""What was delivered to a device and what of it is acknowledged (``docs/protocol.md`` section 5.2).

Positions are places in the user's mailbox, see `chatsvc.store.mail`; nothing is read or sent here.
"""

from __future__ import annotations

from typing import NamedTuple

#: FETCHMSG answers that a device may leave without acknowledgement. The oldest are forgotten beyond it,
#: which acknowledges too little, never too much.
ANSWERS_KEPT = 1000
#: Pairs of device and user of which a node knows what was delivered; likewise.
DELIVERIES_KEPT = 100_000
#: Deliveries on a connection that may be under way when it is closed; of more, every other one is forgotten,
#: likewise. Few, as each connection that is pushed to keeps as many.
RECENT_KEPT = 64


class Delivery:
    """How far one device of one user got in the mailbox, as far as this node knows.

    What lies up to `cursor` is acknowledged, what lies up to `delivered` was written out to the device.
    """

    __slots__ = ("_answers", "cursor", "delivered", "user_id")

    def __init__(self, user_id: int, cursor: int) -> None:
        self.user_id = user_id
        self.cursor = cursor
        self.delivered = cursor
        #: (timestamp of the newest message, end) of each FETCHMSG answer that is not acknowledged, oldest
        #: first. A list, which takes little while it is empty, as it mostly is.
        self._answers: list[tuple[int, int]] = []

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
        if newest is not None and end > self.cursor and (newest, end) not in self._answers:
            self._answers.append((newest, end))
            del self._answers[:-ANSWERS_KEPT]

    def answer_end(self, timestamp: int) -> int | None:
        """Where the oldest FETCHMSG answer ends whose first message has this timestamp."""
        return next((end for newest, end in self._answers if newest == timestamp), None)

    def acknowledge(self, end: int) -> None:
        """All up to a position is acknowledged."""
        self.cursor = max(self.cursor, end)
        if self._answers:
            self._answers = [answer for answer in self._answers if answer[1] > self.cursor]


class Deliveries:
    """What this node delivered, by device and user: known as long as it runs, whatever connections end."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Delivery] = {}

    def find(self, device_id: str, user_id: int) -> Delivery | None:
        """What is known of this pair; None if it has not asked for its messages."""
        return self._known.get((device_id, user_id))

    def begin(self, device_id: str, user_id: int, cursor: int) -> Delivery:
        """Start from the cursor, and forget what was known of this pair."""
        while len(self._known) >= DELIVERIES_KEPT:
            del self._known[next(iter(self._known))]
        found = self._known[device_id, user_id] = Delivery(user_id, cursor)
        return found


class _Written(NamedTuple):
    """Something that counts once the stream is written out up to `offset`."""

    offset: int
    #: None marks the end of an answer.
    delivery: Delivery | None
    start: int = 0
    end: int = 0
    newest: int | None = None


class Ledger:
    """What one connection was given to write, until it is written out; and what it was by the last answer.

    Most is about one mailbox; where a binding replaced another, what is under way belongs to two.
    """

    __slots__ = ("_answer_end", "_delivered", "_recent", "_waiting", "answered", "answered_at")

    def __init__(self) -> None:
        # Lists, as an empty deque takes 624 bytes.
        self._waiting: list[_Written] = []
        #: (offset, delivery, what was delivered by then) of what is written out but perhaps still under way.
        self._recent: list[tuple[int, Delivery, int]] = []
        self.reset()

    def reset(self) -> None:
        """Start anew: the connection has another device."""
        self._waiting.clear()
        self._recent.clear()
        #: What was delivered on this connection and is written out.
        self._delivered: dict[Delivery, int] = {}
        self._answer_end = 0  # of the last answer that was given
        #: When the last answer was written out in full, in seconds; None if it was not.
        self.answered_at: float | None = None
        #: What was delivered on this connection up to the end of that answer.
        self.answered: dict[Delivery, int] = {}

    def give(self, offset: int, delivery: Delivery, start: int, end: int, newest: int | None = None) -> None:
        """Bytes up to `offset` deliver what lies between two positions of the mailbox."""
        self._waiting.append(_Written(offset, delivery, start, end, newest))

    def answer(self, offset: int) -> None:
        """An answer ends at `offset`."""
        self.answered_at, self._answer_end = None, offset
        if self._waiting and self._waiting[-1].delivery is None:
            self._waiting.pop()  # nothing was delivered between the two ends
        self._waiting.append(_Written(offset, None))

    def written(self, offset: int, now: float) -> None:
        """The stream is written out up to `offset`."""
        waiting, done = self._waiting, 0
        for at, delivery, start, end, newest in waiting:
            if at > offset:
                break
            done += 1
            if delivery is None:
                if at == self._answer_end:
                    self.answered_at, self.answered = now, self._delivered.copy()
                continue
            delivery.add(start, end, newest)
            if self._delivered.get(delivery, 0) < end <= delivery.delivered:
                self._delivered[delivery] = end
                self._recent.append((at, delivery, end))
        del waiting[:done]
        while len(self._recent) > RECENT_KEPT:
            del self._recent[-2::-2]  # never the last: when all has arrived, all is acknowledged

    def reached_peer(self, offset: int) -> dict[Delivery, int]:
        """What was delivered by the bytes up to `offset`, which the peer's system has."""
        return {delivery: end for at, delivery, end in self._recent if at <= offset}
