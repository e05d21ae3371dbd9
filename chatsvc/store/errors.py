"""What can go wrong between a node and its store: what a client is told of it, what is tried elsewhere."""

from __future__ import annotations

from chatsvc.wire.errors import STORAGE_UNAVAILABLE, Refusal


class Redirected(Exception):  # noqa: N818 - `Router` follows it, nobody else sees it
    """Another node of a cluster serves the key, or is just getting it (`asking`)."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        kind, slot, address = error.split()[:3]
        host, _, port = address.rpartition(":")
        self.asking = kind == "ASK"
        self.slot = int(slot)
        self.address = host, int(port)


class TryAgain(Exception):  # noqa: N818 - `Router` does
    """A node of a cluster cannot say now; if it has done something, doing it again is no change."""


class Unavailable(Refusal):
    """The store cannot be asked, or its answer was lost."""

    def __init__(self, info: str = STORAGE_UNAVAILABLE) -> None:
        super().__init__(info)


class Unwritable(Unavailable):
    """The store answers, but nothing can be written now, or not as safely as it must be."""
