"""What the application asks of a chat, and how a `Session` gives it: Twisted's coroutines under asyncio.

What is shown of it, and when it is asked, is known to the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from chatsvc.cli.archive import Stored
from chatsvc.cli.fetching import fetch, stored
from chatsvc.cli.session import Session
from chatsvc.client import Event, State
from chatsvc.wire.schema import Contacts, MarkOf, Message, UserInfo

T = TypeVar("T")


class Backend(Protocol):
    """A chat, for an application that runs on asyncio. What fails raises what `chatsvc.client` does."""

    #: Called with each message that is new here, when the connection comes or goes, and with other events.
    on_message: Callable[[Stored], None]
    on_state: Callable[[State], None]
    on_event: Callable[[Event], None]

    @property
    def me(self) -> UserInfo | None:
        """Who is logged in."""

    @property
    def features(self) -> frozenset[str]:
        """What the server has beside messages."""

    async def start(self) -> None:
        """Connect, and stay connected."""

    async def enter(self, kind: str, name: str, password: str) -> None:
        """Log in, or register."""

    async def contacts(self) -> Contacts:
        """Contacts, who asked whom, and who is blocked."""

    async def find(self, who: str) -> UserInfo:
        """Somebody, by name or id."""

    async def add(self, userid: int) -> None:
        """Ask somebody to be a contact, or accept."""

    async def remove(self, userid: int) -> None:
        """End the relation with somebody."""

    async def block(self, userid: int) -> None:
        """End it, and take no messages from them."""

    async def unblock(self, userid: int) -> None:
        """Take messages from them again."""

    async def typing(self, userid: int, typing: bool) -> None:
        """Tell somebody that something is being written to them, or no more."""

    def read(self, message: Stored) -> None:
        """Have its sender told soon that it was read, and all before it."""

    def after(self, mark: MarkOf) -> int:
        """How many messages there are from whom a mark is for, after those that it stands for."""

    async def name_of(self, userid: int) -> str:
        """Somebody's name."""

    def compose(self, userid: int, text: str) -> Message:
        """A text that is to be sent; it may be sent again."""

    async def send(self, message: Message) -> None:
        """Send it."""

    async def send_file(self, userid: int, path: Path, progress: Callable[[int, int], None]) -> Stored:
        """Send a file."""

    async def send_image(self, userid: int, path: Path) -> Stored:
        """Send a picture."""

    async def get(self, prefix: str, path: Path | None, progress: Callable[[int, int], None]) -> Path:
        """Fetch a file; gives where it is."""

    def conversation(self, userid: int, limit: int) -> list[Stored]:
        """The last messages with somebody, the oldest first."""


class SessionBackend:
    """A `Backend` on a session, whose reactor runs on asyncio's loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        session.on_message = self._received
        session.on_state = self._changed
        session.on_event = self._noticed
        self.on_message: Callable[[Stored], None] = lambda _: None
        self.on_state: Callable[[State], None] = lambda _: None
        self.on_event: Callable[[Event], None] = lambda _: None

    def _changed(self, state: State) -> None:
        self.on_state(state)

    def _noticed(self, event: Event) -> None:
        self.on_event(event)

    async def _received(self, message: Message) -> None:
        self.on_message(stored(message))

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return await Deferred.fromCoroutine(work).asFuture(asyncio.get_running_loop())

    @property
    def me(self) -> UserInfo | None:
        """Who is logged in."""
        return self._session.client.user

    @property
    def features(self) -> frozenset[str]:
        """What the server has beside messages."""
        return self._session.client.features

    async def start(self) -> None:
        """Connect, and stay connected."""
        await self._do(self._session.open(logged_in=False))

    async def enter(self, kind: str, name: str, password: str) -> None:
        """Log in, or register."""
        client = self._session.client
        await self._do((client.register if kind == "register" else client.login)(name, password))
        self._session.remember()

    async def contacts(self) -> Contacts:
        """Contacts, who asked whom, and who is blocked."""
        return await self._do(self._session.contacts())

    async def find(self, who: str) -> UserInfo:
        """Somebody, by name or id."""
        return await self._do(self._session.find(who))

    async def add(self, userid: int) -> None:
        """Ask somebody to be a contact, or accept."""
        await self._do(self._session.client.add_contact(userid))

    async def remove(self, userid: int) -> None:
        """End the relation with somebody."""
        await self._do(self._session.client.remove_contact(userid))

    async def block(self, userid: int) -> None:
        """End it, and take no messages from them."""
        await self._do(self._session.client.block_contact(userid))

    async def unblock(self, userid: int) -> None:
        """Take messages from them again."""
        await self._do(self._session.client.unblock_contact(userid))

    async def typing(self, userid: int, typing: bool) -> None:
        """Tell somebody that something is being written to them, or no more."""
        await self._do(self._session.client.typing(userid, typing))

    def read(self, message: Stored) -> None:
        """Have its sender told soon that it was read, and all before it."""
        self._session.marking.note(message.message(), "read")

    def after(self, mark: MarkOf) -> int:
        """How many messages there are from whom a mark is for, after those that it stands for."""
        return self._session.archive.after(
            self._session.me.userid, mark.targetid, mark.timestamp, mark.md5encoded
        )

    async def name_of(self, userid: int) -> str:
        """Somebody's name."""
        return await self._do(self._session.name_of(userid))

    def compose(self, userid: int, text: str) -> Message:
        """A text that is to be sent; it may be sent again."""
        return self._session.client.compose(userid, text)

    async def send(self, message: Message) -> None:
        """Send it."""
        await self._do(self._session.client.send(message))
        self._session.archive.add(self._session.me.userid, message)

    async def send_file(self, userid: int, path: Path, progress: Callable[[int, int], None]) -> Stored:
        """Send a file."""
        return self._sent(await self._do(self._session.client.send_file(userid, path, progress=progress)))

    async def send_image(self, userid: int, path: Path) -> Stored:
        """Send a picture."""
        return self._sent(await self._do(self._session.client.send_image(userid, path.read_bytes())))

    def _sent(self, message: Message) -> Stored:
        self._session.archive.add(self._session.me.userid, message)
        return stored(message)

    async def get(self, prefix: str, path: Path | None, progress: Callable[[int, int], None]) -> Path:
        """Fetch a file; gives where it is."""
        found = self._session.message(prefix)
        to, _ = await self._do(fetch(self._session, found, path, force=False, progress=progress))
        return to

    def conversation(self, userid: int, limit: int) -> list[Stored]:
        """The last messages with somebody, the oldest first."""
        return self._session.archive.conversation(self._session.me.userid, userid, limit)
