"""Child processes: what they say, line by line, and how they ended.

Which ones there are, and what is done about them, is in ``chatsvc/workers.py`` and ``chatsvc/valkey.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

#: The longest line between processes of ours, in bytes.
LINE_BYTES = 1 << 20


class Lines:
    """Cuts what arrives into lines, for `on_line`, without their ends."""

    def __init__(self, on_line: Callable[[bytes], None], longest: int = LINE_BYTES) -> None:
        """What of a line is over `longest` bytes is thrown away."""
        self._on_line = on_line
        self._longest = longest
        self._unfinished = bytearray()

    def receive(self, data: bytes) -> None:
        """The next bytes of the stream."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self.end()
        self._keep(rest)

    def end(self) -> None:
        """Nothing follows in this line, or at all."""
        line, self._unfinished = bytes(self._unfinished), bytearray()
        if line:
            self._on_line(line)

    def _keep(self, part: bytes) -> None:
        self._unfinished += part[: self._longest - len(self._unfinished)]


def how_it_ended(reason: Failure) -> str:
    """What `ProcessProtocol.processEnded` was told, to follow the name of the process in a sentence."""
    end: Any = reason.value  # ProcessDone or ProcessTerminated
    if end.signal:
        return f"was ended by {signal.Signals(end.signal).name}"
    return f"ended with exit code {end.exitCode}"
