"""The command: ``python -m tests.simulation``. Many seeds until one fails, or one of them with its trace.

What a run is stands in ``world``.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from twisted.logger import globalLogBeginner

from tests.simulation.plants import PLANTS, planted
from tests.simulation.world import DURATION, Outcome, simulate

#: Seeds within which each planted bug must be found.
FOUND_WITHIN = 400
#: Seconds between two lines that say how far it has come.
_PROGRESS = 10.0


def main(args: list[str] | None = None) -> int:
    """Run the command; gives its exit status, 1 if something did not hold."""
    options = _parser().parse_args(args)
    if options.plants:
        return _find_plants(options)
    if options.seed is not None:
        with planted(options.plant):
            outcome = simulate(options.seed, options.duration, trace=options.trace)
        return _report(outcome, options)
    failed = find(range(options.start, options.start + options.seeds), options, quiet=False)
    return 0 if failed is None else _report(failed, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Servers, clients and faults in one thread; all of it follows from a seed.",
    )
    add = parser.add_argument
    add("--seed", type=int, help="run this one alone")
    add("--trace", action="store_true", help="say all that happens in it")
    add("--seeds", type=int, default=1000, help="run so many, to the first that fails")
    add("--start", type=int, default=0, help="from this one on")
    add("--jobs", type=int, default=1, help="so many processes")
    add("--duration", type=float, default=DURATION, help="how long things go wrong, in simulated seconds")
    add("--plant", choices=sorted(PLANTS), default="", help="plant this bug before", metavar="NAME")
    add("--plants", action="store_true", help="plant each bug in turn; each must be found")
    return parser


def find(seeds: Iterable[int], options: argparse.Namespace, *, quiet: bool) -> Outcome | None:
    """The first of these seeds, as far as they are run side by side, that fails; None if none does."""
    begun = said = time.monotonic()
    runs = sent = deliveries = faults = 0
    with _outcomes(seeds, options) as outcomes:
        for outcome in outcomes:
            if outcome.violations:
                return outcome
            runs += 1
            sent, deliveries = sent + outcome.sent, deliveries + outcome.deliveries
            faults += outcome.faults
            if not quiet and time.monotonic() - said > _PROGRESS:
                said = time.monotonic()
                print(f"{runs} runs in {said - begun:.0f} s", flush=True)
    if not quiet:
        print(
            f"{runs} runs in {time.monotonic() - begun:.0f} s: {sent} messages, {deliveries} deliveries, "
            f"{faults} faults, 0 violations"
        )
    return None


@contextmanager
def _outcomes(seeds: Iterable[int], options: argparse.Namespace) -> Iterator[Iterator[Outcome]]:
    run = partial(simulate, duration=options.duration)
    with planted(options.plant):
        if options.jobs == 1:
            yield map(run, seeds)
        else:
            with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
                yield pool.imap(run, seeds, chunksize=4)


def _find_plants(options: argparse.Namespace) -> int:
    missed = 0
    for name, (what, _) in sorted(PLANTS.items()):
        options.plant = name
        found = find(range(options.start, options.start + FOUND_WITHIN), options, quiet=True)
        missed += found is None
        how = "NOT FOUND" if found is None else f"seed {found.seed}: {found.violations[0]}"
        print(f"{name} ({what}) {how}", flush=True)
    return 1 if missed else 0


def _report(outcome: Outcome, options: argparse.Namespace) -> int:
    if not outcome.violations:
        print(
            f"seed {outcome.seed}: {outcome.sent} messages, {outcome.deliveries} deliveries, "
            f"{outcome.faults} faults, 0 violations, {outcome.digest[:16]}"
        )
        return 0
    print(f"seed {outcome.seed} fails:")
    for what in outcome.violations:
        print(f"  {what}")
    again = f"python -m tests.simulation --seed {outcome.seed} --trace"
    if options.duration != DURATION:
        again += f" --duration {options.duration:g}"
    if options.plant:
        again += f" --plant {options.plant}"
    print(f"To see how it came to that: {again}")
    return 1


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    gc.collect()
    gc.freeze()  # each run is tidied up after, and that looks at nothing that was there before
    sys.exit(main())
