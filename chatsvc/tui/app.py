"""The application: what keys, typed lines and news from the server lead to.

How its parts look is known to ``widgets``, what a typed line means to ``slash``, servers to ``backend``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar

import click
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import OptionList, Static

from chatsvc.cli.archive import Stored
from chatsvc.cli.fetching import stored
from chatsvc.cli.output import harmless
from chatsvc.client import NotConnected, RequestRefused, State, TimedOut
from chatsvc.tui import slash
from chatsvc.tui.backend import Backend
from chatsvc.tui.widgets import SHOWN, Conversation, Line, Login, People, Person, Said
from chatsvc.wire.schema import Message

#: Seconds between two looks at who has asked to be a contact.
LOOK = 20.0
_FAILURES = (NotConnected, RequestRefused, TimedOut, OSError, EOFError, ValueError, click.ClickException)


class ChatApp(App[None]):
    """A chat on a whole terminal."""

    TITLE = "chatsvc"
    CSS = """
    People { width: 26; border: none; background: $surface; padding: 1 0; }
    #title { height: 1; padding: 0 1; background: $surface; text-style: bold; }
    Conversation { padding: 0 1; }
    Said { padding: 0 0 0 0; }
    Said.own { color: $text-accent; }
    .notice { color: $text-muted; }
    #status { height: 1; padding: 0 1; color: $text-muted; }
    #status.away { color: $text-warning; }
    Line { border: tall $primary; }
    Login { align: center middle; }
    #login { width: 44; height: auto; border: round $primary; padding: 1 2; }
    #login Button { width: 100%; margin-top: 1; }
    #why { color: $text-error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "walk(1)", "Next", priority=True),
        Binding("ctrl+p", "walk(-1)", "Previous", priority=True),
        Binding("pageup", "page(-1)", "Up", priority=True),
        Binding("pagedown", "page(1)", "Down", priority=True),
        Binding("f1", "help", "Help"),
        Binding("ctrl+q,ctrl+c", "quit", "Quit", priority=True),
    ]

    def __init__(self, backend: Backend, server: str) -> None:
        super().__init__()
        self._backend = backend
        self._server = server
        self._people: dict[int, Person] = {}
        self._unread: Counter[int] = Counter()
        self._other: int | None = None
        #: One's own messages that are not stored, by name, with their lines.
        self._unsent: dict[str, tuple[Message, Said]] = {}

    def compose(self) -> ComposeResult:
        """The parts."""
        with Horizontal():
            yield People(id="people")
            with Vertical():
                yield Static(id="title", markup=False)
                yield Conversation(id="conversation")
                yield Static("Connecting …", id="status", markup=False)
                yield Line()

    # Coming and going.

    def on_mount(self) -> None:
        """Connect."""
        self._backend.on_message = self._received
        self._backend.on_state = self._changed
        self.query_one(Line).focus()
        self._begin()

    @work
    async def _begin(self) -> None:
        try:
            await self._backend.start()
        except TimedOut as error:
            self._say(f"{error} It is tried again and again.")
        if self._backend.me is None:
            await self._log_in()
        await self._look()
        self.set_interval(LOOK, self._look)

    async def _log_in(self) -> None:
        why = ""
        while self._backend.me is None:
            kind, name, password = await self.push_screen_wait(Login(self._server, why))
            try:
                await self._backend.enter(kind, name, password)
            except _FAILURES as error:
                why = str(error)

    def _changed(self, state: State) -> None:
        status = self.query_one("#status", Static)
        status.set_class(state is State.DISCONNECTED, "away")
        me = self._backend.me
        if state is State.DISCONNECTED:
            status.update("Not connected. What you write is sent when the server is back.")
        elif me is not None:
            status.update(f"{harmless(me.username)} at {self._server}")

    # People.

    async def _look(self) -> None:
        """See who is a contact, and who asks to be."""
        try:
            found = await self._backend.contacts()
        except _FAILURES:
            return
        hints = {"contacts": "", "pending": "asked", "requesting": "asks; /add"}
        for relation, hint in hints.items():
            for user in getattr(found, relation):
                self._people[user.userid] = Person(user.userid, user.username, hint)
        self._list()

    def _list(self) -> None:
        shown = [person._replace(unread=self._unread[at]) for at, person in self._people.items()]
        shown.sort(key=lambda person: (-person.unread, person.name.casefold()))
        self.query_one(People).show(shown, self._other)
        unread = self._unread.total()
        self.title = f"({unread}) chatsvc" if unread else "chatsvc"

    async def _meet(self, userid: int) -> Person:
        if userid not in self._people:
            self._people[userid] = Person(userid, await self._backend.name_of(userid))
        return self._people[userid]

    @on(OptionList.OptionSelected)
    async def _selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_id is not None:
            await self._open(int(event.option_id))

    async def action_walk(self, step: int) -> None:
        """Go to the next conversation, or to the one before."""
        options = self.query_one(People).options
        ids = [int(option.id) for option in options if option.id is not None]
        if ids:
            at = ids.index(self._other) + step if self._other in ids else 0
            await self._open(ids[at % len(ids)])

    def action_page(self, step: int) -> None:
        """Scroll the conversation."""
        conversation = self.query_one(Conversation)
        (conversation.scroll_page_up if step < 0 else conversation.scroll_page_down)(animate=False)

    async def _open(self, userid: int) -> None:
        person = await self._meet(userid)
        self._other = userid
        self._unread.pop(userid, None)
        self.query_one("#title", Static).update(harmless(person.name))
        lines = [await self._line(message) for message in self._backend.conversation(userid, SHOWN)]
        lines += [line for message, line in self._unsent.values() if message.targetid == userid]
        await self.query_one(Conversation).show(lines)
        self._list()
        self.query_one(Line).focus()

    # Messages.

    async def _line(self, message: Stored, mark: str = "") -> Said:
        me = self._backend.me
        own = me is not None and message.sender == me.userid
        name = "you" if own else (await self._meet(message.sender)).name
        return Said(message, name, own=own, mark=mark or ("stored" if own else ""))

    def _received(self, message: Stored) -> None:
        self.call_later(self._show, message)

    async def _show(self, message: Stored) -> None:
        me = self._backend.me
        own = me is not None and message.sender == me.userid
        other = message.target if own else message.sender
        await self._meet(other)
        if other == self._other:
            await self.query_one(Conversation).add(await self._line(message))
        elif not own:
            self._unread[other] += 1
            self.bell()
        self._list()

    @work
    async def _send(self, message: Message) -> None:
        _, line = self._unsent.get(message.md5encoded, (message, None))
        if line is None:
            line = await self._line(stored(message), "waiting")
            await self.query_one(Conversation).add(line)
        self._unsent[message.md5encoded] = (message, line)
        line.mark("waiting")
        try:
            await self._backend.send(message)
        except _FAILURES as error:
            line.mark("failed")
            self._say(str(error))
        else:
            del self._unsent[message.md5encoded]
            line.mark("stored")

    # What is typed.

    @on(Line.Typed)
    async def _typed(self, event: Line.Typed) -> None:
        try:
            command, words = slash.read(event.text)
        except slash.Misunderstood as error:
            self._say(str(error))
            return
        if command:
            self._command(command, words)
        elif self._other is None:
            self._say("Nobody is here to read that. Open a conversation: /open NAME")
        else:
            self._send(self._backend.compose(self._other, words[0]))

    @work
    async def _command(self, command: str, words: tuple[str, ...]) -> None:
        try:
            await getattr(self, f"_on_{command}")(*words)
        except _FAILURES as error:
            self._say(error.format_message() if isinstance(error, click.ClickException) else str(error))

    def action_help(self) -> None:
        """F1."""
        self._say(f"{slash.shown()}\nCtrl+N, Ctrl+P  next and previous conversation\nPgUp, PgDn  scroll")

    async def _on_help(self) -> None:
        self.action_help()

    async def _on_quit(self) -> None:
        self.exit()

    async def _on_open(self, who: str) -> None:
        user = await self._backend.find(who)
        self._people.setdefault(user.userid, Person(user.userid, user.username))
        await self._open(user.userid)

    async def _on_add(self, who: str) -> None:
        await self._backend.add((await self._backend.find(who)).userid)
        await self._look()

    async def _on_file(self, path: str) -> None:
        await self._give(self._backend.send_file(self._here(), Path(path).expanduser(), self._moved))

    async def _on_image(self, path: str) -> None:
        await self._give(self._backend.send_image(self._here(), Path(path).expanduser()))

    async def _give(self, sending: Awaitable[Stored]) -> None:
        message = await sending
        if message.target == self._other:
            await self.query_one(Conversation).add(await self._line(message))

    async def _on_get(self, prefix: str, path: str = "") -> None:
        to = await self._backend.get(prefix, Path(path).expanduser() if path else None, self._moved)
        self._say(f"It is in {to.absolute()}.")

    async def _on_retry(self) -> None:
        for message, _ in list(self._unsent.values()):
            self._send(message)

    async def _on_find(self, text: str) -> None:
        for line in reversed(list(self.query(Said))):
            if text.casefold() in line.message.content.casefold():
                line.scroll_visible(animate=False)
                return
        self._say("That was not written here.")

    def _here(self) -> int:
        if self._other is None:
            raise ValueError("Open a conversation first: /open NAME")
        return self._other

    def _moved(self, done: int, of: int) -> None:
        self.query_one("#status", Static).update(f"{100 * done // max(1, of)} % of {of} bytes")
        if done == of:
            self._changed(State.LOGGED_IN)

    def _say(self, text: str) -> None:
        """Something for the person, among what was said."""
        self.call_later(
            self.query_one(Conversation).add, Static(harmless(text), classes="notice", markup=False)
        )
