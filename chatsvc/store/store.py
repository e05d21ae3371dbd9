"""The store as the floors above see it: one object with a part for each kind of data."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS

from chatsvc.store import accounts, append, devices, mail
from chatsvc.store.accounts import Accounts
from chatsvc.store.append import GroupCommit
from chatsvc.store.channels import Channels
from chatsvc.store.contacts import Contacts
from chatsvc.store.devices import Devices
from chatsvc.store.files import Files
from chatsvc.store.link import Link
from chatsvc.store.mail import Mailboxes
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import Clock, gather


class Store:
    """All state of the service. Its methods raise `Refusal` with what the client is to be told.

    Three connections: one for appends and cursors, whose order counts and which may wait for the disk;
    one for all other commands; one for subscriptions.
    """

    def __init__(self, reactor: Clock, url: StoreUrl) -> None:
        endpoint = _endpoint(reactor, url)
        login = _login(url)
        self._mail_link = Link(
            reactor, endpoint, login=login, scripts=append.SCRIPTS + mail.SCRIPTS, name="mail"
        )
        self._link = Link(
            reactor, endpoint, login=login, scripts=accounts.SCRIPTS + devices.SCRIPTS, name="state"
        )
        self.accounts = Accounts(self._link)
        self.devices = Devices(self._link)
        self.contacts = Contacts(self._link)
        self.files = Files(self._link)
        self.mail = Mailboxes(self._mail_link, reactor, GroupCommit(self._mail_link, reactor))
        self.channels = Channels(reactor, endpoint, login)

    @property
    def _links(self) -> tuple[Link, Link, Link]:
        return self._mail_link, self._link, self.channels.link

    def start(self) -> None:
        """Begin to connect; from then on connections are kept up."""
        for link in self._links:
            link.start()

    async def stop(self) -> None:
        """Close all connections."""
        await gather(link.stop() for link in self._links)

    async def ready(self, wait: float) -> None:
        """Return once the store can be asked; raises `Unavailable` after `wait` seconds."""
        await gather(link.ready(wait) for link in self._links)

    @property
    def up(self) -> bool:
        """Whether the store can be asked right now."""
        return all(link.up for link in self._links)

    @property
    def problem(self) -> str:
        """Why the store cannot be asked, for the operator."""
        return next((link.problem for link in self._links if link.problem), "")


def _endpoint(reactor: Any, url: StoreUrl) -> Any:
    if url.kind == "unix":
        return UNIXClientEndpoint(reactor, url.path)  # type: ignore[no-untyped-call]
    endpoint: Any = HostnameEndpoint(reactor, url.host.encode(), url.port)
    return wrapClientTLS(optionsForClientTLS(url.host), endpoint) if url.tls else endpoint


def _login(url: StoreUrl) -> tuple[tuple[bytes | str | int, ...], ...]:
    commands: list[tuple[bytes | str | int, ...]] = []
    if url.username is not None or url.password is not None:
        commands.append((b"AUTH", url.username or "default", url.password or ""))
    if url.db:
        commands.append((b"SELECT", url.db))
    return tuple(commands)
