"""Many people who are logged in and idle, when the store is killed, and when their network fails.

What they write to each other meanwhile is the matter of the other fault tests.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import pytest

from tests.chaos.load import LONG, SECONDS
from tests.chaos.report import Tally
from tests.raw import Raw, unique
from tests.service import Service, wait_for

pytestmark = pytest.mark.chaos

#: How many there are: ten thousand in a run of CHAOS_SECONDS=100, if we may open so many files.
CROWD = min(int(SECONDS * 100) if LONG else 50, 10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000)
#: As many as may wait for their passwords.
TOGETHER = 50
#: Seconds after which everybody must be served again, also on a machine that has other work.
PATIENCE = 30.0 + CROWD / 100


def gather(server: Service) -> list[Raw]:
    """A crowd of new users."""
    crowd: list[Raw] = []
    while len(crowd) < CROWD:
        some = [server.connect() for _ in range(min(TOGETHER, CROWD - len(crowd)))]
        for one in some:
            one.send("REGISTER", {"username": unique(), "passwd": "secret"})
        assert all(one.answer(PATIENCE).ok for one in some)
        crowd += some
    return crowd


def test_a_crowd_is_served_again_after_the_store_was_killed_and_can_leave_at_once(
    service: Callable[..., Service], tally: Tally
) -> None:
    server = service("--http", "tcp:0:interface=127.0.0.1").start()
    here, crowd = server.user(), gather(server)
    server.kill_store()
    tally.faults.append("store of a crowd killed")
    began = time.monotonic()
    for one in crowd:
        one.send("STATE")
    refused = crowd
    while refused := [one for one in refused if not one.answer(PATIENCE).ok]:
        assert time.monotonic() - began < PATIENCE, f"{len(refused)} are not served"
        for one in refused:
            one.send("STATE")
    tally.outage = time.monotonic() - began
    for one in crowd:
        one.reset()
    tally.faults.append("crowd cut off")
    # It asks the store, behind all that is asked of that for those who have left.
    assert here.ask("FETCHCONTACT").ok
    wait_for(lambda: "chatsvc_devices_online 1.0\n" in server.http("/metrics")[1], "the others are offline")
