"""What goes wrong with nodes and with their connections to the store; what clients do is in ``devices``."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from chatsvc.tasks import pause
from tests.simulation.clock import SimClock
from tests.simulation.node import SimNode

#: Seconds between two faults, on average.
FAULT_EVERY = 0.6
#: What two sums of the same times may differ by.
_MOMENT = 1e-6


class World(Protocol):
    """What there is to be broken."""

    clock: SimClock
    random: Random
    nodes: list[SimNode]
    calm: bool

    def note(self, who: object, what: str) -> None:
        """Something happens."""


class Faults:
    """One after another, until the world is calm. If `silent`, publications are lost without a trace."""

    def __init__(self, world: World, *, silent: bool) -> None:
        self.count = 0
        self._world = world
        self._clock, self._random = world.clock, world.random
        self._well_at: dict[int, float] = {}
        self._kinds: list[Callable[[SimNode], None]] = [
            *[self._cut_a_link] * 6,
            *[self._take_the_store_away] * 2,
            *[self._slow_down] * 3,
            *[self._kill] * 2,
            self._stop,
        ]
        if silent:
            self._kinds += [self._lose_publications] * 3

    async def go_on(self) -> None:
        """Break something, again and again."""
        while True:
            await pause(self._clock, self._random.expovariate(1 / FAULT_EVERY))
            node = self._random.choice(self._world.nodes)
            kind = self._random.choice(self._kinds)
            if self._world.calm:
                return
            if node.up:
                self.count += 1
                kind(node)

    def heal(self) -> None:
        """Nothing is broken any more."""
        for node in self._world.nodes:
            if node.up:
                node.mend()
            else:
                node.start()

    def _cut_a_link(self, node: SimNode) -> None:
        at = self._random.randrange(len(node.store.links))
        self._world.note(node, f"loses connection {at} to the store")
        node.store.links[at].cut()
        self._mend_later(node, 1.0)

    def _take_the_store_away(self, _: SimNode) -> None:
        self._world.note("World", "the store is away")
        wait = self._random.uniform(0.1, 6.0)
        for node in self._world.nodes:
            if node.up:
                for link in node.store.links:
                    link.cut()
                self._mend_later(node, wait)

    def _slow_down(self, node: SimNode) -> None:
        self._world.note(node, "waits long for the store")
        link = self._random.choice([node.store.mails, node.store.state])
        link.slower = self._random.uniform(0.05, 1.0)
        self._mend_later(node, 3.0)

    def _lose_publications(self, node: SimNode) -> None:
        self._world.note(node, "does not hear all")
        node.store.subscriber.loses = 0.5
        self._mend_later(node, 2.0)

    def _kill(self, node: SimNode) -> None:
        self._world.note(node, "is killed")
        node.kill()
        self._start_later(node)

    def _stop(self, node: SimNode) -> None:
        self._world.note(node, "is stopped")
        node.stop()
        self._start_later(node)

    def _mend_later(self, node: SimNode, most: float) -> None:
        node.trouble()
        well_at = self._clock.now + self._random.uniform(0.02, most)
        self._well_at[node.number] = max(well_at, self._well_at.get(node.number, 0.0))
        self._clock.callLater(well_at - self._clock.now, self._mend, node, node.store)

    def _mend(self, node: SimNode, store: object) -> None:
        ill = self._clock.now < self._well_at[node.number] - _MOMENT  # of something else, for longer
        if node.up and node.store is store and not ill:
            self._world.note(node, "is well again")
            node.mend()

    def _start_later(self, node: SimNode) -> None:
        self._clock.callLater(self._random.uniform(0.1, 4.0), self._start, node)

    def _start(self, node: SimNode) -> None:
        if not node.up:
            self._world.note(node, "starts")
            node.start()
