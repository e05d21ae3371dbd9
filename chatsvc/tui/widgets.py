"""The parts of the screen: who there is, what was said, the line that is typed on, and the login.

They show what they are given; what that is, and what follows from keys, is known to ``app``.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message as Event
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from chatsvc.cli.archive import Stored
from chatsvc.cli.output import body, harmless
from chatsvc.tui.roster import Person

#: Lines that were typed and can be had again with the arrow keys.
REMEMBERED = 200
#: Messages of a conversation that are on the screen.
SHOWN = 500
#: What stands after one's own messages.
MARKS = {"waiting": " …", "stored": " ✓", "delivered": " ✓✓", "read": " ✓✓ read", "failed": " ✗ /retry"}


class People(OptionList):
    """Contacts and others one talks with."""

    DEFAULT_CSS = "People { width: 26; height: 1fr; border: none; background: $surface; padding: 1 0; }"

    def show(self, people: list[Person], current: int | None) -> None:
        """Show these, with one highlighted."""
        self.clear_options()
        self.add_options(Option(_label(person), str(person.userid)) for person in people)
        at = [index for index, person in enumerate(people) if person.userid == current]
        self.highlighted = at[0] if at else None


def _label(person: Person) -> Text:
    label = Text(harmless(person.name), "bold" if person.unread else "", no_wrap=True, overflow="ellipsis")
    if person.online:
        label.append(" ●", "green")
    if person.unread:
        label.append(f" {person.unread}", "bold reverse")
    if person.hint:
        label.append(f" {person.hint}", "dim italic")
    return label


class Said(Static):
    """One message on the screen."""

    DEFAULT_CSS = "Said.own { color: $text-accent; }"

    def __init__(self, message: Stored, sender: str, *, own: bool, mark: str = "") -> None:
        super().__init__(classes="own" if own else "other")
        self.message = message
        self.own = own
        self._sender = sender
        self._mark: str | None = None
        self.mark(mark)

    def mark(self, mark: str) -> None:
        """Say what became of it; of others' messages there is nothing to say."""
        if mark == self._mark:
            return
        self._mark = mark
        try:
            when = f"{datetime.fromtimestamp(self.message.time / 1000):%d %b %H:%M}"
        except (OverflowError, OSError, ValueError):
            when = "--"
        line = Text.assemble((f"{when} ", "dim"), (f"{harmless(self._sender)} ", "bold"))
        line.append(harmless(body(self.message)))
        line.append(MARKS.get(mark, ""), "red" if mark == "failed" else "green")
        self.update(line)


class Conversation(VerticalScroll, can_focus=False):
    """What was said with one person, the newest at the bottom."""

    DEFAULT_CSS = """
    Conversation { padding: 0 1; }
    Conversation .notice { color: $text-muted; }
    """

    @property
    def said(self) -> list[Said]:
        """The messages that are on the screen."""
        return [line for line in self.children if isinstance(line, Said)]

    async def show(self, lines: list[Said]) -> None:
        """Show these and nothing else."""
        await self.remove_children()
        await self.mount_all(lines[-SHOWN:])
        self.scroll_end(animate=False)

    async def add(self, line: Static) -> None:
        """One more. Who has scrolled up stays there."""
        follows = self.max_scroll_y - self.scroll_y <= 2
        await self.mount(line)
        if len(self.children) > SHOWN:
            await self.children[0].remove()
        if follows:
            self.scroll_end(animate=False)


class Line(Input):
    """The line that is typed on, with those that were typed before."""

    DEFAULT_CSS = "Line { border: tall $primary; }"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "before", "Line before", show=False),
        Binding("down", "after", "Line after", show=False),
    ]

    class Typed(Event):
        """A line was typed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(placeholder="A message, or /help", id="line", select_on_focus=False)
        self._typed: list[str] = []
        self._at = 0

    async def action_submit(self) -> None:
        """Enter."""
        text = self.value
        if text.strip():
            self._typed = [*self._typed, text][-REMEMBERED:]
            self._at = len(self._typed)
            with self.prevent(Input.Changed):  # it is not taken back, it is sent
                self.value = ""
            self.post_message(self.Typed(text))

    def action_before(self) -> None:
        """Show the line that was typed before this one."""
        self._go(-1)

    def action_after(self) -> None:
        """Show the line that was typed after this one."""
        self._go(1)

    def _go(self, step: int) -> None:
        self._at = min(max(0, self._at + step), len(self._typed))
        self.value = self._typed[self._at] if self._at < len(self._typed) else ""
        self.cursor_position = len(self.value)


class Login(ModalScreen[tuple[str, str, str]]):
    """Asks for a name and a password; gives ``login`` or ``register`` with both."""

    DEFAULT_CSS = """
    Login { align: center middle; }
    #login { width: 44; height: auto; border: round $primary; padding: 1 2; }
    #login Button { width: 100%; margin-top: 1; }
    #why { color: $text-error; }
    """

    def __init__(self, server: str, why: str = "") -> None:
        super().__init__()
        self._server = server
        self._why = why

    def compose(self) -> ComposeResult:
        """The form."""
        with Vertical(id="login"):
            yield Label(f"chatsvc at {self._server}", id="where", markup=False)
            yield Input(placeholder="Name", id="name")
            yield Input(placeholder="Password", password=True, id="password")
            yield Button("Log in", id="enter", variant="primary")
            yield Button("Make a new account", id="new")
            yield Label(self._why, id="why", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the name goes on to the password; there it logs in."""
        if event.input.id == "name":
            self.query_one("#password").focus()
        else:
            self._done("login")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """One of the two."""
        self._done("login" if event.button.id == "enter" else "register")

    def _done(self, kind: str) -> None:
        name, password = (self.query_one(at, Input).value for at in ("#name", "#password"))
        if name and password:
            self.dismiss((kind, name, password))
