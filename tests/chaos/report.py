"""What a chaos run has done, test by test, and the summary of it that pytest prints at the end.

Figures travel with each test's report, so they are complete under pytest-xdist too. What must hold is in
`tests/chaos/oracle.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

#: Under this name a test's figures stand among the properties of its report.
PROPERTY = "chaos"


@dataclass
class Tally:
    """The figures of one test. Threads add to it, so lists are appended to where a count would not do."""

    #: The bug that is planted in it, if one is: then violations are what it is to find.
    bug: str | None = None
    #: To have the same again, as far as can be.
    seed: int | None = None
    #: Kinds of faults, one for each that was injected.
    faults: list[str] = field(default_factory=list)
    #: What became of each SENDMSG: "OK", "ERR" or "unknown" (it was never answered).
    outcomes: list[str] = field(default_factory=list)
    #: Messages that devices got, all of them compared with what was sent.
    deliveries: int = 0
    violations: int = 0
    #: Seconds from a device's first SENDMSG that was not answered OK to its next that was, at most.
    outage: float = 0.0


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sums over all fault tests of this run, if there were any."""
    tallies = list(_tallies(terminalreporter.stats))
    if tallies:
        terminalreporter.section("chaos")
        for line in summary(tallies, _planted(terminalreporter.stats)):
            terminalreporter.write_line(line)


def summary(tallies: Iterable[Tally], planted: tuple[int, int]) -> Iterator[str]:
    """The lines of the report: sums of what was done without a bug, then how many `planted` were found."""
    real = [tally for tally in tallies if tally.bug is None]
    faults = Counter(fault for tally in real for fault in tally.faults)
    outcomes = Counter(outcome for tally in real for outcome in tally.outcomes)
    yield f"faults injected   {faults.total()}"
    for kind, count in sorted(faults.items()):
        yield f"  {count:7} {kind}"
    answers = ", ".join(f"{outcomes[kind]} {kind}" for kind in ("OK", "ERR", "unknown"))
    yield f"messages sent     {outcomes.total()}: {answers}"
    yield f"deliveries        {sum(tally.deliveries for tally in real)} compared with what was sent"
    yield f"violations        {sum(tally.violations for tally in real)}"
    yield f"longest outage    {max((tally.outage for tally in real), default=0.0):.1f} s"
    yield f"planted bugs      {planted[1]} of {planted[0]} found"
    for seed in sorted({tally.seed for tally in real if tally.seed is not None}):  # each process has its own
        yield f"to have it again  CHAOS_SEED={seed}"


def properties(tally: Tally) -> tuple[str, dict[str, Any]]:
    """A test's figures as its report carries them."""
    return PROPERTY, asdict(tally)


def _tallies(stats: dict[str, list[Any]]) -> Iterator[Tally]:
    for report in _reports(stats, "teardown"):
        for name, value in report.user_properties:
            if name == PROPERTY:
                yield Tally(**value)


def _planted(stats: dict[str, list[Any]]) -> tuple[int, int]:
    """How many bugs were planted, and how many of them were found."""
    planted = {
        report.nodeid
        for report in _reports(stats, "teardown")
        if any(name == PROPERTY and value["bug"] for name, value in report.user_properties)
    }
    found = sum(report.nodeid in planted for report in stats.get("xfailed", []))
    return len(planted), found


def _reports(stats: dict[str, list[Any]], when: str) -> Iterator[Any]:
    for reports in stats.values():
        yield from (report for report in reports if getattr(report, "when", None) == when)
