"""What is measured, as child processes: the chat server, and the bounds beside it.

All listen on loopback ports that were free, and end with the block that started them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.processes import family
from bench.wire import Address, Broken
from tests.raw import DEADLINE
from tests.service import FROM_THE_BEGINNING, ROOT, Service


class Server(NamedTuple):
    """One that runs: where it listens, and its processes, the first of which is the server's own."""

    address: Address
    pids: list[int]


@contextmanager
def chat_service(*options: str) -> Iterator[Service]:
    """A chat server on a new data directory, with a store of its own unless the options say otherwise."""
    with TemporaryDirectory(prefix="chatsvc-bench-") as directory:
        # A fork would share memory, and what it copies of it would count as its own.
        service = Service(Path(directory), *options, command=FROM_THE_BEGINNING)
        with service.running():
            yield service


def server_of(service: Service, store: int | None = None) -> Server:
    """A chat server as it runs now; `store` is the process of its store if that is not its own."""
    assert service.process is not None
    return Server(service.address, family(service.process.pid) + ([store] if store else []))


@contextmanager
def bound(*arguments: str) -> Iterator[Server]:
    """One of the servers of ``bounds``."""
    command = [sys.executable, "-m", "bench.bounds", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Broken(f"{' '.join(command)} has not started.")
            yield Server(("127.0.0.1", int(line)), [process.pid])
        finally:
            process.terminate()
            process.wait(DEADLINE)
