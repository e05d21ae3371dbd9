"""Some short runs of the simulation, and that it finds what it is to find, always alike.

`CHATSVC_SIMULATION_START` names another first seed; `make simulate` runs thousands, and longer ones.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from twisted.logger import LogEvent

from tests.service import ROOT
from tests.simulation.__main__ import FOUND_WITHIN, main
from tests.simulation.plants import PLANTS, planted
from tests.simulation.world import World, simulate

START = int(os.environ.get("CHATSVC_SIMULATION_START", "0"))
#: Runs of one test, and simulated seconds for which things go wrong in each.
RUNS, DURATION = 25, 3.0
#: Those that are found soon; `make simulate` plants all.
PLANTED = (
    "a-reset-acknowledges",
    "acknowledged-in-memory-only",
    "answered-before-it-is-stored",
    "gaps-are-not-noticed",
    "own-messages-come-back",
    "repeats-are-new",
)


@pytest.mark.parametrize("start", range(START, START + 4 * RUNS, RUNS))
def test_nothing_is_lost_whatever_goes_wrong(start: int) -> None:
    for seed in range(start, start + RUNS):
        outcome = simulate(seed, DURATION)
        again = f"python -m tests.simulation --duration {DURATION} --trace --seed {seed}"
        assert not outcome.violations, (outcome.violations, again)


def test_a_run_has_all_that_can_go_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [simulate(seed, trace=True) for seed in range(6)]
    assert all(outcome.sent and outcome.deliveries > outcome.sent for outcome in outcomes)
    said = capsys.readouterr().out
    for what in (
        "is killed",
        "is stopped",
        "loses connection",
        "the store is away",
        "waits long",
        "reads nothing",
        "cuts its connection",
        "asks FETCHFILE",
        "acknowledges",
    ):
        assert what in said, what


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    digest = simulate(3).digest
    assert digest == simulate(3).digest != simulate(4).digest
    for hashes in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "3"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert digest[:16] in ran.stdout


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, no_unhandled_failure: list[LogEvent]) -> None:
    with planted(name):
        assert any(simulate(seed).violations for seed in range(FOUND_WITHIN))
    no_unhandled_failure.clear()


def test_what_fails_can_be_had_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "9", "--plant", "own-messages-come-back", "--duration", "2"]) == 1
    said = capsys.readouterr().out
    again = said.rpartition("python -m tests.simulation ")[2].split()
    assert main(again) == 1
    assert "gets message-" in capsys.readouterr().out


def test_each_plant_leaves_the_code_as_it_was() -> None:
    before = [(of, what, getattr(of, what)) for _, make in PLANTS.values() for of, what, _ in make()]
    for name in PLANTS:
        with planted(name):
            assert any(getattr(of, what) is not was for of, what, was in before)
    assert all(getattr(of, what) is was for of, what, was in before)


def test_a_failure_that_a_server_logs_is_a_violation() -> None:
    world = World(1)
    world._logged({"log_failure": "something", "log_format": ""})
    assert world.violations
