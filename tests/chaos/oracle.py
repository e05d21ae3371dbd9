"""What must hold of messages that were under way while parts died: the judge of all fault tests.

It hears what was meant to be sent, what was answered and what each device got; who does all that is in
`tests/chaos/load.py`, and what is done to them meanwhile in the tests.

Six rules (docs/protocol.md sections 5.1 and 5.2):

- O1: what was answered OK is once in both mailboxes, as it was sent.
- O2: each device but the one that sent it gets it, in mailbox order; it may come again.
- O3: but not after it was acknowledged.
- O4: what was refused is in neither mailbox; what nobody knows of is in both or in neither.
- O5: what one device sent and was answered OK keeps its order.
- O6: a file's bytes are those of its MD5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]
#: Violations that are shown of many.
_SHOWN = 5


class Violated(AssertionError):  # noqa: N818 - it is a finding
    """Something does not hold that must: all that was found, a line each."""

    def __init__(self, found: list[str]) -> None:
        more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        super().__init__("\n".join([*found[:_SHOWN], *more]))
        self.found = found


class Receipts:
    """What one device of a user got, by FETCHMSG or as a push."""

    def __init__(self, user: int, sent: dict[str, Message]) -> None:
        self.user = user
        #: The names of the messages, each once, in the order in which it got them first.
        self.first: list[str] = []
        #: The MD5 of each file that it fetched, by the name of the message; None if there was none.
        self.files: dict[str, str | None] = {}
        #: How many of them are acknowledged, and for so long that it is in effect.
        self.acknowledged = 0
        #: Those that came again though they were, and those that are not what was sent.
        self.after_acknowledgement: list[str] = []
        self.changed: list[str] = []
        #: How often anything came, and came again, which may be.
        self.deliveries = 0
        self.repeats = 0
        self._sent = sent
        self._place: dict[str, int] = {}

    def get(self, message: Message) -> bool:
        """The device got a message; gives whether it is new to it."""
        name = message["md5encoded"]
        self.deliveries += 1
        if message != self._sent.get(name):
            self.changed.append(name)
        place = self._place.setdefault(name, len(self.first))
        if place == len(self.first):
            self.first.append(name)
            return True
        self.repeats += 1
        if place < self.acknowledged:
            self.after_acknowledgement.append(name)
        return False

    def get_file(self, name: str, data: bytes | None) -> None:
        """The device fetched the file of a message; None if it was told that there is none."""
        self.files[name] = None if data is None else hashlib.md5(data).hexdigest()


class Oracle:
    """All that was sent, and what became of it. A message is known by its `md5encoded`."""

    def __init__(self) -> None:
        self.sent: dict[str, Message] = {}
        #: Those that were answered OK, at whichever try; and those that must not be stored.
        self.stored: set[str] = set()
        self.refused: set[str] = set()
        #: By device, what it sent and was answered OK at the first try, in the order in which it was sent.
        self.in_order: dict[Receipts, list[str]] = {}
        self._origins: dict[str, Receipts] = {}

    def device(self, user: int) -> Receipts:
        """A device that is to get all that the user's mailbox holds, but for what it sends itself."""
        receipts = Receipts(user, self.sent)
        self.in_order[receipts] = []
        return receipts

    def means_to_send(self, device: Receipts, message: Message) -> None:
        """The device is about to send a message, for the first time or once more."""
        self.sent[message["md5encoded"]] = message
        self._origins[message["md5encoded"]] = device

    def was_stored(self, device: Receipts, message: Message, *, at_once: bool = True) -> None:
        """The device was answered OK, at the first try if `at_once`."""
        self.stored.add(message["md5encoded"])
        if at_once:
            self.in_order[device].append(message["md5encoded"])

    def was_refused(self, message: Message) -> None:
        """An ERR said for certain that it is not stored."""
        self.refused.add(message["md5encoded"])

    def foreign(self, device: Receipts, mailbox: list[str]) -> list[str]:
        """What of its user's mailbox a device is given."""
        return [name for name in mailbox if self._origins.get(name) is not device]

    @property
    def deliveries(self) -> int:
        """How often a device was given a message."""
        return sum(device.deliveries for device in self.in_order)

    def check(self, mailboxes: dict[int, list[Message]]) -> None:
        """Raise `Violated` unless all six rules hold, for these mailboxes by user, oldest message first."""
        names = {user: [message["md5encoded"] for message in found] for user, found in mailboxes.items()}
        found = list(self._of_mailboxes(names))
        for mailbox in mailboxes.values():
            for message in mailbox:
                if self.sent.get(message["md5encoded"]) != message:
                    found.append(f"O1: a message was changed: {message['md5encoded']}")
        for device, sent in self.in_order.items():
            found += self._of_device(device, names[device.user])
            for mailbox_names in names.values():
                places = {name: place for place, name in enumerate(mailbox_names)}
                order = [places[name] for name in sent if name in places]
                if order != sorted(order):
                    found.append(f"O5: what a device of user {device.user} sent is out of order")
        if found:
            raise Violated(found)

    def _of_mailboxes(self, mailboxes: dict[int, list[str]]) -> Iterator[str]:
        held = {user: set(mailbox) for user, mailbox in mailboxes.items()}
        for user, mailbox in mailboxes.items():
            if len(held[user]) != len(mailbox):
                yield f"O1: a message is stored twice in the mailbox of user {user}"
        for name, message in self.sent.items():
            holds = {user for user in held if name in held[user]}
            if holds not in (set(), {message["userid"], message["targetid"]}):
                yield f"O4: a message is in one of two mailboxes, or in a stranger's: {name}"
            if not holds and name in self.stored:
                yield f"O1: a message that was answered OK is lost: {name}"
            if holds and name in self.refused:
                yield f"O4: a message that was refused is stored: {name}"

    def _of_device(self, device: Receipts, mailbox: list[str]) -> Iterator[str]:
        whose = f"a device of user {device.user}"
        for name in device.changed:
            yield f"O2: {whose} got something else than was sent: {name}"
        for name in device.after_acknowledgement:
            yield f"O3: a message came again to {whose} after it was acknowledged: {name}"
        expected = self.foreign(device, mailbox)
        if device.first != expected:
            missing, more = set(expected) - set(device.first), set(device.first) - set(expected)
            yield f"O2: {whose} did not get its mailbox: {len(missing)} missing, {len(more)} too many"
        for name in device.first:
            announced = self.sent[name]["filemd5"] if name in self.sent else None
            if announced is not None and device.files.get(name) != announced:
                yield f"O6: {whose} did not get the file of {name} as it was sent"
