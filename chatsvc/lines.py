"""Lines of a stream between two of our processes.

What a line says is known to ``chatsvc/workers.py`` and ``chatsvc/worker.py``.
"""

from __future__ import annotations

from collections.abc import Callable

#: The longest line, in bytes: what is over it is thrown away.
LINE_BYTES = 1 << 20


class Lines:
    """Cuts what arrives into lines, for `on_line`, without their ends."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
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
        self._unfinished += part[: LINE_BYTES - len(self._unfinished)]
