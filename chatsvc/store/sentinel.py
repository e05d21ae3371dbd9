"""Finding the primary: sentinels watch it, and name another when it fails.

How a connection is kept up and used is in ``link``; what a failover can lose, and what an operator does
about that, in ``docs/high-availability.md``.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import txredisapi
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from chatsvc.store.protocol import StoreProtocol, pack
from chatsvc.store.url import StoreUrl, show_place
from chatsvc.tasks import Pending, deferred, run, spawn

Address = tuple[str, int]

#: How long a sentinel may take to accept a connection, and then to answer; both in seconds.
SENTINEL_WAIT = 1.0
#: How long the primary may take to accept a connection: a machine that is gone says nothing, and its
#: successor is to be asked for soon. In seconds.
CONNECT_WAIT = 2.0


#: Where a name has several addresses, how soon each is tried after the one before, in seconds. Also how
#: soon a refusal is told.
_NEXT_ADDRESS = 0.1


class NoPrimary(Exception):  # noqa: N818 - a sentence for the operator
    """Nobody can be spoken to as the primary; the message says why."""


def _endpoint(reactor: Any, address: Address, timeout: float) -> Any:
    host, port = address
    return HostnameEndpoint(reactor, host.encode(), port, timeout=timeout, attemptDelay=_NEXT_ADDRESS)


class Sentinels:
    """What the sentinels of a service say together (``docs/high-availability.md``)."""

    def __init__(self, reactor: Any, url: StoreUrl) -> None:
        """`url` is of the kind ``sentinel``; its login is told to a sentinel only if that asks for one."""
        self._reactor = reactor
        self._url = url
        self._waiting: list[Pending[Address]] = []

    async def primary(self) -> Address:
        """The address that more than half of the sentinels name, or else of those that answer in time.

        Raises `NoPrimary` if there is none. All who ask at the same time share one inquiry.
        """
        answer: Pending[Address] = Pending()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            spawn(self._inquire(), "asking the sentinels")
        return await answer

    async def _inquire(self) -> None:
        poll = _Poll(self._url.service, len(self._url.hosts))
        for host, port in self._url.hosts:
            run(self._ask(host, port), poll.named, partial(poll.missing, show_place(host, port)))
        try:
            named = await poll.outcome
        except NoPrimary as error:
            waiting, self._waiting = self._waiting, []
            for answer in waiting:
                answer.fail(error)
        else:
            waiting, self._waiting = self._waiting, []
            for answer in waiting:
                answer.succeed(named)

    async def _ask(self, host: str, port: int) -> Address:
        """What one sentinel says, on a connection of its own: one that is kept could be dead unnoticed."""
        factory: Any = Factory.forProtocol(partial(StoreProtocol, charset=None, convertNumbers=False))
        factory.noisy = False
        connecting = _endpoint(self._reactor, (host, port), SENTINEL_WAIT).connect(factory)
        try:
            connection = await connecting.addTimeout(SENTINEL_WAIT, self._reactor)  # for its name, too
        except ConnectingCancelledError:
            raise NoPrimary("it accepted no connection in time") from None
        timer = self._reactor.callLater(SENTINEL_WAIT, connection.cut, "it did not answer in time")
        try:
            return await self._named_by(connection)
        finally:
            if timer.active():
                timer.cancel()
            connection.cut()

    async def _named_by(self, connection: StoreProtocol) -> Address:
        query = pack((b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._url.service))
        try:
            found = await connection.ask(query, self._reactor.seconds())
        except txredisapi.ResponseError as error:
            if not str(error).startswith("NOAUTH"):
                raise
            login = pack((b"AUTH", self._url.username or "default", self._url.password or ""))
            await connection.ask(login, self._reactor.seconds())
            found = await connection.ask(query, self._reactor.seconds())
        if found is None:
            raise NoPrimary("it knows no store of that name")
        host, port = found
        return host.decode(), int(port)


class _Poll:
    """The answers to one inquiry, and what they come to."""

    def __init__(self, service: str, asked: int) -> None:
        self._service = service
        self._asked = asked
        self._named: Counter[Address] = Counter()
        self._missing: list[str] = []
        self.outcome: Pending[Address] = Pending()

    def named(self, address: Address) -> None:
        """A sentinel names this address."""
        self._named[address] += 1
        self._count()

    def missing(self, sentinel: str, error: Exception) -> None:
        """A sentinel gave no address."""
        self._missing.append(f"{sentinel}: {str(error).rstrip('.') or type(error).__name__}")
        self._count()

    def _count(self) -> None:
        answered = self._named.total()
        [(address, votes)] = self._named.most_common(1) or [(("", 0), 0)]
        complete = answered + len(self._missing) == self._asked
        if 2 * votes > self._asked or (complete and 2 * votes > answered):
            self.outcome.succeed(address)  # who answers later changes nothing
        elif complete and self._named:
            places = " and ".join(show_place(*place) for place in self._named)
            self.outcome.fail(
                NoPrimary(f"the sentinels do not agree who is the primary of {self._service}: {places}")
            )
        elif complete:
            why = "; ".join(self._missing)
            self.outcome.fail(NoPrimary(f"no sentinel names the primary of {self._service} ({why})"))


@implementer(IStreamClientEndpoint)
class PrimaryEndpoint:
    """Where one `Link` connects: to whom the sentinels name at that moment. Each link has its own."""

    def __init__(self, reactor: Any, sentinels: Sentinels) -> None:
        self._reactor = reactor
        self._sentinels = sentinels
        self._address: Address = ("", 0)

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """As `IStreamClientEndpoint` has it."""
        return deferred(self._sentinels.primary()).addCallback(self._connect, factory)

    def _connect(self, address: Address, factory: IProtocolFactory) -> Deferred[Any]:
        self._address = address
        connecting: Deferred[Any] = _endpoint(self._reactor, address, CONNECT_WAIT).connect(factory)
        return connecting

    async def accept(self, connection: StoreProtocol) -> None:
        """Raise `NoPrimary` if this connection, which was just made, leads to no primary.

        Sentinels learn of a failover one after the other, and later than the stores themselves.
        """
        role, *_ = await connection.ask(pack((b"ROLE",)), self._reactor.seconds())
        if role != b"master":
            raise NoPrimary(f"{show_place(*self._address)}, which the sentinels name, is a replica")

    async def is_current(self) -> bool:
        """Whether the sentinels still name the address that was connected to; True if they cannot say."""
        try:
            return await self._sentinels.primary() == self._address
        except NoPrimary:
            return True
