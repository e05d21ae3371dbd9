"""When the command and the terminal client tell senders how far their messages came.

The server is one in memory (`tests.fake_server`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from chatsvc.cli.archive import Archive
from chatsvc.cli.marking import PAUSE, Marking
from chatsvc.client import State
from chatsvc.wire import errors
from chatsvc.wire.schema import Message
from tests.client_world import World
from tests.fake_server import Line, Reply, Seen, message


class Marked(World):
    """A client that marks what it is shown as delivered."""

    def __init__(self) -> None:
        super().__init__(on_event=lambda _: None)
        self.server.features = ["marks"]
        self.marking = Marking(self.clock, self.client)

    def show(self, message: Message) -> None:
        super().show(message)
        self.marking.note(message, "delivered")

    def told(self) -> list[tuple[int, str, int]]:
        """The marks that the server was told: of whom, which, and the number of the message."""
        marks = self.server.bodies("MARK")
        return [(mark["userid"], mark["mark"], int(mark["md5encoded"], 16)) for mark in marks]


@pytest.fixture
def marked() -> Any:
    made = Marked().start()
    yield made
    made.do(made.marking.close())
    made.stop()


def test_of_what_comes_together_the_last_of_each_sender_is_marked(marked: Marked) -> None:
    marked.post(1, 2, 3)
    marked.server.post(replace(message(4), userid=3))
    marked.clock.advance(0)
    assert marked.told() == []
    marked.clock.advance(PAUSE)
    assert marked.told() == [(2, "delivered", 3), (3, "delivered", 4)]
    marked.clock.advance(PAUSE)
    assert len(marked.told()) == 2


def test_what_comes_meanwhile_is_marked_next(marked: Marked) -> None:
    answers: list[Line] = []

    def hesitate(line: Line, _: Seen) -> None:
        answers.append(line)

    marked.server.script["MARK"] = hesitate
    marked.post(1)
    marked.clock.advance(PAUSE)
    marked.post(2)
    marked.clock.advance(PAUSE)
    assert marked.told() == [(2, "delivered", 1)]
    for number in (1, 2):
        answers.pop().say("MARK", Reply())
        marked.clock.advance(0)
        assert marked.told() == [(2, "delivered", 1), (2, "delivered", 2)]
        assert len(answers) == 2 - number


def test_what_is_read_need_not_be_delivered_too(marked: Marked) -> None:
    marked.post(1)
    marked.marking.note(message(1), "read")
    marked.post(2)
    marked.clock.advance(PAUSE)
    assert marked.told() == [(2, "read", 1), (2, "delivered", 2)]


def test_nothing_is_marked_in_the_midst_of_catching_up(marked: Marked) -> None:
    waits = marked.hold()
    marked.post(1, 2)
    marked.marking.note(message(1), "delivered")
    marked.clock.advance(PAUSE)
    waits[0].callback(None)
    assert marked.told() == []
    marked.marking.note(message(2), "delivered")
    waits[1].callback(None)
    marked.clock.advance(PAUSE)
    assert marked.told()[0] == (2, "delivered", 2)


@pytest.mark.parametrize("lost", [True, False])
def test_what_could_not_be_told_is_told_after_the_next_login(marked: Marked, lost: bool) -> None:
    marked.post(1)
    if lost:
        marked.server.drop()
    marked.server.script["MARK"] = lambda _line, _seen: Reply(info=errors.STORAGE_UNAVAILABLE)
    marked.clock.advance(PAUSE)
    before = len(marked.told())
    del marked.server.script["MARK"]
    marked.clock.advance(1)
    assert marked.state() is State.LOGGED_IN
    marked.marking.soon()
    marked.clock.advance(PAUSE)
    assert marked.told()[before:] == [(2, "delivered", 1)]


def test_at_the_end_nothing_is_waited_for(marked: Marked) -> None:
    marked.post(1)
    marked.do(marked.marking.close())
    assert marked.told() == [(2, "delivered", 1)]
    waits: list[Deferred[None]] = marked.hold()
    marked.post(2)
    marked.marking.note(message(2), "delivered")
    marked.do(marked.marking.close())
    assert len(marked.told()) == 1
    waits[0].callback(None)


def test_the_archive_knows_what_came_after_a_message(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    for number, time in ((1, 10), (2, 30), (3, 20), (4, 40)):
        archive.add(1, message(number, time))
        archive.add(1, replace(message(number, time), userid=3))
        archive.add(1, replace(message(number, time), userid=1, targetid=2))
    name = message(2).md5encoded
    assert [archive.after(1, 2, time, name) for time in (30, 29, 40)] == [2, 2, 0]
    assert [archive.after(1, 2, 20, message(number).md5encoded) for number in (3, 9)] == [1, 2]
    assert archive.conversation(1, 2, 1)[0].message() == replace(message(4, 40), userid=1, targetid=2)
    archive.close()
