"""Negative controls: a fault test runs once more with a bug planted, and fails if the bug is not found.

The bugs are in `tests/chaos/plants.py`.
"""

from __future__ import annotations

import pytest

from tests.chaos.load import LONG
from tests.chaos.oracle import Violated

_TOO_LONG = pytest.mark.skipif(not LONG, reason="A control for which CI has no time: make chaos has it.")
_FOUND = pytest.mark.xfail(raises=Violated, strict=True, reason="A bug is planted, and it was found.")


def control(*bugs: str, always: bool = False) -> pytest.MarkDecorator:
    """Runs a test as it is, and with each of these bugs: then it must raise `Violated`.

    That is done in long runs, or `always`.
    """
    marks = [_FOUND] if always else [_FOUND, _TOO_LONG]
    planted = [pytest.param(bug, marks=marks) for bug in bugs]
    return pytest.mark.parametrize("bug", [pytest.param(None, id="right"), *planted], indirect=True)
