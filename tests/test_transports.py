"""What is no plain TCP socket: TLS, a UNIX socket, and connections that come through a proxy."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Callable
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
