"""Programs in forks: what they are given, and what is said of their end, is as it is of any process.

That a server runs in one is shown wherever `tests.service.Service` is used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests import forks
from tests.service import wait_for

#: Seconds; more than any of these takes.
DEADLINE = 30
TELLING = """
import os, sys
print(*sys.argv[1:], os.getcwd(), os.environ["WORD"], sys.stdin.read())
print([number for number in range(3, 1000) if os.path.exists(f"/proc/self/fd/{number}")])
print("not so good", file=sys.stderr)
raise SystemExit(3)
"""
WAITING = """
import pathlib, signal
pathlib.Path("here").touch()
signal.pause()
"""


def program(directory: Path, text: str, *arguments: str) -> forks.Program:
    script = directory / "script.py"
    script.write_text(text)
    return forks.Program.of([str(script), *arguments], directory, os.environ | {"WORD": "three"})


def test_a_program_has_what_it_is_given_and_no_other_files(tmp_path: Path) -> None:
    done = forks.run(program(tmp_path, TELLING, "one", "two"), "four", DEADLINE)
    # The reactor's waker and poller; what the parent has open, as for other forks, is not there.
    assert done.stdout == f"one two {tmp_path} three four\n[3, 4, 5]\n"
    assert done.stderr == "not so good\n"
    assert done.returncode == 3


def test_a_module_runs_as_well(tmp_path: Path) -> None:
    tool = forks.Program.of(["-m", "json.tool", "--compact"], tmp_path, os.environ)
    assert forks.run(tool, "[1, 2]", DEADLINE).stdout == "[1,2]\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_one_alone_and_is_told(tmp_path: Path, number: signal.Signals) -> None:
    with tempfile.TemporaryFile() as file:
        forked = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            forked.append(forks.Fork(program(tmp_path / name, WAITING), file, file, file))
            wait_for((tmp_path / name / "here").exists, "it runs")
        one, other = forked
        try:
            one.send_signal(number)
            assert one.wait(DEADLINE) == one.poll() == -number
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.01)
        finally:
            one.kill()
            other.kill()
        assert other.wait(DEADLINE) == -signal.SIGKILL
