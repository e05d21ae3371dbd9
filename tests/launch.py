"""Runs twistd as its script does, under coverage; what was measured is saved before twistd kills itself.

At its end twistd sends itself the signal that stopped it, and nothing that waits for the interpreter's end
is called any more.
"""

from __future__ import annotations

import sys
from typing import Any

import coverage
from twisted.application import app
from twisted.scripts import twistd

_exit_with_signal: Any = app._exitWithSignal


def _save_and_exit(signal: int) -> None:
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.stop()
        measured.save()
    _exit_with_signal(signal)


def main() -> None:
    """Run twistd with the arguments of this process."""
    app._exitWithSignal = _save_and_exit
    sys.argv[0] = "twistd"
    twistd.run()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
