"""A short run of the coverage-guided fuzzer, and that it tells what it finds.

A long one is ``make fuzz``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.guided import MEMORY, UNAVAILABLE, Found, guided
from tests.fuzz.harness import TARGETS

pytestmark = pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)
SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_a_short_time(target: str, tmp_path: Path) -> None:
    assert guided(target, SECONDS, tmp_path)


def fuzz_faulty(data: bytes) -> None:
    """Has a bug that any input shows, but for the empty one."""
    assert not data, "planted"


def fuzz_hungry(data: bytes) -> None:
    """Takes more memory than it may."""
    fuzz_hungry.__dict__.setdefault("kept", []).append(bytearray(MEMORY * 1024**2 // 8))


@pytest.mark.parametrize(("target", "what"), [("faulty", "planted"), ("hungry", "out-of-memory")])
def test_a_planted_bug_is_told_with_the_input_that_shows_it(target: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(Found, match=what):
        guided(target, 30, tmp_path, __name__)
    assert list((tmp_path / "findings").iterdir())
