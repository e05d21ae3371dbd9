"""Mailboxes while the store is busy or in trouble; that they keep to the contract is tested elsewhere."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from chatsvc.store import append as append_module
from chatsvc.store.append import GROUP_BYTES, GROUP_MESSAGES, GroupCommit
from chatsvc.store.errors import Unavailable
from chatsvc.store.mail import SAVE_PAUSE, Mailboxes, entry_id
from chatsvc.store.protocol import packed
from chatsvc.tasks import Pending
from chatsvc.wire.errors import STORAGE_FULL, Refusal
from tests.fakes import Running
from tests.stores import outgoing


class HeldLink:
    """A link that keeps each script until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: list[Pending[Any]] = []

    async def script(self, script: Any, key: bytes, *args: Any, expires: float = 0.0) -> Any:
        self.asked.append(args)
        self.answers.append(Pending())
        return await self.answers[-1]

    def sizes(self) -> list[int]:
        """How many messages each group has."""
        return [packed(args).number // 8 for args in self.asked]


@pytest.fixture
def held() -> tuple[HeldLink, Mailboxes, Clock]:
    link, clock = HeldLink(), Clock()
    on = cast("tuple[Any, Any]", (link, clock))
    return link, Mailboxes(*on, GroupCommit(*on)), clock


def test_what_comes_in_a_turn_and_while_a_group_is_on_its_way_travels_together(held: Any) -> None:
    link, mail, clock = held
    appends = [Running(mail.append(outgoing(1, 2, "device"))) for _ in range(2)]
    assert link.sizes() == []
    clock.advance(0)
    appends += [Running(mail.append(outgoing(1, 2, "device"))) for _ in range(GROUP_MESSAGES + 2)]
    clock.advance(0)
    assert link.sizes() == [2]
    link.answers[0].succeed([b"stored"] * 2)
    assert [one.done for one in appends[:3]] == [True, True, False]
    link.answers[1].succeed([b"stored"] * GROUP_MESSAGES)
    link.answers[2].fail(Unavailable())
    assert link.sizes() == [2, GROUP_MESSAGES, 2]
    assert [one.done for one in appends] == [True] * len(appends)
    for one in appends[-2:]:
        with pytest.raises(Unavailable):
            one.result()


def test_a_group_of_large_messages_is_small(held: Any) -> None:
    link, mail, clock = held
    for _ in range(5):
        Running(mail.append(outgoing(1, 2, "device", bytes(GROUP_BYTES // 2))))
    clock.advance(0)
    for size in (2, 2):
        link.answers[-1].succeed([b"stored"] * size)
    assert link.sizes() == [2, 2, 1]


@pytest.mark.parametrize(("limit", "value"), [("QUEUE_MESSAGES", 3), ("QUEUE_BYTES", 300)])
def test_beyond_what_may_wait_senders_are_refused(
    held: Any, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(append_module, limit, value)
    link, mail, clock = held
    appends = [Running(mail.append(outgoing(1, 2, "device", bytes(100))))]
    clock.advance(0)
    appends += [Running(mail.append(outgoing(1, 2, "device", bytes(100)))) for _ in range(4)]
    assert [one.done for one in appends] == [False] * 4 + [True]
    with pytest.raises(Unavailable):
        appends[-1].result()
    link.answers[0].succeed([b"stored"])
    link.answers[1].succeed([b"stored"] * 3)
    assert [one.done for one in appends] == [True] * 5


def test_a_cursor_that_is_not_saved_yet_counts(held: Any) -> None:
    link, mail, _ = held
    mail.acknowledge(1, "device", 7)
    opening = Running(mail.open(1, "device"))
    link.answers[1].succeed([entry_id(5), entry_id(9)])
    assert opening.result() == (7, 9)
    link.answers[0].succeed(None)
    opening = Running(mail.open(1, "device"))
    link.answers[2].succeed([entry_id(8), entry_id(9)])
    assert opening.result() == (8, 9)


@pytest.mark.parametrize("trouble", [Unavailable(), Refusal(STORAGE_FULL)])
def test_a_cursor_that_cannot_be_saved_is_kept_and_tried_again(held: Any, trouble: Exception) -> None:
    link, mail, clock = held
    mail.acknowledge(1, "device", 5)
    link.answers[0].fail(trouble)
    mail.acknowledge(1, "device", 7)
    assert len(link.asked) == 1  # not at once, over and over
    clock.advance(SAVE_PAUSE)
    assert [args[-1] for args in link.asked] == [entry_id(5), entry_id(7)]
    link.answers[1].succeed(None)
    clock.advance(10.0)
    assert len(link.asked) == 2
