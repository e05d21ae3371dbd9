"""A node that dies between any two steps of storing a message, with a file and without.

Nodes that die at any time, with much under way, are in `tests/chaos/test_kills.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.chaos import steps
from tests.chaos.control import control
from tests.chaos.load import LONG
from tests.chaos.pair import Make, share
from tests.chaos.report import Tally
from tests.chaos.story import Story
from tests.service import Valkey

pytestmark = pytest.mark.chaos

#: Where it dies if there is no time for all places.
SOME = 5, 11
#: As many steps there are at least, from a message's arrival to its answer.
LEAST = 8


@control("one-mailbox")
@pytest.mark.parametrize("file", [pytest.param(b"", id="text"), pytest.param(bytes(600_000), id="file")])
def test_a_node_dies_at_a_step_of_a_message(
    store: Valkey, service: Make, tmp_path: Path, tally: Tally, file: bytes
) -> None:
    one, victim = share(tmp_path, service, f"unix://{store.socket_path}")
    story = Story(one, tally)
    for number in itertools.count(1) if LONG else SOME:
        victim.kill()
        victim.command = steps.command(number, tally.bug)
        victim.start()
        message = story.message(file or None)
        answer = story.send(victim, message, file)
        if answer is None:
            victim.exit_status()
            tally.faults.append("node dies at a step of SENDMSG")
        story.check(one)  # in both mailboxes, or in none
        again = story.send(one, message, file)
        assert again is not None
        assert again.ok
        story.check(one)
        if answer is not None and LONG:
            assert number > LEAST
            break
