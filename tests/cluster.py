"""A cluster of stores on loopback for tests: primaries, replicas, slots that move.

What nodes of the service do with it is tested elsewhere.
"""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

from chatsvc.store.cluster import SLOTS, slot_of
from tests.service import Valkey, wait_for

#: After how many ms a node that does not answer counts as gone.
NODE_TIMEOUT = 1000


class ClusterNode(Valkey):
    """One node."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.bus = free.getsockname()[1]
        super().__init__(
            directory,
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-announce-ip", "127.0.0.1"),
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
        )

    @property
    def id(self) -> str:
        """What the cluster calls it."""
        return self.line("CLUSTER MYID")

    def line(self, command: str) -> str:
        """The text of a reply that is one string."""
        return self.ask(command).split(b"\r\n")[1].decode()

    def told(self, command: str) -> None:
        """Tell it something that it must take."""
        answer = self.ask(command)
        assert answer.startswith(b"+OK"), (command, answer)


class Cluster:
    """`primaries` with a share of the slots each, and a replica of each of the first `replicas` of them."""

    def __init__(self, directory: Path, primaries: int = 3, replicas: int = 0) -> None:
        self.nodes = [ClusterNode(directory / f"node{index}") for index in range(primaries + replicas)]
        self.primaries = self.nodes[:primaries]
        self.replicas = self.nodes[primaries:]

    @property
    def url(self) -> str:
        """As ``--redis`` takes it."""
        return "cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.primaries)

    def start(self) -> Cluster:
        """Start all, make them one, and return once it works."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.primaries))
        for index, node in enumerate(self.primaries):
            node.told(f"CLUSTER SET-CONFIG-EPOCH {index + 1}")
            node.told(f"CLUSTER ADDSLOTSRANGE {index * share} {min(SLOTS, (index + 1) * share) - 1}")
        first = self.nodes[0]
        for node in self.nodes[1:]:
            node.told(f"CLUSTER MEET 127.0.0.1 {first.port} {first.bus}")
        everybody = len(self.nodes)
        wait_for(lambda: all(known(node) == everybody for node in self.nodes), "all know each other")
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            replica.told(f"CLUSTER REPLICATE {primary.id}")
        wait_for(lambda: all(works(node) for node in self.nodes), "the cluster works")
        for replica in self.replicas:
            wait_for(partial(replicates, replica), "a replica has its primary's data")
        return self

    def stop(self) -> None:
        """End all."""
        for node in self.nodes:
            node.end()

    def primary(self, key: bytes) -> ClusterNode | None:
        """Who serves a key, by their own word; None while nobody does."""
        slot = slot_of(key)
        for node in self.nodes:
            for line in node.ask("CLUSTER NODES").decode().splitlines():
                fields = line.split()
                if len(fields) > 8 and "myself" in fields[2] and "master" in fields[2]:
                    ranges = [field.split("-") for field in fields[8:] if not field.startswith("[")]
                    if any(int(each[0]) <= slot <= int(each[-1]) for each in ranges):
                        return node
        return None

    def move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Give a slot away, key by key, as ``--cluster reshard`` does."""
        target.told(f"CLUSTER SETSLOT {slot} IMPORTING {source.id}")
        source.told(f"CLUSTER SETSLOT {slot} MIGRATING {target.id}")
        while keys := source.ask(f"CLUSTER GETKEYSINSLOT {slot} 1").split(b"\r\n")[2:3]:
            if not keys[0] or keys[0] == b"+OK":
                break
            moved = source.ask(f"MIGRATE 127.0.0.1 {target.port} {keys[0].decode()} 0 5000")
            assert moved.startswith((b"+OK", b"+NOKEY")), moved  # it may have expired
        for node in (target, source):
            node.told(f"CLUSTER SETSLOT {slot} NODE {target.id}")

    def move_at_once(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Give a slot away as a whole, as Valkey can since its version 9."""
        source.told(f"CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {target.id}")
        wait_for(lambda: b"success" in source.ask("CLUSTER GETSLOTMIGRATIONS"), "the slot is moved")


def known(node: ClusterNode) -> int:
    """How many nodes this one is connected to, itself included."""
    lines = node.ask("CLUSTER NODES").decode().splitlines()
    return sum(" connected" in line and "handshake" not in line for line in lines)


def works(node: ClusterNode) -> bool:
    """Whether it says that all slots are served."""
    return b"cluster_state:ok" in node.ask("CLUSTER INFO")


def replicates(node: ClusterNode) -> bool:
    """Whether it is a replica that has all that its primary has."""
    return b"master_link_status:up" in node.ask("INFO replication")
