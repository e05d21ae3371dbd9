"""Two nodes behind a real HAProxy with deploy/haproxy.cfg, its addresses apart; skipped where there is none.

What else lies in deploy/ is looked at in test_deploy.py.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.raw import DEADLINE, Raw
from tests.service import ROOT, Service, Valkey, wait_for

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
pytestmark = pytest.mark.skipif(not HAPROXY, reason="HAProxy is not installed")
#: Of connections without a login from one address on one node.
CAP = 2


def free_port() -> int:
    """A port that a node can have again when it is started again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Node(NamedTuple):
    """A node, and its ports for the proxy and for its health checks."""

    service: Service
    proxied: int
    http: int


class Proxy:
    """A HAProxy before the nodes of these names."""

    def __init__(self, directory: Path, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.address = "127.0.0.1", free_port()
        self.log_file = directory / "haproxy.log"
        self._clients: list[Raw] = []
        text = CONFIGURATION.read_text().replace("bind :8080", f"bind 127.0.0.1:{self.address[1]}")
        for name, node in nodes.items():
            # Here the nodes share an address, so each is asked on a port of its own.
            where = rf"\1 127.0.0.1:{node.proxied} port {node.http}"
            text = re.sub(rf"(?m)^( +server {name}) {name}:8081$", where, text)
        path = directory / "haproxy.cfg"
        path.write_text(text)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen([HAPROXY, "-db", "-f", str(path)], stdout=log, stderr=log)

    def connect(self, address: str = "127.0.0.1", token: int | None = None) -> Raw:
        """A connection from one of this machine's addresses, which has made a request."""
        through = socket.create_connection(self.address, DEADLINE, (address, 0))
        self._clients.append(Raw(self.address, token=token, through=through))
        self._clients[-1].ask("STATE")
        return self._clients[-1]

    def gives_clients_to(self, name: str) -> bool:
        """Whether it takes a node for ready, which it does at first."""
        found = re.findall(rf"Server ready/{name} is (UP|DOWN)", self.log_file.read_text())
        return not found or found[-1] == "UP"

    def end(self) -> None:
        """Close all connections, and SIGKILL it."""
        while self._clients:
            self._clients.pop().close()
        self.process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def store(valkey: Callable[..., Valkey]) -> Valkey:
    return valkey().start()


@pytest.fixture
def proxy(tmp_path: Path, store: Valkey, service: Callable[..., Service]) -> Iterator[Proxy]:
    options = ("--redis", f"unix://{store.socket_path}", "--unbound-per-address", str(CAP))
    nodes = {}
    for name in ("server", "server-2"):
        proxied, http = free_port(), free_port()
        listen = ("--listen", f"haproxy:tcp:{proxied}:interface=127.0.0.1")
        asked = ("--http", f"tcp:{http}:interface=127.0.0.1")
        nodes[name] = Node(service(*options, *listen, *asked, name=name).start(), proxied, http)
    made = Proxy(tmp_path, nodes)
    try:
        wait_for(lambda: _listens(made.address), "HAProxy listens")
        yield made
    finally:
        made.end()


def _listens(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address):
        return True
    return False


def _is_closed(client: Raw) -> bool:
    with suppress(TimeoutError):
        return client.closed(0.05)
    return False


def test_haproxy_takes_the_file_as_it_is() -> None:
    done = subprocess.run([HAPROXY, "-c", "-f", CONFIGURATION], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # That the names of the containers mean nothing here is all that it has to say.
    warnings = [line for line in done.stderr.splitlines() if "[WARNING]" in line]
    assert all("could not resolve address" in line for line in warnings), done.stderr


def test_nodes_know_the_addresses_of_clients(proxy: Proxy) -> None:
    # More than the cap on either node, and all are well.
    others = [proxy.connect(f"127.0.0.{number}") for number in range(2, 3 + 2 * CAP)]
    assert all(client.ask("STATE").info == "User not logged in" for client in others)
    # One more from a single address than both nodes allow it.
    same = [proxy.connect("127.0.1.1") for _ in range(2 * CAP + 2)]
    wait_for(lambda: any(_is_closed(client) for client in same), "the longest idle of them is closed")
    assert all(client.ask("STATE").info == "User not logged in" for client in others)


def test_a_rolling_restart_shows_nothing_but_a_reconnect(proxy: Proxy) -> None:
    alice, bob = proxy.connect(), proxy.connect()
    alice.register("alice")
    bob.register("bob")
    sent = []
    for name, node in proxy.nodes.items():
        node.service.stop()
        clients = []
        for client in (alice, bob):
            try:
                assert client.ask("STATE").ok
            except ConnectionError:
                again = proxy.connect(token=client.token)
                again.user = client.user
                client = again
            assert client.ask("STATE").ok
            clients.append(client)
        alice, bob = clients
        assert bob.user is not None
        sent.append(alice.say(bob.user)["md5encoded"])
        node.service.start()
        wait_for(partial(proxy.gives_clients_to, name), f"{name} is used again")
    assert [message["md5encoded"] for message in bob.fetch()] == sent


def test_without_a_node_that_is_ready_clients_are_told_why(proxy: Proxy, store: Valkey) -> None:
    store.end()
    wait_for(lambda: not any(map(proxy.gives_clients_to, proxy.nodes)), "no node is ready")
    refused = proxy.connect().ask("REGISTER", {"username": "carol", "passwd": "secret"})
    assert refused.info == "Storage unavailable, try again"
