"""`chatsvc-admin` as a child process, and what it says."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import forks
from tests.service import ROOT

#: Seconds within which any command must end.
DEADLINE = 60


class Admin:
    """The command, for one data directory or store."""

    def __init__(self, *options: str, measured: bool = False) -> None:
        """`measured` has what it executes counted."""
        self._measured = measured
        counted = ["-m", "coverage", "run", f"--rcfile={ROOT / 'setup.cfg'}"] if measured else []
        self._command = [*counted, "-m", "chatsvc.admin", "--bcrypt-cost", "4", *options]

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """What it prints, and its exit status; without `stdin` it has none."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COVERAGE_FILE": str(ROOT / ".coverage")}
        command = [*self._command, *words]
        if not self._measured:
            return forks.run(forks.Program.of(command, Path.cwd(), environment), stdin or "", DEADLINE)
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=environment,
            input=stdin or "",
        )

    def records(self, *words: str, stdin: str | None = None, status: int = 0) -> list[Any]:
        """The objects that it prints with ``--json``."""
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == status, (done.stdout, done.stderr)
        return [json.loads(line) for line in done.stdout.split("\n")[:-1]]  # names may hold U+2028

    def record(self, *words: str, stdin: str | None = None) -> Any:
        """The only such object."""
        [found] = self.records(*words, stdin=stdin)
        return found

    def refused(self, *words: str, status: int = 1) -> str:
        """What it says of why it does not do something."""
        done = self.run(*words)
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def at_a_terminal(self, words: Sequence[str], *typed: tuple[str, str]) -> tuple[str, int]:
        """What it shows on a terminal, and its exit status.

        Each question that is `typed` comes with what is typed when it is there.
        """
        ours, theirs = pty.openpty()
        shown, left, end = "", list(typed), time.monotonic() + DEADLINE
        # Without a session of its own it would find the terminal that the tests run on.
        with subprocess.Popen(
            [sys.executable, *self._command, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        ) as process:
            os.close(theirs)
            while select.select([ours], [], [], end - time.monotonic())[0]:
                try:
                    shown += os.read(ours, 1 << 16).decode()
                except OSError:  # it has ended
                    break
                if left and left[0][0] in shown.rpartition("\n")[2]:
                    os.write(ours, left.pop(0)[1].encode() + b"\n")
            else:
                process.kill()
        os.close(ours)
        return shown, process.returncode


def of(directory: Path, *options: str, measured: bool = False) -> Admin:
    """The command for a data directory."""
    return Admin("--data-dir", str(directory), *options, measured=measured)
