"""`chatsvc` in processes of its own, with a home of its own.

Nothing is tested here.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.service import ROOT, Service

#: Seconds within which any command must end.
DEADLINE = 60


class Command:
    """The command for one profile of one person."""

    def __init__(self, home: Path, server: Service, profile: str = "default") -> None:
        self.home = home
        self._server = server
        #: What starts it, without an interpreter.
        self.words = ["-m", "chatsvc.cli", "--profile", profile]
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "share"),
            "CHATSVC_PASSWORD": "a secret",
        }

    def run(self, *words: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        """What it prints; it must end with this `status`, and never with a traceback."""
        program = forks.Program.of([*self.words, *words], self.home, self.environment)
        done = forks.run(program, stdin, DEADLINE)
        assert done.returncode == status, (words, done)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def records(self, *words: str, stdin: str = "") -> list[Any]:
        """The objects that it prints with ``--json``."""
        return [json.loads(line) for line in self.run(*words, "--json", stdin=stdin).stdout.splitlines()]

    def enter(self, kind: str, name: str) -> Command:
        """Register or log in."""
        host, port = self._server.address
        [user] = self.records("--server", f"{host}:{port}", kind, name)
        assert user["username"] == name
        return self


@pytest.fixture
def command(server: Service, tmp_path: Path) -> Callable[..., Command]:
    """Makes the command for a profile, at the server that tests share."""

    def make(profile: str = "default") -> Command:
        return Command(tmp_path, server, profile)

    return make
