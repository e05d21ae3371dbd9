"""Workloads in which messages pass between people who are online.

Those for people who are away are in ``mail``.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.people import more_devices, register
from bench.run import CHATSVC, FRAMES_ONLY, IN_MEMORY, STORE_ALONE, Run
from bench.servers import Server, chat_service, server_of
from bench.store_alone import store_alone
from bench.talks import Load, Talk

#: Messages that each sender has in flight, unless it is one.
WINDOW = 16
#: Messages that go into the store with one call, at most, as in `chatsvc.store.append`.
GROUP = 64


def pairs(run: Run) -> None:
    """Everybody of one half writes to one of the other: what a message costs, many in flight and one."""
    scale = run.scale
    with ExitStack() as stack:
        enter = stack.enter_context
        loads = {
            CHATSVC: enter(pair_load(run, run.chatsvc())),
            IN_MEMORY: enter(pair_load(run, run.bound("memory"))),
            FRAMES_ONLY: enter(pair_load(run, run.bound("frames"), devices=0)),
        }
        alone = enter(store_alone(scale.pairs))
        for title, window, count, group, calls in (
            (f"pairs, {WINDOW} in flight", WINDOW, scale.messages, GROUP, 1),
            ("pairs, 1 in flight", 1, scale.messages_one_in_flight, 1, scale.pairs),
        ):
            sheet = run.sheet(title, IN_MEMORY)
            for _ in run.repetitions():
                for subject, load in loads.items():
                    outcome = load.in_flight(count, window)
                    sheet.cost(subject, outcome)
                    sheet.throughput(subject, outcome)
                sheet.cost(STORE_ALONE, alone.append(count, group=group, calls=calls))


def paced(run: Run) -> None:
    """The same at a pace that leaves the server idle most of the time: how long a message takes."""
    scale = run.scale
    with ExitStack() as stack:
        enter = stack.enter_context
        loads = {
            CHATSVC: enter(pair_load(run, run.chatsvc())),
            IN_MEMORY: enter(pair_load(run, run.bound("memory"))),
        }
        sheet = run.sheet(f"pairs, {scale.pace} messages/s", IN_MEMORY)
        for _ in run.repetitions():
            for subject, load in loads.items():
                outcome = load.paced(scale.pace * scale.paced_seconds, scale.pace)
                sheet.latencies(subject, outcome.latencies)
                sheet.cost(subject, outcome)


def devices(run: Run) -> None:
    """Receivers with many devices online, beside such with one: what a delivery costs."""
    scale = run.scale
    with ExitStack() as stack:
        many, one = f"{CHATSVC}, {scale.devices} devices each", f"{CHATSVC}, one device each"
        loads = [
            (subject, count, stack.enter_context(pair_load(run, run.chatsvc(), devices=count)))
            for subject, count in ((many, scale.devices), (one, 1))
        ]
        sheet = run.sheet("receivers with many devices", one)
        for _ in run.repetitions():
            for subject, count, load in loads:
                sheet.cost(subject, load.in_flight(scale.deliveries // count, WINDOW))


def workers(run: Run) -> None:
    """Two server processes beside one: how much more they do where cores are free."""
    scale = run.scale
    with ExitStack() as stack:
        enter = stack.enter_context
        loads = {}
        for subject, count in ((f"{CHATSVC}, 2 workers", "2"), (one := f"{CHATSVC}, 1 worker", "1")):
            service = enter(chat_service(*run.options, "--workers", count))
            loads[subject] = enter(pair_load(run, server_of(service)))
        sheet = run.sheet("pairs, workers", one)
        for _ in run.repetitions():
            for subject, load in loads.items():
                outcome = load.in_flight(scale.messages, WINDOW)
                sheet.cost(subject, outcome)
                sheet.throughput(subject, outcome)


def stored(run: Run) -> None:
    """On a store that holds much, beside one that holds nothing: what a message costs."""
    filled = run.filled
    assert filled is not None
    with ExitStack() as stack:
        empty = server_of(stack.enter_context(chat_service(*run.options)))
        full = server_of(stack.enter_context(chat_service(*run.options, *filled.options)), filled.pid)
        _full_beside_empty(run, "pairs, much stored", pair_load(run, full), pair_load(run, empty))
        if filled.target is not None:
            [away] = register(empty.address, 1)
            away.line.close()
            loads = to_one(run, full, filled.target), to_one(run, empty, away.user)
            _full_beside_empty(run, "all to one long mailbox", *loads)


def _full_beside_empty(run: Run, title: str, full: Load, empty: Load) -> None:
    sheet = run.sheet(title, reference := f"{CHATSVC}, nothing stored")
    with full, empty:
        for _ in run.repetitions():
            for subject, load in ((f"{CHATSVC}, much stored", full), (reference, empty)):
                sheet.cost(subject, load.in_flight(run.scale.messages, WINDOW))


def pair_load(run: Run, server: Server, *, pairs: int | None = None, devices: int = 1) -> Load:
    """Pairs of new users; the one who is written to has so many devices online, or none that is looked at."""
    pairs = pairs or run.scale.pairs
    people = register(server.address, 2 * pairs)
    talks = []
    for sender, target in zip(people[:pairs], people[pairs:], strict=True):
        receivers = [target.line, *more_devices(server.address, target, devices - 1)] if devices else []
        talks.append(Talk(sender, target.user, receivers))
    return Load(talks, server.pids, run.scale.settle)


def to_one(run: Run, server: Server, target: int) -> Load:
    """New users who all write to one who is away."""
    senders = register(server.address, run.scale.pairs)
    return Load([Talk(sender, target, []) for sender in senders], server.pids, run.scale.settle)
