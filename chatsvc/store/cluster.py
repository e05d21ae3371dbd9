"""A cluster of stores: which of its primaries serves which slot, and one link to each of them.

What is sent is decided elsewhere on this floor, where a `Router` is used like the `Link` of a single store.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from chatsvc.store.errors import Redirected, TryAgain, Unavailable
from chatsvc.store.link import LINK_WAIT, REPLY_TIMEOUT, Link
from chatsvc.store.protocol import Arg
from chatsvc.store.script import COMMAND, Script
from chatsvc.tasks import Clock, gather, pause, spawn
from chatsvc.wire.errors import Refusal

log = Logger()

Address = tuple[str, int]

SLOTS = 16384
#: Seconds between two looks at who serves what, when nothing seems to have changed, and when something has.
LOOK_INTERVAL = 5.0
LOOK_AGAIN = 0.1


def slot_of(key: bytes) -> int:
    """The slot of a key or channel: the cluster's CRC of what stands in its first braces."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    tag = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    return crc_hqx(tag, 0) % SLOTS


class SlotMap:
    """Which primary serves which slot, as the cluster itself says; looked up anew when outdated."""

    def __init__(self, clock: Clock, seeds: Iterable[Address], connect: Callable[[Address], Link]) -> None:
        """`seeds` are nodes of the cluster that may be asked first; `connect` makes a link to a node."""
        self._clock = clock
        self._connect = connect
        self._asked = {address: connect(address) for address in seeds}
        self._serving: list[Address | None] = [None] * SLOTS
        self._loop = LoopingCall(self._look_if_due)
        self._loop.clock = clock  # type: ignore[assignment]  # a Clock will do
        self._looking = False
        self._stale = True
        self._looked = 0.0
        self._refusal = ""
        #: Called after each look.
        self.on_look: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to look."""
        for link in self._asked.values():
            link.start()
        self._loop.start(LOOK_AGAIN, now=False).addErrback(
            lambda failure: log.failure("Nobody looks at the cluster any more", failure=failure)
        )

    async def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()
        await gather(link.stop() for link in self._asked.values())

    def primary(self, key: bytes) -> Address | None:
        """The primary that serves the slot of a key, as far as is known."""
        return self._serving[slot_of(key)]

    def primaries(self) -> set[Address]:
        """All primaries that serve slots."""
        return {address for address in self._serving if address is not None}

    @property
    def problem(self) -> str:
        """What is wrong with the cluster, for the operator."""
        if self._refusal:
            return self._refusal
        if not any(link.up for link in self._asked.values()):
            return next(iter(self._asked.values())).problem or "none of the cluster's nodes can be asked"
        unserved = sum(address is None for address in self._serving)
        return f"{unserved} of the cluster's {SLOTS} slots are served by nobody" if unserved else ""

    @property
    def may_come(self) -> bool:
        """Whether what is wrong may pass by itself."""
        return not self._refusal and any(link.up or link.may_come for link in self._asked.values())

    def moved(self, slot: int, address: Address) -> None:
        """A node said that another one serves this slot now."""
        self._serving[slot] = address
        self._stale = True

    def outdated(self) -> None:
        """Something is not where it was: look again soon."""
        self._stale = True

    def _look_if_due(self) -> None:
        due = self._stale or self._clock.seconds() - self._looked >= LOOK_INTERVAL
        if due and not self._looking:
            self._looking = True
            spawn(self._look(), "looking at the cluster")

    async def _look(self) -> None:
        try:
            for address, link in list(self._asked.items()):
                if link.up:
                    # The next look asks another node: this one may be cut off from the others.
                    self._asked[address] = self._asked.pop(address)
                    with suppress(Refusal, TryAgain):
                        self._take(await link.call(b"CLUSTER", b"SLOTS"), address[0])
                        return
        except RuntimeError as error:
            self._refusal = f"it is no cluster ({error})"
            self._stale, self._looked = False, self._clock.seconds()
        finally:
            self._looking = False

    def _take(self, ranges: list[Any], asked: str) -> None:
        """Learn from a node's reply; it leaves its own name out if it does not know it."""
        serving: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            address = ((host or b"").decode() or asked, port)
            serving[first : last + 1] = [address] * (last + 1 - first)
        self._serving, self._refusal = serving, ""
        self._stale = None in serving
        self._looked = self._clock.seconds()
        known = self.primaries()
        for address in known - self._asked.keys():
            self._asked[address] = link = self._connect(address)
            link.start()
        drop(self._asked, known)
        for tell in self.on_look:
            tell()


def drop(links: dict[Address, Link], known: set[Address]) -> None:
    """Give up the links to nodes that are gone, and are no primaries any more; one at least stays."""
    for address, link in list(links.items()):
        if address not in known and not link.up and len(links) > 1:
            del links[address]
            spawn(link.stop(), "closing the link to a node that left the cluster")


class Router:
    """What a `Link` is to one store, to a cluster: each command goes to the primary that serves its key."""

    def __init__(self, clock: Clock, slots: SlotMap, connect: Callable[[Address], Link]) -> None:
        self._clock = clock
        self._slots = slots
        self._connect = connect
        self._links: dict[Address, Link] = {}
        slots.on_look.append(self._looked)

    def _looked(self) -> None:
        known = self._slots.primaries()
        for address in known:
            self._at(address)
        drop(self._links, known)

    def _at(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = self._connect(address)
            link.start()
        return link

    def of(self, key: bytes) -> Link | None:
        """The link to the primary that serves a key, as far as is known."""
        address = self._slots.primary(key)
        return None if address is None else self._at(address)

    def links(self) -> list[Link]:
        """The links to all primaries."""
        return [self._at(address) for address in self._slots.primaries()]

    def start(self) -> None:
        """Nothing: links are made when it is known to whom."""

    async def stop(self) -> None:
        """Close all connections for good."""
        self._slots.on_look.remove(self._looked)
        await gather(link.stop() for link in self._links.values())

    @property
    def up(self) -> bool:
        """Whether all of the store can be asked right now."""
        return not self._slots.problem and all(link.up for link in self.links())

    @property
    def problem(self) -> str:
        """Why it cannot be asked, for the operator."""
        return self._slots.problem or next((link.problem for link in self.links() if link.problem), "")

    @property
    def may_come(self) -> bool:
        """Whether what is wrong may pass by itself."""
        return self._slots.may_come and all(link.up or link.may_come for link in self.links())

    @property
    def reconnects(self) -> int:
        """How often connections were made again."""
        return sum(max(0, link.reconnects) for link in self._links.values())

    def outdated(self) -> None:
        """Something is not where it was."""
        self._slots.outdated()

    async def ready(self, wait: float) -> None:
        """Return once all of the store can be asked; raises `Unavailable` after `wait` seconds."""
        until = self._clock.seconds() + wait
        while not self.up:
            if self._clock.seconds() >= until:
                raise Unavailable
            await pause(self._clock, LOOK_AGAIN)

    async def call(self, *args: Arg) -> Any:
        """As `Link.call`, for a command whose first argument is its key."""
        assert isinstance(args[1], bytes)
        return await self._routed(
            args[1], lambda link, asking, expires: link.call(*args, asking=asking, expires=expires), None
        )

    async def write(self, command: bytes, key: bytes, *args: Arg) -> Any:
        """As `Link.write`."""
        return await self.script(COMMAND, key, command, *args)

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: Arg,
        also: tuple[bytes, ...] = (),
        expires: float | None = None,
    ) -> Any:
        """As `Link.script`."""

        def attempt(link: Link, asking: bool, until: float) -> Coroutine[Any, Any, Any]:
            return link.script(script, key, *args, also=also, asking=asking, expires=until)

        return await self._routed(key, attempt, expires)

    async def _routed(
        self,
        key: bytes,
        attempt: Callable[[Link, bool, float], Coroutine[Any, Any, Any]],
        expires: float | None,
    ) -> Any:
        """Try at the node that serves the key, wherever that goes meanwhile, until it is too late."""
        if expires is None:
            expires = self._clock.seconds() + LINK_WAIT + REPLY_TIMEOUT
        while True:
            link = self.of(key)
            if link is not None and link.up:
                try:
                    return await self._follow(link, attempt, expires)
                except TryAgain:
                    pass
            self._slots.outdated()
            if self._clock.seconds() >= expires - REPLY_TIMEOUT:
                raise Unavailable
            await pause(self._clock, LOOK_AGAIN)

    async def _follow(
        self, link: Link, attempt: Callable[[Link, bool, float], Coroutine[Any, Any, Any]], expires: float
    ) -> Any:
        """Try at a node, and at the one that it names instead."""
        try:
            return await attempt(link, False, expires)
        except Redirected as to:
            if not to.asking:
                self._slots.moved(to.slot, to.address)
            try:
                return await attempt(self._at(to.address), to.asking, expires)
            except Redirected:
                raise TryAgain from None  # it is being moved at this moment
