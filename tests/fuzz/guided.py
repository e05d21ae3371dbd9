"""Runs the harnesses under atheris, which looks for the inputs that reach new code, in a process of its own.

What must hold of an input is said in ``harness``; inputs to begin with are in ``corpus/``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.service import ROOT

CORPUS = Path(__file__).parent / "corpus"
#: MiB that the fuzzer's process may have resident, with all that it has found out.
MEMORY = 256
#: Seconds that one input may take. It takes a millisecond; a machine may be busy.
HANG = 20
#: Longest input, in bytes: enough for ambiguous first lengths (256) and for several frames.
LONGEST = 640
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")

#: Why it cannot run here; empty if it can.
UNAVAILABLE = "" if find_spec("atheris") else "atheris is not installed; pip install 'chatsvc[fuzz]'"
#: Python as a grandchild: the system tells of a child that it has had as much memory as its parent had.
_APART = (
    sys.executable,
    "-c",
    "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))",
)


class Found(AssertionError):  # noqa: N818 - as it says
    """An input that breaks what must hold; the message names the file that has it."""


def guided(target: str, seconds: int, directory: Path, module: str = "tests.fuzz.harness") -> int:
    """Fuzz ``fuzz_`` and the target's name, of a module; gives how many inputs were tried. Raises `Found`.

    In `directory` it keeps findings, and the inputs that reached something new, to go on from there later.
    """
    learnt, findings = directory / "corpus", directory / "findings"
    for place in (learnt, findings):
        place.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds, "rss_limit_mb": MEMORY, "timeout": HANG, "max_len": LONGEST,
        "artifact_prefix": f"{findings}/", "print_final_stats": 1,
    }  # fmt: skip
    flags = [f"-{name}={value}" for name, value in options.items()]
    places = [str(place) for place in (learnt, CORPUS / target) if place.exists()]
    ended = subprocess.run(
        [*_APART, "-m", "tests.fuzz.guided", module, target, *flags, *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * seconds + 120,
        check=False,
    )
    runs = _RUNS.search(ended.stderr)
    if ended.returncode or runs is None:
        raise Found(f"{target}: the input is in {findings}.\n{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}")
    return int(runs[1])


def _fuzz(module: str, target: str, *options: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["chatsvc.wire"]):
        harness = import_module(module)
    atheris.Setup([sys.argv[0], *options], getattr(harness, f"fuzz_{target}"))
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(*sys.argv[1:])
