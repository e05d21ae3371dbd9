"""The page's site, on connections in memory and a fake clock; then on a server that runs."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from chatsvc.net.web import WebSite, page_files
from tests.certificates import make_certificates
from tests.network import NODE, Node
from tests.raw import DEADLINE, Raw, in_base64
from tests.service import Service, wait_for
from tests.websocket import WebSocket, handshake

node = NODE
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Answer:
    """What a peer got."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


class Site:
    """A site, and browsers that ask it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        made: Any = WebSite(node.server, node.clock, ["https://other.example"])
        made.doStart()
        self.site = made

    def connect(self) -> tuple[Any, Any]:
        channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50_000))
        transport: Any = StringTransport()  # type: ignore[no-untyped-call]
        channel.makeConnection(transport)
        return channel, transport

    def say(self, data: bytes) -> Answer:
        channel, transport = self.connect()
        channel.dataReceived(data)
        return Answer(bytes(transport.value()))

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.say("\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode())


@pytest.fixture
def site(node: Node) -> Iterator[Site]:
    made = Site(node)
    yield made
    made.site.stop()
    made.site.doStop()


def test_every_file_of_the_page_is_served_as_what_it_is(site: Site) -> None:
    files = page_files()
    assert {b"/", b"/style.css", b"/main.js"} <= set(files)
    for path, file in files.items():
        answer = site.ask(path.decode())
        assert (answer.status, answer.body) == (200, file.body)
        assert answer.headers["content-type"] == file.content_type
        assert answer.headers["content-length"] == str(len(file.body))


@pytest.mark.parametrize("path", ["/", "/main.js", "/nothing", "/ws"])
def test_every_answer_says_what_a_browser_may_do_with_it(site: Site, path: str) -> None:
    headers = site.ask(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-cache"
    assert "server" not in headers


@pytest.mark.parametrize(
    "path", ["/nothing", "/index.html", "/../setup.cfg", "/%2e%2e/setup.cfg", "//main.js", "/main.js/", "*"]
)
def test_there_is_nothing_else(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert (answer.status, answer.body) == (404, b"There is no such page. The chat is at /.\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_there_is_nothing_to_change(site: Site, method: str) -> None:
    answer = site.ask("/", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_what_a_browser_has_is_not_sent_again(site: Site) -> None:
    first = site.ask("/style.css")
    again = site.ask("/style.css", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert site.ask("/style.css", If_None_Match='"other"').status == 200


def test_head_gives_the_head_alone(site: Site) -> None:
    whole, head = site.ask("/"), site.ask("/", "HEAD")
    assert (head.status, head.body, head.headers) == (200, b"", whole.headers)


def test_a_connection_is_for_several_files_and_has_its_time(site: Site) -> None:
    channel, transport = site.connect()
    for _ in range(3):
        channel.dataReceived(b"GET /style.css HTTP/1.1\r\nHost: a\r\n\r\n")
    assert bytes(transport.value()).count(b"HTTP/1.1 200 ") == 3
    site.node.clock.advance(59)
    channel.dataReceived(b"GET /style.css HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not transport.disconnected
    site.node.clock.advance(1)
    assert transport.disconnected


def test_one_connection_too_many_costs_the_oldest(site: Site) -> None:
    transports = [site.connect()[1] for _ in range(257)]
    assert [transport.disconnected for transport in transports] == [True] + [False] * 256


def test_a_websocket_is_none_of_the_connections_for_files(site: Site) -> None:
    channel, transport = site.connect()
    channel.dataReceived(handshake())
    assert not site.site._channels
    site.node.clock.advance(61)
    assert not transport.disconnected


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://chat.example", 101),
        ("https://Chat.Example", 101),
        ("https://other.example", 101),
        ("http://other.example", 403),
        ("https://chat.example:444", 403),
        ("https://chat.example.evil.example", 403),
        ("https://chat.example@evil.example", 403),
        ("http://[", 403),
        ("null", 403),
    ],
)
def test_only_pages_of_the_same_host_and_those_that_are_named_may_chat(
    site: Site, origin: str | None, status: int
) -> None:
    assert site.say(handshake(origin=origin)).status == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": ""},
        {"Upgrade": "h2c"},
        {"Connection": "close"},
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Key": "no key"},
    ],
)
def test_what_is_no_handshake_is_told_what_this_is(
    site: Site, headers: dict[str, str], no_unhandled_failure: list[Any]
) -> None:
    answer = site.say(handshake(**headers))
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
    assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "headers", [{"X": "\x01"}, {"host": "another.example"}, {"Host": "a" * 100}, {"Host": ""}, {"X": "é"}]
)
def test_odd_headers_beside_a_handshake_are_no_fault(
    site: Site, headers: dict[str, str], no_unhandled_failure: list[Any]
) -> None:
    assert site.say(handshake(**headers)).status == 101
    assert no_unhandled_failure == []


# A server that runs.


def port_of(server: Service) -> int:
    """Where a server has its page."""
    found = re.search(r"Chat in a browser: https?://127\.0\.0\.1:(\d+)/", server.log())
    assert found is not None, server.log()
    return int(found[1])


@pytest.mark.parametrize("kind", ["workers", "tls", "proxy"])
def test_the_stream_of_a_websocket_is_that_of_a_socket(
    service: Callable[..., Service], tmp_path: Path, kind: str
) -> None:
    """Also after a reload, with a file larger than any buffer on the way, and when the server stops."""
    authority, own = make_certificates(tmp_path)
    endpoint = {
        "workers": ["tcp:0:interface=127.0.0.1", "--workers", "2"],
        "tls": [f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={own}"],
        "proxy": ["haproxy:tcp:0:interface=127.0.0.1"],
    }[kind]
    server = service("--web", *endpoint).start()
    os.kill(server.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
    wait_for(lambda: "The reload is done." in server.log(), "it reloads")

    def connect() -> Raw:
        plain = socket.create_connection(("127.0.0.1", port_of(server)), timeout=DEADLINE)
        if kind == "tls":
            context = ssl.create_default_context(cafile=str(authority))
            plain = context.wrap_socket(plain, server_hostname="localhost")
        elif kind == "proxy":
            plain.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 6011\r\n")
        tab: Any = WebSocket(plain, 1 << 16)
        return Raw(server.address, through=tab)

    with connect() as alice, connect() as enemy, server.connect() as bob:
        alice.register("alice")
        bob.register("bob")
        assert alice.user is not None
        assert bob.user is not None
        bob.fetch()
        alice.say(bob.user, "aGk=")
        assert bob.push()["content"] == "aGk="
        file = bytes(range(256)) * 8192
        sent = alice.say(bob.user, payload=file, contenttype="file", filemd5=md5(file).hexdigest())
        assert alice.ask("FETCHFILE", {"msgmd5": sent["md5encoded"]}).payload == file
        for number in range(200):
            bob.say(alice.user, in_base64(str(number)))
        contents = [alice.push()["content"] for _ in range(200)]
        assert contents == [in_base64(str(number)) for number in range(200)]
        enemy.socket.sendall(b"\xff" * 12)
        assert enemy.receive().response == "UNKNOWN"
        assert enemy.closed()
        assert server.stop() in (0, -signal.SIGTERM)
        with pytest.raises(OSError, match=r"reset|closed|EOF"):
            alice.answer()
    assert "Traceback" not in server.log(), server.log()
