"""Lines between processes, however they are cut; and log events, which travel on such lines."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, capturedLogs, eventAsText

from chatsvc import logs
from chatsvc.children import LINE_BYTES, Lines
from chatsvc.tasks import as_failure
from chatsvc.workers import LOG, REPORTS, _Process
from tests.waiting import reactor


@given(st.lists(st.binary(max_size=5)), st.data())
def test_lines_come_whole_however_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(parts)
    found: list[bytes] = []
    lines = Lines(found.append)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        lines.receive(stream[:size])
        stream = stream[size:]
    lines.end()
    assert found == [part for line in parts for part in line.split(b"\n") if part]


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    found: list[bytes] = []
    lines = Lines(found.append)
    for _ in range(3):
        lines.receive(b"x" * LINE_BYTES)
    lines.receive(b"\nnext\n")
    assert [len(line) for line in found] == [LINE_BYTES, 4]


def written(write: Logger) -> io.StringIO:
    """Where a logger writes JSON from now on."""
    stream = io.StringIO()
    write.observer = logs.json_lines(stream)
    return stream


def test_each_event_is_an_object_in_a_line_with_its_text() -> None:
    log = Logger("somewhere")
    stream = written(log)
    log.warn("{count} devices\nof {name}", count=2, name=b"\xff")
    (line,) = stream.getvalue().splitlines()
    event = json.loads(line)
    assert (event["count"], event["log_level"]["name"], event["log_namespace"]) == (2, "warn", "somewhere")
    assert event["log_text"] == "2 devices\nof b'\\xff'"


def test_what_twistd_asks_for_writes_to_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    observer: Any = logs.json()
    assert ILogObserver.providedBy(observer)
    observer({"log_format": "Hello", "log_namespace": "somewhere"})
    assert json.loads(capsys.readouterr().out)["log_text"] == "Hello"


def test_a_workers_events_are_its_parents_with_its_number(no_unhandled_failure: list[LogEvent]) -> None:
    log = Logger("somewhere")
    stream = written(log)
    log.info("{count} devices", count=2)
    try:
        raise ValueError("what was wrong")
    except ValueError:
        log.failure("{what} failed", what="Everything")
    log.emit(LogLevel.critical, log_failure=as_failure(ValueError("without a format")))
    process = _Process(reactor, 3, lambda _: None)
    with capturedLogs() as events:
        process.childDataReceived(LOG, stream.getvalue().encode())
    (told,) = (event for event in events if event.get("count") == 2)
    assert told["worker"] == 3
    assert eventAsText(told, includeTimestamp=False) == "[worker 3 somewhere#info] 2 devices"
    (failed,) = (event for event in events if event.get("what") == "Everything")
    text = eventAsText(failed)
    assert "[worker 3 somewhere#critical] Everything failed" in text
    assert "Traceback" in text
    assert "ValueError: what was wrong" in text
    assert any("without a format" in eventAsText(event) for event in events)
    no_unhandled_failure.clear()


@pytest.mark.parametrize("line", [b"Traceback \xff", b"5", b"{}", b'{"log_level": 3}', b"[]"])
def test_what_is_no_event_is_a_warning(line: bytes) -> None:
    process = _Process(reactor, 3, lambda _: None)
    with capturedLogs() as events:
        process.childDataReceived(LOG, line + b"\n")
    (warned,) = events
    assert warned["log_level"].name == "warn"
    assert eventAsText(warned).endswith(f"Worker 3: {line.decode(errors='replace')}")


def test_a_report_that_nobody_waits_for_is_no_fault() -> None:
    _Process(reactor, 3, lambda _: None).childDataReceived(REPORTS, b"null\n")
