"""Token buckets: how often each of many may do something.

What is limited, and what follows, is decided above. They are memory of one process, and need not outlive it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address

from chatsvc.wire.limits import Rate

#: Buckets of one kind that are kept; beyond it the longest unused is forgotten, and so is full again.
KEPT = 50_000


class Buckets:
    """One bucket for each key. It is full at first, and fills by its rate; times are in seconds of one clock.

    The rate is given with each call, so one that an operator changes is used at once; None never refuses.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        #: By key, how much was left, and when; the longest unused first.
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, rate: Rate | None, now: float) -> bool:
        """Take one from a bucket; False, and nothing taken, if it does not hold one."""
        if rate is None:
            return True
        left = float(rate.burst)
        kept = self._left.get(key)
        if kept is not None:
            left = min(left, kept[0] + (now - kept[1]) * rate.per_second)
            if left < 1.0:
                return False
            self._left.move_to_end(key)
        elif len(self._left) >= KEPT:
            self._left.popitem(last=False)
        self._left[key] = (left - 1.0, now)
        return True

    def give_back(self, key: Hashable) -> None:
        """What was taken last turned out not to count."""
        if key in self._left:
            left, since = self._left[key]
            self._left[key] = (left + 1.0, since)

    def wait(self, key: Hashable, rate: Rate | None, now: float) -> float:
        """Seconds until one can be taken; 0 if one can be now."""
        if rate is None:
            return 0.0
        left, since = self._left.get(key, (float(rate.burst), now))
        left = min(float(rate.burst), left + (now - since) * rate.per_second)
        return max(0.0, (1.0 - left) / rate.per_second)


def neighbourhood(address: str) -> str:
    """Whom an address is counted with: of IPv6 the /64 around it, as one household gets that many."""
    if ":" not in address:
        return address  # IPv4, or no address: each connection asks, and parsing takes microseconds
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
