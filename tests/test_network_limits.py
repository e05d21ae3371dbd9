"""Limits that change while clients are connected: what is new counts at once, what stands is not cut off."""

from __future__ import annotations

from typing import Any

import msgspec

from chatsvc.wire.limits import KIB, MIB
from tests.network import LIMITS, NODE, Node, request

node = NODE


def use(node: Node, **limits: Any) -> None:
    node.server.use(msgspec.structs.replace(LIMITS, **limits))


def test_frames_of_new_connections_have_the_new_limit(node: Node) -> None:
    standing, _ = node.connect(bound=True)
    use(node, json=64 * KIB)
    coming, _ = node.connect(bound=True)
    for one in (standing, coming):
        one.dataReceived(request(length=65 * KIB))
    assert [call.kind for call, _ in node.calls] == ["TOGETHER", "UNKNOWN"]  # that is to be refused


def test_idle_connections_are_looked_at_with_the_new_limit(node: Node) -> None:
    _, wire = node.connect()
    node.sleep(10)
    assert wire.end() == ""
    use(node, unbound_idle=5.0)
    node.sleep(1)
    assert wire.end() == "closed"


def test_the_memory_of_requests_is_shared_out_by_the_new_limit(node: Node) -> None:
    wires = []
    for _ in range(3):
        made, wire = node.connect(bound=True)
        made.dataReceived(request(length=900 * KIB)[: 800 * KIB])
        wires.append(wire)
    assert all(wire.reads() for wire in wires)
    use(node, unfinished=2 * MIB, unfinished_unbound=2 * MIB)
    made, wire = node.connect(bound=True)
    made.dataReceived(request(length=900 * KIB)[: 100 * KIB])
    assert not all(wire.reads() for wire in wires)


def test_the_hub_has_the_new_limits(node: Node) -> None:
    use(node, avatar=7)
    assert node.hub.limits.avatar == 7
