"""`Client`: a device of a user, as a program sees it: log in, send, transfer files, be told.

Frames are the connection's, reconnecting is the link's, order and acknowledgement are the inbox's, and what
is about other people is in ``people``.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import random as uniform
from types import NoneType
from typing import Any, BinaryIO, Literal, TypeVar

from msgspec import UNSET, Raw, UnsetType, json
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from chatsvc.client.connection import (
    CHUNK,
    Connection,
    NotConnected,
    Progress,
    RequestRefused,
    TimedOut,
    Upload,
)
from chatsvc.client.forms import PLAIN, Form, message_name
from chatsvc.client.inbox import Inbox
from chatsvc.client.link import Link, within
from chatsvc.client.people import OnEvent, People
from chatsvc.tasks import as_failure
from chatsvc.wire import schema
from chatsvc.wire.errors import FILE_NOT_FOUND, NOT_LOGGED_IN
from chatsvc.wire.frames import RELEASED, Dialect
from chatsvc.wire.schema import FetchRange, FileInfo, Message, MessageList, MessageName, UserInfo

log = Logger()
T = TypeVar("T")


class State(enum.Enum):
    """What a client can do at the moment: nothing but connect; log in or register; everything."""

    DISCONNECTED = "disconnected"
    CONNECTED = "connected"
    LOGGED_IN = "logged in"


class Client(People):
    """A device of a user, on one server (``docs/protocol.md``).

    `endpoint` is a stream client endpoint, `token` what an earlier client of this device had in `token`;
    whoever holds it is that user, so keep it secret. `form` says how strings are written: as the released
    client does (`PLAIN`), or to the letter (`RAW`). `timeout` is how long in seconds a request may see no
    progress.

    `on_message` is called with each message of the user's mailbox that this device did not send itself,
    in mailbox order, once; what it returns is awaited, then the message is acknowledged. If it raises, the
    same message comes again after a pause. Without it no messages are fetched. `on_state` is called when
    `state` has changed. With `on_event` the server is asked for `features`, and `on_event` is called with
    each `Event`; what it returns runs on its own, and a failure is logged and nothing more.

    Methods that talk to the server raise `RequestRefused` for an ERR answer, `NotConnected` or `TimedOut`
    if no answer came, and ValueError for what no server would take. `reactor` is the clock too; `now` is
    the time of day in seconds since the epoch, `random` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: Any,
        *,
        token: int | None = None,
        on_message: Callable[[Message], Awaitable[object] | None] | None = None,
        on_state: Callable[[State], None] | None = None,
        on_event: OnEvent | None = None,
        dialect: Dialect = RELEASED,
        form: Form = PLAIN,
        timeout: float = 30.0,
        now: Callable[[], float] = time.time,
        random: Callable[[], float] = uniform,
    ) -> None:
        super().__init__(form, on_event)
        self._reactor = reactor
        self._dialect = dialect
        self._timeout = timeout
        self._now = now
        self._latest = 0  # timestamp given to a message, ms
        self._on_message = on_message
        self._on_state = on_state
        self._told = State.DISCONNECTED
        self._inbox = None if on_message is None else Inbox(reactor, self._show, self._fetch)
        self._link = Link(reactor, endpoint, timeout, self._build, self._greet, self._link_changed, random)
        #: Names this device to the server; keep it for the next client.
        self.token = token
        #: Who is logged in; while disconnected, who was.
        self.user: UserInfo | None = None

    @property
    def state(self) -> State:
        """What this client can do at the moment."""
        if self._link.connection is None:
            return State.DISCONNECTED
        return State.CONNECTED if self.user is None else State.LOGGED_IN

    async def start(self, timeout: float = 30.0) -> None:
        """Connect, and stay connected until `stop`; with a token, resume its login and catch up.

        Returns at the first connection. Raises `TimedOut` if there is none within `timeout` seconds; it
        goes on trying all the same.
        """
        self._link.start()
        if self._inbox is not None:
            self._inbox.start()
        try:
            await within(self._reactor, timeout, Deferred.fromCoroutine(self._link.when_up()), "")
        except TimedOut:
            raise TimedOut(f"No connection within {timeout:g} s: {self._link.trouble}") from None

    async def stop(self) -> None:
        """Disconnect for good; what is outstanding fails with `NotConnected`.

        A message whose callback has not finished is not acknowledged.
        """
        if self._inbox is not None:
            self._inbox.stop()
        await self._link.stop()

    async def caught_up(self, timeout: float = 60.0) -> None:
        """Return when everything that the mailbox held has been shown to `on_message`."""
        if self._inbox is not None:
            what = f"The mailbox could not be shown within {timeout:g} s."
            await self._link.wait(within(self._reactor, timeout, self._inbox.when_idle(), what))

    # Accounts.

    async def register(self, name: str, password: str, invite: str | None = None) -> UserInfo:
        """Make an account and log in as it; some servers want the code of an `invite`."""
        body = schema.Registration(self._form.write(name), self._form.password(password), invite)
        return await self._enter("REGISTER", body)

    async def login(self, name: str, password: str) -> UserInfo:
        """Log this device in."""
        body = schema.Credentials(self._form.write(name), self._form.password(password))
        return await self._enter("LOGIN", body)

    async def resume(self) -> UserInfo | None:
        """Who is logged in on this device, or None."""
        return await self._resume(self._up())

    async def logout(self) -> None:
        """Log this device out; it keeps its token."""
        connection = self._up()
        await self._ask(connection, "LOGOUT", None, NoneType)
        self._bind(connection, None)

    async def modify_profile(
        self, name: str | None = None, avatar: str | UnsetType | None = UNSET
    ) -> UserInfo:
        """Change the name, or the avatar (base64 of a picture; None clears it), or both."""
        change = schema.ProfileChange(None if name is None else self._form.write(name), avatar)
        self.user = self._form.user(await self._ask(self._up(), "MODIFYPROFILE", change, UserInfo))
        return self.user

    async def modify_password(self, old: str, new: str) -> None:
        """Change the password; all other devices of the user are logged out."""
        change = schema.PasswordChange(self._form.password(old), self._form.password(new))
        await self._ask(self._up(), "MODIFYPASSWD", change, NoneType)

    # Messages.

    def compose(
        self,
        target_id: int,
        content: str,
        contenttype: Literal["plaintext", "image", "file"] = "plaintext",
        filemd5: str | None = None,
    ) -> Message:
        """A message of the logged-in user with the name and the time that it keeps however often it is sent.

        Raises `RequestRefused` if nobody is logged in.
        """
        if self.user is None:
            raise RequestRefused(NOT_LOGGED_IN)
        # Two messages of one millisecond would be one message and a repeat.
        self._latest = max(int(self._now() * 1000), self._latest + 1)
        return Message(
            userid=self.user.userid,
            targetid=target_id,
            contenttype=contenttype,
            content=content,
            timestamp=self._latest,
            md5encoded=message_name(content, self.user.userid, target_id, self._latest),
            filemd5=filemd5,
        )

    async def send(self, message: Message, *, timeout: float = 60.0) -> Message:
        """Have the server store `message`; returns it when that is done.

        Tries again whenever the connection was lost or the store is away, for `timeout` seconds; the
        server takes that for one message. If this raises `NotConnected` or `TimedOut` it may have been
        stored or not, and sending the same message again is right. Sent one after the other is received
        in that order.
        """
        wire = replace(message, content=self._form.write(message.content))

        async def once() -> None:
            await self._ask(await self._link.when_up(), "SENDMSG", wire, MessageName)

        await self._link.persist(once, timeout)
        return message

    async def send_text(self, target_id: int, text: str, *, timeout: float = 60.0) -> Message:
        """Send a text, see `send`."""
        return await self.send(self.compose(target_id, text), timeout=timeout)

    async def send_image(self, target_id: int, picture: bytes, *, timeout: float = 60.0) -> Message:
        """Send a picture as the released client shows it: its content is base64 of it, see `send`."""
        content = base64.b64encode(picture).decode()
        return await self.send(self.compose(target_id, content, "image"), timeout=timeout)

    async def send_file(
        self,
        target_id: int,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float = 3600.0,
    ) -> Message:
        """Send a file under its name, on a connection of its own, see `send`.

        `progress` hears how many bytes of how many are sent, again from the start when it is tried again.
        Raises OSError if the file cannot be read, EOFError if it got shorter meanwhile.
        """
        file = await self._in_thread(lambda: open(path, "rb"))  # noqa: SIM115 - closed below, in a thread
        try:
            filemd5, size = await self._in_thread(_measure, file)
            message = self.compose(target_id, os.path.basename(path), "file", filemd5)
            wire = replace(message, content=self._form.write(message.content))
            upload = Upload(size, partial(self._in_thread, file.read))

            async def once() -> None:
                await self._link.when_up()
                await self._in_thread(file.seek, 0)
                await self._transfer("SENDMSG", wire, MessageName, upload=upload, progress=progress)

            await self._link.persist(once, timeout)
        finally:
            await self._in_thread(file.close)
        return message

    # Files.

    async def find_file(self, filemd5: str) -> bool:
        """Whether the server has a file of that MD5 which this user has sent or received."""
        try:
            await self._ask(self._up(), "FINDFILE", schema.FileRef(filemd5), NoneType)
        except RequestRefused as refused:
            if refused.info != FILE_NOT_FOUND:
                raise
            return False
        return True

    async def fetch_file(
        self,
        msgmd5: str,
        sink: BinaryIO,
        *,
        offset: int | None = None,
        length: int | None = None,
        progress: Progress | None = None,
    ) -> FileInfo:
        """Write the file of the message named `msgmd5`, or a range of it in bytes, to `sink`.

        `sink` is written to in a thread, at its position. After `NotConnected` or `TimedOut` what it has
        is good, and the rest can be fetched from that offset on.
        """
        self._up()
        reference = schema.MessageRef(msgmd5, offset, length)
        into = partial(self._in_thread, sink.write)
        return await self._transfer("FETCHFILE", reference, FileInfo, sink=into, progress=progress)

    # How it is done.

    def _up(self) -> Connection:
        connection = self._link.connection
        if connection is None:
            raise NotConnected(self._link.trouble)
        return connection

    async def _ask(
        self, connection: Connection, kind: str, body: object, shape: type[T], **payload: Any
    ) -> T:
        try:
            return await connection.request(kind, body, shape, **payload)
        except RequestRefused as refused:
            if refused.info == NOT_LOGGED_IN and connection is self._link.connection:
                self._bind(connection, None)  # the login was ended from elsewhere
            raise

    async def _transfer(self, kind: str, body: object, shape: type[T], **payload: Any) -> T:
        """Make a request on a connection of its own: nothing else has to wait until a file is through."""
        connection = await self._link.dial()
        try:
            return await self._ask(connection, kind, body, shape, **payload)
        finally:
            connection.close()

    def _in_thread(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call, *args)

    async def _enter(self, kind: str, credentials: schema.Credentials) -> UserInfo:
        connection = self._up()
        info = await self._ask(connection, kind, credentials, UserInfo)
        if self._on_event is not None:
            try:
                await self._state(connection)
            except (RequestRefused, NotConnected, TimedOut):
                connection.close()  # the next one asks again
        self._bind(connection, info)
        return self._form.user(info)

    async def _greet(self, connection: Connection) -> None:
        if connection.token is not None:
            await self._resume(connection)

    async def _resume(self, connection: Connection) -> UserInfo | None:
        try:
            info = await self._state(connection)
        except RequestRefused as refused:
            if refused.info != NOT_LOGGED_IN:
                raise
            return self._bind(connection, None)
        return self._bind(connection, info)

    def _bind(self, connection: Connection, info: UserInfo | None) -> UserInfo | None:
        """Take note of who is logged in."""
        self.user = None if info is None else self._form.user(info)
        if self._inbox is not None:
            if info is None:
                self._inbox.closed()
            else:
                self._inbox.opened(connection, info.userid)
        self._tell()
        return self.user

    def _build(self, main: bool) -> Connection:
        # The server does not count on what it pushes to a connection without a FETCHMSG.
        listeners = (self._pushed, self._token_given) if main else ()
        return Connection(self._reactor, self._dialect, self.token, self._timeout, *listeners)

    def _token_given(self, token: int) -> None:
        self.token = token

    def _pushed(self, kind: str, body: Raw) -> None:
        if kind != "FORWARDMSG":
            self._noticed(kind, body)
        elif self._inbox is not None:
            self._inbox.pushed(json.decode(body, type=Message))

    async def _fetch(self, connection: Connection, what: FetchRange) -> MessageList:
        return await self._ask(connection, "FETCHMSG", what, MessageList)

    def _show(self, message: Message) -> Awaitable[object] | None:
        assert self._on_message is not None
        return self._on_message(self._form.message(message))

    def _link_changed(self) -> None:
        if self._link.connection is None and self._inbox is not None:
            self._inbox.closed()
        self._tell()

    def _tell(self) -> None:
        state = self.state
        if state is self._told:
            return
        self._told = state
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception as error:
                log.failure(
                    "Telling the program that it is {state} failed", as_failure(error), state=state.value
                )


def _measure(file: BinaryIO) -> tuple[str, int]:
    digest = hashlib.md5(usedforsecurity=False)
    while data := file.read(CHUNK):
        digest.update(data)
    return digest.hexdigest(), file.tell()
