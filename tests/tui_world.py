"""A chat in memory for the terminal client, and Textual's pilot in front of it.

Nothing is tested here.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Static

from chatsvc.cli.archive import Stored
from chatsvc.client import Event, RequestRefused, State
from chatsvc.tui.app import ChatApp
from chatsvc.tui.widgets import Conversation, Line, People
from chatsvc.wire.schema import Contacts, MarkOf, Message, UserInfo
from tests.raw import DEADLINE

ME, BOB, EVE = UserInfo(1, "me", None), UserInfo(2, "bob", None), UserInfo(3, "eve", None)
#: When everything is written, in ms since 1970.
TIME = 1_700_000_000_000
PEOPLE = {user.userid: user for user in (ME, BOB, EVE)}


class FakeBackend:
    """A chat in memory: bob is a contact, eve asks to be one."""

    def __init__(self, me: UserInfo | None = ME) -> None:
        self.me = me
        self.features = frozenset({"contacts", "marks", "presence", "typing"})
        self.on_message: Callable[[Stored], None] = lambda _: None
        self.on_state: Callable[[State], None] = lambda _: None
        self.on_event: Callable[[Event], None] = lambda _: None
        self.added: list[int] = []
        self.removed: list[int] = []
        self.blocked: list[UserInfo] = []
        self.typed: list[tuple[int, bool]] = []
        self.seen: list[str] = []
        self.looks = 0
        self.sent: list[Message] = []
        self.refusals: list[Exception] = []
        self.archive: list[Stored] = []
        self.fetched: list[tuple[str, Path | None]] = []
        self._names = (f"{number:032x}" for number in itertools.count(1))

    async def start(self) -> None:
        self.on_state(State.LOGGED_IN if self.me else State.CONNECTED)

    async def enter(self, kind: str, name: str, password: str) -> None:
        if password != "right":
            raise RequestRefused("Invalid username or password")
        self.me = UserInfo(1, f"{kind} {name}", None)

    async def contacts(self) -> Contacts:
        self.looks += 1
        away = {*self.removed, *(user.userid for user in self.blocked)}
        known = [user for user in (BOB, EVE) if user is BOB or user.userid in self.added]
        contacts = [user for user in known if user.userid not in away]
        requesting = [user for user in (EVE,) if user not in known and user.userid not in away]
        return Contacts(contacts, [], requesting, self.blocked)

    async def find(self, who: str) -> UserInfo:
        for user in PEOPLE.values():
            if who in (user.username, str(user.userid)):
                return user
        raise RequestRefused("User not found")

    async def add(self, userid: int) -> None:
        self.added.append(userid)

    async def remove(self, userid: int) -> None:
        self.removed.append(userid)

    async def block(self, userid: int) -> None:
        self.blocked.append(PEOPLE[userid])

    async def unblock(self, userid: int) -> None:
        self.blocked.remove(PEOPLE[userid])
        self.removed.append(userid)

    async def typing(self, userid: int, typing: bool) -> None:
        self.typed.append((userid, typing))

    def read(self, message: Stored) -> None:
        self.seen.append(message.content)

    def after(self, mark: MarkOf) -> int:
        theirs = [one for one in self.archive if one.sender == mark.targetid]
        return len(theirs) - next(at for at, one in enumerate(theirs, 1) if one.name == mark.md5encoded)

    async def name_of(self, userid: int) -> str:
        return PEOPLE[userid].username

    def compose(self, userid: int, text: str) -> Message:
        return Message(
            userid=1, targetid=userid, contenttype="plaintext",
            content=text, timestamp=TIME, md5encoded=next(self._names),
        )  # fmt: skip

    async def send(self, message: Message) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.sent.append(message)

    async def send_file(self, userid: int, path: Path, progress: Callable[[int, int], None]) -> Stored:
        data = path.read_bytes()
        progress(len(data), len(data))
        return Stored(1, userid, "file", path.name, TIME, next(self._names), "0" * 32)

    async def send_image(self, userid: int, path: Path) -> Stored:
        return Stored(1, userid, "image", "cGljdHVyZQ==", TIME, next(self._names), None)

    async def get(self, prefix: str, path: Path | None, progress: Callable[[int, int], None]) -> Path:
        self.fetched.append((prefix, path))
        return path or Path("somewhere")

    def conversation(self, userid: int, limit: int) -> list[Stored]:
        return [one for one in self.archive if userid in (one.sender, one.target)][-limit:]

    def comes(self, sender: UserInfo, text: str, target: UserInfo = ME) -> Stored:
        message = Stored(sender.userid, target.userid, "plaintext", text, TIME, next(self._names), None)
        self.archive.append(message)
        self.on_message(message)
        return message


def play(backend: FakeBackend, story: Callable[[ChatApp, Pilot[None]], Awaitable[None]]) -> None:
    """Let a story happen on a terminal of the usual size."""

    async def run() -> None:
        app = ChatApp(backend, "here:1")
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await story(app, pilot)

    asyncio.run(run())


async def type_line(pilot: Pilot[None], text: str) -> None:
    pilot.app.query_one(Line).value = text
    await pilot.press("enter")
    await pilot.pause()
    await pilot.pause()


def said(app: ChatApp) -> list[str]:
    return [str(line.content) for line in app.query_one(Conversation).query(Static)]


def people(app: ChatApp) -> list[str]:
    return [str(option.prompt) for option in app.query_one(People).options]


async def until(pilot: Pilot[None], condition: Callable[[], object], what: str) -> None:
    """Return once `condition` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {DEADLINE} s"
        await pilot.pause(0.01)
