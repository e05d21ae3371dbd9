"""What a client asks about people and hears of them: profiles, contacts, presence, typing, marks.

Logins and messages are in ``client`` beside this, and so is how a request is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Literal, TypeVar

from msgspec import Raw, json

from chatsvc.client.connection import Connection, RequestRefused
from chatsvc.client.forms import Form
from chatsvc.tasks import spawn
from chatsvc.wire import schema
from chatsvc.wire.schema import (
    Contacts,
    Features,
    MarkList,
    MarkOf,
    Message,
    OwnInfo,
    Presence,
    PresenceList,
    Relation,
    Typing,
    UserInfo,
)

T = TypeVar("T")
#: What `on_event` hears; the fields are those of the pushes (``docs/protocol.md`` section 5.3).
Event = Presence | Typing | MarkOf | Relation
OnEvent = Callable[[Event], Awaitable[object] | None]

#: What a client asks for that has an `on_event`.
_FEATURES = Features(["contacts", "marks", "presence", "typing"])


class People(ABC):
    """The part of a `Client` that is about people."""

    def __init__(self, form: Form, on_event: OnEvent | None) -> None:
        self._form = form
        self._on_event = on_event
        #: What the server has granted of ``docs/protocol.md`` section 5.3, at the latest login.
        self.features: frozenset[str] = frozenset()

    @abstractmethod
    def _up(self) -> Connection:
        """The connection. Raises `NotConnected`."""

    @abstractmethod
    async def _ask(self, connection: Connection, kind: str, body: object, shape: type[T]) -> T:
        """Make a request."""

    async def profile(self, user_id: int) -> UserInfo:
        """The user of that id."""
        return self._form.user(await self._ask(self._up(), "PROFILE", schema.UserRef(user_id), UserInfo))

    async def search(self, *, name: str | None = None, userid: int | None = None) -> UserInfo:
        """The user of exactly that name, or of that id."""
        search = schema.Search(None if name is None else self._form.write(name), userid)
        return self._form.user(await self._ask(self._up(), "SEARCHUSR", search, UserInfo))

    async def contacts(self) -> Contacts:
        """Contacts, whom I asked (pending), and who asked me (requesting).

        With the feature `contacts` also whom I have blocked; else that is None.
        """
        return self._form.contacts(await self._ask(self._up(), "FETCHCONTACT", None, Contacts))

    async def add_contact(self, user_id: int) -> None:
        """Ask somebody to be a contact, or accept that they asked; that also ends a block."""
        await self._ask(self._up(), "ADDCONTACT", schema.UserRef(user_id), NoneType)

    async def remove_contact(self, user_id: int) -> None:
        """End the relation with somebody, whatever it is. Needs the feature `contacts`, see `features`."""
        await self._relate("REMOVECONTACT", user_id)

    async def block_contact(self, user_id: int) -> None:
        """End the relation with somebody and take no messages from them. Needs the feature `contacts`."""
        await self._relate("BLOCKCONTACT", user_id)

    async def unblock_contact(self, user_id: int) -> None:
        """Take messages from somebody again. Needs the feature `contacts`."""
        await self._relate("UNBLOCKCONTACT", user_id)

    async def typing(self, user_id: int, typing: bool = True) -> None:
        """Tell a contact that one is writing to them, or no more; it holds for 6 s, so say it every 4 s.

        Does nothing without the feature `typing`: it is a hint.
        """
        if "typing" in self.features:
            await self._ask(self._up(), "TYPING", Typing(user_id, typing), NoneType)

    async def mark(self, message: Message, mark: Literal["delivered", "read"]) -> None:
        """Tell a contact how far their messages were got, or read: up to `message`, which they sent.

        Does nothing without the feature `marks`: it is a hint.
        """
        if "marks" in self.features and message.timestamp is not None:
            body = schema.Mark(message.userid, mark, message.timestamp, message.md5encoded)
            await self._ask(self._up(), "MARK", body, NoneType)

    async def _relate(self, kind: str, user_id: int) -> None:
        connection = self._up()
        if "contacts" not in self.features:
            raise RequestRefused("Contacts cannot be removed or blocked on this server; ask its operator.")
        await self._ask(connection, kind, schema.UserRef(user_id), NoneType)

    # What the server tells by itself.

    async def _state(self, connection: Connection) -> UserInfo:
        """Who is logged in; whoever has an `on_event` asks for the features as well."""
        info = await connection.request("STATE", self._on_event and _FEATURES, OwnInfo)
        self.features = frozenset(info.features or ())
        return info

    def _noticed(self, kind: str, body: Raw) -> None:
        """A push has come that is no message; one of a kind that is not known is for a newer client."""
        if self._on_event is None:
            return
        for event in _events(kind, body):
            spawn(self._tell_event(self._on_event, event), "Telling the program of an event")

    async def _tell_event(self, on_event: OnEvent, event: Event) -> None:
        result = on_event(event)
        if result is not None:
            await result


def _events(kind: str, body: Raw) -> list[Event]:
    match kind:
        case "FORWARDPRESENCE":
            return [*json.decode(body, type=PresenceList).users]
        case "FORWARDMARK":
            return [*json.decode(body, type=MarkList).marks]
        case "FORWARDTYPING":
            return [json.decode(body, type=Typing)]
        case "FORWARDCONTACT":
            return [json.decode(body, type=Relation)]
    return []
