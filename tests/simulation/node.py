"""A node of the simulation: the real chat and network floors, which can be killed and started again.

What its store and its sockets are made of is beside this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Device, Session
from chatsvc.net import outbox
from chatsvc.net.connection import Connection
from chatsvc.net.server import Server
from chatsvc.tasks import pause, spawn
from chatsvc.wire.limits import KIB
from tests.fake_store import FakeStore
from tests.fakes import FakeBlobs, FakePasswords, Gate
from tests.limits import unlimited
from tests.simulation.clock import NodeClock
from tests.simulation.store import SimStore
from tests.simulation.wires import Peer, Wire, Wires

#: Small, so that little exceeds them.
LIMITS = unlimited(
    send_buffer=8 * KIB, inline_content=200, answer_messages=5, answer_bytes=16 * KIB, read_ahead=6
)
#: Seconds that a thread takes for a file or a password.
WORK = 0.001, 0.02


@contextmanager
def in_order(wires: Wires) -> Iterator[None]:
    """Have sets of connections and devices iterate alike in each run, and sockets be those of the wires."""
    hashes = {
        Session: lambda session: session.outlet._transport.fileno(),
        Connection: lambda connection: connection.transport.fileno(),
        Device: lambda device: int(device.id[:12], 16),
    }
    with mock.patch.object(outbox, "fcntl", wires.system):
        for kind, number in hashes.items():
            setattr(kind, "__hash__", number)  # noqa: B010 - to a type checker, classes are not changed
        try:
            yield
        finally:
            for kind in hashes:
                setattr(kind, "__hash__", object.__hash__)  # noqa: B010


class _Threads(Gate):
    """What is done in threads takes a moment."""

    def __init__(self, clock: NodeClock, random: Random) -> None:
        super().__init__()
        self._clock = clock
        self._random = random

    async def enter(self, name: str) -> None:
        """A call is made."""
        if not self._clock.life.over:
            await pause(self._clock, self._random.uniform(*WORK))


class SimNode:
    """One server process after another at one address."""

    def __init__(self, number: int, wires: Wires, fake: FakeStore, kept: dict[str, bytes]) -> None:
        self.number = number
        self.up = False
        #: When anything last went wrong here, in seconds.
        self.trouble_at = 0.0
        self._wires = wires
        self._fake = fake
        self._kept = kept
        self._open: list[Wire] = []
        #: What ran here before: let go with the simulation, lest Python tidies up in between.
        self._past: list[Any] = []
        self.clock = NodeClock(wires.clock)
        self.clock.life.over = True

    def __repr__(self) -> str:
        return f"Node {self.number}"

    def start(self) -> None:
        """Start a server process; one that is just being stopped is killed."""
        if not self.clock.life.over:
            self.kill()
        clock, random = self._wires.clock, self._wires.random
        self.clock = NodeClock(clock)
        self.store = SimStore(self._fake, clock, self.clock, random)
        self.blobs, passwords = FakeBlobs(), FakePasswords()
        self.blobs.kept = self._kept
        self.blobs.gate = passwords.gate = _Threads(self.clock, random)
        make_hub: Any = Hub  # to a type checker a fake is not the real thing
        self.hub: Hub = make_hub(self.clock, self.store, self.blobs, passwords, LIMITS)
        self.hub.start()
        self.server = Server(self.hub)
        self.server.start()
        self.up = True
        self.trouble()

    def trouble(self) -> None:
        """Something goes wrong."""
        self.trouble_at = self._wires.clock.now

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self.trouble()
        for link in self.store.links:
            link.mend()
        self.store.mails.slower = self.store.state.slower = self.store.subscriber.loses = 0.0

    def was_well(self, since: float) -> bool:
        """Whether nothing went wrong here since a moment, in seconds."""
        slow = self.store.mails.slower or self.store.state.slower
        return self.up and self.store.up and not slow and self.trouble_at < since

    def connect(self, client: Peer) -> Wire:
        """A client connects."""
        wire = self._wires.connect(self.server, client)
        self._open = [other for other in self._open if not other.server.disconnected]
        self._open.append(wire)
        return wire

    def kill(self) -> None:
        """All that the process held in memory is gone."""
        self.up = False
        self.clock.life.over = True
        self.store.end()
        for wire in self._open:
            if not wire.server.disconnected:
                wire.kill()
        self._past.append((self.hub, self.server, self.store, self.blobs, self._open))
        self._open = []

    def stop(self) -> None:
        """End the process in order."""
        self.up = False
        self.trouble()
        spawn(self._stop(self.clock), "stopping a node")

    async def _stop(self, clock: NodeClock) -> None:
        await self.server.stop()
        if not clock.life.over:
            self.kill()
