"""This version and another one on one store, each in the place of the other: an upgrade, and the way back.

`CHAOS_OTHER` names the checkout of the other one; without it there is nothing to test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.chaos.load import Load
from tests.service import ROOT, Service

OTHER = os.environ.get("CHAOS_OTHER")
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(OTHER is None, reason="CHAOS_OTHER=DIR names no checkout of another version."),
]


def test_nodes_are_upgraded_and_put_back_one_after_the_other(
    nodes: list[Service], people: Callable[..., Load]
) -> None:
    with people(nodes, insist=1, errors=False) as load:
        for number in load.rounds():
            node = nodes[number % 2]
            load.fault("node replaced by another version")
            assert node.stop() in (0, -signal.SIGTERM)
            load.flow()
            # Both of the other version, then both of this one again.
            node.environment = {"PYTHONPATH": str(OTHER if number % 4 < 2 else ROOT)}
            node.start()
            load.flow()
        load.settle()
