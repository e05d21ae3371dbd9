"""Negative controls: a fault test runs once more with a bug planted, and fails if the bug is not found.

The bugs are in `tests/chaos/plants.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.chaos.load import LONG
from tests.chaos.oracle import Violated

_TOO_LONG = pytest.mark.skipif(not LONG, reason="A control for which CI has no time: make chaos has it.")
_FOUND = pytest.mark.xfail(raises=Violated, strict=True, reason="A bug is planted, and it was found.")


def control(*bugs: str, always: bool = False) -> pytest.MarkDecorator:
    """Runs a test as it is, and with each of these bugs: then it must raise `Violated`.

    That is done in long runs, or `always`.
    """
    return _with_bugs(bugs, always, pytest.param(None, id="right"))


def planted(*bugs: str, always: bool = False) -> pytest.MarkDecorator:
    """As `control`, for a test that is run as it is elsewhere."""
    return _with_bugs(bugs, always)


@contextmanager
def judged(why: str = "") -> Iterator[None]:
    """What fails meanwhile is a violation, if what is said of it matches the pattern `why`."""
    try:
        yield
    except (AssertionError, pytest.fail.Exception) as error:
        if not re.search(why, str(error), re.M):
            raise
        raise Violated([str(error)]) from error


def _with_bugs(bugs: tuple[str, ...], always: bool, *without: Any) -> pytest.MarkDecorator:
    marks = [_FOUND] if always else [_FOUND, _TOO_LONG]
    sets = [pytest.param(bug, marks=marks) for bug in bugs]
    return pytest.mark.parametrize("bug", [*without, *sets], indirect=True)
