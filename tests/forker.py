"""Runs the command `chatsvc` again and again, each time in a process that has imported everything already.

`python -m tests.forker` reads what to run and writes how it went, a line of JSON each, for ``command``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import IO, Any

from chatsvc.cli.main import main as command

#: Seconds within which any command must end.
DEADLINE = 60


def serve() -> None:
    """Run one command after the other. This returns in each child too, which ends as the command does."""
    for line in sys.stdin.buffer:
        order = json.loads(line)
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(order["stdin"].encode())
            given.seek(0)
            child = os.fork()
            if not child:
                become(order, given, out, err)
                command(order["words"], prog_name="chatsvc")
                return
            _, status = os.waitpid(child, 0)
            said = {"status": os.waitstatus_to_exitcode(status), "stdout": text(out), "stderr": text(err)}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def become(order: dict[str, Any], *streams: IO[bytes]) -> None:
    """Make this process the one that was ordered."""
    signal.alarm(DEADLINE)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    # Anew, for the one that there is may have read more than the order.
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115


def text(stream: IO[bytes]) -> str:
    """All that was written."""
    stream.seek(0)
    return stream.read().decode()


if __name__ == "__main__":
    serve()
