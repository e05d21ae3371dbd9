"""Two nodes on one store under load, while the parts are killed, frozen, cut off and restarted.

The short forms run with all tests; `make chaos` runs the long ones.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from chatsvc.store.devices import ONLINE_LIFE
from tests.load import SECONDS, Load, rounds
from tests.service import Service, Valkey, wait_for

pytestmark = pytest.mark.chaos

Make = Callable[..., Service]
MakeStore = Callable[..., Valkey]


@pytest.fixture
def store(valkey: MakeStore) -> Valkey:
    return valkey().start()


@pytest.fixture
def nodes(store: Valkey, service: Make) -> list[Service]:
    made = [service("--redis", f"unix://{store.socket_path}", name=name) for name in ("one", "two")]
    return [node.start() for node in made]


def test_devices_on_two_nodes_get_each_message_once_and_in_order(nodes: list[Service]) -> None:
    with Load(nodes, errors=False) as load:
        for _ in rounds():
            load.flow()
        load.settle()
        assert not any(device.receipts.repeats for device in load.devices)


def test_a_node_is_killed_and_its_devices_go_on_at_the_other(nodes: list[Service], store: Valkey) -> None:
    with Load(nodes, errors=False) as load:
        for number in rounds():
            victim = nodes[number % 2]
            load.acknowledge()
            victim.kill()
            for user in load.people:
                assert 0 < int(store.ask(f"TTL {{u:{user}}}:online")[1:].split()[0]) <= ONLINE_LIFE
            load.flow()
            victim.start()
            load.flow()
        load.settle()


def test_the_store_is_killed(nodes: list[Service], store: Valkey) -> None:
    with Load(nodes) as load:
        for _ in rounds():
            store.end()
            store.start()
            load.flow()
        load.settle()


def test_a_node_and_the_store_are_killed_at_once(nodes: list[Service], store: Valkey) -> None:
    with Load(nodes) as load:
        for number in rounds():
            nodes[number % 2].kill()
            store.end()
            store.start()
            load.flow()
            nodes[number % 2].start()
        load.settle()


def test_the_store_is_frozen(nodes: list[Service], store: Valkey) -> None:
    with Load(nodes, insist=0) as load:
        for _ in range(1 + int(SECONDS / 20)):
            store.signal(signal.SIGSTOP)
            since = time.monotonic()
            load.wait_for(partial(all_are_refused, load, since), "all that is sent is refused")
            until = time.monotonic()
            store.signal(signal.SIGCONT)
            for attempt in load.attempts:
                if since < attempt.began <= attempt.ended < until:
                    assert not attempt.ok
                    load.oracle.refused.add(attempt.name)
            load.flow()
        load.settle()


def all_are_refused(load: Load, since: float) -> bool:
    """Whether each device that sends was refused something that it began to send since then."""
    refused = {load.oracle.sent[one.name]["userid"] for one in load.attempts if one.began > since}
    return refused == set(load.people)


def test_the_connections_of_subscribers_are_killed(nodes: list[Service], store: Valkey) -> None:
    with Load(nodes, errors=False) as load:
        for _ in rounds():
            load.flow()
            wait_for(lambda: store.ask("CLIENT LIST TYPE pubsub").count(b"id=") == 2, "both nodes hear again")
            assert store.ask("CLIENT KILL TYPE pubsub").startswith(b":2\r\n")
        load.settle()  # no later message shows that the last ones were missed
        assert not any(device.receipts.repeats for device in load.devices)


def test_the_nodes_are_restarted_one_after_the_other(nodes: list[Service]) -> None:
    with Load(nodes, insist=1, errors=False) as load:
        for number in rounds():
            node = nodes[number % 2]
            assert node.stop() in (0, -signal.SIGTERM)
            assert "Traceback" not in node.log()
            load.flow()
            node.start()
            load.flow()
        load.settle()
        assert load.oracle.stored == set(load.oracle.sent)
