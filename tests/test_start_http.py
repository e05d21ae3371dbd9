"""The monitoring site from a server's first moment to its last, and what a service manager is told meanwhile.

What its pages say of a node is tested in tests/test_metrics.py and tests/test_http.py.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.raw import DEADLINE
from tests.service import Service, wait_for
from tests.test_protocol_shutdown import terminate

Make = Callable[..., Service]
HTTP = ("--http", "tcp:0:interface=127.0.0.1")


@contextmanager
def manager(path: str) -> Iterator[Callable[[], list[str]]]:
    """A service manager's socket; gives what the next message to it says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(path)
        told.settimeout(6 * DEADLINE)
        yield lambda: told.recv(4096).decode().split("\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_alive_at_once_and_ready_last(measured: Make, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        server = measured(*HTTP, "--workers", workers, "--redis", redis)
        server.spawn()
        wait_for(lambda: server.http("/healthz") == (200, "ok\n"), "it lives", 60)
        silent.settimeout(6 * DEADLINE)
        silent.accept()[0].close()  # now it looks for its store
        status, why = server.http("/readyz")
        assert (status, why.startswith(("The server is starting.", "The store at redis://"))) == (503, True)
        assert server.http("/metrics")[0] == 200
        assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log(), server.log()
    assert server.processes() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_alive_and_not_ready_until_all_is_answered(measured: Make, workers: str) -> None:
    server = measured(*HTTP, "--workers", workers).start()
    assert server.http("/readyz") == (200, "ready\n")
    raw = server.user()
    body = raw.message(raw.user or 0, contenttype="file", filemd5="0" * 32)
    frame = raw.frame({"request": "SENDMSG", "body": body, "tokenid": raw.token}, b"x" * 1000)
    raw.socket.sendall(frame[:-1])
    wait_for(lambda: list((server.directory / "data/blobs/tmp").iterdir()), "the upload has begun")
    terminate(server)
    assert server.http("/healthz") == (200, "ok\n")
    assert server.http("/readyz") == (503, "The server is stopping.\n")
    raw.socket.sendall(frame[-1:])
    assert not raw.answer().ok  # its MD5 is another one
    assert server.exit_status() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log(), server.log()


@pytest.mark.parametrize(("abstract", "workers"), [(False, "1"), (True, "2")])
def test_a_service_manager_is_told(measured: Make, tmp_path: Path, abstract: bool, workers: str) -> None:
    path = f"\0chatsvc{tmp_path}" if abstract else str(tmp_path / "notify")
    with manager(path) as told:
        server = measured("--workers", workers, environment={"NOTIFY_SOCKET": path.replace("\0", "@")})
        server.spawn()
        assert told() == ["STATUS=Starting."]
        assert told() == ["READY=1", "STATUS=Serving."]
        assert "is ready." in server.log()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        reloading, began = told()
        assert reloading == "RELOADING=1"
        assert int(began.removeprefix("MONOTONIC_USEC=")) > 0
        assert told() == ["READY=1"]
        server.stop()
        assert told()[0] == "STOPPING=1"


def test_a_service_manager_that_is_gone_is_no_reason_to_stop(measured: Make, tmp_path: Path) -> None:
    with measured(environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")}).running() as server:
        assert "systemd cannot be told" in server.log()
