"""Messages under way while nodes, the store, or all of them are killed, and while nodes are restarted.

What is kept while nothing is under way is tested in `tests/test_survival.py`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chatsvc.store.devices import ONLINE_LIFE
from tests.chaos.control import control
from tests.chaos.load import Load
from tests.chaos.oracle import Violated
from tests.chaos.pair import Make
from tests.service import Service, Valkey

pytestmark = pytest.mark.chaos

People = Callable[..., Load]


def test_devices_on_two_nodes_get_each_message_once_and_in_order(
    nodes: list[Service], people: People
) -> None:
    with people(nodes, errors=False) as load:
        for _ in load.rounds():
            load.flow()
        load.settle()
        assert not any(device.receipts.repeats for device in load.devices if not device.infers)


@control("early-ok")
def test_anything_is_killed(nodes: list[Service], store: Valkey, people: People) -> None:
    with people(nodes) as load:
        for number in load.rounds():
            victims = {load.random.choice(nodes)} if number % 3 == 0 or load.random.random() < 0.3 else set()
            for node in victims:
                load.fault("node killed")
                node.kill()
            if number % 3 != 2:
                load.fault("store killed")
                store.end()
                store.start()
            load.flow()
            for node in victims:
                node.start()
            if not victims:
                load.flow()
        load.settle()


@control("early-cursor")
def test_a_node_is_killed_and_its_devices_go_on_at_the_other(
    nodes: list[Service], store: Valkey, people: People
) -> None:
    with people(nodes, errors=False) as load:
        for number in load.rounds():
            victim = nodes[number % 2]
            load.acknowledge()
            load.fault("node killed")
            victim.kill()
            for user in load.people:
                assert 0 < int(store.ask(f"TTL {{u:{user}}}:online")[1:].split()[0]) <= ONLINE_LIFE
            load.flow()
            victim.start()
            load.flow()
        load.settle()


@control("early-ok")
def test_the_nodes_are_restarted_one_after_the_other(nodes: list[Service], people: People) -> None:
    with people(nodes, insist=1, errors=False) as load:
        for number in load.rounds():
            node = nodes[number % 2]
            load.fault("node stopped")
            assert node.stop() in (0, -signal.SIGTERM)
            assert load.tally.bug or "Traceback" not in node.log()
            load.flow()
            node.start()
            load.flow()
        load.settle()
        assert load.oracle.stored | load.oracle.refused == set(load.oracle.sent)


@control("two-writers")
def test_a_server_and_the_store_it_started_are_killed(buggy: Make, people: People) -> None:
    server = buggy().start()
    with people([server]) as load:
        for number in load.rounds():
            if number % 2 == 0:
                load.fault("store killed")
                server.kill_store()
                load.flow()
            load.fault("node killed")
            server.kill()
            server.start()
            has_one_store(server)
            load.flow()
        load.settle()


def has_one_store(server: Service) -> None:
    """One process writes to its data, and no more: what was left by the server before is gone."""
    commands = []
    for pid in server.processes():
        with suppress(FileNotFoundError):  # it has just ended
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    if sum(b"valkey-server" in command for command in commands) != 1:
        raise Violated([f"not one store, but: {commands}"])
