"""The monitoring pages of a whole node over a loopback port, while clients talk to it over another.

The node is in this process, its store is a real one; clients and who asks for pages are in threads.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import bcrypt
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool

from chatsvc.blobs import Blobs
from chatsvc.chat.hub import Hub
from chatsvc.disk import Disk
from chatsvc.net.http import monitoring_site
from chatsvc.net.metrics import NodeMonitor
from chatsvc.net.outbox import FILE_STEP
from chatsvc.net.server import Server
from chatsvc.passwords import Busy, Passwords
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from chatsvc.wire.limits import KIB, MIB, Limits
from tests import stores
from tests.fakes import Running
from tests.raw import DEADLINE, Raw, unique
from tests.stores import driven, reactor, until

valkey = stores.valkey
T = TypeVar("T")
FILE = b"x" * (8 * MIB)
MD5 = hashlib.md5(FILE).hexdigest()
#: Passwords that may be hashed or wait.
QUEUE = 3


class Node:
    """A node that serves clients, and its monitoring pages."""

    def __init__(self, directory: Path, url: StoreUrl) -> None:
        self.files = ThreadPool(1, 2)
        self.blobs = Blobs(directory / "blobs", "node", self.files, reactor)
        self.passwords = Passwords(4, 1, QUEUE, reactor)
        self.store = Store(reactor, url)
        self.hub = Hub(reactor, self.store, self.blobs, self.passwords, Limits())
        self.server = Server(self.hub)
        self.monitor = NodeMonitor(self.hub, self.server, Disk(directory, self.files, reactor))
        self.site = monitoring_site(self.monitor, reactor)
        self.clients: list[Raw] = []

    async def start(self) -> None:
        self.files.start()
        self.passwords.start()
        await self.blobs.prepare()
        self.store.start()
        self.hub.start()
        self.server.start()
        self.http = reactor.listenTCP(0, self.site, interface="127.0.0.1")

    async def open(self) -> None:
        """Accept clients."""
        self.port = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        await self.store.ready(DEADLINE)

    async def close(self) -> None:
        """Accept no more clients."""
        await self.port.stopListening()

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        await self.server.stop()
        self.hub.stop()
        await self.store.stop()
        self.passwords.stop()
        self.files.stop()
        await self.http.stopListening()

    def connect(self) -> Raw:
        """A client, for a thread."""
        self.clients.append(Raw(("127.0.0.1", self.port.getHost().port)))
        return self.clients[-1]

    def user(self) -> Raw:
        """A client with a user of its own, for a thread."""
        found = self.connect()
        found.register(unique())
        return found

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a page, for a thread."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.http.getHost().port}{path}", timeout=20
            ) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        return await talk(self.ask, path)

    async def figures(self) -> dict[str, float]:
        """All figures, by name and labels as they stand in the page."""
        status, page = await self.page("/metrics")
        assert status == 200, page
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name.removeprefix("chatsvc_"): float(value) for name, _, value in lines}

    async def figure(self, name: str) -> float:
        """One of them."""
        return (await self.figures())[name]


async def talk(work: Callable[..., T], *args: Any) -> T:
    """The result of what blocks."""
    return await deferToThread(work, *args)


@pytest_twisted.async_yield_fixture
async def node(tmp_path: Path, valkey: StoreUrl) -> Any:
    made = Node(tmp_path, valkey)
    await deferred(made.start())
    await deferred(made.open())
    yield made
    await deferred(made.close())
    await deferred(made.stop())


@driven
async def test_a_node_lives_before_it_is_ready_and_after(tmp_path: Path, valkey: StoreUrl) -> None:
    node = Node(tmp_path, valkey)
    await node.start()
    try:
        closed = (503, "The server accepts no clients: it is starting, or stopping.\n")
        assert await node.page("/readyz") == closed
        await node.open()
        assert await node.page("/readyz") == (200, "ready\n")
        await node.close()
        assert await node.page("/readyz") == closed
        assert await node.page("/healthz") == (200, "ok\n")
    finally:
        await node.stop()


@driven
async def test_a_node_whose_store_is_away_is_not_ready(tmp_path: Path) -> None:
    node = Node(tmp_path, StoreUrl(kind="unix", path=str(tmp_path / "nowhere")))
    await node.start()
    node.port = reactor.listenTCP(0, node.server, interface="127.0.0.1")
    try:
        await until(lambda: "yet" not in node.store.problem)
        status, why = await node.page("/readyz")
        assert (status, why) == (503, f"The store cannot be used: {node.store.problem}.\n")
        assert "No such file or directory" in why
        assert await node.figure("store_up") == 0
        assert await node.figure("ready") == 0
    finally:
        await node.close()
        await node.stop()


@driven
async def test_a_conversation_moves_the_figures(node: Node) -> None:
    alice, bob = await talk(node.user), await talk(node.user)
    await talk(bob.fetch)
    await talk(alice.say, bob.user)
    assert (await talk(bob.push))["userid"] == alice.user
    await talk(bob.ask, "NONSENSE")
    await talk(bob.send, "ACKFETCH", {"timestamp": 1})
    await talk(bob.ask, "STATE")
    found = await node.figures()
    assert found['requests_total{request="REGISTER",status="ok"}'] == 2
    assert found['requests_total{request="SENDMSG",status="ok"}'] == 1
    assert found['requests_total{request="UNKNOWN",status="err"}'] == 1
    assert found['requests_total{request="ACKFETCH",status="none"}'] == 1
    assert found['request_duration_seconds_count{request="SENDMSG"}'] == 1
    assert 0 < found['request_duration_seconds_sum{request="SENDMSG"}'] < DEADLINE
    assert found["messages_stored_total"] == found["messages_pushed_total"] == 1
    assert 0 <= found["delivery_lag_seconds_sum"] < DEADLINE
    assert (found["ready"], found["store_up"]) == (1, 1)
    assert found["data_disk_free_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 10 * MIB
    assert not any("NONSENSE" in name for name in found)
    assert not any(alice.name in name or bob.name in name for name in found)


@driven
async def test_who_is_connected_is_known_until_the_connection_ends(node: Node) -> None:
    alice = await talk(node.user)
    twin = await talk(node.connect)
    await talk(twin.login, alice.name)
    stranger = await talk(node.connect)
    await talk(stranger.ask, "STATE")
    found = await node.figures()
    assert (found['connections{device="bound"}'], found['connections{device="unbound"}']) == (2, 1)
    assert (found["users_online"], found["devices_online"]) == (1, 2)
    for client in (alice, twin, stranger):
        client.close()
    await until(lambda: not node.server.connections)
    found = await node.figures()
    assert (found['connections{device="bound"}'], found['connections{device="unbound"}']) == (0, 0)
    assert (found["users_online"], found["devices_online"]) == (0, 0)
    assert found["connections_accepted_total"] == 3


@driven
async def test_what_waits_on_either_side_is_known(node: Node) -> None:
    alice = await talk(node.user)
    message = alice.message(alice.user or 0, contenttype="file", filemd5=MD5, md5encoded="a name")
    assert (await talk(alice.ask, "SENDMSG", message, FILE)).ok
    await talk(alice.send, "FETCHFILE", {"msgmd5": "a name"})
    found = await node.figures()
    while not found["send_buffer_bytes"]:  # it reads nothing, and the sockets' buffers do not hold it all
        found = await node.figures()
    assert found["send_buffer_bytes"] <= FILE_STEP
    assert (found["uploads_total"], found["upload_bytes_total"]) == (1, len(FILE))
    half = alice.frame({"request": "STATE", "pad": "x" * MIB})[: 200 * KIB]
    sender = await talk(node.user)
    await talk(sender.socket.sendall, half)
    while not 199 * KIB < await node.figure("unfinished_request_bytes") <= 200 * KIB:
        pass


def cut_all(path: str) -> None:
    """Have a store end the connections of all its clients."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(path)
        client.sendall(b"CLIENT KILL TYPE pubsub\r\nCLIENT KILL TYPE normal\r\nQUIT\r\n")
        while client.recv(KIB):
            pass


@driven
async def test_connections_to_the_store_that_are_made_again_are_counted(node: Node, valkey: StoreUrl) -> None:
    await talk(node.user)  # so that there is something to subscribe to
    names = [f'store_reconnects_total{{link="{link}"}}' for link in ("mail", "state", "subscriber")]
    found = await node.figures()
    assert [found[name] for name in names] == [0, 0, 0]
    await talk(cut_all, valkey.path)
    await until(lambda: set(node.store.reconnects.values()) == {1})
    found = await node.figures()
    assert [found[name] for name in names] == [1, 1, 1]


@driven
async def test_passwords_that_wait_and_that_are_refused_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(bcrypt, "hashpw", lambda *_: let_go.wait(DEADLINE))
    passwords = Passwords(4, 1, QUEUE, reactor)
    calls = [Running(passwords.hash("secret")) for _ in range(QUEUE + 1)]
    with pytest.raises(Busy):
        calls.pop().result()
    assert (passwords.running, passwords.waiting, passwords.refused) == (0, QUEUE, 1)
    passwords.start()
    try:
        await until(lambda: (passwords.running, passwords.waiting) == (1, QUEUE - 1))
    finally:
        let_go.set()
    await until(lambda: all(call.done for call in calls))
    passwords.stop()
    assert (passwords.running, passwords.waiting, passwords.refused) == (0, 0, 1)
