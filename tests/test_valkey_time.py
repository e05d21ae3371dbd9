"""How the embedded store is supervised where time is the matter: a clock, and processes that are none.

On real processes it runs in ``test_valkey.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ProcessTerminated
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure

from chatsvc.tasks import as_failure, deferred
from chatsvc.valkey import EmbeddedStore, StoreError, Times
from tests.embedded import FIXTURES, lock_is_free, texts

logged, new_store = FIXTURES


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
            assert len(child._outputs[1]._unfinished) < 5000
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
