"""What the embedded store does about one that a killed server left behind, on real processes.

How it runs otherwise is in ``test_valkey.py``.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import pytest_twisted
from twisted.logger import LogEvent, LogLevel

from chatsvc.tasks import deferred
from chatsvc.valkey import DataDirectory, StoreError, Times
from tests.embedded import FIXTURES, Launch, alive, ask, child, lock_is_free, texts
from tests.waiting import until

logged, new_store = FIXTURES

#: A server of its own, to be killed: it claims its data directory, starts a store, writes, and tells.
SERVER = """
import socket, sys
from pathlib import Path
from twisted.internet import task
from twisted.internet.defer import Deferred
from chatsvc.tasks import deferred
from chatsvc.valkey import DataDirectory, EmbeddedStore

async def main(reactor):
    data = Path(sys.argv[1])
    DataDirectory(data).claim()
    store = EmbeddedStore(reactor, data / "store")
    await store.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(store.socket_path)
        client.sendall(b"SET kept yes\\r\\n")
        assert client.recv(100) == b"+OK\\r\\n"
    (data / "ready").touch()
    await Deferred()

task.react(lambda reactor: deferred(main(reactor)))
"""


class TestOrphans:
    @pytest.fixture
    def orphan(self, tmp_path: Path) -> Iterator[int]:
        """A store whose server was killed; it is in `tmp_path`, and `kept` is in it."""
        command = [sys.executable, "-c", SERVER, str(tmp_path)]
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as server:
            pytest_twisted.blockon(deferred(until((tmp_path / "ready").exists)))
            server.kill()
        pid = int((tmp_path / "store" / "store.lock").read_text())
        assert alive(pid)
        yield pid
        if alive(pid):
            os.kill(pid, signal.SIGKILL)

    @pytest_twisted.ensureDeferred
    async def test_it_is_ended_in_order_first(
        self, orphan: int, new_store: Launch, tmp_path: Path, logged: Sequence[LogEvent]
    ) -> None:
        data = DataDirectory(tmp_path)
        data.claim()  # its server is gone, so the data directory is free
        assert not lock_is_free(tmp_path / "store")
        store = new_store(times=Times(stop=20.0, kill=0.0))  # an orderly end, or none
        await store.start()
        assert not alive(orphan)
        assert child(store) != orphan
        assert ask(store, "GET kept") == ["yes"]
        data.release()
        assert any("store of an earlier run" in text for text in texts(logged, LogLevel.warn))

    @pytest_twisted.ensureDeferred
    async def test_a_frozen_one_is_killed(self, orphan: int, new_store: Launch) -> None:
        os.kill(orphan, signal.SIGSTOP)
        store = new_store(times=Times(stop=0.2, answer=0.1))
        await store.start()
        assert not alive(orphan)
        assert ask(store, "GET kept") == ["yes"]

    @pytest_twisted.ensureDeferred
    async def test_a_stranger_is_left_alone(self, new_store: Launch, tmp_path: Path) -> None:
        (tmp_path / "store").mkdir()
        with (
            subprocess.Popen(["sh", "-c", "exec 3</dev/null sleep 60"], start_new_session=True) as stranger,
            (tmp_path / "store" / "store.lock").open("w") as lock,
        ):
            await until(Path(f"/proc/{stranger.pid}/fd/3").exists)
            lock.write(str(stranger.pid))  # what a store wrote that had this number once
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            store = new_store(times=Times(stop=0.1, kill=0.1, answer=0.1))
            with pytest.raises(StoreError, match=r"is in use by process \(unknown\), which does not end"):
                await store.start()
            assert stranger.poll() is None
            stranger.kill()
