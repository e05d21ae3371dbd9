"""What contacts signal to each other beside messages: who is writing, and how far each has got and read.

It sends nothing and draws nothing; when to do that is decided here (``docs/protocol.md`` section 5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatsvc.cli.archive import Stored
from chatsvc.wire.schema import MarkOf

#: Seconds after which whoever goes on writing says so again, and for which the other side shows it.
AGAIN, SHOWN_FOR = 4.0, 6.0


class Typist:
    """When to say that something is being written to whoever is written to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: float | None = None

    def changed(self, text: str) -> bool | None:
        """What to tell now that the line reads so, if anything. A command is written to nobody."""
        writing = bool(text) and (not text.startswith("/") or text.startswith("//"))
        told, now = self._told, self._clock()
        if writing and (told is None or now - told >= AGAIN):
            self._told = now
            return True
        if not writing and told is not None:
            self._told = None
            return False
        return None

    def done(self) -> None:
        """The line was sent, or is for somebody else: nothing needs to be said of that."""
        self._told = None


class Marks:
    """The latest marks that were heard of."""

    def __init__(self) -> None:
        self._marks: dict[tuple[int, int, str], MarkOf] = {}

    def hear(self, mark: MarkOf) -> None:
        """There is a new one."""
        self._marks[mark.userid, mark.targetid, mark.mark] = mark

    def read(self, reader: int, sender: int) -> MarkOf | None:
        """How far somebody has read what somebody else sent."""
        return self._marks.get((reader, sender, "read"))

    def states(self, reader: int, messages: Sequence[Stored]) -> list[str]:
        """For each message to `reader`, in their order, whether it is stored, delivered or read."""
        states = ["stored"] * len(messages)
        for kind in ("delivered", "read"):
            for at in self._covered(reader, kind, messages):
                states[at] = kind
        return states

    def _covered(self, reader: int, kind: str, messages: Sequence[Stored]) -> Sequence[int]:
        """Where the messages are for which the marks of a kind stand."""
        if not messages:
            return ()
        mark = self._marks.get((reader, messages[0].sender, kind))
        if mark is None:
            return ()
        for at in reversed(range(len(messages))):
            if (messages[at].time, messages[at].name) == (mark.timestamp, mark.md5encoded):
                return range(at + 1)
        return [at for at, message in enumerate(messages) if message.time <= mark.timestamp]
