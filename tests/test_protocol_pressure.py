"""Clients that do not read, or not what they asked for, and what the server holds for them meanwhile.

``docs/protocol.md`` section 2; time-outs of the other direction are in ``test_protocol_connections.py``.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tests.raw import DEADLINE, Answer, Raw
from tests.service import Service, wait_for

KIB, MIB = 1024, 1024**2
#: What the server's memory may grow by for a few peers that do not read. What they do not read is a
#: multiple of it; what the system holds for a socket is not the server's.
GROWTH = 8 * MIB
SEND_TIMEOUT = 1.5


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server behind `strict`."""
    options = ("--send-timeout", str(SEND_TIMEOUT), "--frame-timeout", "1")
    with Service(tmp_path_factory.mktemp("strict"), *options).running() as server:
        yield server


@pytest.fixture
def strict(strict_server: Service) -> Iterator[Service]:
    """A server that waits for a reader for a short time only."""
    yield strict_server
    strict_server.hang_up()


def narrow(raw: Raw) -> Raw:
    """The same connection, for which the system holds little that was not read."""
    # Less than a few segments of the loopback would make it crawl when it reads again.
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * KIB)
    return raw


def mail(sender: Raw, target: Raw, numbers: range, size: int) -> None:
    """Send messages of `size` bytes, numbered by their timestamps."""
    content = "A" * size
    for at in range(0, len(numbers), 20):
        for number in numbers[at : at + 20]:
            sender.send("SENDMSG", sender.message(target.user or 0, content, timestamp=number))
        for _ in numbers[at : at + 20]:
            assert sender.answer().ok


def give_file(raw: Raw, size: int) -> str:
    """Send a file to oneself; gives the name of the message."""
    data = bytes(size)
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, md5encoded="file")
    assert raw.ask("SENDMSG", body, data).ok
    return "file"


def test_a_client_that_does_not_read_misses_nothing_and_takes_no_memory(
    server: Service, dialect: str
) -> None:
    alice, bob = server.user(dialect), narrow(server.user(dialect))
    readers = [bob, narrow(server.again(bob, dialect))]
    mail(alice, bob, range(20), 30 * KIB)
    before = server.memory
    mail(alice, bob, range(20, 600), 30 * KIB)  # 17 MiB to each of two connections
    assert server.memory - before < GROWTH
    for raw in readers:
        assert [raw.push()["timestamp"] for _ in range(600)] == list(range(600))
    mail(alice, bob, range(600, 601), 10)
    assert [raw.push()["timestamp"] for raw in readers] == [600, 600]


def test_the_mail_of_a_client_that_does_not_read_stays_in_its_mailbox(server: Service) -> None:
    alice, bob = server.user(), narrow(server.user())
    mail(alice, bob, range(100), 30 * KIB)
    bob.reset()
    assert [message["timestamp"] for message in server.again(bob).fetch()] == list(range(100))


def test_a_fetch_that_is_not_read_waits_in_the_mailbox(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    bob.close()
    mail(alice, bob, range(600), 30 * KIB)
    readers = [narrow(server.again(bob, dialect)) for _ in range(3)]
    before = server.memory
    for raw in readers:
        raw.send("FETCHMSG")
        raw.send("STATE")
    mail(alice, bob, range(600, 620), 100)  # others are served; new mail stays behind what was there
    assert server.memory - before < 3 * GROWTH
    for raw in readers:
        numbers: list[int] = []
        while (answer := raw.answer()).response == "FETCHMSG":
            numbers += [message["timestamp"] for message in reversed(answer.body["messages"])]
        assert answer.response == "STATE"
        numbers += [raw.push()["timestamp"] for _ in range(620 - len(numbers))]
        assert numbers == list(range(620))


def test_a_large_mailbox_passes_through_little_memory(server: Service) -> None:
    alice, bob = server.user(), server.user()
    bob.close()
    mail(alice, bob, range(1200), 30 * KIB)  # 36 MB
    before, numbers, more = server.memory, list[int](), True
    reader = server.again(bob)
    reader.send("FETCHMSG")
    while more:
        body = reader.answer().body
        assert server.memory - before < 2 * GROWTH
        numbers += [message["timestamp"] for message in reversed(body["messages"])]
        more = body["more"]
    assert numbers == list(range(1200))


def test_files_that_are_not_read_take_no_memory(server: Service, dialect: str) -> None:
    owner = server.user(dialect)
    name, size = give_file(owner, 16 * MIB), 16 * MIB
    readers = [narrow(server.again(owner, dialect)) for _ in range(5)]
    before = server.memory
    for raw in readers:
        raw.send("FETCHFILE", {"msgmd5": name})
        raw.send("STATE")
    assert owner.ask("STATE").ok
    for raw in readers:
        assert raw.receive().payload == bytes(size)
        assert raw.answer().response == "STATE"
        assert server.memory - before < GROWTH


def test_no_more_is_read_from_a_client_that_does_not_read_its_answers(server: Service, dialect: str) -> None:
    raw = narrow(server.user(dialect))
    assert raw.ask("MODIFYPROFILE", {"avatar": "x" * (500 * KIB)}).ok
    before, count = server.memory, 80
    for _ in range(count):
        raw.send("PROFILE", {"userid": raw.user})
    other = server.user(dialect)
    assert other.ask("STATE").ok
    assert server.memory - before < GROWTH
    for _ in range(count):
        assert len(raw.answer().body["avatar"]) == 500 * KIB


def test_reading_ahead_has_an_end(server: Service, dialect: str) -> None:
    # The first request takes the connection until its answer is read, so none after it is begun.
    raw = narrow(server.user(dialect))
    name = give_file(raw, 16 * MIB)
    raw.send("FETCHFILE", {"msgmd5": name})
    stream = raw.frame({"request": "STATE", "pad": "x" * (100 * KIB)})
    raw.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < 32 * MIB:
            sent += raw.socket.send(stream[sent % len(stream) :])
    assert sent < 32 * MIB
    assert raw.receive().response == "FETCHFILE"
    raw.socket.sendall(stream[sent % len(stream) :])
    for _ in range(-(-sent // len(stream))):
        assert raw.answer().response == "STATE"


def test_a_client_that_reads_nothing_for_too_long_is_reset(strict: Service) -> None:
    owner = strict.user()
    name = give_file(owner, 16 * MIB)
    deaf = [narrow(strict.again(owner)) for _ in range(3)]
    deaf[0].send("FETCHFILE", {"msgmd5": name})
    for _ in range(40):
        deaf[1].send("FETCHFILE", {"msgmd5": name})
    deaf[2].socket.sendall(deaf[2].frame({"request": "FETCHFILE", "body": {"msgmd5": name}}) + b"\0")
    assert owner.ask("STATE").ok
    for raw in deaf:
        wait_for(partial(getattr, raw, "is_reset"), "the connection is cut", SEND_TIMEOUT + 6)
    with pytest.raises(ConnectionError):
        deaf[0].receive()
    assert owner.ask("STATE").ok


def test_a_client_that_reads_slowly_is_not_cut(strict: Service) -> None:
    owner = strict.user()
    name = give_file(owner, 16 * MIB)
    assert owner.ask("MODIFYPROFILE", {"avatar": "x" * MIB}).ok
    slow = [narrow(strict.again(owner)) for _ in range(2)]
    slow[0].send("FETCHFILE", {"msgmd5": name})
    for _ in range(12):
        slow[1].send("PROFILE", {"userid": owner.user})  # few, large frames
    end = time.monotonic() + 3 * SEND_TIMEOUT
    while time.monotonic() < end:
        assert all(raw.sip(64 * KIB) for raw in slow)
        time.sleep(0.1)
    assert slow[0].answer().payload == bytes(16 * MIB)
    assert all(slow[1].answer().ok for _ in range(12))
    assert all(raw.ask("STATE").ok for raw in slow)


def test_a_client_without_anything_to_read_is_not_cut(strict: Service) -> None:
    raw = strict.user()
    other = strict.user()
    for _ in range(8):
        assert other.ask("STATE").ok
        time.sleep(SEND_TIMEOUT / 4)
    assert raw.ask("STATE").ok


def test_the_memory_of_unfinished_requests_is_bounded(service: Callable[..., Service]) -> None:
    limits = ("--max-json", "2MiB", "--max-unfinished-unbound", "8MiB", "--max-unfinished", "16MiB")
    server = service(*limits, "--frame-timeout", "1").start()
    member = server.user()
    before = server.memory
    bad = [server.connect() for _ in range(40)]
    for raw in bad:
        raw.socket.setblocking(False)
        raw.socket.send(raw.header.pack(2 * MIB, 0) + b"{" + b" " * 100)
    data, sent = b" " * (256 * KIB), dict.fromkeys(bad, 0)
    for _ in range(20):  # over 60 MiB, if the server would read it all; no request ends
        for raw in bad:
            if sent[raw] < 1.5 * MIB:
                with suppress(BlockingIOError, ConnectionError):
                    sent[raw] += raw.socket.send(data)
        assert member.ask("STATE").ok
    assert server.memory - before < 40 * MIB  # the limit, and what allocating wastes
    # Small requests go on, with and without a login; a large one of a user has room of its own.
    small = server.connect()
    assert small.ask("LOGOUT", pad="x" * (60 * KIB)).ok
    assert member.ask("STATE", pad="x" * (3 * MIB // 2)).ok
    for raw in bad:
        raw.socket.setblocking(True)
        assert raw.closed()
    # Afterwards there is room again.
    for _ in range(10):
        assert server.connect().ask("LOGOUT", pad="x" * (3 * MIB // 2)).ok


def test_many_large_requests_at_once_are_all_answered(service: Callable[..., Service]) -> None:
    # Together they are ten times what may be held: most are paused for a while, and none for ever.
    limits = ("--max-json", "2MiB", "--max-unfinished-unbound", "4MiB", "--max-unfinished", "6MiB")
    server = service(*limits).start()
    member = server.user()
    raws = [server.connect() for _ in range(20)] + [server.again(member) for _ in range(10)]
    answers: list[Answer] = []

    def ask(raw: Raw) -> None:
        answers.append(raw.ask("LOGOUT", pad="x" * (15 * MIB // 8)))

    threads = [threading.Thread(target=ask, args=(raw,)) for raw in raws]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert [answer.ok for answer in answers] == [True] * len(raws)
