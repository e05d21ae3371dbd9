"""Limits for tests that are not about them: what ``--unlimited`` gives.

What each limit is, and its default, is in ``chatsvc/wire/limits.py``.
"""

from __future__ import annotations

from typing import Any

from chatsvc.settings import ROWS
from chatsvc.wire.limits import Limits


def unlimited(**given: Any) -> Limits:
    """No rates and caps but those that are `given`."""
    return Limits(**{row.field: None for row in ROWS if row.lifted} | given)
