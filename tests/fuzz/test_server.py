"""Short forms of what hostile peers do to a server, each also to one with a planted bug, which is found.

The long forms are ``make fuzz``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.fuzz import attacks
from tests.fuzz.__main__ import main
from tests.fuzz.planted import BUGS, command
from tests.fuzz.rounds import Rounds
from tests.fuzz.watch import Watch, watched
from tests.service import Service

Attack = Callable[[Watch], None]
Services = Callable[..., Service]


def conversations(watch: Watch, seed: int, count: int) -> None:
    rounds = Rounds(watch, seed)
    for number in range(count):
        rounds.play(number)


#: Each attack in its short form, and what a server of its own is to be told for it; None: any server will do.
ATTACKS: dict[str, tuple[Attack, tuple[str, ...] | None]] = {
    "conversations": (partial(conversations, seed=5, count=20), None),
    "declared lengths": (partial(attacks.declared_lengths, count=72), None),
    "bombs": (partial(attacks.json_bombs, times=2), None),
    "churn": (partial(attacks.churn, count=300, seed=5), None),
    "trickle": (partial(attacks.trickle, count=60, every=4), ("--frame-timeout", "1")),
    "descriptors": (partial(attacks.out_of_descriptors, most=128, count=300), ()),
}
#: The attack that finds each planted bug.
FINDS = {
    "answers_twice": "conversations",
    "swallows_requests": "conversations",
    "takes_what_it_must_not": "conversations",
    "logs_what_is_said": "declared lengths",
    "allocates_ahead": "declared lengths",
    "dies_of_recursion": "bombs",
    "leaks_descriptors": "churn",
    "leaks_memory": "churn",
    "waits_for_ever": "trickle",
    "dies_without_descriptors": "descriptors",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_server_is_afterwards_what_it_was(
    name: str, service: Services, request: pytest.FixtureRequest
) -> None:
    attack, options = ATTACKS[name]
    server = request.getfixturevalue("server") if options is None else service(*options).start()
    with watched(server) as watch:
        attack(watch)


def test_one_round_can_be_had_again(capsys: pytest.CaptureFixture[str]) -> None:
    main(["socket", "--seed", "5", "--round", "3"])
    assert "round 3" in capsys.readouterr().out


def test_each_attack_finds_a_bug_and_each_bug_is_found() -> None:
    assert set(FINDS) == set(BUGS)
    assert set(FINDS.values()) == set(ATTACKS)


@pytest.mark.parametrize("bug", FINDS)
def test_an_attack_finds_a_planted_bug(bug: str, service: Services) -> None:
    attack, options = ATTACKS[FINDS[bug]]
    server = service(*(options or ()), command=command(bug)).start()
    with pytest.raises((AssertionError, OSError)), watched(server, deadline=4) as watch:
        attack(watch)
