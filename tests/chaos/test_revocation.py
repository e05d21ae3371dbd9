"""A binding that ends through one node while the other one is pushing to that device without a pause.

That nobody is pushed to who may have been logged out, as long as the store cannot say, is tested in
`tests/test_chat_hub.py` and `tests/test_nodes.py`.
"""

from __future__ import annotations

import time
from threading import Event, Thread

import pytest

from tests.chaos.control import control
from tests.chaos.device import user_of
from tests.chaos.oracle import Violated
from tests.chaos.report import Tally
from tests.raw import Raw
from tests.service import Service

pytestmark = pytest.mark.chaos

#: Seconds within which pushes must have ended; what a busy machine needs is in it.
ENDED = 10.0
#: As many messages come to another device and not to this one: then it is out.
MISSED = 20


class Talker(Thread):
    """Somebody who writes to a user without a pause."""

    def __init__(self, node: Service, target: Raw) -> None:
        super().__init__(daemon=True)
        self._client, self._target = node.user("seed"), user_of(target)
        self._over = Event()

    def run(self) -> None:
        """Write."""
        with self._client as client:
            while not self._over.is_set():
                client.say(self._target)

    def stop(self) -> None:
        """Write no more."""
        self._over.set()
        self.join()


@control("no-revocation", always=True)
@pytest.mark.parametrize("way", ["LOGOUT", "MODIFYPASSWD"])
def test_pushes_end_with_the_binding(nodes: list[Service], tally: Tally, way: str) -> None:
    one, two = nodes
    bob = one.user("seed")
    witness = two.device(bob, "seed") if way == "LOGOUT" else two.again(bob, "seed")
    other = one.device(bob, "seed")
    victim = two.again(other, "seed")
    for client in (witness, victim):
        client.fetch()
    talker = Talker(one, bob)
    talker.start()
    try:
        victim.push()
        tally.faults.append("binding ended at another node")
        if way == "LOGOUT":
            assert other.ask("LOGOUT").ok
        else:
            assert bob.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "other"}).ok
        goes_out(victim, witness, 1.0 if tally.bug else ENDED)
    finally:
        talker.stop()
    for kind in ("STATE", "FETCHMSG"):
        assert victim.ask(kind).info == "User not logged in"


def goes_out(victim: Raw, witness: Raw, deadline: float) -> None:
    """The device soon gets nothing any more, though another one of that user's does."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        while victim.pushes or not victim.silent(0.01):
            victim.push()
        while witness.pushes or not witness.silent(0.01):  # all that has come up to now
            witness.push()
            if time.monotonic() > end:
                break
        for _ in range(MISSED):
            witness.push()
        if victim.silent(0.01):
            return
    raise Violated([f"a device that was logged out is still pushed to after {deadline:g} s"])
