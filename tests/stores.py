"""Stores for tests: a real Valkey, one that says what it is told to, and a way to lose a real one's answers.

A test module takes `FIXTURES` for its own; each gets a Valkey of its own.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from chatsvc.store import keys
from chatsvc.store.append import Outgoing
from chatsvc.store.mail import Entry, Published
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl, parse
from chatsvc.tasks import deferred
from chatsvc.valkey import EmbeddedStore
from chatsvc.wire.errors import Refusal
from tests.cluster import Cluster
from tests.fake_store import FakeStore
from tests.service import ROOT

reactor: Any = installed_reactor  # to a type checker it is a module
DEADLINE = 20.0
HASH = b"the hash of a password"
Test = Callable[..., Coroutine[Any, Any, None]]
_numbers = itertools.count(1)


def driven(test: Test) -> Test:
    """A test that may await what the server's own coroutines may, and ends in time."""

    @wraps(test)
    async def run_test(*args: Any, **kwargs: Any) -> None:
        await deferred(test(*args, **kwargs)).addTimeout(DEADLINE, reactor)

    return pytest_twisted.ensureDeferred(run_test)  # type: ignore[no-any-return]


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds; the test's own deadline ends the wait."""
    while not condition():
        await deferLater(reactor, 0.005)


@pytest_twisted.async_yield_fixture(scope="module")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The address of a Valkey; the tests that share it make users of their own.

    What goes there may do no more than `docs/operations.md` says is enough.
    """
    store = EmbeddedStore(reactor, tmp_path_factory.mktemp("store"))
    await store.start()
    await grant(StoreUrl(kind="unix", path=store.socket_path))
    yield StoreUrl(kind="unix", path=store.socket_path, username="chatsvc", password="PASSWORD")
    await store.stop()


async def grant(url: StoreUrl) -> None:
    """Give a store the user that `docs/operations.md` has for one of an operator's own."""
    commands = re.findall(r"^    (ACL SETUSER .*)", (ROOT / "docs" / "operations.md").read_text(), re.M)
    assert commands
    everybody = Store(reactor, url)
    everybody.start()
    await deferred(everybody.ready(DEADLINE))
    for command in commands:
        assert await deferred(everybody._link.call(*command.encode().split())) == b"OK"
    await deferred(everybody.stop())


def as_anybody(url: StoreUrl) -> StoreUrl:
    """The same store, with all rights: for what only a test asks."""
    return msgspec.structs.replace(url, username=None, password=None)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreUrl]:
    """The address of a cluster of three."""
    stores = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield parse(stores.start().url)
    finally:
        stores.stop()


@pytest.fixture(params=["fake", "real", "cluster"])
def two_stores(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The ways of two nodes to one store."""
    if request.param == "fake":
        store = FakeStore(Clock())
        return store, store.sibling()
    url = request.getfixturevalue("valkey" if request.param == "real" else "cluster")
    return Store(reactor, url), Store(reactor, url)


@pytest_twisted.async_yield_fixture
async def nodes(two_stores: tuple[Any, Any]) -> Any:
    """The same, ready for use."""
    real = [store for store in two_stores if isinstance(store, Store)]
    for store in real:
        store.start()
        await deferred(store.ready(DEADLINE))
    yield two_stores
    for store in real:
        await deferred(store.stop())


@pytest.fixture
def store(nodes: tuple[Any, Any]) -> Any:
    """One node's way to a store."""
    return nodes[0]


@pytest.fixture
def other(nodes: tuple[Any, Any]) -> Any:
    """Another node's way to the same store."""
    return nodes[1]


FIXTURES = valkey, cluster, two_stores, nodes, store, other


def fresh(name: str = "user") -> str:
    """A name that nobody has."""
    return f"{name}-{next(_numbers)}"


async def new_user(store: Any) -> int:
    """The id of a new user, whose password has `HASH`."""
    user = await store.accounts.create(fresh(), HASH)
    return int(user.id)


async def new_device(store: Any, user_id: int | None = None) -> str:
    """A new device, bound to the user if one is given."""
    device = keys.device_id(await store.devices.create())
    if user_id is not None:
        assert await store.devices.bind(device, user_id, HASH)
    return device


async def listen(store: Any, whose: keys.Whose) -> list[bytes]:
    """All that this node hears of a user, or of a device's binding, from now on."""
    heard: list[bytes] = []
    before = store.channels.on_message

    def on_message(of: keys.Whose, text: bytes) -> None:
        before(of, text)
        if of == whose:
            heard.append(text)

    store.channels.on_message = on_message
    await store.channels.subscribe(whose, DEADLINE)
    return heard


async def refused(work: Awaitable[Any]) -> str:
    """What a client is told of why this is not done."""
    with pytest.raises(Refusal) as raised:
        await work
    return raised.value.info


async def append(store: Any, *args: Any, **more: Any) -> None:
    """Have a message stored that is `outgoing` with these."""
    await store.mail.append(outgoing(*args, **more))


def heard_entries(heard: list[bytes]) -> list[Entry]:
    """The entries in what was published."""
    return [entry for text in heard for entry in Published(text).entries()]


def outgoing(sender: int, target: int, device: str, text: bytes = b"{}", **more: Any) -> Outgoing:
    """A message that is to be stored."""
    parts = {"repeat": None, "flags": b""} | more
    return Outgoing(sender=sender, target=target, device=device, message=text, **parts)


#: A reply that never comes.
SILENCE = b""


class Scripted(Factory):
    """A server that says what it is told to: `says` by command, each text once; else what suits us."""

    noisy = False

    def __init__(self, path: str, clock: Clock) -> None:
        self.path, self.clock = path, clock
        self.says: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self.heard: list[list[bytes]] = []
        self.connections: list[Any] = []
        self.ahead = 0.0  # of our clock, in seconds
        self._port: Any = None

    def open(self) -> None:
        self._port = reactor.listenUNIX(self.path, self)

    async def close(self) -> None:
        self.cut()
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()

    def cut(self) -> None:
        for connection in self.connections:
            connection.transport.abortConnection()

    def buildProtocol(self, addr: object) -> _Speaker:
        return _Speaker(self)

    def reply(self, command: list[bytes]) -> bytes:
        self.heard.append(command)
        name = command[0]
        if self.says[name]:
            return self.says[name].pop(0)
        if name == b"TIME":
            now = self.clock.seconds() + self.ahead
            return b"*2\r\n$%d\r\n%d\r\n$1\r\n0\r\n" % (len(b"%d" % now), now)
        return b"+OK\r\n"

    def count(self, name: bytes) -> int:
        return sum(command[0] == name for command in self.heard)


class _Speaker(Protocol):
    transport: Any

    def __init__(self, server: Scripted) -> None:
        self._server = server
        self._received = b""

    def connectionMade(self) -> None:
        self._server.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.connections.remove(self)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while (command := self._next()) is not None:
            reply = self._server.reply(command)
            if reply == b"CUT":
                self.transport.abortConnection()
            else:
                self.transport.write(reply)

    def _next(self) -> list[bytes] | None:
        """The next command, if it is there whole."""
        head, found, rest = self._received.partition(b"\r\n")
        if not found:
            return None
        parts = []
        for _ in range(int(head[1:])):
            size, found, rest = rest.partition(b"\r\n")
            end = int(size[1:] or 0) if found else 0
            if not found or len(rest) < end + 2:
                return None
            parts.append(rest[:end])
            rest = rest[end + 2 :]
        self._received = rest
        return parts


class Proxy(Factory):
    """Stands between a store and its client, and loses the store's answers when told to."""

    noisy = False

    def __init__(self, path: str, behind: str) -> None:
        self.path, self.behind = path, behind
        self.losing = 0
        self.lost = 0

    def buildProtocol(self, addr: object) -> _Forward:
        return _Forward(self, None)

    def loses(self) -> bool:
        """Whether this answer is to be lost."""
        if self.losing:
            self.losing, self.lost = self.losing - 1, self.lost + 1
            return True
        return False


class _Forward(Protocol):
    """One of the two ends of a connection through the proxy."""

    transport: Any

    def __init__(self, proxy: Proxy, client: _Forward | None) -> None:
        self._proxy, self._peer = proxy, client
        self._early = b""
        self._is_store = client is not None

    def connectionMade(self) -> None:
        if self._peer is not None:
            self._peer._peer = self
            self.transport.write(self._peer._early)
            return
        factory = Factory.forProtocol(lambda: _Forward(self._proxy, self))
        factory.noisy = False
        UNIXClientEndpoint(reactor, self._proxy.behind).connect(factory)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        if self._is_store and self._proxy.loses():
            self.transport.abortConnection()
        elif self._peer is None:
            self._early += data
        else:
            self._peer.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._peer is not None:
            self._peer.transport.abortConnection()
