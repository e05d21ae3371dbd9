"""A store's file that was cut off or changed while nothing ran: what is whole is served, or all is refused.

What a power failure leaves is in `tests/chaos/test_power.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.control import control, judged
from tests.chaos.load import LONG, SEED
from tests.chaos.report import Tally
from tests.raw import Raw
from tests.service import Service

pytestmark = pytest.mark.chaos

Make = Callable[..., Service]
CUTS = 8 if LONG else 2
CHANGES = 4
MESSAGES = 30


class Damaged:
    """A server with a mailbox, whose store's file can be put back as it was."""

    def __init__(self, server: Service) -> None:
        self.server = server.start()
        alice = self.server.user("seed")
        #: Where the file ends when there are people, without whom nothing can be seen.
        self.start = self.file.stat().st_size
        self.said = [alice.say(alice.user or 0, f"{number:04}" * 20) for number in range(MESSAGES)]
        self.name = alice.name
        server.hang_up()
        server.stop()
        self.whole = self.file.read_bytes()

    @property
    def file(self) -> Path:
        """What the store appends to."""
        [found] = (self.server.directory / "data/store/appendonlydir").glob("*.incr.aof")
        return found

    def mailbox(self) -> list[object]:
        """What is left of it."""
        with Raw(self.server.address, "seed") as client:
            client.login(self.name)
            return client.fetch()


@control("silent-store")
def test_a_file_that_was_cut_off_gives_what_is_whole_and_says_so(buggy: Make, tally: Tally) -> None:
    damaged = Damaged(buggy())
    server, chance = damaged.server, random.Random(SEED)
    for _ in range(CUTS):
        tally.faults.append("store's file cut off")
        size = chance.randrange(damaged.start, len(damaged.whole))
        left, lost = damaged.whole[:size], damaged.whole[size:]
        damaged.file.write_bytes(left)
        server.start()
        found = damaged.mailbox()
        assert found == damaged.said[: len(found)]
        assert left.count(b'"timestamp"') - len(found) in (0, 1)
        with judged():
            assert "Truncating the AOF" in server.log() or lost.startswith(b"*")  # between two commands
        server.stop()


@pytest.mark.skipif(not LONG, reason="CI has tests/test_start.py, which does it once.")
def test_a_file_whose_form_was_changed_is_refused_and_left_as_it_is(service: Make, tally: Tally) -> None:
    damaged = Damaged(service())
    server, chance = damaged.server, random.Random(SEED)
    marks = [found.end() - 1 for found in re.finditer(rb"\r\n[*$](?=\d+\r\n)", damaged.whole)]
    for place in chance.sample(marks, CHANGES):
        tally.faults.append("byte of the store's file changed")
        changed = bytearray(damaged.whole)
        changed[place] ^= 1 << chance.randrange(8)
        damaged.file.write_bytes(changed)
        server.spawn()
        assert server.exit_status() != 0
        assert "Bad file format" in server.log()
        assert str(server.directory / "data/store") in server.log()
        assert damaged.file.read_bytes() == changed
