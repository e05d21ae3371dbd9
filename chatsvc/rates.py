"""Token buckets: how often each of many may do something.

What is limited, and what follows, is decided above. They are memory of one process, and need not outlive it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address

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
        left = self._level(key, rate, now)
        if left < 1.0:
            return False
        self._left[key] = (left - 1.0, now)
        self._left.move_to_end(key)
        if len(self._left) > KEPT:
            self._left.popitem(last=False)
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
        return max(0.0, (1.0 - self._level(key, rate, now)) / rate.per_second)

    def _level(self, key: Hashable, rate: Rate, now: float) -> float:
        left, since = self._left.get(key, (float(rate.burst), now))
        return min(float(rate.burst), left + (now - since) * rate.per_second)


def neighbourhood(address: str) -> str:
    """Whom an address is counted with: of IPv6 the /64 around it, as one household gets that many."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
