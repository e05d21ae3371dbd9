"""The memory that unfinished requests of all connections of a node may hold together.

A frame's JSON must be whole before it can be read, so a thousand peers that send sixteen megabytes
each, slowly, would fill the machine. Over the limit, reading pauses, the largest first, until one is left.
"""

from __future__ import annotations

from typing import Protocol

from chatsvc.wire.limits import KIB, Limits

#: What a connection may hold without being counted, in bytes; it is never paused for that.
UNCOUNTED = 64 * KIB


class Reader(Protocol):
    """A connection, as far as the budget goes."""

    @property
    def is_bound(self) -> bool:
        """Whether its device is bound to a user."""

    def pause_for_budget(self, paused: bool) -> None:
        """Stop reading, or go on."""


class Budget:
    """Who holds how much, and who is paused for it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._held: dict[Reader, int] = {}
        self._paused: set[Reader] = set()

    def update(self, reader: Reader, unfinished: int) -> None:
        """A connection holds this many bytes of an unfinished request now."""
        if unfinished > UNCOUNTED:
            self._held[reader] = unfinished
        elif self._held.pop(reader, None) is None:
            return
        elif reader in self._paused:
            self._resume(reader)
        self._balance()

    @property
    def held(self) -> int:
        """Bytes that all connections hold together; of each all or, up to `UNCOUNTED`, nothing is counted."""
        return sum(self._held.values())

    def _balance(self) -> None:
        limits = self.limits
        bound = [reader for reader in self._held if reader.is_bound]
        unbound = [reader for reader in self._held if not reader.is_bound]
        over = self.held > limits.unfinished
        over_unbound = over or sum(map(self._size, unbound)) > limits.unfinished_unbound
        candidates: list[Reader] = []
        for readers, is_over in ((bound, over), (unbound, over_unbound)):
            reading = [reader for reader in readers if reader not in self._paused]
            if is_over and reading:
                # One of them always reads on: were all to wait, none would ever end and make room.
                candidates += reading if len(reading) > 1 else []
            elif len(reading) < len(readers):
                self._resume(min(self._paused.intersection(readers), key=self._size))
        if candidates:
            self._pause(max(candidates, key=self._size))

    def _pause(self, reader: Reader) -> None:
        self._paused.add(reader)
        reader.pause_for_budget(True)

    def _resume(self, reader: Reader) -> None:
        self._paused.discard(reader)
        reader.pause_for_budget(False)

    def _size(self, reader: Reader) -> int:
        return self._held[reader]
