"""Disks and stores that fill up under a server: what is refused, what goes on, and that it is back by itself.

Where the limits begin, and what else they refuse, is in ``test_disk.py``, ``test_chat_room.py`` and
``test_store_away.py``. Small disks of their own need root; elsewhere those tests are skipped.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.control import control, judged
from tests.chaos.load import LONG
from tests.chaos.oracle import Violated
from tests.chaos.pair import Make
from tests.raw import Raw, unique
from tests.service import Service, Valkey, wait_for

pytestmark = pytest.mark.chaos

FULL = "Storage full"
MIB = 1024 * 1024
#: A text that is kept in the store, and takes about as much room as one can.
TEXT = "x" * 30_000

_MNT_DETACH = 2

SmallDisk = Callable[[Path, int], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Puts a disk of some MiB under a directory."""
    system = ctypes.CDLL(None, use_errno=True)
    mounted: list[Path] = []

    def mount(directory: Path, mebibytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={mebibytes}m,mode=700".encode()
        if system.mount(b"none", os.fsencode(directory), b"tmpfs", 0, options):
            pytest.skip(f"A disk of its own needs root: {os.strerror(ctypes.get_errno())}.")
        mounted.append(directory)

    yield mount
    for directory in mounted:
        system.umount2(os.fsencode(directory), _MNT_DETACH)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return ballast


def info_of(sender: Raw, target: Raw, payload: bytes = b"", **fields: Any) -> str | None:
    """Why a message is refused; None if it is stored."""
    assert target.user is not None
    answer = sender.ask("SENDMSG", sender.message(target.user, md5encoded=unique(), **fields), payload)
    return None if answer.ok else answer.info or "no reason"


def file_of(data: bytes) -> dict[str, str]:
    """What a message with this file says of it."""
    return {"contenttype": "file", "filemd5": hashlib.md5(data).hexdigest()}


def send_until_full(sender: Raw, target: Raw) -> list[str]:
    """Send long texts until there is no room for more; gives the names of those that were answered OK."""
    assert target.user is not None
    stored: list[str] = []
    while True:
        message = sender.message(target.user, TEXT, md5encoded=unique())
        answer = sender.ask("SENDMSG", message)
        if not answer.ok:
            if answer.info != FULL:
                raise Violated([f"What there is no room for was answered {answer.info!r}."])
            assert answer.body == {"md5encoded": message["md5encoded"]}
            return stored
        stored.append(message["md5encoded"])


def names(reader: Raw) -> list[str]:
    """The names of all messages that FETCHMSG gives."""
    return [message["md5encoded"] for message in reader.fetch()]


def uploads_of(server: Service) -> list[Path]:
    """The temporary files of uploads."""
    return [*(server.directory / "data" / "blobs" / "tmp").iterdir()]


def test_what_must_stay_free_may_be_changed_while_it_runs(service: Make, tmp_path: Path) -> None:
    config = tmp_path / "chatsvc.toml"
    config.write_text("")
    server = service("--config", str(config), "--http", "tcp:0:interface=127.0.0.1").start()
    floor = shutil.disk_usage(server.directory).free // (1024 * MIB) + 10
    if floor > 1024:
        pytest.skip("The disk has more room than any floor asks for.")
    alice, bob = server.user(), server.user()
    phone = server.device(bob)
    said = alice.say(bob.user or 0)
    assert server.process is not None

    config.write_text(f'min-free-store = "{floor} GiB"\n')
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: info_of(alice, bob) == FULL, "messages are refused")
    assert phone.fetch() == bob.fetch() != []
    assert server.again(phone).ask("STATE").ok
    assert alice.ask("SENDMSG", said).ok  # a repeat
    assert 'chatsvc_disk_full{disk="store"} 1.0' in server.http("/metrics")[1]
    assert server.http("/readyz")[0] == 200

    config.write_text("")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: info_of(alice, bob) is None, "messages are stored again")
    assert 'chatsvc_disk_full{disk="store"} 0.0' in server.http("/metrics")[1]


@control("unwatched-disks")
def test_a_full_disk_of_the_store_never_ends_it(small_disk: SmallDisk, buggy: Make) -> None:
    server = buggy("--min-free-store", "16 MiB")
    disk = server.directory / "data" / "store"
    small_disk(disk, 64)
    server.start()
    store = server.store_pid
    alice, bob = server.user("seed"), server.user("seed")
    readers = bob, server.device(bob, "seed"), server.device(alice, "seed")
    ballast = fill(disk, 22 * MIB)
    stored = send_until_full(alice, bob)
    assert len(stored) > 10
    for reader in readers:
        assert sorted(names(reader)) == sorted(stored)
    assert info_of(alice, bob) == FULL
    ballast.unlink()
    wait_for(lambda: info_of(alice, bob) is None, "messages are stored again")
    assert server.store_pid == store
    assert "is started again" not in server.log()


@control("unwatched-disks")
def test_a_full_disk_of_files_lets_texts_through(small_disk: SmallDisk, buggy: Make) -> None:
    server = buggy("--min-free-files", "25")
    disk = server.directory / "data" / "blobs"
    small_disk(disk, 32)
    server.start()
    alice, bob = server.user("seed"), server.user("seed")
    kept, large = secrets.token_bytes(1 * MIB), secrets.token_bytes(12 * MIB)
    said = alice.say(bob.user or 0, payload=kept, **file_of(kept))

    ballast = fill(disk, 10 * MIB)  # more than must stay free, and less than the file needs
    assert info_of(alice, bob, large, **file_of(large)) == FULL
    assert uploads_of(server) == []
    assert info_of(alice, bob) is None

    ballast.unlink()
    ballast = fill(disk, 7 * MIB)
    with judged():
        wait_for(lambda: info_of(alice, bob, b"small", **file_of(b"small")) == FULL, "uploads are refused")
    assert info_of(alice, bob, content="x" * 40_000) == FULL  # it would be a file as well
    assert info_of(alice, bob, content=TEXT) is None
    assert bob.ask("FETCHFILE", {"msgmd5": said["md5encoded"]}).payload == kept
    assert uploads_of(server) == []

    ballast.unlink()
    wait_for(lambda: info_of(alice, bob, large, **file_of(large)) is None, "uploads are taken again")
    assert uploads_of(server) == []
    assert server.log().count("There is no room for files") == 1


def test_a_store_that_meets_its_end_in_a_full_disk_loses_nothing(
    small_disk: SmallDisk, service: Make
) -> None:
    server = service("--min-free-store", "0")
    disk = server.directory / "data" / "store"
    small_disk(disk, 48)
    server.start()
    alice, bob = server.user("seed"), server.user("seed")
    ballast = fill(disk, 6 * MIB)
    stored: list[str] = []
    unknown: list[str] = []
    while not unknown:
        message = alice.message(bob.user or 0, TEXT, md5encoded=unique())
        answer = alice.ask("SENDMSG", message)
        (stored if answer.ok else unknown).append(message["md5encoded"])
    wait_for(lambda: "is started again" in server.log(), "the store's end is told")
    assert "Can't recover from AOF write error" in server.log()
    ballast.unlink()
    wait_for(lambda: info_of(alice, bob) is None, "messages are stored again", 60)
    reader = server.device(bob, "seed")
    found = names(reader)
    assert set(stored) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.skipif(not LONG, reason="It takes longer than CI has: make chaos has the time.")
def test_a_store_at_its_maxmemory_gives_all_that_it_took(
    valkey: Callable[..., Valkey], service: Make
) -> None:
    store = valkey("--maxmemory", "32mb", "--maxmemory-policy", "noeviction").start()
    server = service("--redis", f"unix://{store.socket_path}").start()
    alice, bob = server.user("seed"), server.user("seed")
    readers = bob, server.device(alice, "seed")
    stored = send_until_full(alice, bob)
    assert len(stored) > 100
    for reader in readers:
        assert sorted(names(reader)) == sorted(stored)
    assert info_of(alice, bob) == FULL
    assert store.ask("CONFIG SET maxmemory 64mb").startswith(b"+OK")
    assert info_of(alice, bob) is None
