"""The judge of the fault tests finds each kind of fault: a story that is right, and one fault at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tests.chaos.oracle import Message, Oracle, Receipts, Violated

ALICE, BOB, CAROL = 1, 2, 3
FILE = b"a file"


class Story:
    """Alice sent Bob four messages: two were stored, one of them with a file, one was refused, and of one
    nobody knows."""

    def __init__(self) -> None:
        self.oracle = Oracle()
        self.alice, self.bob = self.oracle.device(ALICE), self.oracle.device(BOB)
        self.messages = {name: self.send(name) for name in ("first", "second", "refused", "unknown")}
        for name in ("first", "second"):
            self.oracle.was_stored(self.alice, self.messages[name])
            self.bob.get(self.messages[name])
        self.bob.get_file("second", FILE)
        self.oracle.was_refused(self.messages["refused"])
        self.bob.acknowledged = 1
        both = [self.messages["first"], self.messages["second"]]
        self.mailboxes = {ALICE: both.copy(), BOB: both.copy(), CAROL: []}

    def send(self, name: str) -> Message:
        message: Message = {"userid": ALICE, "targetid": BOB, "md5encoded": name, "content": name}
        message["filemd5"] = hashlib.md5(FILE).hexdigest() if name == "second" else None
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


def deliver_something_else(story: Story) -> None:
    story.bob.get(story.messages["second"] | {"content": "other"})


def store_what_nobody_sent(story: Story) -> None:
    story.mailboxes[BOB].append(story.messages["first"] | {"md5encoded": "strange"})


def damage_a_file(story: Story) -> None:
    story.bob.get_file("second", b"a fike")


def lose_a_file(story: Story) -> None:
    story.bob.get_file("second", None)


def never_give_a_file(story: Story) -> None:
    story.bob.files.clear()


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (lose, "O1: .* is lost"),
        (store_for_one, "O4: .* one of two mailboxes"),
        (store_with_a_stranger, "O4: .* a stranger's"),
        (store_twice, "O1: .* stored twice"),
        (change, "O1: .* was changed"),
        (store_what_nobody_sent, "O1: .* was changed: strange"),
        (store_what_was_refused, "O4: .* was refused is stored"),
        (reorder, "O5: .* is out of order"),
        (never_deliver, "O2: .* did not get its mailbox: 1 missing"),
        (deliver_out_of_order, "O2: .* did not get its mailbox: 0 missing"),
        (deliver_to_the_sender, "O2: .* 1 too many"),
        (deliver_what_is_not_stored, "O2: .* 1 too many"),
        (deliver_something_else, "O2: .* something else than was sent: second"),
        (deliver_what_was_acknowledged, "O3: .* after it was acknowledged"),
        (damage_a_file, "O6: .* the file of second"),
        (lose_a_file, "O6: .* the file of second"),
        (never_give_a_file, "O6: .* the file of second"),
    ],
)
def test_each_fault_is_found(fault: Callable[[Story], None], finding: str) -> None:
    story = Story()
    fault(story)
    with pytest.raises(Violated, match=finding):
        story.oracle.check(story.mailboxes)


def test_a_device_gets_what_the_users_other_devices_send() -> None:
    story = Story()
    second: Receipts = story.oracle.device(ALICE)
    with pytest.raises(Violated, match="did not get"):
        story.oracle.check(story.mailboxes)
    for name in ("first", "second"):
        second.get(story.messages[name])
    second.get_file("second", FILE)
    story.oracle.check(story.mailboxes)


def test_of_many_findings_some_are_shown() -> None:
    violated = Violated([f"O1: {number}" for number in range(7)])
    assert str(violated).splitlines()[-2:] == ["O1: 4", "... and 2 more"]
    assert len(violated.found) == 7
