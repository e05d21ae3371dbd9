"""Files that are long under way to a client: what is served meanwhile, and when the file or the peer goes.

That they take no memory, and that who reads nothing is cut off, is in ``test_protocol_pressure.py``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatsvc.node import FILE_THREADS
from tests.raw import Raw
from tests.service import Service, wait_for
from tests.test_protocol_pressure import narrow

#: More than the system holds for a socket, and no multiple of anything.
SIZE = 16 * 1024 * 1024 + 12_345
DATA = secrets.token_bytes(SIZE)
FAILED = "A file could not be sent to its end"


@pytest.fixture
def own(service: Callable[..., Service]) -> Iterator[Service]:
    """A server that no other test uses."""
    with service().running() as server:
        yield server


def give_file(owner: Raw, data: bytes = DATA) -> str:
    """Send a file to oneself; gives the name of the message."""
    name = secrets.token_hex(8)
    fields = {"contenttype": "file", "filemd5": hashlib.md5(data).hexdigest(), "md5encoded": name}
    assert owner.ask("SENDMSG", owner.message(owner.user or 0, **fields), data).ok
    return name


def begin(reader: Raw, name: str) -> Raw:
    """Ask for a file, and read its very beginning only."""
    narrow(reader).send("FETCHFILE", {"msgmd5": name})
    reader.sip(1000)
    return reader


def test_nothing_comes_into_a_file_and_all_comes_after_it(server: Service, dialect: str) -> None:
    owner, friend = server.user(dialect), server.user()
    name = give_file(owner)
    reader = begin(server.again(owner, dialect), name)
    reader.send("STATE")
    texts = [friend.say(owner.user or 0) for _ in range(10)]
    assert reader.receive().payload == DATA
    assert reader.answer().body["userid"] == owner.user
    assert [reader.push() for _ in texts] == texts


def test_a_range_comes_to_the_byte(server: Service) -> None:
    owner = server.user()
    name = give_file(owner)
    for offset, length in ((0, SIZE), (1, SIZE - 2), (1024 * 1024, 1024 * 1024), (5, 3 * 1024 * 1024 + 1)):
        found = owner.ask("FETCHFILE", {"msgmd5": name, "offset": offset, "length": length})
        assert found.payload == DATA[offset : offset + length]


def test_who_does_not_read_keeps_no_thread_from_others(server: Service) -> None:
    owner = server.user()
    name = give_file(owner)
    readers = [begin(server.again(owner), name) for _ in range(FILE_THREADS + 2)]
    other = server.user()
    assert other.ask("FETCHFILE", {"msgmd5": give_file(other)}).payload == DATA
    for reader in readers:
        assert reader.receive().payload == DATA


def descriptors(server: Service) -> int:
    """How many the server has open."""
    assert server.process is not None
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.mark.parametrize("leave", [Raw.close, Raw.reset])
def test_a_client_that_goes_in_the_middle_leaves_nothing_open_and_no_complaint(
    own: Service, leave: Callable[[Raw], None]
) -> None:
    owner = own.user()
    name = give_file(owner)
    before = descriptors(own)
    for reader in [begin(own.again(owner), name) for _ in range(5)]:
        leave(reader)
    wait_for(lambda: descriptors(own) == before, "all is closed")
    assert owner.ask("STATE").ok
    assert FAILED not in own.log()


def test_a_file_that_becomes_shorter_ends_the_connection(service: Callable[..., Service]) -> None:
    server = service().start()
    owner = server.user()
    name = give_file(owner)
    before = descriptors(server)
    reader = begin(server.again(owner), name)
    os.truncate(blob(server), SIZE // 2)
    with pytest.raises(ConnectionError):  # what is there may have come; the header has promised more
        reader.receive()
    assert FAILED in server.log()
    assert f"of the {SIZE} promised" in server.log()
    wait_for(lambda: descriptors(server) == before, "all is closed")
    assert owner.ask("STATE").ok


def blob(server: Service) -> Path:
    """The only file that it has."""
    [found] = [path for path in (server.directory / "data" / "blobs").rglob("*") if path.is_file()]
    return found
