"""The embedded store on real Valkey processes: its directory's lock, how it runs, and why it may not.

What an earlier server left is in ``test_valkey_orphans.py``, what takes time in ``test_valkey_time.py``.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_twisted
from twisted.logger import LogEvent, LogLevel

import chatsvc.valkey
from chatsvc.valkey import DataDirectory, StoreError, Times
from tests.embedded import FIXTURES, Launch, alive, answers, ask, child, lock_is_free, texts
from tests.waiting import until

logged, new_store = FIXTURES


def group(leader: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getpgid(int(name)) == leader:
                found.append(int(name))
    return found


class TestDataDirectory:
    def test_it_is_created_for_its_owner_alone(self, tmp_path: Path) -> None:
        data = DataDirectory(tmp_path / "a" / "b")
        data.claim()
        assert stat.S_IMODE(data.path.stat().st_mode) == 0o700
        data.release()

    def test_it_has_one_server(self, tmp_path: Path) -> None:
        first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
        first.claim()
        with pytest.raises(StoreError, match=f"{tmp_path} is in use by another server"):
            second.claim()
        first.release()
        second.claim()
        second.release()

    def test_programs_that_the_server_starts_do_not_keep_it(self, tmp_path: Path) -> None:
        first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
        first.claim()
        with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
            first.release()
            second.claim()
            second.release()
            program.kill()

    def test_a_file_is_no_data_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match=f"{tmp_path}/file is not a directory"):
            DataDirectory(tmp_path / "file").claim()
        with pytest.raises(StoreError, match=f"{tmp_path}/file/below cannot be used: Not a directory"):
            DataDirectory(tmp_path / "file" / "below").claim()

    def test_one_that_cannot_be_written_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o555)
            euid = os.geteuid()
            if euid == 0:
                os.seteuid(65534)  # root may write everywhere
            try:
                with pytest.raises(StoreError, match=f"{name} cannot be used: Permission denied"):
                    DataDirectory(Path(name)).claim()
            finally:
                os.seteuid(euid)


class TestRunning:
    @pytest.mark.parametrize("durability", ["always", "everysec"])
    @pytest_twisted.ensureDeferred
    async def test_the_settings_are_in_force(
        self, new_store: Launch, tmp_path: Path, durability: str
    ) -> None:
        store = new_store(durability=durability)
        await store.start()
        for name, value in {
            "port": "0",
            "unixsocket": "store.sock",
            "unixsocketperm": "600",
            "dir": str(tmp_path / "store"),
            "appendonly": "yes",
            "appendfsync": durability,
            "save": "",
            "maxmemory-policy": "noeviction",
            "stream-node-max-bytes": "1024",
            "aof-load-truncated": "yes",
            "daemonize": "no",
        }.items():
            assert ask(store, f"CONFIG GET {name}") == [name, value]
        [_, limits] = ask(store, "CONFIG GET client-output-buffer-limit")
        assert limits.endswith(f"pubsub {256 << 20} {128 << 20} 60")

    @pytest_twisted.ensureDeferred
    async def test_nobody_else_can_reach_it(self, new_store: Launch, tmp_path: Path) -> None:
        (tmp_path / "store").mkdir(mode=0o755)
        store = new_store()
        await store.start()
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(store.socket_path).stat().st_mode) == 0o600

    @pytest_twisted.ensureDeferred
    async def test_the_terminal_cannot_interrupt_it(self, new_store: Launch) -> None:
        store = new_store()
        await store.start()
        pid = child(store)
        assert os.getsid(pid) == os.getpgid(pid) == pid

    @pytest_twisted.ensureDeferred
    async def test_it_keeps_its_data_over_a_stop(self, new_store: Launch, tmp_path: Path) -> None:
        store = new_store()
        await store.start()
        assert ask(store, "SET kept yes") == ["+OK"]
        pid = child(store)
        assert not lock_is_free(tmp_path / "store")
        await store.stop()
        assert not alive(pid)
        assert lock_is_free(tmp_path / "store")
        await store.start()
        assert ask(store, "GET kept") == ["yes"]

    @pytest_twisted.ensureDeferred
    async def test_a_path_too_long_for_sockets_is_reached_by_a_shortcut(
        self, new_store: Launch, tmp_path: Path
    ) -> None:
        deep = tmp_path.joinpath(*["deep" * 20] * 4)
        store = new_store(deep)
        await store.start()
        path = Path(store.socket_path)
        assert len(str(path)) < 104 < len(str(deep))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        os.kill(child(store), signal.SIGKILL)
        await until(lambda: answers(store))
        assert store.socket_path == str(path)
        await store.stop()
        assert not path.parent.exists()
        assert (deep / "store.lock").exists()

    @pytest_twisted.ensureDeferred
    async def test_one_that_does_not_obey_is_killed(self, new_store: Launch, tmp_path: Path) -> None:
        store = new_store(times=Times(stop=0.2))
        await store.start()
        pid = child(store)
        os.kill(pid, signal.SIGSTOP)
        await store.stop()
        assert not alive(pid)
        assert lock_is_free(tmp_path / "store")

    @pytest_twisted.ensureDeferred
    async def test_one_that_dies_comes_back(self, new_store: Launch, logged: Sequence[LogEvent]) -> None:
        store = new_store()
        await store.start()
        assert ask(store, "SET kept yes") == ["+OK"]
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            pid = child(store)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not alive(pid))  # noqa: B023 - awaited within the turn
            await until(lambda: answers(store))
        assert ask(store, "GET kept") == ["yes"]
        await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)
        assert {event["log_namespace"] for event in logged} == {"chatsvc.valkey"}
        first, second = texts(logged, LogLevel.error)
        assert first.startswith(
            "In 0.1 s the store is started again; it was ended by SIGKILL. It printed last:"
        )
        assert "Ready to accept connections" in first
        assert second.startswith("In 0.2 s")

    @pytest_twisted.ensureDeferred
    async def test_a_rewrite_of_its_file_does_not_outlive_it(self, new_store: Launch, tmp_path: Path) -> None:
        store = new_store()
        await store.start()
        pid = child(store)
        ask(store, "SET kept yes")
        ask(store, "CONFIG SET rdb-key-save-delay 60000000")  # a minute a key
        ask(store, "BGREWRITEAOF")
        await until(lambda: len(group(pid)) == 2)
        await until(lambda: [*(tmp_path / "store").glob("temp-*")])
        both = group(pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(alive, both)))
        await until(lambda: answers(store))
        assert [*(tmp_path / "store").glob("temp-*")] == []


class TestFailures:
    @pytest_twisted.ensureDeferred
    async def test_damaged_data_is_named(self, new_store: Launch, tmp_path: Path) -> None:
        store = new_store()
        await store.start()
        assert ask(store, "SET kept yes") == ["+OK"]
        await store.stop()
        [written] = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
        written.write_bytes(b"nonsense\r\n" * 10)
        with pytest.raises(
            StoreError, match=r"ended with exit code 1\. It printed last:\n(.*\n)*.*Bad file format"
        ):
            await store.start()
        assert lock_is_free(tmp_path / "store")

    @pytest_twisted.ensureDeferred
    async def test_one_that_never_serves_is_ended(
        self, new_store: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = tmp_path / "stubborn"
        script.write_text("#!/bin/sh\ntrap '' TERM\necho here I am\nwhile :; do sleep 1; done\n")
        script.chmod(0o700)
        monkeypatch.setattr(chatsvc.valkey, "_find_binary", lambda: str(script))
        store = new_store(times=Times(start=0.5, stop=0.2))
        with pytest.raises(StoreError, match=r"did not serve within \d s\. It printed last:\n  here I am"):
            await store.start()
        assert lock_is_free(tmp_path / "store")

    @pytest_twisted.ensureDeferred
    async def test_a_directory_that_cannot_be_made_is_named(self, new_store: Launch, tmp_path: Path) -> None:
        (tmp_path / "store").touch()
        with pytest.raises(StoreError, match=f"cannot be started: .*{tmp_path}/store"):
            await new_store().start()

    @pytest_twisted.ensureDeferred
    async def test_a_system_without_a_binary_is_told_of_redis(
        self, new_store: Launch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("platform.system", lambda: "Plan9")
        with pytest.raises(StoreError, match=r"name one of your own with --redis\. .*plan9"):
            await new_store().start()
