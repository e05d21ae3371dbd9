"""Two nodes on a cluster under load, while slots move and primaries die.

How the store floor does it is tested in `tests/test_cluster.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatsvc.store import keys
from chatsvc.store.cluster import slot_of
from tests.chaos.control import control
from tests.chaos.load import LONG, Load
from tests.chaos.pair import Make, share
from tests.cluster import Cluster, ClusterNode, replicates, works
from tests.service import Service, wait_for

pytestmark = pytest.mark.chaos

People = Callable[..., Load]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three primaries with a replica each."""
    stores = Cluster(tmp_path / "cluster", replicas=3)
    try:
        yield stores.start()
    finally:
        stores.stop()


@pytest.fixture
def nodes(cluster: Cluster, buggy: Make, tmp_path: Path) -> list[Service]:
    return share(tmp_path, buggy, cluster.url, "--replica-acks", "1")


@pytest.mark.skipif(
    not LONG, reason="CI has tests/test_cluster.py, which moves slots, and the next one here."
)
@control("deaf")
def test_the_slots_of_people_who_talk_are_moved(
    nodes: list[Service], cluster: Cluster, people: People
) -> None:
    with people(nodes) as load:
        for number, user in zip(load.rounds(), itertools.cycle(load.people), strict=False):
            key = keys.user(user)
            source = serving(cluster, key)
            target = next(
                node for node in cluster.primaries[number % 3 :] + cluster.primaries if node is not source
            )
            load.fault("slot moved")
            cluster.move(slot_of(key), source, target)
            load.flow()
        settle(load, cluster)


@control("forgotten-second")
def test_primaries_are_killed_and_their_replicas_take_over(
    nodes: list[Service], cluster: Cluster, people: People
) -> None:
    with people(nodes) as load:
        for _, user in zip(load.rounds(), itertools.cycle(load.people), strict=False):
            load.fault("primary of a cluster killed")
            replace_primary(cluster, keys.user(user))
            load.flow()
        settle(load, cluster)


def replace_primary(cluster: Cluster, key: bytes) -> None:
    """Kill who serves a key; the one that comes back is a replica of the one that has taken over."""
    killed = serving(cluster, key)
    killed.end()
    wait_for(lambda: cluster.primary(key) not in (None, killed), "a replica takes over")
    killed.start()  # until then nobody confirms what the new primary writes
    wait_for(lambda: replicates(killed), "the former primary is a replica")
    wait_for(lambda: all(works(node) for node in cluster.nodes), "the cluster works")


def settle(load: Load, cluster: Cluster) -> None:
    """What was in one mailbox when its sender was told that it may not be stored comes into the other."""
    load.talking = False
    pending = [f"EXISTS {keys.part(user, b'pending').decode()}" for user in load.people]
    load.wait_for(
        lambda: not any(b":1\r\n" in node.ask(*pending) for node in cluster.nodes), "nothing is pending"
    )
    load.settle()


def serving(cluster: Cluster, key: bytes) -> ClusterNode:
    """Who serves a key."""
    node = cluster.primary(key)
    assert node is not None
    return node
