"""Messages under way while the store does not answer, does not tell, or is put back to an earlier state.

A store that dies is in `tests/chaos/test_kills.py`, one whose machine dies in `tests/chaos/test_power.py`.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.chaos.control import control
from tests.chaos.load import LONG, Load
from tests.chaos.pair import Make
from tests.chaos.report import Tally
from tests.chaos.story import Story
from tests.service import Service, Valkey, wait_for

pytestmark = pytest.mark.chaos

People = Callable[..., Load]
#: Seconds by which a cursor is ahead of its mailbox.
AHEAD = 3600


@control("failed-group-ok")
def test_the_store_is_frozen(nodes: list[Service], store: Valkey, people: People) -> None:
    with people(nodes, insist=0) as load:
        for number in range(4 if LONG and not load.tally.bug else 1):
            load.fault("store frozen")
            store.signal(signal.SIGSTOP)
            since = time.monotonic()
            load.wait_for(partial(all_are_answered, load, since), "all that is sent is answered")
            if number % 2:
                time.sleep(10)  # so long that the nodes have given it up more than once
            until = time.monotonic()
            store.signal(signal.SIGCONT)
            for attempt in load.attempts:
                if since < attempt.began <= attempt.ended < until and not attempt.ok:
                    load.oracle.refused.add(attempt.name)
            load.flow()
        load.settle()


@pytest.mark.skipif(not LONG, reason="It takes longer than CI has: make chaos has the time.")
def test_the_store_is_frozen_for_a_moment(nodes: list[Service], store: Valkey, people: People) -> None:
    with people(nodes) as load:
        for _ in load.rounds():
            load.fault("store frozen for a second")
            store.signal(signal.SIGSTOP)
            time.sleep(1)
            store.signal(signal.SIGCONT)
            load.flow()
        load.settle()


def all_are_answered(load: Load, since: float) -> bool:
    """Whether each device that sends was answered something that it began to send since then."""
    answered = {load.oracle.sent[one.name]["userid"] for one in list(load.attempts) if one.began > since}
    return answered == set(load.people)


@control("deaf", always=True)
def test_publications_are_lost(nodes: list[Service], store: Valkey, people: People) -> None:
    def hearing() -> set[bytes]:
        return set(re.findall(rb"id=(\d+)", store.ask("CLIENT LIST TYPE pubsub")))

    def are_cut(before: set[bytes]) -> bool:
        return before.isdisjoint(hearing())

    def limit(size: int) -> None:
        assert store.ask(f'CONFIG SET client-output-buffer-limit "pubsub {size} 0 0"').startswith(b"+OK")

    with people(nodes, errors=False) as load:
        for number in load.rounds():
            load.flow()
            wait_for(lambda: len(hearing()) == 2, "both nodes hear again")
            before = hearing()
            if number % 2:
                load.fault("subscriber over its buffer")
                limit(1)  # what a long message takes is more
                load.wait_for(partial(are_cut, before), "both were cut")
                limit(0)
            else:
                load.fault("subscribers cut")
                assert store.ask("CLIENT KILL TYPE pubsub").startswith(b":2\r\n")
        load.settle()  # no later message shows that the last ones were missed
        assert not any(device.receipts.repeats for device in load.devices if not device.infers)


@control("cursor-ahead", always=True)
def test_a_cursor_is_ahead_of_its_mailbox(buggy: Make, store: Valkey, tally: Tally) -> None:
    server = buggy("--redis", f"unix://{store.socket_path}").start()
    story = Story(server, tally)
    first = story.message()
    story.send(server, first)
    device = story.fetch(server)
    device.send("ACKFETCH", {"timestamp": first["timestamp"]})
    cursors = f"{{u:{story.bob.user}}}:cursors"
    wait_for(lambda: store.ask(f"HLEN {cursors}").startswith(b":1"), "the cursor is saved")
    server.kill()
    tally.faults.append("cursor set ahead of its mailbox")
    name = store.ask(f"HKEYS {cursors}").split(b"\r\n")[2].decode()
    store.ask(f"HSET {cursors} {name} {int(time.time() + AHEAD) * 1000}-0")
    server.start()
    story.fetch(server).reset()
    story.send(server, story.message())
    story.check(server)
    assert "A cursor beyond its mailbox's end is reset" in server.log()
