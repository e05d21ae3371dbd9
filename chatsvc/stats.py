"""Counts of what happens on a node: plain numbers, for the path of a message bumps them.

What they are called when they are read, and who reads them, is decided in ``chatsvc/net/metrics.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Literal, get_args

#: A request's outcome: OK, ERR, or no answer at all (ACKFETCH has none; the client is gone).
Outcome = Literal["ok", "err", "none"]
#: Why the server closes a connection: its frame does not go on; nobody logs in on it; its address has too
#: many such connections; its address has too many of all kinds; its user has; the process has.
Drop = Literal["stalled", "idle", "crowded", "refused", "user", "full"]
#: Why no connection is accepted for a while: too many came just now, or the process has as many as it may.
Rest = Literal["rate", "full"]

#: The limits on what is asked (`chatsvc.wire.limits.Limits`), and what there is no room for.
Limited = Literal[
    "account_failures",
    "address_failures",
    "registration_rate",
    "token_rate",
    "message_rate",
    "people_rate",
    "request_rate",
    "stranger_rate",
    "quota",
    "storage",
]

#: Upper bounds of histograms of times, in seconds: from a fast disk's fsync to the time-outs.
REQUEST_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
LOOP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """How often values fell below each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: Values up to each bound, and over the one before it; the last ones are over all.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value. One below zero, as a clock that was set back yields, counts as zero."""
        self.counts[bisect_left(self.bounds, value)] += times
        if value > 0.0:
            self.sum += value * times

    def add(self, other: Histogram) -> None:
        """Count all that another one of the same bounds has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Stats:
    """What has happened on one node since it started. Sizes in bytes, times in seconds."""

    def __init__(self) -> None:
        #: Connections: those that clients made, and those that ended for what a client did or did not do.
        self.accepted = 0
        self.violations = 0
        self.slow_clients = 0  # they did not read
        self.dropped: Counter[Drop] = Counter()
        #: Connections that had to wait as their address made too many, and times that none was accepted.
        self.delayed = 0
        self.rests: Counter[Rest] = Counter()
        #: How long requests took, by their type (an unknown one's is "UNKNOWN": there are only so many) and
        #: outcome. Not by the pair: hashing that takes longer than looking twice.
        self.requests: defaultdict[str, dict[Outcome, Histogram]] = defaultdict(
            lambda: {outcome: Histogram(REQUEST_BOUNDS) for outcome in get_args(Outcome)}
        )
        #: Requests that were over a limit.
        self.refused: Counter[Limited] = Counter()
        #: From the time at which the store took a message to that at which it was queued to a client.
        self.delivery_lag = Histogram(LAG_BOUNDS)
        self.catch_ups = 0
        #: Pushes that are no messages, by their type.
        self.hints: Counter[str] = Counter()
        #: Attachments, of which messages with long texts have none.
        self.uploads = 0
        self.upload_bytes = 0
        self.downloads = 0
        self.download_bytes = 0
        #: How late the sweep came that is due each second: for as long, everybody waited.
        self.loop_delay = Histogram(LOOP_BOUNDS)
