"""Clients that are cut off, by themselves or by their network, and one that says the same again and again.

Clients that do not read are in `tests/test_protocol_pressure.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Thread

import pytest

from tests.chaos.control import control
from tests.chaos.load import LONG, SEED, Load
from tests.chaos.proxy import Proxy
from tests.chaos.report import Tally
from tests.chaos.story import Story
from tests.raw import Raw
from tests.service import Service, Valkey, wait_for

pytestmark = pytest.mark.chaos

People = Callable[..., Load]
#: Connections on each node that send the same message, and how often each does.
SAYERS = 10
SAID = 50


@control("early-cursor", always=True)
def test_clients_cut_their_connections(nodes: list[Service], people: People) -> None:
    with people(nodes, cuts=0.1, errors=False) as load:
        for _ in load.rounds(in_control=15):
            load.flow()
        load.settle()


@control("no-repeats")
def test_the_network_is_bad(nodes: list[Service], people: People, tally: Tally) -> None:
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(node.address, tally, SEED)) for node in nodes]
        with people(nodes, doors=proxies, insist=1, errors=False) as load:
            for proxy in proxies:
                proxy.calm = False
            for _ in load.rounds():
                load.flow()
            for proxy in proxies:
                proxy.calm = True
            load.settle()


@control("no-repeats", always=True)
def test_the_same_message_is_sent_a_thousand_times_while_the_store_is_killed(
    nodes: list[Service], store: Valkey, tally: Tally
) -> None:
    story = Story(nodes[0], tally)
    listeners = [story.fetch(node) for node in nodes]
    message = story.message()
    sayers = [Sayer(story, node, message) for node in nodes for _ in range(SAYERS)]
    for sayer in sayers:
        sayer.start()
    for _ in range(3 if LONG else 1):
        wait_for(lambda: sum(sayer.heard for sayer in sayers) >= SAYERS, "some are answered")
        tally.faults.append("store killed")
        store.end()
        store.start()
    for sayer in sayers:
        sayer.join()
    assert all(sayer.heard == SAID for sayer in sayers)
    for listener in listeners:
        story.device.get(listener.push())
        assert tally.bug or listener.silent(0.1)
        listener.reset()
    story.check(nodes[1])


class Sayer(Thread):
    """A connection on which one message is sent again and again, until that was answered OK often."""

    def __init__(self, story: Story, node: Service, message: dict[str, object]) -> None:
        super().__init__(daemon=True)
        self._story, self._message = story, message
        self._client = Raw(node.address, "seed", story.alice.token)
        #: How many OKs it got.
        self.heard = 0

    def run(self) -> None:
        """Say it."""
        with self._client as client:
            while self.heard < SAID:
                for _ in range(SAID - self.heard):
                    client.send("SENDMSG", self._message)
                for _ in range(SAID - self.heard):
                    answer = client.answer()
                    self._story.hear(self._message, answer)
                    self.heard += answer.ok
