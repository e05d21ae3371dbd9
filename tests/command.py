"""`chatsvc` in processes of its own, with a home of its own.

Nothing is tested here. A test module takes `FIXTURES` for its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from tests.forker import DEADLINE
from tests.service import ROOT, Service


class Done(NamedTuple):
    """How a command went."""

    status: int
    stdout: str
    stderr: str


class Forker:
    """A process that starts commands in processes of their own, faster than each would start by itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Started, and ended afterwards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate(timeout=DEADLINE)

    def run(self, words: list[str], stdin: str, directory: Path, environment: dict[str, str]) -> Done:
        """Have a command run, and wait for its end."""
        order = {"words": words, "stdin": stdin, "directory": str(directory), "environment": environment}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


class Command:
    """The command for one profile of one person."""

    def __init__(self, home: Path, server: Service, forker: Forker, profile: str = "default") -> None:
        self.home = home
        self._server = server
        self._forker = forker
        self._options = ["--profile", profile]
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "share"),
            "CHATSVC_PASSWORD": "a secret",
        }

    @property
    def words(self) -> list[str]:
        """What starts it by itself."""
        return [sys.executable, "-m", "chatsvc.cli", *self._options]

    def run(self, *words: str, stdin: str = "", status: int = 0) -> Done:
        """What it prints; it must end with this `status`, and never with a traceback."""
        done = self._forker.run([*self._options, *words], stdin, self.home, self.environment)
        assert done.status == status, (words, done)
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


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    """What starts the commands of a module."""
    with Forker.running() as running:
        yield running


@pytest.fixture
def command(forker: Forker, server: Service, tmp_path: Path) -> Callable[..., Command]:
    """Makes the command for a profile, at the server that tests share."""

    def make(profile: str = "default") -> Command:
        return Command(tmp_path, server, forker, profile)

    return make


FIXTURES = (forker, command)
