"""How the parent watches over a worker, in a time and with processes of the test's own.

Real workers are in tests/test_workers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from chatsvc import workers
from chatsvc.parts import CannotStart
from chatsvc.settings import Settings, decode
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import as_failure, run
from chatsvc.wire.limits import Limits
from chatsvc.workers import KILL, ORDERS, REPORTS, RETRY, RETRY_CEILING, SETTLED, START, STOP

SETTINGS = Settings(
    listen=(),
    data_dir=Path("/data"),
    redis=StoreUrl(kind="unix", path="/store"),
    durability="always",
    replica_acks=0,
    bcrypt_cost=4,
    bcrypt_threads=None,
    bcrypt_queue=64,
    workers=1,
    http=None,
    web=None,
    web_origin=None,
    config=None,
    limits=Limits(),
)


class FakeProcess:
    """A process as `_Process` knows it: what it is told, which signals it gets, how it ends."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.orders: list[bytes] = []
        self.signals: list[str] = []
        self.gone = False
        protocol.makeConnection(self)

    def writeToChild(self, fd: int, data: bytes) -> None:  # noqa: N802 - Twisted's name
        assert fd == ORDERS
        self.orders.append(data)

    def signalProcess(self, name: str) -> None:  # noqa: N802 - Twisted's name
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def report(self, line: bytes) -> None:
        self.protocol.childDataReceived(REPORTS, line + b"\n")

    def end(self, by: int | None = None) -> None:
        self.gone = True
        how: Any = ProcessDone if by is None else ProcessTerminated
        self.protocol.processEnded(as_failure(how(0) if by is None else how(signal=by)))


class Machine(Clock):
    """A reactor with time and processes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.out_of_processes = False

    def spawnProcess(self, protocol: Any, *_: Any, **__: Any) -> None:  # noqa: N802 - Twisted's name
        if self.out_of_processes:
            raise OSError("Resource temporarily unavailable")
        self.processes.append(FakeProcess(protocol))

    def next_in(self) -> float:
        """Seconds until the only call that is due."""
        call: Any
        (call,) = self.getDelayedCalls()
        return float(call.getTime() - self.seconds())


@pytest.fixture
def machine() -> Machine:
    return Machine()


class Outcome:
    """What became of a coroutine."""

    def __init__(self, work: Any) -> None:
        self.value: Any = "nothing yet"
        run(work, self._take, self._take)

    def _take(self, value: Any) -> None:
        self.value = value


@pytest.fixture
def worker(machine: Machine, tmp_path: Path) -> Any:
    return workers._Worker(machine, 7, [], tmp_path / "7.sock")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What has been logged; a list that grows."""
    with capturedLogs() as events:

        class Texts(list[str]):
            def __iter__(self) -> Iterator[str]:
                return (formatEvent(event) for event in events)

        yield Texts()


def started(machine: Machine, worker: Any) -> FakeProcess:
    outcome = Outcome(worker.start(SETTINGS))
    machine.processes[-1].report(b"null")
    assert outcome.value is None
    return machine.processes[-1]


def test_a_worker_is_told_its_settings_and_says_when_it_serves(machine: Machine, worker: Any) -> None:
    outcome = Outcome(worker.start(SETTINGS))
    (process,) = machine.processes
    assert [decode(order) for order in process.orders] == [SETTINGS]
    assert outcome.value == "nothing yet"
    process.report(b"null")
    assert outcome.value is None
    assert machine.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda machine: machine.processes[0].report(b'"The store is gone."'), "The store is gone."),
        (lambda machine: machine.processes[0].end(by=9), "Worker 7 was ended by SIGKILL."),
        (lambda machine: machine.processes[0].end(), "Worker 7 ended with exit code 0."),
        (lambda machine: machine.advance(START), f"Worker 7 did not do as it was told within {START:g} s."),
    ],
)
def test_a_worker_that_cannot_start_is_a_failed_start(
    machine: Machine, worker: Any, how: Any, why: str
) -> None:
    outcome = Outcome(worker.start(SETTINGS))
    how(machine)
    assert isinstance(outcome.value, CannotStart)
    assert str(outcome.value) == why
    assert machine.processes[0].gone or machine.processes[0].signals == ["KILL"]
    assert machine.getDelayedCalls() == []


def test_it_is_replaced_after_pauses_that_grow_and_are_short_again_in_the_end(
    machine: Machine, worker: Any
) -> None:
    process = started(machine, worker)
    pauses = []
    for _ in range(10):
        process.end(by=9)
        pauses.append(machine.next_in())
        machine.advance(pauses[-1])
        process = machine.processes[-1]
        process.report(b"null")
    assert pauses[:4] == pytest.approx([RETRY, 2 * RETRY, 4 * RETRY, 8 * RETRY])
    assert pauses[-2:] == pytest.approx([RETRY_CEILING, RETRY_CEILING])
    machine.advance(SETTLED)
    process.end(by=9)
    assert machine.next_in() == pytest.approx(RETRY)


def test_a_replacement_that_cannot_start_is_tried_again(
    machine: Machine, worker: Any, logged: list[str]
) -> None:
    started(machine, worker).end(by=9)
    machine.out_of_processes = True
    machine.advance(RETRY)
    assert any("could not be started: Resource temporarily" in line for line in logged)
    machine.out_of_processes = False
    machine.advance(2 * RETRY)
    assert len(machine.processes) == 2
    machine.processes[1].report(b'"The store is gone."')
    assert machine.processes[1].signals == ["KILL"]
    assert "Worker 7 cannot start: The store is gone." in list(logged)
    machine.processes[1].end(by=9)
    machine.advance(4 * RETRY)
    machine.processes[2].report(b"null")
    assert "Worker 7 serves again" in list(logged)


def test_new_settings_are_for_the_worker_and_for_those_after_it(machine: Machine, worker: Any) -> None:
    process = started(machine, worker)
    other = Settings(
        **{name: getattr(SETTINGS, name) for name in Settings.__struct_fields__} | {"workers": 2}
    )
    outcome = Outcome(worker.reload(other))
    assert decode(process.orders[-1]) == other
    process.report(b"null")
    assert outcome.value is None
    process.end(by=9)
    outcome = Outcome(worker.reload(SETTINGS))
    assert outcome.value is None, "nobody is there to be told"
    machine.advance(RETRY)
    assert decode(machine.processes[-1].orders[0]) == SETTINGS


def test_a_worker_that_does_not_reload_is_named(machine: Machine, worker: Any, logged: list[str]) -> None:
    process = started(machine, worker)
    outcome = Outcome(worker.reload(SETTINGS))
    machine.advance(workers.RELOAD)
    assert outcome.value is None
    assert any("Worker 7 has not reloaded: " in line for line in logged)
    assert process.signals == []
    later = Outcome(worker.reload(SETTINGS))
    process.report(b"null")  # this is the late one
    assert later.value == "nothing yet"
    process.report(b"null")
    assert later.value is None


def test_it_is_ended_in_order_or_by_force_and_not_waited_for_for_ever(machine: Machine, worker: Any) -> None:
    process = started(machine, worker)
    outcome = Outcome(worker.stop())
    assert process.signals == ["TERM"]
    machine.advance(STOP)
    assert process.signals == ["TERM", "KILL"]
    assert outcome.value == "nothing yet"
    machine.advance(KILL)
    assert outcome.value is None


def test_a_worker_that_is_ended_while_it_starts_is_no_fault(
    machine: Machine, worker: Any, logged: list[str]
) -> None:
    started(machine, worker).end(by=9)
    machine.advance(RETRY)
    outcome = Outcome(worker.stop())
    machine.processes[1].end()
    assert outcome.value is None
    assert not any("cannot start" in line for line in logged)


@pytest.mark.parametrize("when", ["serving", "dead", "starting", "out of processes"])
def test_none_comes_after_the_end(machine: Machine, worker: Any, when: str) -> None:
    if when == "starting":
        Outcome(worker.start(SETTINGS))
    else:
        started(machine, worker)
    if when in ("dead", "out of processes"):
        machine.processes[0].end(by=9)
    if when == "out of processes":
        machine.out_of_processes = True
        machine.advance(RETRY)
    outcome = Outcome(worker.stop())
    if not machine.processes[0].gone:
        machine.processes[0].end()
    assert outcome.value is None
    assert machine.getDelayedCalls() == []
    machine.advance(1000)
    assert len(machine.processes) == 1
