"""What must hold of messages that were under way while parts died: the judge of all fault tests.

It hears what was meant to be sent, what was answered and what each device got; who does all that, and to
whom what is done meanwhile, is elsewhere (`tests/load.py`, and the tests themselves).
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]


class Receipts:
    """What one device of a user got, by FETCHMSG or as a push."""

    def __init__(self, user: int) -> None:
        self.user = user
        #: The names of the messages, each once, in the order in which it got them first.
        self.first: list[str] = []
        self._got: set[str] = set()
        #: How many of them are acknowledged, and for so long that it is in effect.
        self.acknowledged = 0
        #: Those that came again though they were.
        self.after_acknowledgement: list[str] = []
        #: How often anything came again, which may be.
        self.repeats = 0

    def get(self, message: Message) -> None:
        """The device got a message."""
        name = message["md5encoded"]
        if name not in self._got:
            self._got.add(name)
            self.first.append(name)
            return
        self.repeats += 1
        if name in self.first[: self.acknowledged]:
            self.after_acknowledgement.append(name)


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
        receipts = Receipts(user)
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

    def foreign(self, device: Receipts, mailbox: list[str]) -> list[str]:
        """What of its user's mailbox a device is given."""
        return [name for name in mailbox if self._origins[name] is not device]

    def check(self, mailboxes: dict[int, list[Message]]) -> None:
        """All that must hold does, for these mailboxes by user, oldest message first."""
        for found in mailboxes.values():
            for message in found:
                assert self.sent[message["md5encoded"]] == message, "a message was changed"
        names = {user: [message["md5encoded"] for message in found] for user, found in mailboxes.items()}
        self._check_mailboxes(names)
        for device, sent in self.in_order.items():
            for mailbox in names.values():
                places = {name: place for place, name in enumerate(mailbox)}
                order = [places[name] for name in sent if name in places]
                assert order == sorted(order), "what one device sent is out of order"
            assert not device.after_acknowledgement, "a message came again after it was acknowledged"
            assert device.first == self.foreign(device, names[device.user]), (
                "a device did not get its mailbox"
            )

    def _check_mailboxes(self, mailboxes: dict[int, list[str]]) -> None:
        for mailbox in mailboxes.values():
            assert len(set(mailbox)) == len(mailbox), "a message is stored twice"
        held = {user: set(mailbox) for user, mailbox in mailboxes.items()}
        for name, message in self.sent.items():
            holds = {user for user in held if name in held[user]}
            both = {message["userid"], message["targetid"]}
            assert holds in (set(), both), "a message is in one of two mailboxes, or in a stranger's"
            assert holds or name not in self.stored, "a message that was answered OK is lost"
            assert not holds or name not in self.refused, "a message that was refused is stored"
