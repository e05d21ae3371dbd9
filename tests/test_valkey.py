"""The embedded store: real Valkey children, and a clock and fake processes where time is the matter."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ProcessTerminated
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure

import chatsvc.valkey
from chatsvc.tasks import as_failure, deferred
from chatsvc.valkey import DataDirectory, EmbeddedStore, StoreError, Times

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


def ask(store: EmbeddedStore, command: str) -> list[str]:
    """The lines of the store's reply, without those that only give lengths."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(store.socket_path)
        client.sendall(f"{command}\r\nQUIT\r\n".encode())
        with client.makefile() as reply:
            return [line.strip() for line in reply if line[0] not in "*$"][:-1]


def answers(store: EmbeddedStore) -> bool:
    try:
        return ask(store, "PING") == ["+PONG"]
    except OSError:
        return False


def child(store: EmbeddedStore) -> int:
    """The process id of the store."""
    [pid] = [line.partition(":")[2] for line in ask(store, "INFO server") if line.startswith("process_id:")]
    return int(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def group(leader: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getpgid(int(name)) == leader:
                found.append(int(name))
    return found


def lock_is_free(directory: Path) -> bool:
    with (directory / "store.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def until(condition: Callable[[], bool], deadline: float = 20.0) -> None:
    clock: Any = reactor
    end = clock.seconds() + deadline
    while not condition():
        assert clock.seconds() < end, "the condition did not come true in time"
        await deferLater(clock, 0.01)


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def texts(events: Sequence[LogEvent], level: Any) -> list[str]:
    """What `chatsvc.valkey` has logged at a level."""
    return [
        formatEvent(event)
        for event in events
        if event["log_namespace"] == "chatsvc.valkey" and event["log_level"] is level
    ]


Launch = Callable[..., EmbeddedStore]


@pytest_twisted.async_yield_fixture
async def new_store(tmp_path: Path) -> Any:
    """Makes stores on real processes, which are stopped whatever comes."""
    stores = []

    def make(directory: Path = tmp_path / "store", **settings: Any) -> EmbeddedStore:
        stores.append(EmbeddedStore(reactor, directory, **settings))
        return stores[-1]

    yield make
    for store in stores:
        await store.stop()


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
    async def test_a_rewrite_of_its_file_does_not_outlive_it(self, new_store: Launch) -> None:
        store = new_store()
        await store.start()
        pid = child(store)
        ask(store, "SET kept yes")
        ask(store, "CONFIG SET rdb-key-save-delay 60000000")  # a minute a key
        ask(store, "BGREWRITEAOF")
        await until(lambda: len(group(pid)) == 2)
        both = group(pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(alive, both)))
        await until(lambda: answers(store))


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


class FakeReactor(Clock):
    """Time that passes when it is told to, processes that are none, and a store that says `answer`."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Any] = []
        self.trouble: OSError | None = None
        self.mortal = True
        #: Nothing: nobody listens.
        self.answer = b""
        #: Connections are answered when `release` is called.
        self.held: list[Callable[[], None]] | None = None

    def spawnProcess(self, protocol: Any, *_: Any, **__: Any) -> None:  # noqa: N802 - Twisted's name
        if self.trouble is not None:
            raise self.trouble
        self.children.append(protocol)
        protocol.makeConnection(FakeProcess(self))

    def connectUNIX(self, path: str, factory: Any, **_: Any) -> None:  # noqa: N802 - Twisted's name
        if not self.answer:
            factory.clientConnectionFailed(None, as_failure(ConnectError()))  # type: ignore[no-untyped-call]
            return
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())  # type: ignore[no-untyped-call]

        def answer() -> None:
            protocol.dataReceived(self.answer)
            protocol.connectionLost(connectionDone)

        if self.held is None:
            answer()
        else:
            self.held.append(answer)

    def die(self, signal_number: int | None = None) -> None:
        """The latest child ends."""
        reason = as_failure(ProcessTerminated(1, signal_number))  # type: ignore[no-untyped-call]
        self.children[-1].processExited(reason)
        self.children[-1].processEnded(reason)

    def pass_time(self, seconds: float) -> None:
        self.pump([0.05] * round(seconds / 0.05))


class FakeProcess:
    pid = 2**22 + 1  # beyond what a system gives, so nobody can be hit

    def __init__(self, reactor: FakeReactor) -> None:
        self.reactor = reactor
        self.signals: list[str] = []

    def closeStdin(self) -> None:  # noqa: N802 - Twisted's name
        pass

    def signalProcess(self, name: str) -> None:  # noqa: N802 - Twisted's name
        self.signals.append(name)
        if self.reactor.mortal:
            self.reactor.die()


def outcome(done: Deferred[None]) -> None:
    """Raises what a Deferred failed with; it must have fired."""
    results: list[Any] = []
    done.addBoth(results.append)
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()


class TestTime:
    @pytest.fixture
    def fake(self) -> FakeReactor:
        return FakeReactor()

    @pytest.fixture
    def store(self, fake: FakeReactor, tmp_path: Path) -> EmbeddedStore:
        return EmbeddedStore(fake, tmp_path)

    def started(self, fake: FakeReactor, store: EmbeddedStore) -> None:
        fake.answer = b"+PONG\r\n+OK\r\n"
        start = deferred(store.start())
        fake.pass_time(1)
        outcome(start)

    def stopped(self, fake: FakeReactor, store: EmbeddedStore) -> None:
        stop = deferred(store.stop())
        fake.pass_time(1)
        outcome(stop)
        assert not fake.getDelayedCalls()

    def test_restarts_back_off_until_a_store_has_lived_a_while(
        self, fake: FakeReactor, store: EmbeddedStore
    ) -> None:
        self.started(fake, store)
        for delay in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0):
            fake.die(9)
            lives = len(fake.children)
            fake.advance(delay - 0.01)
            assert len(fake.children) == lives
            fake.advance(0.02)
            assert len(fake.children) == lives + 1
        fake.advance(61)
        fake.die(9)
        lives = len(fake.children)
        fake.advance(0.11)
        assert len(fake.children) == lives + 1
        self.stopped(fake, store)

    def test_a_restart_that_fails_is_tried_again(
        self, fake: FakeReactor, store: EmbeddedStore, logged: Sequence[LogEvent]
    ) -> None:
        self.started(fake, store)
        fake.trouble = OSError(24, "Too many open files")
        fake.die()
        fake.advance(0.1)
        assert "could not be started: [Errno 24] Too many open files" in texts(logged, LogLevel.error)[-1]
        fake.trouble = None
        fake.advance(0.2)
        assert len(fake.children) == 2
        self.stopped(fake, store)

    def test_after_stop_there_is_no_restart(self, fake: FakeReactor, store: EmbeddedStore) -> None:
        self.started(fake, store)
        fake.die(9)
        self.stopped(fake, store)
        fake.advance(100)
        assert len(fake.children) == 1

    def test_one_that_nothing_ends_is_told(
        self, fake: FakeReactor, store: EmbeddedStore, logged: Sequence[LogEvent]
    ) -> None:
        self.started(fake, store)
        fake.mortal = False
        stop = deferred(store.stop())
        fake.pass_time(Times().stop + Times().kill + 1)
        outcome(stop)
        assert fake.children[0].transport.signals == ["TERM", "KILL"]
        assert "does not end, not even after SIGKILL" in texts(logged, LogLevel.error)[-1]

    def test_loading_has_its_own_deadline_and_is_told(
        self, fake: FakeReactor, store: EmbeddedStore, logged: Sequence[LogEvent]
    ) -> None:
        fake.answer = b"-LOADING Valkey is loading\r\nloading_loaded_perc:41.5\r\n"
        start = deferred(store.start())
        fake.pass_time(Times().start + 15)
        assert not start.called
        told = texts(logged, LogLevel.info)
        assert told == ["The store is loading its data: 41.5 % so far"] * len(told)
        assert 5 <= len(told) <= 6
        fake.advance(Times().loading)
        fake.pass_time(1)
        with pytest.raises(StoreError, match="did not serve within 36"):
            outcome(start)
        assert fake.children[0].transport.signals[0] == "TERM"

    @pytest.mark.parametrize("held", [False, True])
    def test_stop_ends_a_start_that_is_under_way(
        self, fake: FakeReactor, store: EmbeddedStore, tmp_path: Path, held: bool
    ) -> None:
        if held:
            fake.answer, fake.held = b"+PONG\r\n+OK\r\n", []
        start = deferred(store.start())
        fake.pass_time(0.5)
        stop = deferred(store.stop())
        for answer in fake.held or []:
            answer()
        fake.pass_time(1)
        outcome(stop)
        with pytest.raises(StoreError, match="stopped while it started"):
            outcome(start)
        assert fake.children[0].ended
        assert not fake.getDelayedCalls()
        assert lock_is_free(tmp_path)

    def test_what_it_prints_is_logged_by_weight_and_bounded(
        self, fake: FakeReactor, store: EmbeddedStore, logged: Sequence[LogEvent]
    ) -> None:
        self.started(fake, store)
        child = fake.children[0]
        child.childDataReceived(1, b"7:M 22 Nov 2026 16:04:54.496 # take ca")
        child.childDataReceived(1, b"re\n7:M 22 Nov 2026 16:04:54.497 * well\n\xff\n\n")
        child.childDataReceived(2, b"broken\n")
        assert texts(logged, LogLevel.warn) == ["store: take care", "store: broken"]
        assert texts(logged, LogLevel.debug) == ["store: well", "store: \N{REPLACEMENT CHARACTER}"]
        for _ in range(100):
            child.childDataReceived(1, b"x" * 100_000)
            assert len(child._unfinished[1]) < 5000
        for number in range(100):
            child.childDataReceived(1, b"%d\n" % number)
        child.childDataReceived(2, b"y" * 100_000 + b"\n")
        fake.die()
        [told] = texts(logged, LogLevel.error)
        assert "exit code 1" in told
        assert len(told) < 5000
        assert "\n  98\n  99\n  yyy" in told
        assert "\n  9\n" not in told
        self.stopped(fake, store)
