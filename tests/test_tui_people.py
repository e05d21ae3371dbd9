"""The terminal client and what people signal beside messages: presence, typing, marks, relations.

Its server is in memory (`tests.tui_world`).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Static

from chatsvc.cli.archive import Stored
from chatsvc.client import MarkOf, Presence, Relation, State, Typing
from chatsvc.tui import app as app_module
from chatsvc.tui.app import ChatApp
from chatsvc.tui.roster import Roster
from chatsvc.tui.signals import Marks, Typist
from chatsvc.tui.widgets import Line
from tests.tui_world import BOB, EVE, ME, TIME, FakeBackend, people, play, said, type_line, until

NOON = 1_700_000_000.0


def text(app: ChatApp, part: str) -> str:
    return str(app.query_one(f"#{part}", Static).content)


def test_who_is_online_shows_in_the_list_and_above_the_conversation() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        assert text(app, "title") == "bob"
        backend.on_event(Presence(BOB.userid, True, None))
        await until(pilot, lambda: text(app, "title") == "bob · online", "bob is online")
        assert people(app)[0] == "bob ●"
        backend.on_event(Presence(BOB.userid, False, 1_600_000_000_000))
        await until(pilot, lambda: text(app, "title") == "bob · last seen 13 Sep 2020", "bob is gone")
        assert people(app)[0] == "bob"
        backend.on_state(State.DISCONNECTED)
        await until(pilot, lambda: text(app, "title") == "bob", "nothing is known")

    play(backend, story)


@pytest.mark.parametrize(
    ("presence", "words"),
    [
        (Presence(2, True, None), "online"),
        (Presence(2, False, None), ""),
        (Presence(2, False, int((NOON - 1) * 1000)), "last seen [0-9]{2}:[0-9]{2}"),
        (Presence(2, False, int((NOON - 86_400) * 1000)), "last seen 1[34] Nov 2023"),
        (Presence(2, False, 10**18), ""),
        (Presence(3, True, None), ""),
    ],
)
def test_presence_is_put_in_words(presence: Presence, words: str) -> None:
    roster = Roster()
    roster.hear(presence)
    assert re.fullmatch(words, roster.seen(2, NOON))


def test_who_writes_is_shown_until_a_message_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        backend.on_event(Typing(EVE.userid))
        backend.on_event(Typing(BOB.userid))
        await until(pilot, lambda: text(app, "status") == "bob writes …", "bob writes")
        backend.on_event(Typing(BOB.userid, False))
        await until(pilot, lambda: text(app, "status") == "me at here:1", "bob has cleared it")
        backend.on_event(Typing(BOB.userid))
        await until(pilot, lambda: text(app, "status") == "bob writes …", "bob writes again")
        backend.comes(BOB, "here it is")
        await until(pilot, lambda: text(app, "status") == "me at here:1", "bob has sent it")
        monkeypatch.setattr(app_module, "SHOWN_FOR", 0.01)
        backend.on_event(Typing(BOB.userid))
        await until(pilot, lambda: text(app, "status") == "me at here:1", "bob has given up")

    play(backend, story)


def test_others_are_told_that_something_is_written_to_them() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await pilot.press("h")
        app.query_one(Line).value = ""
        await type_line(pilot, "/open bob")
        assert backend.typed == []
        await pilot.press("h", "e")
        await until(pilot, lambda: backend.typed == [(2, True)], "it is told once")
        await pilot.press("backspace", "backspace")
        await until(pilot, lambda: backend.typed[1:] == [(2, False)], "it was taken back")
        await pilot.press("h", "enter", "y", "enter")
        await until(pilot, lambda: len(backend.sent) == 2, "both are sent")
        assert backend.typed[2:] == [(2, True), (2, True)]

    play(backend, story)


def test_a_typist_repeats_it_every_four_seconds_and_not_for_commands() -> None:
    now = 100.0
    typist = Typist(lambda: now)
    assert [typist.changed(line) for line in ("a", "ab", "/", "/a", "//a", "//ab")] == [
        True, None, False, None, True, None,
    ]  # fmt: skip
    now = 104.0
    assert [typist.changed("abc"), typist.changed("abcd")] == [True, None]
    typist.done()
    assert [typist.changed(""), typist.changed("a")] == [None, True]


def own(number: int, time: int) -> Stored:
    return Stored(ME.userid, BOB.userid, "plaintext", f"own {number}", time, f"name {number}", None)


@pytest.mark.parametrize(
    ("marks", "states"),
    [
        ([], ["stored"] * 4),
        ([("delivered", 30, "name 2")], ["delivered"] * 2 + ["stored"] * 2),
        ([("read", 10, "name 1"), ("delivered", 20, "name 3")], ["read"] + ["delivered"] * 2 + ["stored"]),
        ([("read", 40, "name 4"), ("delivered", 10, "name 1")], ["read"] * 4),
        ([("read", 25, "elsewhere")], ["read", "stored", "read", "stored"]),
        ([("read", 5, "long ago")], ["stored"] * 4),
    ],
)
def test_a_mark_stands_for_what_came_before(marks: list[tuple[str, int, str]], states: list[str]) -> None:
    found = Marks()
    for kind, time, name in marks:
        found.hear(MarkOf(BOB.userid, ME.userid, kind, time, name))  # type: ignore[arg-type]
        found.hear(MarkOf(EVE.userid, ME.userid, kind, 100, "of another"))  # type: ignore[arg-type]
    assert found.states(BOB.userid, [own(1, 10), own(2, 30), own(3, 20), own(4, 40)]) == states


def test_what_became_of_messages_stands_behind_them() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/open bob")
        await type_line(pilot, "one")
        await type_line(pilot, "two")
        await until(pilot, lambda: [line[-5:] for line in said(app)] == ["one ✓", "two ✓"], "both are stored")
        first, second = backend.sent
        backend.on_event(MarkOf(2, 1, "delivered", TIME, second.md5encoded))
        await until(pilot, lambda: said(app)[1].endswith("two ✓✓"), "two is delivered")
        backend.on_event(MarkOf(2, 1, "read", TIME, first.md5encoded))
        await until(pilot, lambda: said(app)[0].endswith("one ✓✓ read"), "one is read")
        assert said(app)[1].endswith("two ✓✓")
        backend.on_event(MarkOf(2, 1, "read", TIME, second.md5encoded))
        await until(pilot, lambda: said(app)[1].endswith("two ✓✓ read"), "two is read")

    play(backend, story)


def test_what_is_looked_at_is_read_and_nothing_else() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        backend.comes(BOB, "one")
        await until(pilot, lambda: app.title == "(1) chatsvc", "it is unread")
        assert backend.seen == []
        await type_line(pilot, "/open bob")
        await until(pilot, lambda: backend.seen == ["one"], "one is read as it is shown")
        await type_line(pilot, "/open eve")
        await type_line(pilot, "/open bob")
        assert backend.seen == ["one"]
        backend.comes(BOB, "two")
        await until(pilot, lambda: backend.seen == ["one", "two"], "two is read as it comes")
        app.post_message(events.AppBlur())
        await pilot.pause()
        backend.comes(BOB, "three")
        await until(pilot, lambda: "bob three" in said(app)[-1], "it is shown")
        assert backend.seen == ["one", "two"]
        app.post_message(events.AppFocus())
        await until(pilot, lambda: backend.seen == ["one", "two", "three"], "somebody looks")

    play(backend, story)


def test_what_another_device_has_read_is_unread_here_no_more() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        _, second, _ = (backend.comes(BOB, line) for line in ("one", "two", "three"))
        await until(pilot, lambda: app.title == "(3) chatsvc", "all are unread")
        backend.on_event(MarkOf(ME.userid, BOB.userid, "read", second.time, second.name))
        await until(pilot, lambda: app.title == "(1) chatsvc", "two of them are read")
        backend.comes(BOB, "four")
        await until(pilot, lambda: app.title == "(2) chatsvc", "the next one is not")

    play(backend, story)


def test_who_asks_is_there_at_once() -> None:
    backend = FakeBackend()
    backend.blocked.append(EVE)

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        assert people(app) == ["bob", "eve blocked"]
        backend.blocked.clear()
        backend.on_event(Relation(EVE.userid, "requesting"))
        await until(pilot, lambda: people(app) == ["bob", "eve asks; /add"], "eve asks")
        backend.added.append(EVE.userid)
        backend.on_event(Relation(None, None))
        await until(pilot, lambda: people(app) == ["bob", "eve"], "anything may have changed")

    play(backend, story)


def test_only_a_server_that_does_not_tell_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Glanced(FakeBackend):
        """Counts how often it is asked for its features."""

        glances = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "features":
                self.glances += 1
            return super().__getattribute__(name)

    monkeypatch.setattr(app_module, "LOOK", 0.01)
    backend = Glanced()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: backend.glances > 3, "it is due a few times")
        assert backend.looks == 1
        backend.features = frozenset()
        await until(pilot, lambda: backend.looks > 2, "it is asked again")

    play(backend, story)


def test_people_can_be_removed_and_kept_away() -> None:
    backend = FakeBackend()

    async def story(app: ChatApp, pilot: Pilot[None]) -> None:
        await type_line(pilot, "/block bob")
        await until(pilot, lambda: people(app)[0] == "bob blocked", "bob is blocked")
        await type_line(pilot, "/unblock bob")
        await until(pilot, lambda: people(app)[0] == "bob no contact", "bob is a stranger")
        assert backend.removed == [BOB.userid]
        await type_line(pilot, "/remove eve")
        await until(pilot, lambda: people(app)[1] == "eve no contact", "eve is a stranger")

    play(backend, story)
