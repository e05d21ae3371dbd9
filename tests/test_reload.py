"""SIGHUP: limits and certificates are those that are there now, and no connection is dropped for that."""

from __future__ import annotations

import re
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.raw import Raw
from tests.service import Service, wait_for

Make = Callable[..., Service]
KEY = b"-----BEGIN PRIVATE KEY-----"
both = pytest.mark.parametrize("workers", ["1", "2"])


def reload(server: Service) -> str:
    """SIGHUP; what is logged until it has been carried out."""
    before = len(server.log())
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "The reload is done." in server.log()[before:], "it is reloaded")
    return server.log()[before:]


class Tls:
    """The clients of a server that listens with a certificate."""

    def __init__(self, server: Service, authority: Path) -> None:
        found = re.search(r"Listening on 127\.0\.0\.1:(\d+) \(ssl:", server.log())
        assert found is not None, server.log()
        self.port = int(found[1])
        self.server = server
        self.authority = authority

    def connect(self) -> Raw:
        """A connection that trusts the authority that is there now."""
        context = ssl.create_default_context(cafile=str(self.authority))
        plain = socket.create_connection(("127.0.0.1", self.port))
        return Raw(self.server.address, through=context.wrap_socket(plain, server_hostname="localhost"))


@both
def test_certificates_are_read_again(measured: Make, tmp_path: Path, workers: str) -> None:
    authority, own = make_certificates(tmp_path)
    listen = f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={own}"
    with measured("--listen", listen, "--workers", workers).running() as server:
        tls = Tls(server, authority)
        with tls.connect() as alice:
            alice.register("alice")
            old = own.read_bytes()
            make_certificates(tmp_path)  # by another authority of the same name, in the same files
            with pytest.raises(ssl.SSLCertVerificationError):
                tls.connect()
            assert "error" not in reload(server)
            for _ in range(4):  # whichever worker it meets
                with tls.connect() as bob:
                    bob.ask("STATE")
            assert alice.ask("STATE").ok

            new = own.read_bytes()
            not_its_key = old.partition(KEY)[0] + KEY + new.partition(KEY)[2]
            for wrong in (b"no certificate", not_its_key):
                own.write_bytes(wrong)
                assert f"{listen} goes on with the certificate that it has" in reload(server)
                with tls.connect() as bob:
                    bob.ask("STATE")
            assert alice.ask("STATE").ok


def avatar_limit(raw: Raw) -> int:
    """The largest avatar, as the refusal of a larger one names it."""
    body = {"avatar": "x" * 5000}
    found = re.search(r"(\d+) characters", str(raw.ask("MODIFYPROFILE", body).info))
    assert found is not None
    return int(found[1])


@both
def test_limits_are_read_again(measured: Make, tmp_path: Path, workers: str) -> None:
    config, json_limit = tmp_path / "chatsvc.toml", tmp_path / "max-json"
    config.write_text("max-avatar = 1000\nmax-payload = 1000")
    json_limit.write_text("1MiB")
    options = ("--config", str(config), "--workers", workers, "--max-payload", "2000")
    environment = {"CHATSVC_MAX_JSON_FILE": str(json_limit)}
    with measured(*options, environment=environment).running() as server:
        alice = server.user()
        assert avatar_limit(alice) == 1000
        config.write_text("max-avatar = 500\nmax-payload = 4000\nbcrypt-cost = 6\nworkers = 7")
        json_limit.write_text("64KiB")
        assert "has changed" not in reload(server), "the command line goes before the file"
        assert avatar_limit(alice) == 500
        for _ in range(4):  # whichever worker it meets
            again = server.connect("seed")
            again.socket.sendall(again.header.pack(64 * 1024 + 1, 0) + b"{")
            assert str(64 * 1024) in str(again.answer().info)
        too_much = alice.message(alice.user or 0, contenttype="file", filemd5="0" * 32)
        assert "2000" in str(alice.ask("SENDMSG", too_much, bytes(2001)).info)


def test_what_cannot_be_reloaded_is_named(measured: Make, tmp_path: Path) -> None:
    config = tmp_path / "chatsvc.toml"
    config.write_text('durability = "always"')
    with measured("--config", str(config)).running() as server:
        config.write_text('durability = "everysec"\nreplica-acks = 0\nhttp = "tcp:0:interface=127.0.0.1"')
        log = reload(server)
        assert "--durability has changed, which needs a restart" in log
        assert "--http has changed, which needs a restart" in log
        assert log.count("needs a restart") == 2


def test_a_wrong_file_leaves_everything_as_it_was(measured: Make, tmp_path: Path) -> None:
    config = tmp_path / "chatsvc.toml"
    config.write_text("max-avatar = 1000")
    with measured("--config", str(config)).running() as server:
        alice = server.user()
        for wrong in ("max-avatar = 500\nmax-jsn = 1", "max-avatar = -1", "["):
            config.write_text(wrong)
            assert f"The settings stay as they were: {config}" in reload(server)
            assert avatar_limit(alice) == 1000
        config.unlink()
        assert "The settings stay as they were: --config names" in reload(server)
        assert avatar_limit(alice) == 1000
