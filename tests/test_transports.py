"""What is no plain TCP socket: TLS, a UNIX socket, and connections that come through a proxy."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.raw import Raw
from tests.service import Service, wait_for

FILE = bytes(range(256)) * 8192  # 2 MiB, more than any buffer on the way holds


def _port(server: Service, endpoint: str) -> int:
    found = re.search(rf"Listening on 127\.0\.0\.1:(\d+) \({endpoint}:", server.log())
    assert found is not None, server.log()
    return int(found[1])


@pytest.mark.parametrize("kind", ["tls", "unix", "proxy"])
def test_a_conversation_with_files(service: Callable[..., Service], tmp_path: Path, kind: str) -> None:
    authority, own = make_certificates(tmp_path)
    path = tmp_path / "chat.sock"
    endpoint = {
        "tls": f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={own}",
        "unix": f"unix:{path}",
        "proxy": "haproxy:tcp:0:interface=127.0.0.1",
    }[kind]
    server = service("--listen", endpoint, "--send-buffer", "64KiB").start()

    def connect() -> Raw:
        if kind == "unix":
            through = socket.socket(socket.AF_UNIX)
            through.connect(str(path))
        elif kind == "proxy":
            through = socket.create_connection(("127.0.0.1", _port(server, "haproxy")))
            through.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 6011\r\n")
        else:
            context = ssl.create_default_context(cafile=str(authority))
            plain = socket.create_connection(("127.0.0.1", _port(server, "ssl")))
            through = context.wrap_socket(plain, server_hostname="localhost")
        return Raw(server.address, through=through)

    with connect() as alice, connect() as bob:
        alice.register("alice")
        bob.register("bob")
        assert bob.user is not None
        md5 = hashlib.md5(FILE).hexdigest()
        message = alice.message(bob.user, contenttype="file", filemd5=md5, md5encoded="a file")
        assert alice.ask("SENDMSG", message, FILE).ok
        assert bob.push()["md5encoded"] == "a file"
        assert [found["md5encoded"] for found in bob.fetch()] == ["a file"]
        assert bob.ask("FETCHFILE", {"msgmd5": "a file"}).payload == FILE
        for number in range(500):
            alice.say(bob.user, f"{number}")
        assert [bob.push()["content"] for _ in range(500)] == [
            found["content"] for found in bob.fetch()[-500:]
        ]
        bob.socket.sendall(b"\xff" * 12)
        assert bob.receive().response == "UNKNOWN"
        assert bob.closed()
    wait_for(lambda: "Traceback" in server.log() or server.stop() is not None, "it stops in order")
    assert "Traceback" not in server.log(), server.log()


# Through a proxy.


def through_proxy(server: Service, client: str = "203.0.113.7") -> Raw:
    """A connection on which a proxy speaks for a client at an address."""
    through = socket.create_connection(("127.0.0.1", _port(server, "haproxy")))
    through.sendall(f"PROXY TCP4 {client} 127.0.0.1 5555 6011\r\n".encode())
    return Raw(server.address, through=through)


def test_a_close_through_a_proxy_acknowledges_nothing(service: Callable[..., Service]) -> None:
    server = service("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--port", "0").start()
    with through_proxy(server) as alice, through_proxy(server) as bob:
        alice.register("alice")
        bob.register("bob")
        assert bob.user is not None
        alice.say(bob.user)
        bob.push()
        assert len(bob.fetch()) == 1
        bob.socket.shutdown(socket.SHUT_WR)
        assert bob.closed()  # so the server has seen it
        with through_proxy(server) as again:
            again.token = bob.token
            assert len(again.fetch()) == 1


def test_what_was_asked_before_a_half_close_is_answered_through_a_proxy(
    service: Callable[..., Service],
) -> None:
    server = service("--listen", "haproxy:tcp:0:interface=127.0.0.1", "--port", "0").start()
    with through_proxy(server) as alice:
        alice.register("alice")
        alice.send("STATE", {})
        alice.socket.shutdown(socket.SHUT_WR)
        assert alice.receive().ok
        assert alice.closed()


def test_connections_without_a_login_count_for_the_address_that_the_proxy_names(
    service: Callable[..., Service],
) -> None:
    endpoint = "haproxy:tcp:0:interface=127.0.0.1"
    server = service("--listen", endpoint, "--port", "0", "--unbound-per-address", "2").start()
    with ExitStack() as stack:
        first, *others = [
            stack.enter_context(through_proxy(server, f"203.0.113.{number}")) for number in (1, 1, 2, 2)
        ]
        for each in (first, *others):
            assert not each.ask("STATE", {}).ok  # nobody is logged in
        third = stack.enter_context(through_proxy(server, "203.0.113.1"))
        assert not third.ask("STATE", {}).ok
        assert first.closed()
        for each in others:
            assert not each.ask("STATE", {}).ok
