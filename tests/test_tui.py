"""The terminal client, played by Textual's pilot: what keys and lines do, and what is shown of what comes.

Its server is in memory (`tests.tui_world`); with a real one it is tested in `tests/browser/test_mixed.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from chatsvc.client import NotConnected, State
from chatsvc.tui import slash
from chatsvc.tui.app import ChatApp
from chatsvc.tui.widgets import Line, Login, Said
from tests.tui_world import BOB, EVE, ME, FakeBackend, people, play, said, type_line


def test_messages_go_out_and_come_in_where_they_belong() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        assert people(app) == ["bob", "eve asks; /add"]
        await type_line(pilot, "to nobody")
        assert backend.sent == []
        await type_line(pilot, "/open bob")
        await type_line(pilot, "hello")
        assert [(one.targetid, one.content) for one in backend.sent] == [(2, "hello")]
        assert said(app)[-1].endswith("you hello ✓")
        backend.comes(BOB, "hello yourself")
        backend.comes(EVE, "psst")
        await pilot.pause()
        assert said(app)[-1].endswith("bob hello yourself")
        assert people(app) == ["eve 1 asks; /add", "bob"]
        assert app.title == "(1) chatsvc"
        await pilot.press("ctrl+p")
        await pilot.pause()
        assert [line.split("eve ")[-1] for line in said(app)] == ["psst"]
        assert app.title == "chatsvc"
        backend.comes(ME, "from another device", BOB)
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert [line.rsplit(" ", 3)[-3:] for line in said(app)][-1] == ["another", "device", "✓"]

    play(backend, story)


def test_what_could_not_be_sent_is_marked_and_sent_again_as_the_same_message() -> None:
    backend = FakeBackend()
    backend.refusals.append(NotConnected("The connection to the server was lost."))

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        await type_line(pilot, "hello")
        assert any(line.endswith("hello ✗ /retry") for line in said(app))
        assert "The connection to the server was lost." in said(app)
        await type_line(pilot, "/open eve")
        await type_line(pilot, "/open bob")
        assert any(line.endswith("hello ✗ /retry") for line in said(app))
        await type_line(pilot, "/retry")
        assert any(line.endswith("hello ✓") for line in said(app))
        assert len(backend.sent) == 1

    play(backend, story)


def test_commands_do_what_they_say(tmp_path: Path) -> None:
    backend = FakeBackend()
    (tmp_path / "a file").write_bytes(b"123")

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, f"/file {tmp_path}/a file")
        assert "Open a conversation first: /open NAME" in said(app)
        await type_line(pilot, "/open bob")
        await type_line(pilot, f"/file {tmp_path}/a file")
        assert said(app)[-1].endswith("[the file a file; chatsvc get 00000000] ✓")
        await type_line(pilot, f"/image {tmp_path}/a file")
        assert "[a picture; chatsvc get 00000000]" in said(app)[-1]
        await type_line(pilot, "/get 0001 'my copy'")
        assert backend.fetched == [("0001", Path("my copy"))]
        await type_line(pilot, "/add eve")
        assert backend.added == [3]
        assert people(app) == ["bob", "eve"]
        await type_line(pilot, "/open nobody")
        assert "User not found" in said(app)
        await type_line(pilot, "/find nowhere")
        assert "That was not written here." in said(app)
        await type_line(pilot, "/nonsense")
        assert said(app)[-1].startswith("There is no command /nonsense.")
        await type_line(pilot, "/help")
        assert all(f"/{name}" in said(app)[-1] for name in slash.COMMANDS)
        await type_line(pilot, "/quit")
        assert not app.is_running

    play(backend, story)


def test_lines_that_were_typed_can_be_had_again() -> None:
    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        await type_line(pilot, "one")
        line = app.query_one(Line)
        found = []
        for key in ("up", "up", "up", "down", "down", "down"):
            await pilot.press(key)
            found.append(line.value)
        assert found == ["one", "/open bob", "/open bob", "one", "", ""]

    play(FakeBackend(), story)


def test_who_is_not_logged_in_is_asked_until_it_works() -> None:
    backend = FakeBackend(None)

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        for password in ("wrong", "right"):
            assert isinstance(app.screen, Login)
            app.screen.query_one("#name", Input).value = "me"
            app.screen.query_one("#password", Input).value = password
            await pilot.click("#enter")
            await pilot.pause()
            await pilot.pause()
        assert not isinstance(app.screen, Login)
        assert backend.me is not None
        assert backend.me.username == "login me"

    play(backend, story)


def test_a_lost_connection_shows_and_so_does_its_return() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        status = app.query_one("#status", Static)
        assert str(status.content) == "me at here:1"
        backend.on_state(State.DISCONNECTED)
        assert "Not connected." in str(status.content)
        backend.on_state(State.LOGGED_IN)
        assert str(status.content) == "me at here:1"

    play(backend, story)


def test_what_others_write_is_text_and_nothing_else() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        backend.comes(BOB, "[bold]no markup[/] \x1b[2J \u202eevil")
        await pilot.pause()
        assert said(app)[-1].endswith("[bold]no markup[/] \\u001b[2J \\u202eevil")

    play(backend, story)


def test_no_more_is_kept_on_the_screen_than_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatsvc.tui.widgets.SHOWN", 3)
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        for number in range(5):
            backend.comes(BOB, f"message {number}")
        await pilot.pause()
        assert [line.message.content for line in app.query(Said)] == ["message 2", "message 3", "message 4"]

    play(backend, story)


@pytest.mark.parametrize(
    ("line", "command", "words"),
    [
        ("hello /there", "", ("hello /there",)),
        ("//etc", "", ("/etc",)),
        ("/open  a name with blanks ", "open", ("a name with blanks",)),
        ("/o bob", "open", ("bob",)),
        ("/get 12", "get", ("12",)),
        ("/get 12 a b", "get", ("12", "a b")),
        ("/get 12 'a b'", "get", ("12", "a b")),
        ("/file it's.txt", "file", ("it's.txt",)),
        ("/help", "help", ()),
    ],
)
def test_lines_are_understood(line: str, command: str, words: tuple[str, ...]) -> None:
    assert slash.read(line) == (command, words)


@pytest.mark.parametrize("line", ["/", "/f x", "/nonsense", "/open", "/open ", "/help me", "/get"])
def test_what_is_no_command_is_explained(line: str) -> None:
    with pytest.raises(slash.Misunderstood, match=r"There is no command|Type it as"):
        slash.read(line)
