"""Messages under way while the store, the server or both are killed: an oracle over all that was answered.

What is kept while nothing is under way is tested in tests/test_survival.py.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from tests.raw import Raw
from tests.service import Service

Make = Callable[..., Service]

UNAVAILABLE = "Storage unavailable, try again"
BURST = 30
ROUNDS = 5


def user_of(client: Raw) -> int:
    """Whose connection this is."""
    assert client.user is not None
    return client.user


class Oracle:
    """Three users who write to each other, and what was answered to each message."""

    def __init__(self, server: Service) -> None:
        self.server = server
        self.senders = [server.user("seed") for _ in range(3)]
        self.sent: dict[str, dict[str, Any]] = {}
        #: The names of those that were answered OK.
        self.stored: set[str] = set()
        #: By sender, those answered OK at once, in the order in which they were sent.
        self.in_order: dict[int, list[str]] = {user_of(sender): [] for sender in self.senders}

    def send(self, sender: Raw, messages: list[dict[str, Any]]) -> None:
        """Send messages without waiting for answers."""
        for message in messages:
            self.sent[message["md5encoded"]] = message
            sender.send("SENDMSG", message)

    def new_messages(self, sender: Raw) -> list[dict[str, Any]]:
        """Messages of one user to others and to the same user."""
        targets = [user_of(target) for target in self.senders] * (BURST // len(self.senders))
        return [sender.message(target, md5encoded=secrets.token_hex(16)) for target in targets]

    def hear(self, sender: Raw, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take the answers in; gives the messages that may be tried again."""
        again = []
        for message in messages:
            answer = sender.answer()
            name = message["md5encoded"]
            assert answer.body == {"md5encoded": name}
            if answer.ok:
                self.stored.add(name)
            else:
                assert answer.info == UNAVAILABLE
                again.append(message)
        return again

    def insist(self, sender: Raw, messages: list[dict[str, Any]]) -> None:
        """Try again until each is answered OK."""
        end = time.monotonic() + 20
        while messages:
            assert time.monotonic() < end, "the store does not come back"
            self.send(sender, messages)
            messages = self.hear(sender, messages)

    def check(self) -> dict[int, list[str]]:
        """Gives the mailboxes, by user, as names of messages; all that was answered holds for them."""
        mailboxes: dict[int, list[str]] = {}
        for sender in self.senders:
            user = user_of(sender)
            device = self.server.connect("seed")
            device.login(sender.name)
            found = device.fetch()
            mailboxes[user] = names = [message["md5encoded"] for message in found]
            assert len(set(names)) == len(names), "a message is stored twice"
            assert all(self.sent[message["md5encoded"]] == message for message in found)
        for name, message in self.sent.items():
            holds = {name in mailboxes[message[whose]] for whose in ("userid", "targetid")}
            assert len(holds) == 1, "a message is in one of two mailboxes"
            assert holds == {True} or name not in self.stored, "a message that was answered OK is lost"
        for user, names in self.in_order.items():
            places = [mailboxes[user].index(name) for name in names]
            assert places == sorted(places), "the messages of one connection are out of order"
        return mailboxes


def test_the_store_is_killed_under_load(service: Make) -> None:
    server = service().start()
    oracle = Oracle(server)
    readers = [server.device(sender, "seed") for sender in oracle.senders]
    for client in (*oracle.senders, *readers):
        client.fetch()
    for at in range(ROUNDS):
        bursts = [(sender, oracle.new_messages(sender)) for sender in oracle.senders]
        for sender, messages in bursts:
            oracle.send(sender, messages)
        answered = at * BURST // ROUNDS
        for sender, messages in bursts:
            assert not oracle.hear(sender, messages[:answered])
        server.kill_store()
        for sender, messages in bursts:
            failed = oracle.hear(sender, messages[answered:])
            oracle.in_order[user_of(sender)] += [one["md5encoded"] for one in messages if one not in failed]
            if at % 2:  # else what became of them stays unknown
                oracle.insist(sender, failed)
        oracle.insist(oracle.senders[0], oracle.new_messages(oracle.senders[0]))
    mailboxes = oracle.check()
    for sender, reader in zip(oracle.senders, readers, strict=True):
        mailbox = mailboxes[user_of(sender)]
        assert [reader.push()["md5encoded"] for _ in mailbox] == mailbox
        foreign = [name for name in mailbox if oracle.sent[name]["userid"] != sender.user]
        assert [sender.push()["md5encoded"] for _ in foreign] == foreign
        assert sender.silent(0.1)
        assert reader.silent(0.1)
    assert "Traceback" not in server.log()


def test_the_server_is_killed_under_load(service: Make) -> None:
    server = service().start()
    oracle = Oracle(server)
    reader = server.device(oracle.senders[0], "seed")
    read: list[str] = []

    def read_all() -> None:
        """The reader acknowledges all that there is."""
        client = server.connect("seed", reader.token)
        if found := client.fetch():
            client.send("ACKFETCH", {"timestamp": found[-1]["timestamp"]})
            assert client.ask("STATE").ok
            read.extend(message["md5encoded"] for message in found)

    for at in range(ROUNDS):
        bursts = [(sender, oracle.new_messages(sender)) for sender in oracle.senders]
        for sender, messages in bursts:
            oracle.send(sender, messages)
        answered = 1 + at * BURST // ROUNDS
        for sender, messages in bursts:
            oracle.insist(sender, oracle.hear(sender, messages[:answered]))
        if at % 2:
            server.kill_store()
        server.kill()
        server.start()
        for sender, messages in bursts:
            again = server.connect("seed", sender.token)
            again.name, again.user = sender.name, sender.user
            oracle.senders[oracle.senders.index(sender)] = again
            if at % 2:  # else what became of them stays unknown
                oracle.insist(again, messages[answered:])
        read_all()
    assert read == oracle.check()[user_of(reader)]
    assert "Traceback" not in server.log()
