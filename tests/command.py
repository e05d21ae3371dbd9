"""`chatsvc` as a child process, with a home of its own.

Nothing is tested here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.service import ROOT, Service

#: Seconds within which any command must end.
DEADLINE = 60


class Command:
    """The command for one profile of one person."""

    def __init__(self, home: Path, server: Service, profile: str = "default") -> None:
        self.home = home
        self._server = server
        self._profile = profile
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "share"),
            "CHATSVC_PASSWORD": "a secret",
        }

    @property
    def words(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", "chatsvc.cli", "--profile", self._profile]

    def run(self, *words: str, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        """What it prints; it must end with this `status`, and never with a traceback."""
        done = subprocess.run(
            [*self.words, *words],
            input=stdin, capture_output=True, text=True, timeout=DEADLINE, cwd=self.home, env=self.environment
        )  # fmt: skip
        assert done.returncode == status, (words, done.stdout, done.stderr)
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
