"""Several workers under one parent: they share a port and a store, are replaced, and end together.

How they end what clients have under way is tested in tests/test_protocol_shutdown.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.raw import Raw
from tests.service import Service, Valkey, wait_for
from tests.test_start import refuses

MakeStore = Callable[..., Valkey]
HTTP = ("--http", "tcp:0:interface=127.0.0.1")


@pytest.fixture
def make(measured: Callable[..., Service]) -> Callable[..., Service]:
    """Makes servers with two workers."""
    return partial(measured, "--workers", "2")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def on_worker(server: Service, number: int, act: Callable[[], Raw]) -> Raw:
    """What `act` makes, whose connection is accepted by one worker, as the other one can accept none."""
    with frozen(server.workers()[1 - number]):
        return act()


def one_on_each(server: Service) -> tuple[Raw, Raw]:
    """Two users, the first connected to worker 0 and the second to worker 1."""
    return on_worker(server, 0, server.user), on_worker(server, 1, server.user)


def talk(alice: Raw, bob: Raw) -> None:
    """A message each way, pushed to the other one."""
    for sender, reader in ((alice, bob), (bob, alice)):
        assert reader.user is not None
        said = sender.say(reader.user)
        assert sender.pushes == []
        assert reader.push() == said


@pytest.mark.parametrize("store", ["its own", "another"])
def test_workers_share_a_port_and_a_store(
    make: Callable[..., Service], valkey: MakeStore, store: str
) -> None:
    options = () if store == "its own" else ("--redis", f"unix://{valkey().start().socket_path}")
    with make(*options).running() as server:
        assert set(server.workers()) == {0, 1}
        talk(*one_on_each(server))
        assert server.stop() in (0, -signal.SIGTERM)
        assert server.processes() == []


def test_a_unix_socket_and_a_proxys_port_are_shared_too(make: Callable[..., Service], tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    listen = ("--listen", f"unix:{path}:mode=600", "--listen", "haproxy:tcp:0:interface=127.0.0.1")
    with make(*listen).running() as server:
        assert path.stat().st_mode & 0o777 == 0o600
        port = int(server.log().partition("(haproxy:")[0].rpartition(":")[2])

        def proxied() -> Raw:
            raw = server.connect()
            raw.socket.close()
            raw.socket = socket.create_connection(("127.0.0.1", port))
            raw.socket.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 6011\r\n")
            raw.register("over the proxy")
            return raw

        def local() -> Raw:
            raw = server.connect()
            raw.socket.close()
            raw.socket = socket.socket(socket.AF_UNIX)
            raw.socket.connect(str(path))
            raw.register("over the UNIX socket")
            return raw

        talk(on_worker(server, 0, proxied), on_worker(server, 1, local))
        server.stop()
    assert not path.exists()


def test_a_killed_worker_is_replaced_while_messages_go_on(make: Callable[..., Service]) -> None:
    with make().running() as server:
        alice, bob = one_on_each(server)
        killed = server.workers()[1]
        os.kill(killed, signal.SIGKILL)
        said = []

        def replaced() -> bool:
            said.append(alice.say(bob.user or 0))
            return "Worker 1 serves again" in server.log()

        wait_for(replaced, "the worker is replaced", 60)
        assert "worker 1 is started again; it was ended by SIGKILL" in server.log()
        assert killed not in server.processes()
        again = on_worker(server, 1, lambda: server.again(bob))
        assert again.fetch() == said
        talk(alice, again)
        assert server.workers()[1] != killed


def test_workers_go_on_when_their_parents_store_is_killed(make: Callable[..., Service]) -> None:
    with make().running() as server:
        alice, bob = one_on_each(server)
        server.kill_store()
        for raw in (alice, bob):
            wait_for(lambda raw=raw: raw.ask("STATE").ok, "the store is back")  # type: ignore[misc]
        talk(alice, bob)


def test_a_killed_parent_leaves_no_worker(make: Callable[..., Service]) -> None:
    server = make().start()
    alice = server.user()
    workers = server.workers()
    server.kill()
    wait_for(lambda: not server.workers(), "the workers have ended")
    with server.running():
        assert not set(workers.values()) & set(server.workers().values())
        assert server.again(alice).user == alice.user


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_to_all_processes_ends_them_in_order(make: Callable[..., Service], number: int) -> None:
    twistd = str(Path(sys.executable).parent / "twistd")
    server = make(command=("/usr/bin/setsid", twistd, "-n", "--pidfile=")).start()
    talk(*one_on_each(server))
    assert server.process is not None
    os.killpg(server.process.pid, number)  # as a terminal does, or a service manager
    assert server.exit_status() in (0, -number)
    assert "Traceback" not in server.log()
    assert "bye bye" in server.log(), "the store was not shut down in order"
    assert server.processes() == []
    if number == signal.SIGINT:
        assert "is started again" not in server.log(), "a worker did not leave it to its parent"


def test_workers_that_cannot_start_are_given_up(make: Callable[..., Service], valkey: MakeStore) -> None:
    store = valkey("--requirepass", "right").start()
    server = make("--redis", f"unix://:wrong@{store.socket_path}")
    server.spawn()
    refuses(server, "cannot be used", "WRONGPASS")
    assert "wrong@" not in server.log()


def test_the_log_of_all_is_one_stream(make: Callable[..., Service]) -> None:
    server = make(command=("twistd", "-n", "--pidfile=", "--logger=chatsvc.logs.json"))
    server.spawn()
    try:
        wait_for(lambda: "is ready." in server.log(), "it is ready", 60)
        os.kill(server.workers()[1], signal.SIGKILL)
        wait_for(lambda: "Worker 1 serves again" in server.log(), "the worker is replaced", 60)
    finally:
        server.end()
    events = [json.loads(line) for line in server.log().splitlines()]
    assert {event.get("worker") for event in events} == {None, 0, 1}
    assert all(event["log_text"] and event["log_level"]["name"] for event in events)
    died = [event for event in events if event.get("reason") == "was ended by SIGKILL"]
    assert [(event["worker"], event["log_namespace"]) for event in died] == [(1, "chatsvc.workers")]


def test_the_site_tells_workers_apart_and_names_one_that_is_stuck(make: Callable[..., Service]) -> None:
    with make(*HTTP).running() as server:
        assert server.http("/readyz") == (200, "ready\n")
        for number in (0, 1):
            assert f'chatsvc_ready{{worker="{number}"}} 1.0' in server.http("/metrics")[1]
        with frozen(server.workers()[1]):
            assert server.http("/readyz") == (503, "Worker 1 does not answer.\n")
            metrics = server.http("/metrics")[1]
            assert 'worker="0"' in metrics
            assert 'worker="1"' not in metrics
        wait_for(lambda: server.http("/readyz")[0] == 200, "both workers answer again")
