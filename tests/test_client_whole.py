"""The client library as a whole: in random weather in memory, and over real sockets and threads.

The real server is not tested here.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol

from chatsvc.client import Client, inbox
from chatsvc.wire.schema import FileInfo, Message, MessageName
from tests.client_world import World, texts
from tests.fake_server import Line, Reply, Seen, Server, message
from tests.waiting import reactor, until


def weather(seed: int) -> World:
    """Pushes, lost connections, lost acknowledgements and slow callbacks; then it clears up."""
    chance = random.Random(seed)
    world = World(random=chance.random)
    posted = 0
    waits: list[Deferred[None]] = []
    finished: list[str] = []

    async def show(message: Message) -> None:
        assert waits == []  # one at a time
        world.shown.append(message.content)
        if chance.random() < 0.5:
            waits.append(Deferred())
            await waits[-1]
        finished.append(message.content)

    world.client._on_message = show
    world.do(world.client.start())
    for _ in range(200):
        match chance.randrange(8):
            case 0 | 1 | 2:
                for _ in range(chance.choice([1, 1, 2, 30])):
                    world.server.post(message(posted, chance.randrange(10**6)))
                    posted += 1
            case 3:
                world.server.drop()
            case 4:
                for line in list(world.server.lines):  # what is under way is lost too
                    line.transport.end(ConnectionLost(), ConnectionLost())
            case 5:
                world.server.script["ACKFETCH"] = lambda line, _seen: line.transport.abortConnection()
            case 6:
                world.server.script.pop("ACKFETCH", None)
            case 7:
                if waits:
                    waits.pop().callback(None)
        if chance.random() < 0.8:
            world.clock.advance(chance.choice([0, 0, 0.3, 5]))
        assert world.server.cursor <= len(finished)
    world.server.script.pop("ACKFETCH", None)
    if chance.random() < 0.5:
        world.server.drop()
    world.clock.advance(60)
    while waits:
        waits.pop().callback(None)
        world.clock.advance(1)
    world.stop()
    return world


@pytest.mark.parametrize("seed", range(30))
def test_in_any_weather_each_message_is_shown_once_and_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PAGE", 7)
    monkeypatch.setattr(inbox, "WAITING", 20)
    world = weather(seed)
    assert world.shown == texts(*range(len(world.server.mail)))


def test_the_weather_finds_a_client_that_forgets_what_it_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "REMEMBERED", 0)
    shown = [weather(seed).shown for seed in range(10)]
    assert any(len(set(texts)) < len(texts) for texts in shown)


@pytest_twisted.ensureDeferred
async def test_over_a_real_socket(tmp_path: Path) -> None:
    server = Server(reactor)
    factory = Factory.forProtocol(Protocol)
    factory.protocol = lambda: server.lines.append(Line(server)) or server.lines[-1]  # type: ignore
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    shown: list[str] = []
    client = Client(reactor, endpoint, token=7, on_message=lambda message: shown.append(message.content))
    data = random.Random(4).randbytes(1_000_000)
    (tmp_path / "in").write_bytes(data)
    server.script["FETCHFILE"] = lambda _line, _seen: Reply(FileInfo("0" * 32, len(data)), payload=data)
    uploads: list[bytes] = []

    def sendmsg(line: Line, request: Seen) -> Reply:
        uploads.append(line.payload)
        return Reply(MessageName("x"))

    server.script["SENDMSG"] = sendmsg
    try:
        await client.start()
        handle = client._link._main.transport.socket  # type: ignore[union-attr]
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        server.post(message(1))
        await until(lambda: server.cursor == 1)
        assert shown == texts(1)
        await client.send_file(2, tmp_path / "in")
        with (tmp_path / "out").open("wb") as sink:
            await client.fetch_file("x", sink)
        assert uploads == [data]
        assert (tmp_path / "out").read_bytes() == data
    finally:
        await client.stop()
        await port.stopListening()
    await until(lambda: not server.lines)
