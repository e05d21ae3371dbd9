"""Fixtures and guards for all rings: an unhandled Deferred failure fails the test that caused it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, LogLevel, globalLogPublisher


@pytest.fixture(autouse=True)
def no_unhandled_failure(request: pytest.FixtureRequest) -> Iterator[list[LogEvent]]:
    """Collects what is logged as a failure; a test that expects some empties the list it is given."""
    failures: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.critical or "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    yield failures
    gc.collect()  # a Deferred says that nobody handled its failure when it is collected
    globalLogPublisher.removeObserver(observe)
    assert not failures, [str(event.get("log_failure", event)) for event in failures]
