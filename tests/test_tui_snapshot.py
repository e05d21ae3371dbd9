"""The terminal client as it looks, compared with a picture of it that somebody has looked at.

`SNAPSHOTS=renew pytest tests/test_tui_snapshot.py` draws `tests/snapshots/` anew, as is due when Textual has
come to draw in another way; look at the pictures before you keep them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from chatsvc.cli.archive import Stored
from chatsvc.client import MarkOf, NotConnected, Presence, Typing
from chatsvc.tui import app as app_module
from chatsvc.tui.app import ChatApp
from chatsvc.wire.schema import UserInfo
from tests.tui_world import BOB, EVE, ME, TIME, FakeBackend, play, said, type_line, until

SNAPSHOTS = Path(__file__).parent / "snapshots"
RENEW = "SNAPSHOTS=renew pytest tests/test_tui_snapshot.py"
#: Seconds within which the screen must look as it did.
PATIENCE = 5.0


@pytest.fixture(autouse=True)
def same_each_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown as in Greenwich, in colour; no cursor blinks, and who writes goes on."""
    monkeypatch.setattr(Input, "_toggle_cursor", lambda _: None)
    monkeypatch.setattr(app_module, "SHOWN_FOR", 1000.0)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def picture(app: App[None]) -> str:
    """The screen as an SVG, a line of it on a line, without what is loaded from the network to show it."""
    drawn = re.sub(r"@font-face \{.*?\}\n", "", app.export_screenshot(title="chatsvc chat"), flags=re.DOTALL)
    drawn = re.sub(r"terminal-\d+-", "terminal-", drawn)  # a number that is made of all the rest
    return re.sub(r"\s*\n\s*", "\n", drawn.replace("><", ">\n<")).strip() + "\n"


def shown(svg: str) -> list[str]:
    """The text in a picture, line by line."""
    lines: dict[float, list[tuple[float, str]]] = {}
    for part in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if part.get("clip-path"):
            place = lines.setdefault(float(part.get("y", 0)), [])
            place.append((float(part.get("x", 0)), part.text or ""))
    return [
        "".join(text for _, text in sorted(lines[at])).replace("\xa0", " ").rstrip() for at in sorted(lines)
    ]


async def compare(pilot: Pilot[None], name: str, tmp_path: Path) -> None:
    """Fail if the screen does not come to be as it was when `name` was drawn."""
    kept = SNAPSHOTS / f"{name}.svg"
    await pilot.pause()
    if os.environ.get("SNAPSHOTS") == "renew":
        kept.write_text(picture(pilot.app))
    before, end = kept.read_text(), time.monotonic() + PATIENCE
    while (found := picture(pilot.app)) != before and time.monotonic() < end:
        await pilot.pause(0.05)
    if found == before:
        return
    (tmp_path / kept.name).write_text(found)
    texts = list(unified_diff(shown(before), shown(found), "as it was", "as it is", lineterm="", n=0))
    what = "\n".join(texts) or "The text is the same; colours or styles are not."
    pytest.fail(
        f"The screen is not as {kept} has it.\n{what}\nIt is drawn in {tmp_path / kept.name}. "
        f"If it should look so: {RENEW}",
        pytrace=False,
    )


def test_a_conversation(tmp_path: Path) -> None:
    backend = FakeBackend()
    morning = TIME - 600_000
    said_before: list[tuple[UserInfo, UserInfo, Literal["plaintext", "image", "file"], str]] = [
        (BOB, ME, "plaintext", "Good morning! Did you find the way?"),
        (ME, BOB, "plaintext", "Easily. There is a sign at the corner now."),
        (BOB, ME, "file", "map of the hills.pdf"),
        (BOB, ME, "image", "cGljdHVyZQ=="),
        (ME, BOB, "plaintext", "Thank you. \N{GRINNING FACE} What about\nthe day after tomorrow?"),
    ]
    for minute, (sender, target, kind, content) in enumerate(said_before):
        when, name = morning + 60_000 * minute, f"{minute:x}" * 32
        backend.archive.append(Stored(sender.userid, target.userid, kind, content, when, name, None))

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        backend.on_event(Presence(BOB.userid, False, morning - 86_400_000))
        backend.on_event(Presence(EVE.userid, True, None))
        backend.on_event(MarkOf(BOB.userid, ME.userid, "delivered", morning + 240_000, "4" * 32))
        backend.on_event(MarkOf(BOB.userid, ME.userid, "read", morning + 60_000, "1" * 32))
        backend.comes(EVE, "psst")
        backend.on_event(Typing(BOB.userid))
        backend.refusals.append(NotConnected("The connection to the server was lost."))
        await type_line(pilot, "And the week after?")
        await until(pilot, lambda: "lost." in said(app)[-1], "it could not be sent")
        await pilot.press(*"I shall")
        await compare(pilot, "conversation", tmp_path)

    play(backend, story)


def test_the_login(tmp_path: Path) -> None:
    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await compare(pilot, "login", tmp_path)

    play(FakeBackend(None), story)


def test_a_screen_that_has_changed_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAPSHOTS", raising=False)
    monkeypatch.setitem(globals(), "PATIENCE", 0.0)

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        with pytest.raises(pytest.fail.Exception, match=r"(?s)\+.*me at here:1.*SNAPSHOTS=renew") as failed:
            await compare(pilot, "login", tmp_path)
        assert str(tmp_path / "login.svg") in str(failed.value)

    play(FakeBackend(), story)
