"""The guard that all tests run under, watched from outside: a run of its own, over tests that misbehave.

The servers and stores that `tests.conftest` also makes are shown to work wherever they are used.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from tests.service import ROOT

#: The lost Deferred refers to itself: nobody but the collector finds it, and the failure in it.
MISBEHAVING = """
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

def forget():
    lost = fail(KeyError("lost"))
    lost.itself = lost

def test_before():
    pass

def test_forgetful():
    forget()

def test_after():
    pass

def test_logging():
    try:
        raise KeyError("told")
    except KeyError:
        Logger().failure("It failed")

def test_careful():
    fail(KeyError("handled")).addErrback(lambda _: None)

def test_expecting(no_unhandled_failure):
    Logger().critical("This was to be")
    assert len(no_unhandled_failure) == 1
    no_unhandled_failure.clear()
"""


def test_a_failure_that_nobody_handled_fails_the_test_that_caused_it(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(MISBEHAVING)
    options = ["-v", "-c", str(ROOT / "setup.cfg"), "-p", "tests.conftest", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", "test_some.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    blamed = {line.split()[1].rpartition("::")[2] for line in run.stdout.splitlines() if line[:5] == "ERROR"}
    assert blamed == {"test_forgetful", "test_logging"}, run.stdout
    assert "6 passed, 2 errors" in run.stdout
    assert "KeyError: 'lost'" in run.stdout
    assert run.returncode == 1


def test_what_was_there_before_the_first_test_is_not_looked_at_after_each() -> None:
    assert gc.get_freeze_count() > len(gc.get_objects())
