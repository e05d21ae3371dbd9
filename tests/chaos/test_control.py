"""What counts as finding a bug that is planted."""

from __future__ import annotations

import pytest

from tests.chaos.control import judged
from tests.chaos.oracle import Violated


def test_what_fails_as_it_should_is_a_violation() -> None:
    with pytest.raises(Violated, match="more than expected"), judged(r"^more than \w+"):
        raise AssertionError("a line before\nmore than expected")
    with pytest.raises(Violated, match="DID NOT RAISE"), judged(), pytest.raises(OSError):  # noqa: PT011
        pass


def test_what_fails_otherwise_is_none() -> None:
    with pytest.raises(AssertionError, match="no answer"), judged("more than expected"):
        raise AssertionError("no answer")
    with pytest.raises(OSError, match="more than expected"), judged("more than expected"):
        raise OSError("more than expected")
    with judged():
        pass
