"""Fixtures and guards for all rings: an unhandled Deferred failure fails the test that caused it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from tests.chaos.report import pytest_terminal_summary as pytest_terminal_summary  # a hook
from tests.service import MEASURED, ROOT, Service, Valkey

# A machine that is busy with other tests takes its time, and no test is about time.
settings.register_profile("chatsvc", deadline=None)
settings.load_profile("chatsvc")


@pytest.fixture(autouse=True)
def no_unhandled_failure(request: pytest.FixtureRequest) -> Iterator[list[LogEvent]]:
    """Collects what is logged as a failure; a test that expects some empties the list it is given."""
    failures: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.critical or "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    gc.collect()  # what the fixtures of the last test held on to
    gc.freeze()  # what is there now is not looked at after each test
    yield failures
    gc.collect()  # a Deferred says that nobody handled its failure when it is collected
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]
    assert not failures, [str(event.get("log_failure", event)) for event in failures]


@pytest.fixture(scope="session")
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The server behind the `server` fixture."""
    directory = tmp_path_factory.mktemp("server")
    if request.config.pluginmanager.hasplugin("_cov"):
        service = Service(directory, command=(*MEASURED, "-n", "--pidfile="))
    else:
        service = Service(directory)
    with service.running():
        yield service


@pytest.fixture
def server(shared_server: Service) -> Iterator[Service]:
    """One server for all tests that only talk to it; each registers users of its own."""
    yield shared_server
    shared_server.hang_up()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes servers for one test, which may stop and kill them; nothing is left running after it."""
    made: list[Service] = []

    def make(*options: str, name: str = "server", **more: Any) -> Service:
        made.append(Service(tmp_path / name, *options, **more))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def measured(request: pytest.FixtureRequest, service: Callable[..., Service]) -> Callable[..., Service]:
    """As `service`; what these servers and their workers execute is counted when the tests' own is."""
    more: dict[str, Any] = {}
    if request.config.pluginmanager.hasplugin("_cov"):
        more["command"] = (sys.executable, "-m", "tests.launch", "-n", "--pidfile=")
        more["environment"] = {"COVERAGE_PROCESS_START": str(ROOT / "setup.cfg")}

    def make(*options: str, environment: dict[str, str] | None = None, **others: Any) -> Service:
        together = more.get("environment", {}) | (environment or {})
        return service(*options, **more | others | {"environment": together})

    return make


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Callable[..., Valkey]]:
    """Makes stores for one test that are no server's own; nothing is left running after it."""
    made: list[Valkey] = []

    def make(*settings: str, name: str = "valkey") -> Valkey:
        made.append(Valkey(tmp_path / name, *settings))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture(params=["released", "seed", "network"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Each of the three header forms."""
    return str(request.param)
