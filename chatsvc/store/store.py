"""The store as the floors above see it: one object with a part for each kind of data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS

from chatsvc.store import accounts, append, checks, contacts, devices, invites, mail, signals, two_step
from chatsvc.store.accounts import Accounts
from chatsvc.store.append import GroupCommit
from chatsvc.store.channels import Channels
from chatsvc.store.cluster import Address, Router, SlotMap
from chatsvc.store.contacts import Contacts
from chatsvc.store.devices import Devices
from chatsvc.store.files import Files
from chatsvc.store.invites import Invites
from chatsvc.store.link import Link, Watch
from chatsvc.store.mail import Mailboxes
from chatsvc.store.replicas import ReplicatedLink
from chatsvc.store.script import Script
from chatsvc.store.sent import Sent
from chatsvc.store.sentinel import PrimaryEndpoint, Sentinels
from chatsvc.store.signals import Signals
from chatsvc.store.transfer import Transfer
from chatsvc.store.two_step import TwoStep
from chatsvc.store.upkeep import Upkeep
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import Clock, gather


class Store:
    """All state of the service. Its methods raise `Refusal` with what the client is to be told.

    Three connections: one for appends and cursors, whose order counts and which may wait for the disk;
    one for all other commands; one for subscriptions. In a cluster, three to each primary. Where replicas
    are waited for, the first two have another one each beside them, for what does not wait.
    """

    def __init__(self, reactor: Clock, url: StoreUrl, *, replica_acks: int = 0) -> None:
        """`replica_acks` is how many replicas must have what is written before it counts as stored."""
        self._reactor = reactor
        self._url = url
        self._replica_acks = replica_acks
        self._sentinels = Sentinels(reactor, url) if url.kind == "sentinel" else None
        self._slots = None
        if url.kind == "cluster":
            self._slots = SlotMap(reactor, url.hosts, partial(self._link_to, name="cluster"))
        self.channels = Channels(reactor)
        self._mail_link = self._route("mail", append.SCRIPTS + mail.SCRIPTS + two_step.SCRIPTS)
        people = accounts.SCRIPTS + devices.SCRIPTS + contacts.SCRIPTS + signals.SCRIPTS
        self._link = self._route("state", people + invites.SCRIPTS)
        self._subscriber_link = self._route(
            "subscriber", on_push=self.channels.pushed, on_ready=self.channels.ready
        )
        self.channels.links = self._subscriber_link
        if self._slots is not None:
            self._slots.on_look.append(self.channels.look)
        self.accounts = Accounts(self._link)
        self.devices = Devices(self._link)
        self.contacts = Contacts(self._link)
        self.signals = Signals(self._link)
        self.files = Files(self._link)
        self.sent = Sent(self._link)
        self.invites = Invites(self._link, self.scan)
        self.upkeep = Upkeep(self._link)
        one_clock = self._slots is None
        self.transfer = Transfer(self._link, self.scan, self.now, one_clock=one_clock)
        self._two_step = TwoStep(self._mail_link, reactor) if isinstance(self._mail_link, Router) else None
        appends = self._two_step or GroupCommit(self._mail_link, reactor)
        self.mail = Mailboxes(self._mail_link, reactor, appends)

    def _route(self, name: str, scripts: tuple[Script, ...] = (), **push: Any) -> Link | Router:
        """A connection to the store, or one to each primary of a cluster."""
        if self._slots is None:
            return self._connect(self._place, name=name, scripts=scripts, **push)
        return Router(self._reactor, self._slots, partial(self._link_to, name=name, scripts=scripts, **push))

    def _link_to(self, address: Address, **options: Any) -> Link:
        """A connection to one node of a cluster."""
        return self._connect(lambda: (_tcp(self._reactor, *address), None), routed=True, **options)

    def _place(self) -> tuple[Any, Watch | None]:
        """Where the store is, and who watches that it still is there."""
        if self._sentinels is None:
            return _endpoint(self._reactor, self._url), None
        primary = PrimaryEndpoint(self._reactor, self._sentinels)
        return primary, primary

    def _connect(self, place: Callable[[], tuple[Any, Watch | None]], **options: Any) -> Link:
        """A connection, or where writing has to wait for replicas a pair of them."""

        def make(kind: type[Link], **more: Any) -> Link:
            endpoint, watch = place()
            login = _login(self._url)
            return kind(self._reactor, endpoint, login=login, watch=watch, **options | more)

        if not self._replica_acks or not options.get("scripts"):
            return make(Link)
        aside = make(Link, name=f"{options['name']}, aside")
        return make(ReplicatedLink, replicas=self._replica_acks, aside=aside)

    @property
    def _links(self) -> tuple[Link | Router, ...]:
        return self._mail_link, self._link, self._subscriber_link

    def start(self) -> None:
        """Begin to connect; from then on connections are kept up."""
        if self._slots is not None:
            self._slots.start()
        if self._two_step is not None:
            self._two_step.start()
        for link in self._links:
            link.start()

    async def stop(self) -> None:
        """Close all connections."""
        if self._two_step is not None:
            self._two_step.stop()
        await gather(link.stop() for link in self._links)
        if self._slots is not None:
            await self._slots.stop()

    async def ready(self, wait: float) -> None:
        """Return once the store can be asked; raises `Unavailable` after `wait` seconds."""
        await gather(link.ready(wait) for link in self._links)

    async def scan(self, match: bytes, count: int = 1000) -> AsyncIterator[list[bytes]]:
        """All keys that match a pattern, a page at a time.

        One that is there all the while comes at least once. A page takes the store about as long as
        looking at `count` keys.
        """
        for link in self._primaries():
            cursor = b"0"
            while True:
                cursor, found = await link.call(b"SCAN", cursor, b"MATCH", match, b"COUNT", count)
                yield found
                if cursor == b"0":
                    break

    async def now(self) -> int:
        """The store's clock, in ms since 1970; of several servers' that which is behind."""
        times = await gather(link.call(b"TIME") for link in self._primaries())
        return min(int(seconds) * 1000 + int(micros) // 1000 for seconds, micros in times)

    async def info(self) -> list[dict[str, str]]:
        """What each server that holds a part of the data says about itself (``INFO``)."""
        texts = await gather(link.call(b"INFO") for link in self._primaries())
        return [
            dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line) for text in texts
        ]

    async def warnings(self) -> list[str]:
        """What of the store's settings may lose messages, a sentence each; raises `checks.Unfit`."""
        return await checks.warnings(
            self._primaries(), replica_acks=self._replica_acks, failover=self._sentinels is not None
        )

    def _primaries(self) -> list[Link]:
        return self._link.links() if isinstance(self._link, Router) else [self._link]

    @property
    def up(self) -> bool:
        """Whether the store can be asked right now."""
        return all(link.up for link in self._links)

    @property
    def reconnects(self) -> dict[str, int]:
        """How often the connections for each purpose were made again."""
        routes = zip(("mail", "state", "subscriber"), self._links, strict=True)
        return {purpose: max(0, route.reconnects) for purpose, route in routes}

    @property
    def problem(self) -> str:
        """Why the store cannot be asked, for the operator."""
        return next((link.problem for link in self._links if link.problem), "")

    @property
    def may_come(self) -> bool:
        """Whether a store that cannot be asked may be there soon, without anybody mending something."""
        return all(link.up or link.may_come for link in self._links)


def _endpoint(reactor: Any, url: StoreUrl) -> Any:
    if url.kind == "unix":
        return UNIXClientEndpoint(reactor, url.path)  # type: ignore[no-untyped-call]
    endpoint = _tcp(reactor, url.host, url.port)
    return wrapClientTLS(optionsForClientTLS(url.host), endpoint) if url.tls else endpoint


def _tcp(reactor: Any, host: str, port: int) -> Any:
    return HostnameEndpoint(reactor, host.encode(), port)


def _login(url: StoreUrl) -> tuple[tuple[bytes | str | int, ...], ...]:
    commands: list[tuple[bytes | str | int, ...]] = []
    if url.username is not None or url.password is not None:
        commands.append((b"AUTH", url.username or "default", url.password or ""))
    if url.db:
        commands.append((b"SELECT", url.db))
    return tuple(commands)
