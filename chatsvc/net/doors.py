"""How many connections there may be, and how fast new ones come in: of the process, and of each address.

What a connection does that has to wait, or to go, is its own matter (``connection.py``); what is asked on
connections is limited elsewhere (``chatsvc/chat/guard.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from chatsvc.chat.hub import Hub
from chatsvc.rates import Buckets, neighbourhood
from chatsvc.wire.limits import Rate

if TYPE_CHECKING:
    from chatsvc.net.connection import Connection

log = Logger()

#: How often it is logged that the same address, or the process, is over a limit.
_TOLD_RATE = Rate(1, 1 / 60)
#: Of a process that is full, one connection in so many is closed at a time to make room.
_SHARE = 100


class Doors:
    """The caps and rates of connections of one process (``docs/protocol.md`` section 2).

    All is counted by neighbourhood, so a connection without an address, as over a UNIX socket, counts for the
    process alone. An address over its rate waits, over its cap loses what is idle there without a login, and
    only then is refused; of a process that is full, the system keeps who comes
    (``docs/adr/0027-connections.md``).
    """

    def __init__(self, hub: Hub, room: int | None = None) -> None:
        """`room` is for how many connections the process may open files; None: for any number."""
        self._hub = hub  # asked for its limits at each use: they may change
        self._clock = hub.clock
        self._stats = hub.stats
        self._room = room
        self._ports: Callable[[bool], None] = lambda accept: None
        self._accepting = True
        self._open = 0
        #: When the next connection may be accepted, in seconds, and whether a timer runs until then.
        self._next_at = float("-inf")
        self._timer: Any = None
        self._entries = Buckets()
        self._told = Buckets()
        #: By neighbourhood: how many are in, and which wait for their turn, in its order.
        self._inside: dict[str, int] = {}
        self._waiting: dict[str, dict[Connection, None]] = {}
        #: Those that are in and have no login, the longest idle first.
        self._unbound: dict[str, OrderedDict[Connection, None]] = {}

    @property
    def most(self) -> int | None:
        """How many connections the process may have; None: any number."""
        most = self._hub.limits.connections
        return most if most is None or self._room is None else min(most, self._room)

    @property
    def waiting(self) -> int:
        """How many connections wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def control(self, ports: Callable[[bool], None]) -> None:
        """Have `ports` told whether to accept: now, and whenever that changes."""
        self._ports = ports
        ports(self._accepting)

    # What connections, and their server, tell.

    def opened(self, connection: Connection) -> None:
        """A connection was accepted; unless it is a proxy's, its address is known."""
        self._open += 1
        rate = self._hub.limits.accept_rate
        if rate is not None:
            earliest = self._clock.seconds() - (rate.burst - 1) / rate.per_second
            self._next_at = max(self._next_at, earliest) + 1 / rate.per_second
        self.regulate()
        self.arrived(connection)

    def arrived(self, connection: Connection) -> None:
        """A client's address may be known: its connection comes in, waits for its turn, or has no place."""
        place = connection.place = neighbourhood(connection.address)
        if not place:
            return
        limits, waiting = self._hub.limits, self._waiting.get(place)
        if waiting is None:
            if self._entries.take(place, limits.connection_rate, self._clock.seconds()):
                self._enter(connection)
                return
            waiting = self._waiting[place] = {}
            self._call_next(place)
        if limits.connections_per_address is not None and len(waiting) >= limits.connections_per_address:
            self._refuse(connection, limits.connections_per_address)
            return
        waiting[connection] = None
        self._stats.delayed += 1
        connection.wait()

    def used(self, connection: Connection) -> None:
        """A connection was answered, or seen to be idle: it is the least idle of its address."""
        if connection.is_bound:
            if connection.counted:
                self._forget_unbound(connection)
            return
        if not connection.place:
            return  # nobody waits for an answer on one that has ended
        connection.counted = True
        same = self._unbound.setdefault(connection.place, OrderedDict())
        same[connection] = None
        same.move_to_end(connection)
        cap = self._hub.limits.unbound_per_address
        if cap is not None and len(same) > cap:
            self._close_longest_idle(same, cap)

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._open -= 1
        self._forget(connection)
        self.regulate()

    def regulate(self) -> None:
        """Have connections accepted, or left where the system keeps them, by the limits as they are now."""
        limits, most = self._hub.limits, self.most
        full = most is not None and self._open >= most
        wait = 0.0 if limits.accept_rate is None else self._next_at - self._clock.seconds()
        accepting = not full and wait <= 0.0
        if accepting != self._accepting:
            self._accepting = accepting
            if not accepting:
                self._stats.rests["full" if full else "rate"] += 1
            self._ports(accepting)
        if wait > 0.0 and self._timer is None:
            self._timer = self._clock.callLater(wait, self._accept_again)

    def make_room(self) -> None:
        """Of a process that is full, close some that are idle without a login, the longest idle first."""
        most = self.most
        if most is None or self._open < most:
            return
        idle = [one for same in self._unbound.values() for one in same if not (one.busy or one.is_bound)]
        for connection in nsmallest(most // _SHARE + 1, idle, key=lambda one: one.received_at):
            self._forget(connection)
            self._stats.dropped["full"] += 1
            connection.outbox.abort()  # at once; and a released client comes again, as soon as there is room
        if self._told.take("", _TOLD_RATE, self._clock.seconds()):
            log.warn(
                "There are {most} connections, as many as one process may have: who comes has to wait. More "
                "processes, a higher --max-connections or a higher limit of open files let them in.",
                most=most,
            )

    # The process.

    def _accept_again(self) -> None:
        self._timer = None
        self.regulate()

    # An address.

    def _call_next(self, place: str) -> None:
        rate = self._hub.limits.connection_rate
        self._clock.callLater(self._entries.wait(place, rate, self._clock.seconds()), self._next, place)

    def _next(self, place: str) -> None:
        """It is the turn of the one that waits longest at an address."""
        waiting = self._waiting[place]
        if not waiting:
            del self._waiting[place]
            return
        if self._entries.take(place, self._hub.limits.connection_rate, self._clock.seconds()):
            connection = next(iter(waiting))
            del waiting[connection]
            self._enter(connection)
        self._call_next(place)

    def _enter(self, connection: Connection) -> None:
        place, cap = connection.place, self._hub.limits.connections_per_address
        if cap is not None and self._inside.get(place, 0) >= cap and not self._make_place(place):
            self._refuse(connection, cap)
            return
        self._inside[place] = self._inside.get(place, 0) + 1
        connection.let_in()

    def _make_place(self, place: str) -> bool:
        for other in self._unbound.get(place, ()):
            if not (other.busy or other.is_bound):
                self._close(other)
                return True
        return False

    def _refuse(self, connection: Connection, cap: int) -> None:
        place, connection.place = connection.place, ""
        self._stats.dropped["refused"] += 1
        if self._told.take(place, _TOLD_RATE, self._clock.seconds()):
            log.warn(
                "{address} has {cap} connections, none of them idle without a login: more are refused. If "
                "many people share that address, raise --connections-per-address.",
                address=place,
                cap=cap,
            )
        connection.refuse(f"Your address has {cap} connections, and may have no more; close one of them.")

    def _close_longest_idle(self, same: OrderedDict[Connection, None], cap: int) -> None:
        """Bring those of one address down to the cap; those that are busy are spared."""
        for other in list(same):
            if len(same) <= cap:
                break
            if other.is_bound:  # through another connection of its device
                self._forget_unbound(other)
            elif not other.busy:
                self._close(other)

    def _close(self, connection: Connection) -> None:
        self._forget(connection)
        self._stats.dropped["crowded"] += 1
        connection.close()

    def _forget(self, connection: Connection) -> None:
        """It takes no place at its address any more."""
        self._forget_unbound(connection)
        place, connection.place = connection.place, ""
        waiting = self._waiting.get(place, {})
        if connection in waiting:
            del waiting[connection]
        elif place:
            self._inside[place] -= 1
            if not self._inside[place]:
                del self._inside[place]

    def _forget_unbound(self, connection: Connection) -> None:
        connection.counted = False
        same = self._unbound.get(connection.place)
        if same is not None:
            same.pop(connection, None)
            if not same:
                del self._unbound[connection.place]
