"""All client connections of one node: accepting, the sweeping timer, and the orderly end."""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatsvc.chat import files, messages, people, signals  # noqa: F401 - they fill the table of requests
from chatsvc.chat.hub import Hub
from chatsvc.net.budget import Budget
from chatsvc.net.connection import Connection
from chatsvc.net.doors import Doors
from chatsvc.stats import Drop
from chatsvc.tasks import Turn, pause
from chatsvc.wire.limits import Limits

log = Logger()

#: Seconds between two looks at all connections: they have no timers of their own.
SWEEP = 1.0
#: Connections whose first request is begun in one turn of the reactor.
ENTRIES = 16
#: Seconds that requests under way get to be answered when the server stops.
DRAIN = 10.0


class Server(Factory):
    """Makes a `Connection` of each client, and looks after all of them."""

    noisy = False

    def __init__(self, hub: Hub, room: int | None = None) -> None:
        """`room` is for how many connections the process may open files; None: for any number."""
        self.hub = hub
        self.clock = hub.clock
        #: At its end, what was sent meanwhile is written.
        self.turn = Turn(hub.clock)
        self.limits = hub.limits
        self.budget = Budget(hub.limits)
        self.doors = Doors(hub, room)
        #: All that there are, in the order in which they came.
        self.connections: dict[Connection, None] = {}
        #: Connections whose first request waits to be begun, and how many were begun in this turn.
        self._entering: deque[Connection] = deque()
        self._entered = 0
        self._sweeper = LoopingCall(self._sweep)
        self._sweeper.clock = hub.clock  # type: ignore[assignment]  # a Clock will do
        self._swept_at = 0.0
        self._stopping = False

    def start(self) -> None:
        """Begin to look after the connections."""
        self._swept_at = self.clock.seconds()
        self._sweeper.start(SWEEP, now=False).addErrback(
            lambda failure: log.failure("The sweep of connections stopped", failure=failure)
        )

    def use(self, limits: Limits) -> None:
        """Go on with other limits; connections that stand keep theirs for frames and for reading ahead."""
        self.limits = self.hub.limits = self.budget.limits = limits
        self.doors.regulate()

    async def stop(self) -> None:
        """Let what is under way be answered, then reset all connections (``docs/protocol.md`` section 6).

        Reset and not closed: the released client reconnects after an error only.
        """
        self._stopping = True
        deadline = self.clock.seconds() + DRAIN
        for connection in list(self.connections):
            connection.refuse_more()
        while self.clock.seconds() < deadline and any(not c.is_quiet for c in self.connections):
            await pause(self.clock, 0.05)
        if self._sweeper.running:
            self._sweeper.stop()
        for connection in list(self.connections):
            connection.outbox.abort()
        while self.connections and self.clock.seconds() < deadline + 1:
            await pause(self.clock, 0.01)

    @property
    def accepting(self) -> bool:
        """Whether clients can connect: somewhere it listens, and its end has not begun."""
        return self.numPorts > 0 and not self._stopping

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self, str(getattr(addr, "host", "")))

    # What connections tell.

    def opened(self, connection: Connection) -> None:
        """A client has connected.

        It counts for its address once it is seen to be idle: were it at once, then of many that come back
        together those would be closed whose requests are about to arrive.
        """
        self.connections[connection] = None
        self.hub.stats.accepted += 1
        self.doors.opened(connection)

    def may_enter(self, connection: Connection) -> bool:
        """Whether a connection's first request may begin at once; else `enter` is called when it may.

        When all clients come back together, those that are here already are served between a few of them
        and the next few, and the store is asked no more at a time than it answers meanwhile.
        """
        if self._entered == ENTRIES:
            self._entering.append(connection)
            return False
        self._entered += 1
        if self._entered == 1:
            self.clock.callLater(0, self._let_in)
        return True

    def _let_in(self) -> None:
        self._entered = min(ENTRIES, len(self._entering))
        if self._entered:
            self.clock.callLater(0, self._let_in)
        for _ in range(self._entered):
            self._entering.popleft().enter()

    def known(self, connection: Connection, address: str) -> None:
        """A proxy has said from where a client has connected."""
        connection.address = connection.session.address = address
        self.doors.arrived(connection)

    def closed(self, connection: Connection) -> None:
        """A client is gone."""
        self.connections.pop(connection, None)
        self.budget.update(connection, 0)
        self.doors.closed(connection)

    # The timer.

    def _sweep(self) -> None:
        now = self.clock.seconds()
        self.hub.stats.loop_delay.observe(now - self._swept_at - SWEEP)
        self._swept_at = now
        for connection in list(self.connections):
            self._look(connection, now)
        self.doors.make_room()

    def _drop(self, connection: Connection, reason: Drop) -> None:
        self.hub.stats.dropped[reason] += 1
        connection.close()

    def _look(self, connection: Connection, now: float) -> None:
        limits = self.limits
        if connection.cut_at is not None:
            if now >= connection.cut_at:
                connection.outbox.abort()
        elif connection.stalls and now - connection.received_at > limits.frame_timeout:
            self._drop(connection, "stalled")
        elif connection.outbox.queued:
            progress = (connection.outbox.written, connection.outbox.in_kernel())
            if progress != connection.progress:
                connection.progress, connection.progress_at = progress, now
            elif now - connection.progress_at > limits.send_timeout:
                log.info("A client that does not read is cut off", address=connection.address)
                self.hub.stats.slow_clients += 1
                connection.outbox.abort()
        elif connection.is_bound or connection.busy:
            return
        elif now - connection.received_at > limits.unbound_idle:
            self._drop(connection, "idle")
        elif not connection.counted and now - connection.received_at >= SWEEP:
            self.doors.used(connection)  # it has asked nothing yet, or its binding ended elsewhere
