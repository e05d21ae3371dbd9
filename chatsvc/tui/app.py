"""The application: what keys, typed lines and news from the server lead to.

How its parts look is known to ``widgets``, what a typed line means to ``slash`` and ``commands``, servers to
``backend``, people to ``roster``, and what they signal to ``signals``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ClassVar

import click
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import OptionList, Static

from chatsvc.cli.archive import Stored
from chatsvc.cli.fetching import stored
from chatsvc.cli.output import harmless
from chatsvc.client import (
    Event,
    MarkOf,
    NotConnected,
    Presence,
    Relation,
    RequestRefused,
    State,
    TimedOut,
    Typing,
)
from chatsvc.tui import slash
from chatsvc.tui.backend import Backend
from chatsvc.tui.commands import Commands
from chatsvc.tui.roster import Roster
from chatsvc.tui.signals import SHOWN_FOR, Marks, Typist
from chatsvc.tui.widgets import SHOWN, Conversation, Line, Login, People, Said
from chatsvc.wire.schema import Message, UserInfo

#: Seconds between two looks at who has asked to be a contact, where the server does not say so by itself.
LOOK = 20.0
_FAILURES = (NotConnected, RequestRefused, TimedOut, OSError, EOFError, ValueError, click.ClickException)


class ChatApp(App[None]):
    """A chat on a whole terminal."""

    TITLE = "chatsvc"
    CSS = """
    #title { height: 1; padding: 0 1; background: $surface; text-style: bold; }
    #status { height: 1; padding: 0 1; color: $text-muted; }
    #status.away { color: $text-warning; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "walk(1)", "Next", priority=True),
        Binding("ctrl+p", "walk(-1)", "Previous", priority=True),
        Binding("pageup", "page(-1)", "Up", priority=True),
        Binding("pagedown", "page(1)", "Down", priority=True),
        Binding("f1", "help", "Help"),
        Binding("ctrl+q,ctrl+c", "quit", "Quit", priority=True),
    ]

    def __init__(self, backend: Backend, server: str, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the time of day, in seconds since 1970."""
        super().__init__()
        self._clock = clock
        self._backend = backend
        self._server = server
        self._roster = Roster()
        self._marks = Marks()
        self._typist = Typist(clock)
        #: Who is writing to this user, with the timers that end it.
        self._writing: dict[int, Timer] = {}
        #: Whose conversation is open.
        self.other: int | None = None
        self._state: State | None = None
        self._list_is_due = False
        self._commands = Commands(self, backend)
        #: One's own messages that are not stored, by name, with their lines.
        self._unsent: dict[str, tuple[Message, Said]] = {}
        self._people = People(id="people")
        self._title = Static(id="title", markup=False)
        self._conversation = Conversation(id="conversation")
        self._status = Static("Connecting …", id="status", markup=False)
        self._line = Line()

    def compose(self) -> ComposeResult:
        """The parts."""
        with Horizontal():
            yield self._people
            with Vertical():
                yield self._title
                yield self._conversation
                yield self._status
                yield self._line

    # Coming and going.

    def on_mount(self) -> None:
        """Connect."""
        self._backend.on_message = self._received
        self._backend.on_state = self._changed
        self._backend.on_event = self._noticed
        self._line.focus()
        self._begin()

    @work
    async def _begin(self) -> None:
        try:
            await self._backend.start()
        except TimedOut as error:
            self.say(f"{error} It is tried again and again.")
        if self._backend.me is None:
            await self._log_in()
        self.set_interval(LOOK, self._look_untold)

    async def _log_in(self) -> None:
        why = ""
        while self._backend.me is None:
            kind, name, password = await self.push_screen_wait(Login(self._server, why))
            try:
                await self._backend.enter(kind, name, password)
            except _FAILURES as error:
                why = str(error)

    def _changed(self, state: State) -> None:
        self._state = state
        if state is State.DISCONNECTED:
            self._roster.disconnected()
            self._list_soon()
        elif state is State.LOGGED_IN:
            self.call_later(self._look_soon)
        self._tell()

    def _tell(self) -> None:
        """What is the matter: nothing, somebody writes, no connection."""
        me = self._backend.me
        away = self._state is State.DISCONNECTED
        self._status.set_class(away, "away")
        if away:
            self._status.update("Not connected. What you write is sent when the server is back.")
        elif self.other in self._writing:
            self._status.update(f"{self._who(self.other)} writes …")
        elif me is not None:
            self._status.update(f"{harmless(me.username)} at {self._server}")

    # People.

    async def look(self) -> None:
        """See who is a contact, and who asks to be."""
        with suppress(*_FAILURES):
            self._roster.relate(await self._backend.contacts())
            self._list()

    @work(exclusive=True, group="look")
    async def _look_soon(self) -> None:
        await self.look()

    def _look_untold(self) -> None:
        if "contacts" not in self._backend.features:
            self._look_soon()

    def _list_soon(self) -> None:
        """Show once what comes for many people at a time."""
        if not self._list_is_due:
            self._list_is_due = True
            self.call_later(self._list)

    def _list(self) -> None:
        self._list_is_due = False
        self._people.show(self._roster.listed(), self.other)
        if self.other is not None:
            seen = self._roster.seen(self.other, self._clock())
            self._title.update(" · ".join(filter(None, (self._who(self.other), seen))))
        unread = self._roster.unread.total()
        self.title = f"({unread}) chatsvc" if unread else "chatsvc"

    def _who(self, userid: int) -> str:
        return harmless(self._roster.name(userid) or f"user {userid}")

    async def _meet(self, userid: int) -> None:
        if self._roster.name(userid) is None:
            self._roster.meet(userid, await self._backend.name_of(userid))

    @on(OptionList.OptionSelected)
    async def _selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_id is not None:
            await self._open(int(event.option_id))

    async def action_walk(self, step: int) -> None:
        """Go to the next conversation, or to the one before."""
        options = self._people.options
        ids = [int(option.id) for option in options if option.id is not None]
        if ids:
            at = ids.index(self.other) + step if self.other in ids else 0
            await self._open(ids[at % len(ids)])

    def action_page(self, step: int) -> None:
        """Scroll the conversation."""
        conversation = self._conversation
        (conversation.scroll_page_up if step < 0 else conversation.scroll_page_down)(animate=False)

    async def open(self, user: UserInfo) -> None:
        """Show the conversation with somebody."""
        self._roster.meet(user.userid, user.username)
        await self._open(user.userid)

    async def _open(self, userid: int) -> None:
        await self._meet(userid)
        self.other = userid
        self._typist.done()
        self._roster.unread.pop(userid, None)
        lines = [self._said(message) for message in self._backend.conversation(userid, SHOWN)]
        lines += [line for message, line in self._unsent.values() if message.targetid == userid]
        await self._conversation.show(lines)
        self._mark()
        self._read()
        self._list()
        self._tell()
        self._line.focus()

    # Messages.

    def _said(self, message: Stored, mark: str = "") -> Said:
        me = self._backend.me
        own = me is not None and message.sender == me.userid
        name = "you" if own else self._who(message.sender)
        return Said(message, name, own=own, mark=mark or ("stored" if own else ""))

    def _mark(self) -> None:
        """Put to one's own messages on the screen how far they came."""
        if self.other is not None:
            own = [line for line in self._conversation.said if line.own]
            lines = [line for line in own if line.message.name not in self._unsent]
            states = self._marks.states(self.other, [line.message for line in lines])
            for line, state in zip(lines, states, strict=True):
                line.mark(state)

    def _read(self) -> None:
        """Tell whoever writes here that it was read, if this terminal is looked at."""
        me, other = self._backend.me, self.other
        theirs = [line.message for line in self._conversation.said if not line.own]
        if me is None or other is None or not theirs or not self.app_focus:
            return
        known = self._marks.read(me.userid, other)
        if known is None or self._backend.after(known):
            self._backend.read(theirs[-1])
            self._marks.hear(MarkOf(me.userid, other, "read", theirs[-1].time, theirs[-1].name))

    def watch_app_focus(self, _: bool) -> None:
        """Somebody looks at this terminal, or no longer."""
        self._read()

    def _received(self, message: Stored) -> None:
        self.call_later(self.show_message, message)

    async def show_message(self, message: Stored) -> None:
        """A message is here that is new."""
        me = self._backend.me
        own = me is not None and message.sender == me.userid
        other = message.target if own else message.sender
        await self._meet(other)
        if not own:
            self._writes(other, False)
        if other == self.other:
            await self._conversation.add(self._said(message))
            if own:
                self._mark()
            else:
                self._read()
        elif not own:
            self._roster.unread[other] += 1
            self._heed(other)
            if self._roster.unread[other]:
                self.bell()
        self._list_soon()

    def _heed(self, other: int) -> None:
        """What another device of this user has read is not unread here."""
        me = self._backend.me
        mark = None if me is None else self._marks.read(me.userid, other)
        if mark is not None:
            self._roster.unread[other] = min(self._roster.unread[other], self._backend.after(mark))

    # What the server says beside messages.

    def _noticed(self, event: Event) -> None:
        self.call_later(self._hear, event)

    def _hear(self, event: Event) -> None:
        match event:
            case Presence():
                self._roster.hear(event)
                self._list_soon()
            case Typing():
                self._writes(event.userid, event.typing)
            case MarkOf():
                self._marks.hear(event)
                if event.userid == self.other:
                    self._mark()
                self._heed(event.targetid)
                self._list_soon()
            case Relation():
                self._look_soon()

    def _writes(self, userid: int, writing: bool) -> None:
        timer = self._writing.pop(userid, None)
        if timer is not None:
            timer.stop()
        if writing:
            self._writing[userid] = self.set_timer(SHOWN_FOR, partial(self._writes, userid, False))
        self._tell()

    @work
    async def _send(self, message: Message) -> None:
        _, line = self._unsent.get(message.md5encoded, (message, None))
        if line is None:
            line = self._said(stored(message), "waiting")
            await self._conversation.add(line)
        self._unsent[message.md5encoded] = (message, line)
        line.mark("waiting")
        try:
            await self._backend.send(message)
        except _FAILURES as error:
            line.mark("failed")
            self.say(str(error))
        else:
            del self._unsent[message.md5encoded]
            line.mark("stored")
            self._mark()

    # What is typed.

    @on(Line.Changed, "#line")
    def _edited(self, event: Line.Changed) -> None:
        told = self._typist.changed(event.value)
        if told is not None and self.other is not None:
            self._tell_typing(self.other, told)

    @work
    async def _tell_typing(self, userid: int, typing: bool) -> None:
        with suppress(*_FAILURES):
            await self._backend.typing(userid, typing)

    @on(Line.Typed)
    async def _typed(self, event: Line.Typed) -> None:
        self._typist.done()
        try:
            command, words = slash.read(event.text)
        except slash.Misunderstood as error:
            self.say(str(error))
            return
        if command:
            self._command(command, words)
        elif self.other is None:
            self.say("Nobody is here to read that. Open a conversation: /open NAME")
        else:
            self._send(self._backend.compose(self.other, words[0]))

    @work
    async def _command(self, command: str, words: tuple[str, ...]) -> None:
        try:
            await self._commands.run(command, words)
        except _FAILURES as error:
            self.say(error.format_message() if isinstance(error, click.ClickException) else str(error))

    def action_help(self) -> None:
        """F1."""
        self.say(f"{slash.shown()}\nCtrl+N, Ctrl+P  next and previous conversation\nPgUp, PgDn  scroll")

    def retry(self) -> None:
        """Send again what could not be sent."""
        for message, _ in list(self._unsent.values()):
            self._send(message)

    def scroll_to(self, text: str) -> bool:
        """Show the last message on the screen with this text; whether there is one."""
        for line in reversed(self._conversation.said):
            if text.casefold() in line.message.content.casefold():
                line.scroll_visible(animate=False)
                return True
        return False

    def moved(self, done: int, of: int) -> None:
        """So many bytes of a file have passed."""
        self._status.update(f"{100 * done // max(1, of)} % of {of} bytes")
        if done == of:
            self._tell()

    def say(self, text: str) -> None:
        """Something for the person, among what was said."""
        self.call_later(self._conversation.add, Static(harmless(text), classes="notice", markup=False))
