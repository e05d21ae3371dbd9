"""Listening sockets that several processes share, here played by several listeners of one.

Certificates that change are tested in tests/test_reload.py.
"""

from __future__ import annotations

import datetime
import errno
import os
import socket
import ssl
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs

import chatsvc.net.listening
from chatsvc.net.listening import (
    ACCEPTS,
    BACKLOG,
    KEEPALIVE,
    CannotListen,
    Listener,
    warn_of_plain_text,
)
from tests.certificates import make_certificates
from tests.stores import driven, until
from tests.waiting import reactor

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")  # Twisted does


class Counter(Factory):
    """Accepts, and counts."""

    noisy = False
    protocol = Protocol

    def __init__(self) -> None:
        self.accepted: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        made = super().buildProtocol(addr)
        self.accepted.append(made)
        return made


def address(listener: Listener) -> Any:
    """Where it listens."""
    with socket.socket(fileno=os.dup(listener.descriptor)) as listening:
        return listening.getsockname()


def client(where: Any) -> socket.socket:
    """A connection to that address."""
    made = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    made.settimeout(5)
    made.connect(where)
    return made


def endpoints(tmp_path: Path) -> list[str]:
    _, own = make_certificates(tmp_path)
    return [
        "tcp:0:interface=127.0.0.1",
        f"unix:{tmp_path}/chat.sock:mode=600",
        f"ssl:0:interface=127.0.0.1:privateKey={own}",
        "haproxy:tcp:0:interface=127.0.0.1",
    ]


@pytest.mark.parametrize("kind", range(4), ids=["tcp", "unix", "ssl", "haproxy"])
@driven
async def test_a_held_socket_is_served_by_whoever_inherits_it(tmp_path: Path, kind: int) -> None:
    endpoint = endpoints(tmp_path)[kind]
    holder = Listener(reactor, endpoint)
    await holder.hold()
    where, path = address(holder), tmp_path / "chat.sock"
    clients = [client(where)]
    for _ in range(3):
        await deferLater(reactor, 0)  # time enough for the holder, if it were to accept
    first, second = (Listener(reactor, endpoint, os.dup(holder.descriptor)) for _ in range(2))
    of_first, of_second = Counter(), Counter()
    await first.open(of_first)
    await until(lambda: len(of_first.accepted) == 1)
    await second.open(of_second)
    await first.close()
    clients.append(client(where))
    await until(lambda: len(of_second.accepted) == 1)
    assert not path.exists() or path.stat().st_mode & 0o777 == 0o600
    assert path.exists() == (kind == 1)
    await holder.close()
    if kind != 1:  # who holds a UNIX socket takes its file away
        clients.append(client(where))
        await until(lambda: len(of_second.accepted) == 2)
    await second.close()
    with socket.socket(socket.AF_UNIX if kind == 1 else socket.AF_INET) as late:
        assert late.connect_ex(where) in (errno.ECONNREFUSED, errno.ENOENT)
    assert not path.exists()
    for one in clients:
        one.close()
    for made in of_first.accepted + of_second.accepted:
        made.transport.abortConnection()


@driven
async def test_many_may_wait_to_be_accepted(tmp_path: Path) -> None:
    holder = Listener(reactor, f"unix:{tmp_path}/chat.sock")
    await holder.hold()
    waiting = [client(address(holder)) for _ in range(100)]
    assert len(waiting) < BACKLOG
    for one in waiting:
        one.close()
    await holder.close()


@pytest.mark.parametrize("inherits", [False, True], ids=["its own", "inherited"])
@driven
async def test_of_many_that_wait_a_few_are_accepted_in_each_turn(inherits: bool) -> None:
    holder = Listener(reactor, "tcp:0:interface=127.0.0.1")
    await holder.hold()
    listener = Listener(reactor, "tcp:0:interface=127.0.0.1", os.dup(holder.descriptor) if inherits else None)
    accepting = Counter()
    await listener.open(accepting)
    waiting = [client(address(listener)) for _ in range(3 * ACCEPTS + 1)]
    turns = []
    while len(accepting.accepted) < len(waiting):
        turns.append(len(accepting.accepted))
        await deferLater(reactor, 0)
    assert len(set(turns)) > 3
    assert all(after - before <= ACCEPTS for before, after in pairwise(turns))
    for one in waiting:
        one.close()
    await listener.close()
    await holder.close()


@driven
async def test_a_socket_that_somebody_else_made_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:

        def adopted(opener: Any, endpoint: str) -> Any:  # what systemd: does
            return AdoptedStreamServerEndpoint(opener, theirs.detach(), socket.AF_INET)  # type: ignore[no-untyped-call]

        monkeypatch.setattr(chatsvc.net.listening, "serverFromString", adopted)
        listener = Listener(reactor, "systemd:domain=INET:name=chat")
        with pytest.raises(
            CannotListen, match=r"systemd:domain=INET:name=chat cannot be shared .* --workers 1"
        ):
            await listener.hold()


@driven
async def test_a_socket_that_somebody_else_made_is_not_touched_by_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = socket.create_server(("127.0.0.1", 0))
    made = []

    def adopted(opener: Any, endpoint: str) -> Any:
        made.append(opener)
        return AdoptedStreamServerEndpoint(opener, theirs.detach(), socket.AF_INET)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(chatsvc.net.listening, "serverFromString", adopted)
    listener = Listener(reactor, "systemd:domain=INET:name=chat")
    await listener.open(Counter())
    listener.reload()
    assert len(made) == 1
    await listener.close()


@driven
async def test_a_key_that_is_too_weak_is_refused_at_once(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, weak.public_key(), 1, now, now + datetime.timedelta(days=1))
        .sign(weak, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    own = tmp_path / "weak.pem"
    own.write_bytes(certificate + weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    listener = Listener(reactor, f"ssl:0:interface=127.0.0.1:privateKey={own}")
    with pytest.raises(CannotListen, match="key too small"):
        await listener.open(Counter())
    await listener.close()


@driven
async def test_a_key_that_does_not_belong_to_its_certificate_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = (make_certificates(directory)[1] for directory in (tmp_path, tmp_path / "other"))
    other.write_bytes(other.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    listener = Listener(reactor, f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={other}")
    with pytest.raises(CannotListen, match=r"Cannot listen on ssl:.* keys do not match"):
        await listener.open(Counter())
    await listener.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@driven
async def test_tls_before_1_2_is_not_spoken(tmp_path: Path) -> None:
    authority, own = make_certificates(tmp_path)
    listener = Listener(reactor, f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={own}")
    await listener.open(Counter())

    def spoken(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=str(authority))
        context.set_ciphers("ALL:@SECLEVEL=0")  # on our side all is allowed
        context.minimum_version = context.maximum_version = version
        try:
            with context.wrap_socket(client(address(listener)), server_hostname="localhost") as tls:
                return tls.version()
        except ssl.SSLError as error:
            return error.reason

    old, new = ("TLSv1", "TLSv1_1"), ("TLSv1_2", "TLSv1_3")
    for name in old:
        assert await deferToThread(spoken, ssl.TLSVersion[name]) == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert [await deferToThread(spoken, ssl.TLSVersion[name]) for name in new] == ["TLSv1.2", "TLSv1.3"]
    await listener.close()


@driven
async def test_who_may_connect_without_tls_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, own = make_certificates(tmp_path)
    endpoints = {
        "tcp:0:interface=127.0.0.1": True,
        f"ssl:0:interface=127.0.0.1:privateKey={own}": False,
        "haproxy:tcp:0:interface=127.0.0.1": False,
        f"unix:{tmp_path}/chat": False,
    }
    for endpoint, is_plain in endpoints.items():
        listener = Listener(reactor, endpoint)
        await listener.open(Counter())
        assert not listener.is_plain_outside
        if hasattr(listener._port.getHost(), "host"):
            for host in (IPv4Address("TCP", "0.0.0.0", 8080), IPv6Address("TCP", "fe80::1%eth0", 8080)):
                monkeypatch.setattr(listener._port, "getHost", lambda host=host: host)
                assert listener.is_plain_outside is is_plain, endpoint
        with capturedLogs() as events:
            warn_of_plain_text([listener])
        assert [event["where"] for event in events] == [f"{host.host}:8080"] * is_plain
        await listener.close()


@driven
async def test_a_peer_that_is_gone_without_a_word_is_noticed(tmp_path: Path) -> None:
    _, own = make_certificates(tmp_path)
    for kind in ("tcp:0:interface=127.0.0.1", f"ssl:0:interface=127.0.0.1:privateKey={own}"):
        listener, accepting = Listener(reactor, kind), Counter()
        await listener.open(accepting)
        with client(address(listener)):
            await until(lambda accepting=accepting: accepting.accepted and accepting.accepted[0].transport)  # type: ignore[misc]
            with socket.socket(fileno=os.dup(accepting.accepted[0].transport.fileno())) as accepted:
                for name, value in KEEPALIVE.items():
                    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        await listener.close()


@driven
async def test_a_listener_that_does_not_accept_leaves_who_comes_waiting() -> None:
    listener, accepting = Listener(reactor, "tcp:0:interface=127.0.0.1"), Counter()
    await listener.open(accepting)
    where = address(listener)
    listener.accept(False)
    with client(where), client(where):
        for _ in range(5):
            await deferLater(reactor, 0)
        assert accepting.accepted == []
        listener.accept(True)
        await until(lambda: len(accepting.accepted) == 2)
    await listener.close()
    listener.accept(True)  # it was on its way; nothing is open any more
