"""Attacks on a running server, each at any scale: declared lengths, bombs, churn, trickling, descriptors.

That the server is afterwards what it was is ``watch``'s matter; an attack checks what its attackers get.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from random import Random
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from chatsvc.wire.limits import MIB
from tests.fuzz.grammar import BOMBS
from tests.fuzz.watch import GROWTH, Watch
from tests.raw import HEADERS, Raw, unique
from tests.service import wait_for

#: JSON and payload lengths that no header may declare, in any form and in each.
LENGTHS = [(-1, 0), (-(2**31), 0), (2**31 - 1, 0), (0x7B7B7B7B, 0), (19, -1)]
LONGER = {"released": [(19, -(2**63))], "seed": [(2**24, 0)], "network": [(2**24, 0)]}
#: Lengths that may be declared, by those who then send little of it.
HUGE = {"released": (2**24, 2**63 - 1), "seed": (2**24 - 1, 2**31 - 1), "network": (2**24 - 1, 2**31 - 1)}


def declared_lengths(watch: Watch, count: int) -> None:
    """Row 9: connections whose headers declare more than they may, or all that they may, and send nothing.

    Whoever may not gets one ERR and is closed; the memory is that of what came.
    """
    with ExitStack() as stack:
        raws = [stack.enter_context(raw) for raw in _connections(watch, count)]
        for raw in raws:
            assert raw.ask("LOGOUT").ok
        for at, raw in enumerate(raws):
            lengths = [*LENGTHS, *LONGER[raw.dialect], HUGE[raw.dialect]]
            lying = lengths[at // len(HEADERS) % len(lengths)]
            raw.socket.sendall(raw.header.pack(*lying) + b"{")
            if lying != HUGE[raw.dialect]:
                (answer,) = raw.rest()
                assert (answer.response, answer.status) == ("UNKNOWN", "ERR"), (raw.dialect, lying)
        watch.served()
        assert watch.grown < GROWTH, f"{count} connections took {watch.grown / MIB:.1f} MiB"


def json_bombs(watch: Watch, times: int) -> None:
    """Row 10: each bomb gets an ERR, its connection lives on, and good clients are served meanwhile."""
    with ExitStack() as stack:
        raws = [stack.enter_context(raw) for raw in _connections(watch, len(HEADERS))]
        for raw in raws:
            assert raw.ask("LOGOUT").ok
        for _ in range(times):
            for name, bomb in BOMBS.items():
                for raw in raws:
                    raw.socket.sendall(raw.frame(bomb.replace(b"%b", b"PROFILE")))
                watch.served()
                for raw in raws:
                    answer = raw.answer(watch.deadline)
                    assert answer.response in ("PROFILE", "UNKNOWN"), name
                    assert answer.status == "ERR", name
        for raw in raws:
            assert raw.ask("LOGOUT").ok


def churn(watch: Watch, count: int, seed: int) -> None:
    """Row 32: connections that say something and are cut at any byte of it, in order or not."""
    random = Random(seed)
    for at, raw in enumerate(_connections(watch, count)):
        with raw:
            stream = raw.frame({"request": "STATE", "pad": "x" * random.randrange(300)})
            stream += raw.frame({"request": "SENDMSG", "body": {}}, b"payload") + raw.frame(b"{")
            raw.socket.sendall(stream[: random.randrange(len(stream))])
            if random.random() < 0.5:
                raw.reset()
        if at % 100 == 0:
            watch.served()


def trickle(watch: Watch, count: int, every: float) -> None:
    """Row 29: connections without a login that send a byte of a request each `every` seconds.

    All are closed in time, by a server that waits less for the next byte; meanwhile good clients are served,
    new ones too.
    """
    with ExitStack() as stack, DefaultSelector() as slow:
        for raw in _connections(watch, count):
            stack.enter_context(raw).socket.setblocking(False)
            slow.register(raw.socket, EVENT_READ, raw)
        began, sent = time.monotonic(), 0
        while slow.get_map():
            took = time.monotonic() - began
            assert took < watch.deadline, f"{len(slow.get_map())} of {count} are there after {took:.0f} s"
            if took >= sent * every:
                for key in slow.get_map().values():
                    with suppress(OSError):  # it has been closed just now
                        key.data.socket.send(key.data.frame({"request": "STATE"})[sent : sent + 1])
                sent += 1
            for key, _ in slow.select(0.05):
                slow.unregister(key.fileobj)
                assert key.data.closed(), "something is said to who has not asked for anything"
            watch.served()
            with Raw(watch.server.address) as newcomer:
                newcomer.register(unique())


def out_of_descriptors(watch: Watch, most: int, count: int) -> None:
    """Row 31: more connections than the process may have descriptors.

    Those who are connected are served; what needs a new file gets an ERR, and who comes has to wait. When
    they go, who has waited is served, and all is as before.
    """
    assert watch.server.process is not None
    pid, member = watch.server.process.pid, watch.server.user()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
    with ExitStack() as stack:
        for raw in _connections(watch, count):
            stack.enter_context(raw)
        patient = watch.server.connect()
        patient.send("LOGOUT")
        wait_for(lambda: watch.descriptors >= most - 2, "the descriptors are used up", watch.deadline)
        for _ in range(5):
            watch.served()
        refused = _upload(member)
        assert not refused.ok, refused
        assert member.ask("STATE").ok
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wait_for(lambda: watch.descriptors < most // 2, "the descriptors are free again", watch.deadline)
    assert _upload(member).ok
    assert patient.answer(watch.deadline).ok


def _upload(member: Raw) -> Any:
    data = b"some file"
    body = member.message(member.user or 0, contenttype="file", filemd5=hashlib.md5(data).hexdigest())
    return member.ask("SENDMSG", body, data)


def _connections(watch: Watch, count: int) -> Iterator[Raw]:
    dialects = list(HEADERS)
    return (Raw(watch.server.address, dialects[at % len(dialects)]) for at in range(count))
