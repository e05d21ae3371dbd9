"""Two people and a few messages, for faults that are to hit one certain moment; the oracle judges these too.

Many people who write all the time are in `tests/chaos/load.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from contextlib import closing
from typing import Any

from tests.chaos.device import user_of
from tests.chaos.oracle import Message, Oracle, Violated
from tests.chaos.report import Tally
from tests.raw import Answer, Raw
from tests.service import Service


class Story:
    """Alice writes to Bob. Both have further devices by which their mailboxes are read in the end."""

    def __init__(self, node: Service, tally: Tally) -> None:
        self.tally = tally
        self.oracle = Oracle()
        self.alice, self.bob = node.user("seed"), node.user("seed")
        self.origin = self.oracle.device(user_of(self.alice))
        self.device = self.oracle.device(user_of(self.bob))
        self._times = itertools.count(int(time.time() * 1000))

    def message(self, file: bytes | None = None) -> Message:
        """A new message from Alice to Bob, with a file or without."""
        fields: dict[str, Any] = {"timestamp": next(self._times), "md5encoded": secrets.token_hex(16)}
        if file is not None:
            fields |= {"contenttype": "file", "filemd5": hashlib.md5(file).hexdigest()}
        message = self.alice.message(user_of(self.bob), **fields)
        self.oracle.means_to_send(self.origin, message)
        return message

    def send(self, node: Service, message: Message, file: bytes = b"") -> Answer | None:
        """Alice sends a message there; None if her connection ended before the answer."""
        with closing(Raw(node.address, "seed", self.alice.token)) as client:
            try:
                answer = client.ask("SENDMSG", message, file)
            except ConnectionError:
                self.tally.outcomes.append("unknown")
                return None
        self.hear(message, answer)
        return answer

    def hear(self, message: Message, answer: Answer) -> None:
        """Alice was answered."""
        self.tally.outcomes.append(answer.status)
        if answer.ok:
            self.oracle.was_stored(self.origin, message)

    def fetch(self, node: Service) -> Raw:
        """Bob's device fetches what it has not acknowledged, with the files; gives its connection."""
        client = node.connect("seed", self.bob.token)
        for message in client.fetch():
            if self.device.get(message) and message["filemd5"] is not None:
                answer = client.ask("FETCHFILE", {"msgmd5": message["md5encoded"]})
                self.device.get_file(message["md5encoded"], answer.payload if answer.ok else None)
        return client

    def check(self, node: Service) -> None:
        """Bob's device fetches; then all holds that must."""
        self.fetch(node).close()
        mailboxes = {}
        for person in (self.alice, self.bob):
            with node.device(person, "seed") as reader:
                mailboxes[user_of(person)] = reader.fetch()
        try:
            self.oracle.check(mailboxes)
        except Violated as violated:
            self.tally.violations += len(violated.found)
            raise
        finally:
            self.tally.deliveries += self.oracle.deliveries
