"""How the server ends what its clients have under way: ``docs/protocol.md`` section 6.

What survives a restart is in ``test_survival.py``.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.raw import Answer, Raw
from tests.service import Service, wait_for

MIB = 1024**2


@pytest.fixture(params=["1", "2"], ids=lambda workers: f"workers={workers}")
def server(service: Callable[..., Service], request: pytest.FixtureRequest) -> Service:
    """A server that a test may stop, and one with workers."""
    return service("--workers", request.param).start()


def terminate(server: Service) -> None:
    """SIGTERM; returns once the server accepts nobody any more."""

    def refused() -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(server.address):
            return False
        return True

    assert server.process is not None
    server.process.terminate()
    wait_for(refused, "the server stops to accept")


def until_reset(raw: Raw) -> list[Answer]:
    """All that comes before the server resets the connection; fails on a clean close or half a frame."""
    found = []
    try:
        while True:
            found.append(raw.receive())
    except ConnectionResetError:
        assert not raw.unread
        return found


def exits(server: Service, within: float) -> None:
    """Fails unless the process ends in time, without a fault."""
    assert server.process is not None
    server.process.wait(within)
    assert "Traceback" not in server.log(), server.log()


def test_idle_connections_are_reset_and_not_closed(server: Service) -> None:
    raws = []
    for dialect in ("released", "seed", "network"):
        raws += [server.user(dialect), server.connect(dialect), server.connect(dialect)]
        assert raws[-1].ask("LOGOUT").ok
    half = server.user()
    half.socket.sendall(half.frame({"request": "STATE"})[:-3])
    terminate(server)
    for raw in (*raws, half):
        assert until_reset(raw) == []
    exits(server, 5)


def test_what_is_in_flight_is_answered_and_what_was_answered_is_stored(server: Service) -> None:
    senders = [server.user(dialect) for dialect in ("released", "seed", "network")]
    bob = server.user()
    for raw in senders:
        frames = (
            raw.frame(
                {"request": "SENDMSG", "body": raw.message(bob.user or 0, timestamp=at), "tokenid": None}
            )
            for at in range(3000)
        )
        raw.socket.sendall(b"".join(frames))
    login = server.connect()
    login.send("LOGIN", {"username": bob.name, "passwd": "secret"})
    for raw in senders:
        assert raw.receive().ok
    terminate(server)
    with ThreadPoolExecutor() as threads:  # all read at once, as clients do
        *sent, logged_in, pushes = threads.map(until_reset, (*senders, login, bob))
    counts = [1 + len(answers) for answers in sent]
    for answers in sent:
        assert all((answer.response, answer.status) == ("SENDMSG", "OK") for answer in answers)
    assert [answer.response for answer in logged_in if answer.response != "FORWARDMSG"] == ["TOKEN", "LOGIN"]
    pushed = [push.body for push in pushes]
    exits(server, 5)
    server.start()
    messages = server.again(bob).fetch()
    assert pushed == messages[: len(pushed)]
    for raw, count in zip(senders, counts, strict=True):
        times = [message["timestamp"] for message in messages if message["userid"] == raw.user]
        assert times[:count] == list(range(count))
        assert len(times) == count  # what was begun was answered, and nothing else was begun


def test_a_download_that_is_read_slowly_comes_to_its_end(server: Service) -> None:
    raw, data = server.user(), bytes(24 * MIB)
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="file")
    assert raw.ask("SENDMSG", body, data).ok
    raw.send("FETCHFILE", {"msgmd5": "file"})
    raw.sip(1)
    terminate(server)
    while raw.unread < len(data) and raw.sip(64 * 1024):
        time.sleep(0.005)  # to the last byte; what the system still has of it is to arrive as well
    (answer,) = until_reset(raw)
    assert answer.payload == data
    exits(server, 5)


def test_an_upload_under_way_may_end(server: Service) -> None:
    raw, data = server.user(), bytes(4 * MIB)
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="file")
    frame = raw.frame({"request": "SENDMSG", "body": body, "tokenid": raw.token}, data)
    raw.socket.sendall(frame[: len(frame) // 2])
    temporary = Path(server.directory / "data" / "blobs")
    wait_for(
        lambda: any(path.stat().st_size for path in temporary.rglob("*") if path.is_file()), "it arrives"
    )
    terminate(server)
    raw.socket.sendall(frame[len(frame) // 2 :] + raw.frame({"request": "STATE"}))
    answers = until_reset(raw)
    assert [(answer.response, answer.ok) for answer in answers] == [("SENDMSG", True)]
    exits(server, 5)
    server.start()
    assert server.again(raw).ask("FETCHFILE", {"msgmd5": "file"}).payload == data


def test_peers_that_neither_send_nor_read_do_not_keep_the_server(server: Service) -> None:
    raw, data = server.user(), bytes(16 * MIB)
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="file")
    assert raw.ask("SENDMSG", body, data).ok
    value = {"request": "SENDMSG", "body": body, "tokenid": raw.token}
    stuck = server.again(raw)
    stuck.socket.sendall(stuck.frame(value, data[:100], len(data)))
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    raw.send("FETCHFILE", {"msgmd5": "file"})
    terminate(server)
    exits(server, 20)
    assert until_reset(stuck) == []
