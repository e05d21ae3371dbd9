"""The summary at the end of a run: sums over the tests without a bug, whoever has run them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.chaos.report import Tally, properties, pytest_terminal_summary


class Terminal:
    """Pytest's reporter, as far as the summary asks it."""

    def __init__(self, **stats: list[Any]) -> None:
        self.stats = stats
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines.append(title)

    def write_line(self, line: str) -> None:
        self.lines.append(line)


def report(nodeid: str, when: str, *tallies: Tally) -> Any:
    """What pytest has of one phase of a test."""
    return SimpleNamespace(nodeid=nodeid, when=when, user_properties=[properties(each) for each in tallies])


def test_without_a_fault_test_there_is_none() -> None:
    terminal = Terminal(passed=[report("a", "call")], warnings=[SimpleNamespace()])
    pytest_terminal_summary(terminal)
    assert terminal.lines == []


def test_figures_of_all_tests_are_summed_and_those_with_a_bug_counted_apart() -> None:
    first = Tally(None, 7, ["node killed"], ["OK", "OK", "ERR"], 30, 0, 1.25)
    second = Tally(None, 7, ["node killed", "store killed"], ["unknown"], 4, 2, 0.5)
    planted = [Tally(bug, 7, ["store killed"] * 9, ["OK"] * 9, 99, 9, 9.0) for bug in ("one", "other")]
    terminal = Terminal(
        **{
            "": [
                report("a", "teardown", first),
                report("b", "teardown", second),
                *(report(each.bug or "", "teardown", each) for each in planted),
            ],
            "passed": [report("a", "call"), report("b", "call")],
            "xfailed": [report("one", "call")],
            "failed": [report("other", "call")],
        }
    )
    pytest_terminal_summary(terminal)
    assert terminal.lines == [
        "chaos",
        "faults injected   3",
        "        2 node killed",
        "        1 store killed",
        "messages sent     4: 2 OK, 1 ERR, 1 unknown",
        "deliveries        34 compared with what was sent",
        "violations        2",
        "longest outage    1.2 s",
        "planted bugs      1 of 2 found",
        "to have it again  CHAOS_SEED=7",
    ]
