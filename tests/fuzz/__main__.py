"""The long forms: ``python -m tests.fuzz [frames|schema|socket|attacks|all] --seconds 60 --seed N``.

What is done stands in the modules beside this; here it is chosen, and said what came of it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from chatsvc.wire.limits import MIB
from tests.fuzz import attacks
from tests.fuzz.guided import UNAVAILABLE, guided
from tests.fuzz.harness import TARGETS
from tests.fuzz.linear import cpu
from tests.fuzz.rounds import Rounds
from tests.fuzz.watch import Watch, watched
from tests.service import ROOT, Service

#: Where findings are, and what the fuzzer has learnt.
FOUND = ROOT / "build" / "fuzz"
#: Rounds after which the server knows what it will remember of people and devices.
WARM = 100
#: Times the processor's time that 15 times the bytes may take (row 11): 15 on a quiet machine, some 40 on one
#: whose caches others use, 225 if the reader copied its buffer. ``test_linear.py`` counts what it copies.
LINEAR = 100


def _guided(target: str, seconds: int) -> None:
    if UNAVAILABLE:
        print(f"{target}: not run, {UNAVAILABLE}")
        return
    tried = guided(target, seconds, FOUND / target)
    print(f"{target}: {tried} inputs in {seconds} s, nothing found", flush=True)


def _socket(seconds: int, seed: int, only: int | None) -> None:
    print(f"socket: seed {seed}", flush=True)
    with _server() as server:
        with watched(server) as watch:
            rounds, number = Rounds(watch, seed), 0
            if only is not None:
                rounds.play(only)
                print(f"socket: round {only}, {rounds.frames} frames, nothing found")
                return
            while number < WARM:
                rounds.play(number)
                number += 1
        with watched(server) as watch:
            rounds, end = Rounds(watch, seed), time.monotonic() + seconds
            while time.monotonic() < end:
                rounds.play(number)
                number += 1
            told = _told(watch)
    print(
        f"socket: {number} rounds, {rounds.frames} frames in {seconds} s, nothing found; {told}", flush=True
    )


def _attacks(seed: int) -> None:
    rows: dict[str, tuple[Callable[[Watch], None], tuple[str, ...]]] = {
        "row 9, 1,000 connections": (partial(attacks.declared_lengths, count=1000), ()),
        "row 10, 100 times": (partial(attacks.json_bombs, times=100), ()),
        "row 29, 5,000 connections": (
            partial(attacks.trickle, count=5000, every=10),
            ("--frame-timeout", "5"),
        ),
        "row 31, 256 descriptors": (partial(attacks.out_of_descriptors, most=256, count=1000), ()),
        "row 32, 100,000 connections": (partial(attacks.churn, count=100_000, seed=seed), ()),
    }
    for name, (attack, options) in rows.items():
        with _server(*options) as server, watched(server, deadline=60) as watch:
            attack(watch)
            told = _told(watch)
        print(f"{name}: held; {told}", flush=True)
    for piece, times in ((1460, 5), (1, 1)):
        ratio = cpu(15 * MIB, piece, times) / cpu(MIB, piece, times)
        assert ratio < LINEAR, f"15 times the bytes take {ratio:.1f} times the work"
        print(f"row 11, pieces of {piece} bytes: 15 times the bytes take {ratio:.1f} times the work")


@contextmanager
def _server(*options: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as directory, Service(Path(directory), *options).running() as server:
        yield server


def _told(watch: Watch) -> str:
    slowest = statistics.quantiles(watch.delays, n=100)[98]
    return (
        f"memory {watch.grown / MIB:+.1f} MiB, 99 of 100 messages of others beside it within "
        f"{slowest * 1000:.0f} ms ({len(watch.delays)} in all)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line names, or these arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=[*TARGETS, "socket", "attacks", "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for how long, of all but the attacks")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of socket and attacks")
    parser.add_argument("--round", type=int, help="of socket, this one alone")
    chosen = parser.parse_args(arguments)
    for target in TARGETS:
        if chosen.what in (target, "all"):
            _guided(target, chosen.seconds)
    if chosen.what in ("socket", "all"):
        _socket(chosen.seconds, chosen.seed, chosen.round)
    if chosen.what in ("attacks", "all"):
        _attacks(chosen.seed)


if __name__ == "__main__":
    main()
