"""The judge of the fault tests finds each kind of fault: a story that is right, and one fault at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.oracle import Message, Oracle, Receipts

ALICE, BOB, CAROL = 1, 2, 3


class Story:
    """Alice sent Bob four messages: two were stored, one was refused, and of one nobody knows."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.alice, self.bob = self.oracle.device(ALICE), self.oracle.device(BOB)
        self.messages = {name: self.send(name) for name in ("first", "second", "refused", "unknown")}
        for name in ("first", "second"):
            self.oracle.was_stored(self.alice, self.messages[name])
            self.bob.get(self.messages[name])
        self.oracle.refused.add("refused")
        self.bob.acknowledged = 1
        both = [self.messages["first"], self.messages["second"]]
        self.mailboxes = {ALICE: both.copy(), BOB: both.copy(), CAROL: []}

    def send(self, name: str) -> Message:
        message = {"userid": ALICE, "targetid": BOB, "md5encoded": name, "content": name}
        self.oracle.means_to_send(self.alice, message)
        return message

    def stored(self, name: str, *users: int) -> None:
        """The message is in the mailboxes of these users, too."""
        for user in users:
            self.mailboxes[user].append(self.messages[name])


def test_what_must_hold_holds() -> None:
    story = Story()
    story.oracle.check(story.mailboxes)
    story.stored("unknown", ALICE, BOB)
    story.bob.get(story.messages["unknown"])
    story.bob.get(story.messages["second"])  # again, for it was not acknowledged
    assert story.bob.repeats == 1
    story.oracle.check(story.mailboxes)


def lose(story: Story) -> None:
    for mailbox in story.mailboxes.values():
        del mailbox[:1]
    story.bob.first.remove("first")


def store_for_one(story: Story) -> None:
    story.stored("unknown", ALICE)


def store_with_a_stranger(story: Story) -> None:
    story.stored("first", CAROL)


def store_twice(story: Story) -> None:
    story.stored("second", ALICE, BOB)


def change(story: Story) -> None:
    story.mailboxes[BOB][0] = story.mailboxes[BOB][0] | {"content": "other"}


def store_what_was_refused(story: Story) -> None:
    story.stored("refused", ALICE, BOB)
    story.bob.get(story.messages["refused"])


def reorder(story: Story) -> None:
    for mailbox in story.mailboxes.values():
        mailbox.reverse()
    story.bob.first.reverse()


def never_deliver(story: Story) -> None:
    story.bob.first.remove("second")


def deliver_out_of_order(story: Story) -> None:
    story.bob.first.reverse()


def deliver_to_the_sender(story: Story) -> None:
    story.alice.get(story.messages["first"])


def deliver_what_is_not_stored(story: Story) -> None:
    story.bob.get(story.messages["refused"])


def deliver_what_was_acknowledged(story: Story) -> None:
    story.bob.get(story.messages["first"])


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (lose, "is lost"),
        (store_for_one, "one of two mailboxes"),
        (store_with_a_stranger, "a stranger's"),
        (store_twice, "stored twice"),
        (change, "was changed"),
        (store_what_was_refused, "was refused is stored"),
        (reorder, "sent is out of order"),
        (never_deliver, "did not get"),
        (deliver_out_of_order, "did not get"),
        (deliver_to_the_sender, "did not get"),
        (deliver_what_is_not_stored, "did not get"),
        (deliver_what_was_acknowledged, "after it was acknowledged"),
    ],
)
def test_each_fault_is_found(fault: Callable[[Story], None], finding: str) -> None:
    story = Story()
    fault(story)
    with pytest.raises(AssertionError, match=finding):
        story.oracle.check(story.mailboxes)


def test_a_device_gets_what_the_users_other_devices_send() -> None:
    story = Story()
    second: Receipts = story.oracle.device(ALICE)
    with pytest.raises(AssertionError, match="did not get"):
        story.oracle.check(story.mailboxes)
    for name in ("first", "second"):
        second.get(story.messages[name])
    story.oracle.check(story.mailboxes)
