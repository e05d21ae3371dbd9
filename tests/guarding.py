"""What tests of limits have in common: a node in memory whose clients have addresses, and a proxy.

Limits for tests that are not about them are in `tests/limits.py`.
"""

from __future__ import annotations

import re
import socket
from typing import Any

import msgspec
from twisted.internet.task import Clock

from chatsvc.wire.frames import SEED
from tests.fake_store import FakeStore
from tests.fakes import FakeClient, Node
from tests.raw import Raw
from tests.service import Service

HERE, THERE = "192.0.2.1", "192.0.2.2"
#: What has `through_proxy` at the other end.
PROXIED = ("--listen", "haproxy:tcp:0:interface=127.0.0.1")


class World:
    """A node with some limits, and its clients."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.store = FakeStore(self.clock)
        self.node = Node(self.clock, self.store)
        self.alice = self.node.user("alice", SEED)
        self.bob = self.node.user("bob", SEED)
        self.limit(**limits)

    def limit(self, **limits: Any) -> None:
        """Set limits, as a reload does."""
        self.node.hub.limits = msgspec.structs.replace(self.node.hub.limits, **limits)

    def client(self, address: str = HERE, token: int | None = None) -> FakeClient:
        """A client that has connected from there."""
        made = self.node.client(SEED, token)
        made.session.address = address
        return made

    def devices(self) -> int:
        """How many devices the store has."""
        return len(self.store.data.pointers)


def through_proxy(server: Service, client: str, dialect: str = "released") -> Raw:
    """A connection on which a proxy speaks for a client at an address."""
    found = re.search(r"Listening on 127\.0\.0\.1:(\d+) \(haproxy", server.log())
    assert found is not None, server.log()
    through = socket.create_connection(("127.0.0.1", int(found[1])))
    through.sendall(f"PROXY TCP4 {client} 127.0.0.1 5555 6011\r\n".encode())
    return Raw(server.address, dialect, through=through)
