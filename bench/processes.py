"""What processes take of the machine, as Linux tells it in ``/proc``: CPU time and resident memory.

How they are started is in ``servers``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

#: Linux counts CPU time in these parts of a second, so measure for a hundred of them and more.
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
#: Written to ``clear_refs`` it makes the peak of resident memory what it is now.
_RESET_PEAK = "5"


class Usage(NamedTuple):
    """CPU time, in seconds: of a server with all its processes, and of this process beside it."""

    server: float
    generator: float

    @classmethod
    def of(cls, pids: Collection[int]) -> Self:
        """What has been used until now."""
        return cls(sum(map(_cpu_seconds, pids)), sum(os.times()[:2]))

    def since(self, before: Usage) -> Usage:
        """What has been used since `before`."""
        return Usage(self.server - before.server, self.generator - before.generator)


def family(pid: int) -> list[int]:
    """A process and all its descendants; a store is a child of its server, workers are as well."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parents[int(entry.name)] = int(_fields(entry / "stat")[1])
    found = [pid]
    for member in found:  # it grows while it is walked
        found += [child for child, parent in parents.items() if parent == member]
    return found


def resident(pids: Collection[int]) -> int:
    """Bytes of memory that processes have resident, together."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE


def anonymous(pid: int) -> int:
    """Bytes of memory that a process has to itself: without code, which processes share."""
    return _kibibytes("Pss_Anon", Path(f"/proc/{pid}/smaps_rollup")) * 1024


def reset_peak(pid: int) -> int:
    """Have the peak of a process's memory start again from what is resident now; gives that, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    return peak(pid)


def peak(pid: int) -> int:
    """The most memory in bytes that a process has had resident since `reset_peak`."""
    return _kibibytes("VmHWM", Path(f"/proc/{pid}/status")) * 1024


def _kibibytes(field: str, file: Path) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", file.read_text(), re.M)
    assert found is not None, f"{file} has no {field}"
    return int(found[1])


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, and of its children that have ended (rewrites of a store's file)."""
    with suppress(OSError):  # it has ended: its parent counts it from now on
        return sum(map(int, _fields(Path(f"/proc/{pid}/stat"))[11:15])) / TICKS_PER_SECOND
    return 0.0


def _fields(stat: Path) -> list[str]:
    """What follows the name of a program, which may itself hold spaces and brackets."""
    return stat.read_text().rpartition(")")[2].split()
