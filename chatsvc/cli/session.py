"""A command's time with the server: connected, as who is logged in on the profile, until its work is done.

What the work is stands in the modules of the commands; how the command line is read, in ``main``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import click
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString

from chatsvc.cli.archive import Archive, Stored
from chatsvc.cli.marking import Marking
from chatsvc.cli.profiles import Profile, Saved, Unusable, endpoint_of
from chatsvc.client import Client, Event, NotConnected, RequestRefused, State, TimedOut
from chatsvc.wire.errors import NOT_LOGGED_IN
from chatsvc.wire.schema import Contacts, Message, UserInfo

T = TypeVar("T")

DEFAULT_SERVER = "127.0.0.1:8080"
#: Seconds within which a server must answer a command's first word.
PATIENCE = 10.0
#: Exit statuses beside 0, and 2 for wrong usage (click's).
FAILED, UNREACHED, LOGGED_OUT, INTERRUPTED = 1, 3, 4, 130


class Failed(click.ClickException):
    """The command ends with a sentence for a person, and with a status that a script can rely on."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click asks the instance


class Session:
    """A profile that is connected to its server."""

    def __init__(
        self,
        reactor: Any,
        profile: Profile,
        server: str | None,
        *,
        enters: bool,
        receives: bool,
        extras: bool,
    ) -> None:
        """`server` is what was typed, if anything was; `enters` says that the command logs in.

        With `receives`, what the mailbox holds comes into the archive and to `on_message`, and its senders
        are told that it was delivered. That needs `extras`, and so does what the server has beside messages.
        """
        self.reactor = reactor
        self.profile = profile
        self.archive = Archive(profile.data)
        saved = profile.load()
        self._saved = saved or Saved(server or DEFAULT_SERVER)
        if server is not None and server != self._saved.server:
            if not enters:
                raise Unusable(
                    f"The profile {profile.name} belongs to the server {self._saved.server}. "
                    f"Log in to {server} with another one: --profile NAME."
                )
            self._saved = Saved(server)  # a token is for the server that gave it, and no other
        self.client = Client(
            reactor,
            clientFromString(reactor, endpoint_of(self._saved.server)),  # type: ignore[no-untyped-call]
            token=self._saved.token,
            on_message=self._received if receives else None,
            on_state=self._changed,
            on_event=self._noticed if extras else None,
        )
        self.marking = Marking(reactor, self.client)
        #: Hears when the connection comes or goes, and who logs in or out.
        self.on_state: Callable[[State], None] = lambda _: None
        #: Hears of presence, typing, marks and changes of contacts.
        self.on_event: Callable[[Event], None] = lambda _: None
        #: Hears each message that is new here, once it is in the archive.
        self.on_message: Callable[[Message], Coroutine[Any, Any, None]] | None = None

    async def open(self, *, logged_in: bool = True) -> None:
        """Connect; `logged_in` says that somebody must be."""
        await self.client.start(PATIENCE)
        if logged_in and self.client.user is None:
            raise RequestRefused(NOT_LOGGED_IN)
        self.remember()

    async def close(self) -> None:
        """Disconnect."""
        await self.marking.close()
        await self.client.stop()
        self.archive.close()

    def remember(self) -> None:
        """Keep the token, and who is logged in."""
        user = self.client.user
        now = Saved(
            self._saved.server,
            self.client.token,
            None if user is None else user.userid,
            None if user is None else user.username,
        )
        if now != self._saved:
            self._saved = now
            self.profile.save(now)

    @property
    def server(self) -> str:
        """The server as it was typed."""
        return self._saved.server

    @property
    def me(self) -> UserInfo:
        """Who is logged in."""
        if self.client.user is None:
            raise RequestRefused(NOT_LOGGED_IN)
        return self.client.user

    async def _received(self, message: Message) -> None:
        if self.archive.add(self.me.userid, message) and self.on_message is not None:
            await self.on_message(message)
        if message.userid != self.me.userid:
            self.marking.note(message, "delivered")

    def _changed(self, state: State) -> None:
        if state is State.LOGGED_IN:
            self.marking.soon()
        self.on_state(state)

    def _noticed(self, event: Event) -> None:
        self.on_event(event)

    # People.

    async def contacts(self) -> Contacts:
        """Contacts, who asked whom to be one, and who is blocked; their names are remembered."""
        found = await self.client.contacts()
        for user in (*found.contacts, *found.pending, *found.requesting, *(found.blocked or ())):
            self.archive.meet(user.userid, user.username)
        return found

    async def find(self, who: str) -> UserInfo:
        """The user whom an argument names: an id, or a name; a name of digits is written ``name:123``."""
        if who.isascii() and who.isdigit():
            found = await self.client.search(userid=int(who))
        else:
            found = await self.client.search(name=who.removeprefix("name:"))
        self.archive.meet(found.userid, found.username)
        return found

    async def name_of(self, userid: int) -> str:
        """Somebody's name, from the server if it was never heard."""
        if userid == self.me.userid:
            return self.me.username
        known = self.archive.name_of(userid)
        if known is None:
            try:
                known = (await self.client.profile(userid)).username
            except RequestRefused:
                return f"user {userid}"  # deleted since
            self.archive.meet(userid, known)
        return known

    def message(self, prefix: str) -> Stored:
        """The message whose id begins so. Raises `Failed` if there is none, or more than one."""
        found = self.archive.find(self.me.userid, prefix)
        if not found:
            raise Failed(
                f"No message here has an id that begins with {prefix}. Fetch them with: chatsvc tail --once"
            )
        if len({one.name for one in found}) > 1:
            raise Failed(f"{len(found)} messages have ids that begin with {prefix}; type more of it.")
        return found[-1]


def run(
    profile_name: str,
    server: str | None,
    work: Callable[[Session], Coroutine[Any, Any, T]],
    *,
    enters: bool = False,
    receives: bool = False,
    extras: bool = False,
) -> T:
    """What `work` gives, done in a reactor's run; a process has one such run. Raises `Failed`."""
    results: list[T] = []
    errors: list[Exception] = []

    async def main(reactor: Any) -> None:
        try:
            session = Session(
                reactor,
                Profile(profile_name),
                server,
                enters=enters,
                receives=receives,
                extras=receives or extras,
            )
            try:
                results.append(await work(session))
            finally:
                await session.close()
        except CancelledError:
            pass  # by Ctrl-C
        except Exception as error:
            errors.append(error)

    def begin(reactor: Any) -> Deferred[None]:
        done = Deferred.fromCoroutine(main(reactor))

        def cut_short() -> Deferred[None]:
            done.cancel()
            return done

        reactor.addSystemEventTrigger("before", "shutdown", cut_short)
        return done

    with suppress(SystemExit):  # that is how `react` returns
        task.react(begin)
    if errors:
        raise _told(errors[0]) from errors[0]
    if not results:
        raise SystemExit(INTERRUPTED)
    return results[0]


def _told(error: Exception) -> Exception:
    """An error as a person is told of it; what nobody foresaw stays as it is."""
    match error:
        case RequestRefused() if error.info == NOT_LOGGED_IN:
            return Failed("Nobody is logged in on this profile. Log in with: chatsvc login NAME", LOGGED_OUT)
        case RequestRefused():
            return Failed(f"The server refused: {error.info.rstrip('.')}.")
        case NotConnected() | TimedOut():
            return Failed(str(error), UNREACHED)
        case Unusable() | OSError() | EOFError() | ValueError():
            return Failed(str(error))
    return error
