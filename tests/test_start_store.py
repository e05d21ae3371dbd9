"""Starting on a store of the operator's own: how it is reached, and what is said when it cannot be."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.cluster import ClusterNode
from tests.service import Service, Valkey, wait_for
from tests.test_start import refuses, talks

Make = Callable[..., Service]
MakeStore = Callable[..., Valkey]

#: Ends TLS before a UNIX socket: the Valkey of the wheel speaks none.
TLS_FRONT = """
import asyncio, ssl, sys
async def copy(source, sink):
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()
async def relay(reader, writer):
    there_reader, there_writer = await asyncio.open_unix_connection(sys.argv[1])
    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def is_used(store: Valkey, database: int, *login: str) -> bool:
    """Whether this database, and no other, holds something."""
    keyspace = store.ask(*login, "INFO keyspace").decode()
    return keyspace.count("db") == keyspace.count(f"db{database}:") == 1


@pytest.mark.parametrize(
    ("settings", "url", "login", "database"),
    [
        ((), "unix://{path}", (), 0),
        ((), "unix://{path}?db=5", (), 5),
        ((), "redis://127.0.0.1:{port}", (), 0),
        (("--requirepass", "pa55"), "redis://:pa55@localhost:{port}/3", ("AUTH pa55",), 3),
        (("--requirepass", "pa55"), "unix://:pa55@{path}", ("AUTH pa55",), 0),
        (
            ("--user", "default", "off", "--user", "chat", "on", ">pa55", "~*", "&*", "+@all"),
            "redis://chat:pa55@127.0.0.1:{port}",
            ("AUTH chat pa55",),
            0,
        ),
    ],
)
def test_a_store_is_used_by_its_address(
    valkey: MakeStore,
    service: Make,
    settings: tuple[str, ...],
    url: str,
    login: tuple[str, ...],
    database: int,
) -> None:
    store = valkey(*settings).start()
    server = service("--redis", url.format(path=store.socket_path, port=store.port)).start()
    assert not (server.directory / "data/store").exists()
    talks(server)
    alice = server.user()
    server.stop()
    assert is_used(store, database, *login), "it is not, or the server ended a store that is not its own"
    server.start()
    assert server.connect(token=alice.token).ask("STATE").body["userid"] == alice.user
    assert server.log().count("The store is ") == 1
    assert "pa55" not in server.log_file.read_text()


def test_a_password_comes_from_a_file_and_is_shown_nowhere(
    valkey: MakeStore, service: Make, tmp_path: Path
) -> None:
    store = valkey("--requirepass", "pa55").start()
    file = tmp_path / "address"
    file.write_text(f"redis://:pa55@127.0.0.1:{store.port}\n")
    server = service(environment={"CHATSVC_REDIS_FILE": str(file)}).start()
    talks(server)
    assert f"redis://:***@127.0.0.1:{store.port}/0" in server.log()
    assert "pa55" not in server.log()


def test_nodes_that_share_a_store_and_a_directory_are_one_service(valkey: MakeStore, service: Make) -> None:
    options = ("--redis", f"unix://{valkey().start().socket_path}")
    one = service(*options, name="one").start()
    two = service(*options, "--data-dir", str(one.directory / "data"), name="two").start()
    alice, bob = one.user(), two.user()
    assert alice.user
    assert bob.user
    data = bytes(range(256)) * 999
    said = [
        alice.say(bob.user, "eHh4" * 10_000),
        alice.say(bob.user, payload=data, contenttype="file", filemd5="6188e3136bf8c3fd61fc46891955492d"),
    ]
    assert [bob.push() for _ in said] == said
    answer = bob.ask("FETCHFILE", {"msgmd5": said[1]["md5encoded"]})
    assert answer.payload == data
    reply = bob.say(alice.user)
    assert alice.push() == reply
    assert [found["md5encoded"] for found in alice.fetch()] == [reply["md5encoded"]]


@contextmanager
def tls_front(store: Valkey, certificate: Path) -> Iterator[int]:
    """The port of a TLS server in front of a store."""
    command = [sys.executable, "-c", TLS_FRONT, str(store.socket_path), str(certificate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_tls_is_used_and_the_certificate_verified(valkey: MakeStore, service: Make, tmp_path: Path) -> None:
    store = valkey().start()
    authority, own = make_certificates(tmp_path)
    trusting = {"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": "/nonexistent"}
    with tls_front(store, own) as port:
        stranger = service("--redis", f"rediss://localhost:{port}", name="stranger")
        misled = service("--redis", f"rediss://127.0.0.1:{port}", name="misled", environment=trusting)
        stranger.spawn()
        misled.spawn()
        server = service("--redis", f"rediss://localhost:{port}", environment=trusting).start()
        talks(server)
        server.stop()
        assert "Traceback" not in server.log(), server.log()
        refuses(stranger, "certificate verify failed")
        refuses(misled, "The store at rediss://127.0.0.1:", "IPAddressMismatch")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_weakens_the_promise_is_said_once(valkey: MakeStore, service: Make, workers: str) -> None:
    store = valkey("--appendfsync", "everysec").start()
    with service("--redis", f"unix://{store.socket_path}", "--workers", workers).running() as server:
        assert server.log().count("appendfsync everysec") == 1


def test_a_store_that_cannot_be_used_is_named_with_the_reason(valkey: MakeStore, service: Make) -> None:
    secret, plain = valkey("--requirepass", "pa55").start(), valkey(name="plain").start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cases = {
            f"cluster://127.0.0.1:{plain.port}": "it is no cluster",
            f"redis://:wrong@127.0.0.1:{secret.port}": "WRONGPASS",
            f"redis://127.0.0.1:{secret.port}": "NOAUTH",
            f"unix://{plain.socket_path}?db=16": "out of range",
            f"redis://127.0.0.1:{silent.getsockname()[1]}": "did not reply within 3 s",
            f"rediss://127.0.0.1:{plain.port}": "did not reply within 3 s",
        }
        servers = [service("--redis", url, name=f"server{at}") for at, url in enumerate(cases)]
        for server in servers:
            server.spawn()
        for server, (url, why) in zip(servers, cases.items(), strict=True):
            address = url.replace(":wrong@", ":***@")
            refuses(server, f"The store at {address}", "cannot be used: ", why)
            assert server.log().count("#warn] The store cannot be used: ") <= 6, "it says it at each try"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_is_not_there_yet_is_waited_for(valkey: MakeStore, service: Make, workers: str) -> None:
    store = valkey()
    address = f"redis://127.0.0.1:{store.port}"
    server = service("--redis", address, "--workers", workers, "--http", "tcp:0:interface=127.0.0.1")
    server.spawn()
    why = f"The store at {address}/0 cannot be used: Connection was refused by other side"
    wait_for(lambda: server.http("/readyz")[1].startswith(why), "it says what it waits for")
    assert server.http("/readyz")[0] == 503
    store.start()
    server.wait_until_ready()
    talks(server)
    assert server.http("/readyz") == (200, "ready\n")
    assert server.stop() in (0, -signal.SIGTERM)
    store.end()
    server.spawn()
    wait_for(lambda: server.http("/readyz")[1].startswith(why), "it waits again")
    assert server.stop() in (0, -signal.SIGTERM), "what waits can be stopped"
    assert "Traceback" not in server.log()


def test_one_node_of_a_cluster_is_refused(service: Make, tmp_path: Path) -> None:
    node = ClusterNode(tmp_path / "node")
    try:
        node.start()
        node.told("CLUSTER ADDSLOTSRANGE 0 16383")
        server = service("--redis", f"redis://127.0.0.1:{node.port}")
        server.spawn()
        refuses(server, "The store is one node of a cluster. Name it as cluster://")
    finally:
        node.end()
