"""The life of a connection over sockets: ends of all kinds, order, time-outs, how many there may be.

``docs/protocol.md`` sections 1, 2 and 6. Slow readers and the end of the server itself are in
``test_protocol_pressure.py``, and what no socket can show in ``test_network.py``.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.raw import Raw
from tests.service import Service, wait_for

MIB = 1024**2
#: The time-outs of the `hasty` server, in seconds. It looks once a second, so up to one more may pass.
FRAME_TIMEOUT = IDLE_TIMEOUT = 1.0
SLACK = 4.0


def half_close(raw: Raw) -> None:
    """Close the sending half, as the released client does."""
    raw.socket.shutdown(socket.SHUT_WR)


def upload(raw: Raw, data: bytes, **fields: Any) -> dict[str, Any]:
    """The request that sends this file to oneself."""
    md5 = hashlib.md5(data).hexdigest()
    body = raw.message(raw.user or 0, contenttype="file", filemd5=md5, **fields)
    return {"request": "SENDMSG", "body": body, "tokenid": raw.token}


@pytest.fixture(scope="module")
def hasty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server behind `hasty`."""
    options = ("--frame-timeout", str(FRAME_TIMEOUT), "--unbound-idle", str(IDLE_TIMEOUT))
    with Service(tmp_path_factory.mktemp("hasty"), *options, "--max-json", "64KiB").running() as server:
        yield server


@pytest.fixture
def hasty(hasty_server: Service) -> Iterator[Service]:
    """A server with short time-outs."""
    yield hasty_server
    hasty_server.hang_up()


# The peer closes its half.


def test_all_that_came_before_a_half_close_is_answered(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    raw.socket.sendall(raw.frame({"request": "LOGOUT"}) * 200)
    half_close(raw)
    answers = raw.rest()
    assert [answer.response for answer in answers] == ["TOKEN"] + ["LOGOUT"] * 200


def test_a_slow_request_is_answered_after_a_half_close(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    again = server.connect(dialect)
    again.send("LOGIN", {"username": raw.name, "passwd": "secret"})
    again.send("SENDMSG", again.message(raw.user or 0, userid=raw.user))
    half_close(again)
    assert [answer.response for answer in again.rest()] == ["TOKEN", "LOGIN", "SENDMSG"]
    assert raw.push()["userid"] == raw.user


def test_an_upload_is_answered_after_a_half_close(server: Service, dialect: str) -> None:
    raw, data = server.user(dialect), bytes(3 * MIB)
    raw.socket.sendall(raw.frame(upload(raw, data), data) + raw.frame({"request": "STATE"}))
    half_close(raw)
    assert [(answer.response, answer.ok) for answer in raw.rest()] == [("SENDMSG", True), ("STATE", True)]


def test_large_answers_are_written_to_their_end_after_a_half_close(server: Service, dialect: str) -> None:
    raw, data = server.user(dialect), bytes(8 * MIB)
    assert raw.ask("SENDMSG", upload(raw, data, md5encoded="x")["body"], data).ok
    for _ in range(3):
        raw.send("FETCHFILE", {"msgmd5": "x"})
        raw.send("STATE")
    half_close(raw)
    answers = raw.rest()
    assert [answer.response for answer in answers] == ["FETCHFILE", "STATE"] * 3
    assert all(answer.payload == data for answer in answers[::2])


def test_requests_behind_an_upload_are_all_answered_however_large_the_answers(server: Service) -> None:
    raw, data = server.user(), bytes(2 * MIB)
    assert raw.ask("MODIFYPROFILE", {"avatar": "x" * MIB}).ok
    profile = raw.frame({"request": "PROFILE", "body": {"userid": raw.user}, "tokenid": raw.token})
    raw.socket.sendall(raw.frame(upload(raw, data), data) + profile * 5)
    half_close(raw)
    assert [answer.response for answer in raw.rest()] == ["SENDMSG"] + ["PROFILE"] * 5


PARTS = {
    "nothing": lambda raw: b"",
    "a byte": lambda raw: b"\x05",
    "half a header": lambda raw: raw.header.pack(30, 0)[:6],
    "a header": lambda raw: raw.header.pack(30, 0),
    "half the JSON": lambda raw: raw.frame({"request": "LOGOUT"})[:-5],
    "a thousand bytes of many": lambda raw: raw.header.pack(2**20, 0) + b"{" + b" " * 999,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_half_a_frame_at_a_half_close_is_dropped(
    server: Service, dialect: str, part: Callable[[Raw], bytes]
) -> None:
    raw = server.user(dialect)
    raw.socket.sendall(raw.frame({"request": "STATE"}) + part(raw))
    half_close(raw)
    assert [answer.response for answer in raw.rest()] == ["STATE"]
    raw = server.connect(dialect)
    raw.socket.sendall(part(raw))
    half_close(raw)
    assert raw.rest() == []


def test_half_a_payload_at_a_half_close_stores_nothing(server: Service, dialect: str) -> None:
    raw, data = server.user(dialect), bytes(MIB)
    frame = raw.frame(upload(raw, data), data)
    raw.socket.sendall(raw.frame({"request": "STATE"}) + frame[: -MIB // 2])
    half_close(raw)
    assert [answer.response for answer in raw.rest()] == ["STATE"]
    other = server.device(raw, dialect)
    assert other.fetch() == []
    assert other.ask("FINDFILE", {"filemd5": hashlib.md5(data).hexdigest()}).status == "ERR"


def test_a_violation_is_answered_after_a_half_close(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    raw.socket.sendall(raw.frame({"request": "STATE"}) + raw.header.pack(-1, 0))
    half_close(raw)
    assert [answer.response for answer in raw.rest()] == ["STATE", "UNKNOWN"]


@pytest.mark.parametrize("short", ["seed", "network"])
def test_a_first_frame_that_reads_two_ways_is_answered_after_a_half_close(
    server: Service, short: str
) -> None:
    for length in (512, 0x20000):
        raw = server.connect(short)
        raw.socket.sendall(raw.frame(b'{"request":"LOGOUT","pad":"' + b"x" * (length - 29) + b'"}'))
        half_close(raw)
        assert [answer.response for answer in raw.rest()] == ["TOKEN", "LOGOUT"]


def test_a_connection_may_break_at_any_byte(server: Service, dialect: str) -> None:
    raw, data = server.user(dialect), b"0123456789"
    sending = raw.frame(upload(raw, data, timestamp=1), data)
    stream = raw.frame({"request": "FETCHMSG"}) + sending
    stream += raw.frame({"request": "LOGIN", "body": {"username": raw.name, "passwd": "secret"}})
    for at in range(1, len(stream), 5):
        broken = server.connect(dialect, raw.token)
        broken.socket.sendall(stream[:at])
        (broken.reset if at % 2 else broken.close)()
    raw.socket.sendall(sending)
    assert raw.answer().ok
    assert len(server.device(raw, dialect).fetch()) == 1  # however many of them came through


# Order, and whose a request is.


def test_a_login_holds_for_what_was_sent_behind_it(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    raw = server.connect(dialect)
    stream = b""
    for user, other in ((alice, bob), (bob, alice)) * 5:
        login = {"request": "LOGIN", "body": {"username": user.name, "passwd": "secret"}}
        own = {"request": "SENDMSG", "body": user.message(bob.user or 0, user.name, timestamp=None)}
        foreign = {"request": "SENDMSG", "body": other.message(bob.user or 0, "forged")}
        stream += b"".join(raw.frame(value) for value in (login, own, foreign, own | {"tokenid": 1}, foreign))
        stream += raw.frame({"request": "LOGOUT"}) + raw.frame(own) + raw.frame(foreign)
    raw.socket.sendall(stream)
    for _ in range(10):
        oks = [raw.answer().ok for _ in range(8)]
        assert oks == [True, True, False, True, False, True, False, False]
    contents = [message["content"] for message in server.device(bob, "seed").fetch()]
    assert contents == ([alice.name] * 2 + [bob.name] * 2) * 5


def test_tokens_of_two_devices_on_one_connection_are_not_mixed_up(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    raw = server.connect(dialect)
    values = []
    for at in range(100):
        token, user = ((alice.token, alice.user), (bob.token, bob.user))[at * 7 % 3 % 2]
        values.append({"request": "STATE", "tokenid": token, "userid": user})
    raw.socket.sendall(b"".join(raw.frame(value) for value in values))
    for value in values:
        assert raw.answer().body["userid"] == value["userid"]


def test_what_one_connection_sends_reaches_the_mailbox_in_that_order(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    data = b"file"
    values = []
    first = upload(alice, data)
    alice.socket.sendall(alice.frame(first, data))
    assert alice.answer().ok
    for at in range(60):
        # Long ones go through a file, and known files are looked up: neither may be overtaken.
        long = alice.message(bob.user or 0, "A" * 40_000, timestamp=at)
        file = upload(alice, data)["body"] | {"targetid": bob.user, "timestamp": at}
        values.append((long, file, alice.message(bob.user or 0, timestamp=at))[at % 3])
    frames = (alice.frame({"request": "SENDMSG", "body": value, "tokenid": alice.token}) for value in values)
    alice.socket.sendall(b"".join(frames))
    assert all(alice.answer().ok for _ in values)
    assert [bob.push()["timestamp"] for _ in values] == list(range(60))
    assert [message["timestamp"] for message in bob.fetch()] == list(range(60))


def test_five_hundred_connections_at_once(server: Service) -> None:
    raws = [server.connect(("released", "seed", "network")[at % 3]) for at in range(500)]
    for at in range(0, 500, 50):  # passwords are hashed one by one, and not too many may wait
        for raw in raws[at : at + 50]:
            raw.send("REGISTER", {"username": f"one-of-500-{secrets.token_hex(6)}", "passwd": "x"})
        for raw in raws[at : at + 50]:
            raw.user = raw.answer().body["userid"]
    for raw, other in zip(raws, raws[1:] + raws[:1], strict=True):
        raw.send("SENDMSG", raw.message(other.user or 0))
    for at, raw in enumerate(raws):
        assert raw.answer().ok
        assert raw.push()["userid"] == raws[at - 1].user


# Time-outs.


def test_a_frame_without_progress_ends_the_connection(hasty: Service) -> None:
    stalled = []
    for dialect in ("released", "seed", "network"):
        raw = hasty.user(dialect)
        length = 2**20 if dialect == "released" else 1000
        file = upload(raw, b"x" * 100)
        header = raw.header.pack(length, 0)
        started = raw.frame(file, b"x" * 50, 100)
        for part in (b"\0", header[:7], header, header + b"x" * 999, raw.frame(file)[:-9], started):
            for token in (raw.token, None):
                stalled.append(hasty.connect(dialect, token))
                if token is not None:
                    assert stalled[-1].ask("STATE").ok
                elif b'"tokenid"' not in part:
                    assert stalled[-1].ask("LOGOUT").ok
                stalled[-1].socket.sendall(part)
    end = time.monotonic() + FRAME_TIMEOUT + SLACK
    for raw in stalled:
        assert raw.closed(end - time.monotonic())


def test_a_client_that_trickles_is_not_cut(hasty: Service) -> None:
    left: list[tuple[Raw, bytes]] = []
    for dialect in ("released", "seed", "network"):
        bound, unbound = hasty.user(dialect), hasty.connect(dialect)
        left += ((raw, raw.frame({"request": "LOGOUT"})) for raw in (bound, unbound))
        bound = hasty.user(dialect)
        left.append((bound, bound.frame(upload(bound, b"0123456789"), b"0123456789")))
        bound.socket.sendall(left[-1][1][:-9])
        left[-1] = (bound, left[-1][1][-9:])
    for at in range(8):
        for raw, data in left:
            raw.socket.sendall(data[at : at + 1])
        time.sleep(FRAME_TIMEOUT / 3)
    for raw, data in left:
        raw.socket.sendall(data[8:])
        assert raw.answer().ok


def test_only_idle_connections_without_a_bound_device_are_closed(hasty: Service) -> None:
    bound = hasty.user()
    logged_out = hasty.user()
    assert logged_out.ask("LOGOUT").ok
    thrown_out = hasty.device(bound)
    assert bound.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "x"}).ok
    busy, fresh, used = (hasty.connect() for _ in range(3))
    assert used.ask("LOGOUT").ok
    for _ in range(9):
        assert busy.ask("LOGOUT").ok
        time.sleep(IDLE_TIMEOUT / 3)
    for raw in (logged_out, thrown_out, fresh, used):
        assert raw.closed(SLACK)
    assert bound.ask("STATE").ok
    assert busy.ask("LOGOUT").ok


# How many.


def test_over_the_cap_the_longest_idle_connection_without_a_login_is_closed(
    service: Callable[..., Service],
) -> None:
    server = service("--unbound-per-address", "4").start()
    bound = server.user()
    of_bound = server.again(bound)
    oldest, *others = (server.connect() for _ in range(4))
    for raw in (*others, oldest):  # so the first of the others is idle for the longest time
        assert raw.ask("LOGOUT").ok
    for raw in others:
        newer = server.connect()
        assert newer.ask("LOGOUT").ok
        assert raw.closed()
    assert oldest.ask("LOGOUT").ok
    assert bound.ask("STATE").ok
    assert of_bound.ask("STATE").ok


def test_many_devices_of_one_address_may_come_back_together(service: Callable[..., Service]) -> None:
    server = service("--unbound-per-address", "4").start()
    users = [server.user() for _ in range(20)]
    server.hang_up()
    together = [server.connect(token=user.token) for user in users]
    for raw in together:
        raw.send("STATE")
    for raw, user in zip(together, users, strict=True):
        assert raw.receive().body["userid"] == user.user


def test_a_connection_whose_device_was_bound_on_another_is_not_counted(
    service: Callable[..., Service],
) -> None:
    server = service("--unbound-per-address", "3").start()
    user = server.user()
    idle, other = server.connect(), server.connect()
    assert idle.ask("LOGOUT").ok
    other.token = idle.token
    other.login(user.name)  # the same device: `idle` is bound now as well
    for _ in range(6):
        assert server.connect().ask("LOGOUT").ok
    assert idle.ask("STATE").ok
    assert other.ask("STATE").ok


def test_a_logout_makes_a_connection_count_again(service: Callable[..., Service]) -> None:
    server = service("--unbound-per-address", "2").start()
    users = [server.user() for _ in range(5)]
    for raw in users:
        assert raw.ask("STATE").ok
    for raw in users:
        assert raw.ask("LOGOUT").ok
    for raw in users[:3]:
        assert raw.closed()
    wait_for(lambda: all(raw.ask("STATE").info for raw in users[3:]), "the last two live")
