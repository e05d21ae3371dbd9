"""ACKFETCH in every rule of `docs/protocol.md` section 5.2: what it acknowledges of what was delivered.

What the server infers for devices that never use it is tried in `tests/test_protocol_inferring.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.raw import Raw
from tests.service import Service, wait_for

FAR = 8_640_000_000_000_000


def contents(messages: list[Any]) -> list[str]:
    return [message["content"] for message in messages]


def left(server: Service, reader: Raw) -> list[str]:
    """What the cursor of a device leaves, seen without moving it."""
    looking = server.connect("seed", reader.token)
    found = contents(looking.fetch())
    looking.reset()
    return found


def acknowledge(reader: Raw, timestamp: int) -> None:
    """ACKFETCH, in effect when this returns."""
    reader.send("ACKFETCH", {"timestamp": timestamp})
    assert reader.ask("STATE").ok  # a request behind it waits for it


def pair(server: Service) -> tuple[Raw, Raw, int]:
    """A sender, a reader who uses ACKFETCH, and the reader's id."""
    sender, reader = server.user("seed"), server.user("seed")
    assert reader.user is not None
    reader.send("ACKFETCH", {"timestamp": 0})
    return sender, reader, reader.user


def mailbox(server: Service, *times: int) -> tuple[Raw, Raw, int]:
    """A pair whose reader has messages of these times, each saying its number: 0, 1, 2 ..."""
    alice, bob, to_bob = pair(server)
    for number, timestamp in enumerate(times):
        alice.say(to_bob, str(number), timestamp=timestamp)
    return alice, bob, to_bob


def limited(reader: Raw, limit: int) -> list[str]:
    found = reader.ask("FETCHMSG", {"limit": limit})
    assert found.ok, found
    return contents(found.body["messages"])


@pytest.mark.parametrize(
    ("times", "timestamp", "expected"),
    [
        # The answer whose first, newest, message has that time: to its end.
        ([10, 20, 30], 30, ""),
        ([30, 10, 20], 20, ""),
        ([20, 10, 20], 20, ""),
        ([5, 5, 5], 5, ""),
        ([-30, -20, -10], -10, ""),
        # Else up to the oldest message of exactly that time.
        ([10, 20, 30], 10, "12"),
        ([10, 20, 30], 20, "2"),
        ([10, 20, 15, 20, 30], 20, "234"),
        ([30, 20, 10, 5], 20, "23"),
        ([40, 10, 50, 20], 10, "23"),
        # Else all before the first one of a later time.
        ([10, 20, 30], 25, "2"),
        ([10, 40, 20, 50], 30, "123"),
        ([10, 20, 30], 9, "012"),
        ([40, 10, 20, 30], 35, "0123"),
        # No later one: all.
        ([10, 20, 30], 31, ""),
        ([30, 20, 10], FAR, ""),
        ([10, 20, 30], 10**30, ""),
        # Nothing is before the first.
        ([10, 20, 30], -(10**30), "012"),
        ([10, 20, 30], 0, "012"),
    ],
)
def test_an_ackfetch_acknowledges_what_its_time_says(
    server: Service, times: list[int], timestamp: int, expected: str
) -> None:
    _, bob, _ = mailbox(server, *times)
    assert contents(bob.fetch()) == [str(number) for number in range(len(times))]
    acknowledge(bob, timestamp)
    assert left(server, bob) == list(expected)


@pytest.mark.parametrize(
    ("script", "timestamp", "expected"),
    [
        ("a10 b20 a30 a40", 20, "a30 a40"),
        ("a10 b99 a20", 50, ""),
        ("b10 a20 a10 a30", 10, "a30"),
        ("a10 a20 b30 b40", 20, ""),
        ("a10 a20 b30 b40", 30, ""),
        ("b50 a10 a60", 40, "a60"),
    ],
)
def test_the_device_s_own_messages_do_not_count(
    server: Service, script: str, timestamp: int, expected: str
) -> None:
    alice, bob, to_bob = pair(server)
    assert alice.user is not None
    for word in script.split():
        sender, target = (alice, to_bob) if word[0] == "a" else (bob, alice.user)
        sender.say(target, word, timestamp=int(word[1:]))
    bob.fetch()
    acknowledge(bob, timestamp)
    assert left(server, bob) == expected.split()


def test_messages_of_one_s_other_devices_do_count(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    phone = server.device(bob, "seed")
    assert alice.user is not None
    for sender, target, timestamp in ((alice, to_bob, 10), (phone, alice.user, 20), (alice, to_bob, 30)):
        sender.say(target, str(timestamp), timestamp=timestamp)
    bob.fetch()
    acknowledge(bob, 20)
    assert left(server, bob) == ["30"]


def test_each_answer_is_acknowledged_by_its_own_first_message(server: Service) -> None:
    _, bob, _ = mailbox(server, 10, 90, 20, 50, 30, 60)
    assert [limited(bob, 2) for _ in range(3)] == [["1", "0"], ["3", "2"], ["5", "4"]]
    acknowledge(bob, 90)
    assert left(server, bob) == ["2", "3", "4", "5"]
    acknowledge(bob, 50)
    assert left(server, bob) == ["4", "5"]
    acknowledge(bob, 60)
    assert left(server, bob) == []


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_of_answers_that_begin_alike_the_oldest_is_acknowledged_first(server: Service, times: int) -> None:
    _, bob, _ = mailbox(server, 5, 5, 5, 9)
    assert [limited(bob, 1) for _ in range(4)] == [["0"], ["1"], ["2"], ["3"]]
    for _ in range(times):
        acknowledge(bob, 5)
    assert left(server, bob) == ["1", "2", "3"][min(times, 3) - 1 :]


def test_an_answer_that_is_acknowledged_is_not_meant_again(server: Service) -> None:
    _, bob, _ = mailbox(server, 10, 20, 10, 30)
    assert contents(bob.fetch()) == ["0", "1", "2", "3"]
    assert limited(bob, 1) == ["0"]
    acknowledge(bob, 10)
    acknowledge(bob, 10)  # now it is the third message
    assert left(server, bob) == ["3"]


def test_the_answers_of_one_fetch_are_acknowledged_one_by_one(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    base = 1_666_000_000_000
    for number in range(520):
        alice.send("SENDMSG", alice.message(to_bob, str(number), timestamp=base + number))
    assert all(alice.answer().ok for _ in range(520))
    bob.send("FETCHMSG")
    first, second = bob.answer().body["messages"], bob.answer().body["messages"]
    acknowledge(bob, first[0]["timestamp"])
    assert left(server, bob) == [str(number) for number in range(500, 520)]
    acknowledge(bob, second[0]["timestamp"])
    assert left(server, bob) == []


@pytest.mark.parametrize(("times", "expected"), [((10, 10), "3"), ((20, 10), "3"), ((10, 5, 20), "23")])
def test_pipelined_acknowledgements_are_taken_one_after_the_other(
    server: Service, times: tuple[int, ...], expected: str
) -> None:
    alice, bob, to_bob = pair(server)
    bob.fetch()
    for number, timestamp in enumerate((10, 20, 10, 30)):
        alice.say(to_bob, str(number), timestamp=timestamp)
        bob.push()
    requests = [{"request": "ACKFETCH", "body": {"timestamp": time}} for time in times]
    bob.socket.sendall(b"".join(bob.frame(request) for request in requests))
    assert bob.ask("STATE").ok
    assert left(server, bob) == list(expected)


def test_an_acknowledgement_is_in_effect_while_further_answers_are_under_way(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    for number in range(12):
        alice.say(to_bob, str(number).ljust(1_200_000, "."), timestamp=number)
    reader = server.connect("seed", bob.token)
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    reader.send("FETCHMSG")
    for number in range(2):
        assert reader.answer().body["messages"][0]["timestamp"] == number
        reader.send("ACKFETCH", {"timestamp": number})

    def first_left() -> int:
        looking = server.connect("seed", bob.token)
        found = looking.ask("FETCHMSG", {"limit": 1}).body["messages"][0]["timestamp"]
        looking.reset()
        return int(found)

    wait_for(lambda: first_left() == 2, "both are acknowledged")
    assert [reader.answer().body["more"] for _ in range(10)] == [True] * 9 + [False]


# Pushes.


def test_a_push_is_acknowledged_by_its_time(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert bob.fetch() == []
    for number, timestamp in enumerate((10, 20, 20, 5)):
        alice.say(to_bob, str(number), timestamp=timestamp)
        bob.push()
    acknowledge(bob, 10)
    assert left(server, bob) == ["1", "2", "3"]
    acknowledge(bob, 20)
    assert left(server, bob)[0] == "2"


def test_a_push_on_a_connection_that_never_fetched_was_thrown_away(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    alice.say(to_bob, "0", timestamp=10)
    assert bob.push()["content"] == "0"
    acknowledge(bob, 10)
    assert left(server, bob) == ["0"]
    fetching = server.again(bob, "seed")
    fetching.fetch()
    acknowledge(fetching, 10)
    alice.say(to_bob, "1", timestamp=20)
    assert bob.push()["content"] == "1"
    assert fetching.push()["content"] == "1"
    acknowledge(bob, 20)  # it was delivered on the other connection
    assert left(server, bob) == []


def test_a_push_behind_what_was_not_delivered_is_not_delivered(server: Service) -> None:
    alice, fetching, to_bob = mailbox(server, 10, 20, 30)
    bob = server.again(fetching, "seed")  # the messages are not pushed here
    assert limited(bob, 1) == ["0"]
    alice.say(to_bob, "3", timestamp=40)
    assert bob.push()["content"] == "3"
    acknowledge(bob, 40)
    assert left(server, bob) == ["1", "2", "3"]


def test_nothing_is_acknowledged_before_it_was_delivered(server: Service) -> None:
    alice, bob, to_bob = mailbox(server, 10, 20)
    acknowledge(bob, FAR)
    assert contents(bob.fetch()) == ["0", "1"]
    bob.reset()
    alice.say(to_bob, "2", timestamp=15)
    again = server.again(bob, "seed")
    acknowledge(again, FAR)
    assert left(server, bob) == ["2"]


# What lasts.


def test_an_acknowledgement_is_never_taken_back(server: Service) -> None:
    _, bob, _ = mailbox(server, 10, 20, 30)
    bob.fetch()
    acknowledge(bob, 30)
    for timestamp in (10, 0, -FAR, 25):
        acknowledge(bob, timestamp)
    assert bob.fetch() == []
    assert left(server, bob) == []


def test_a_cursor_belongs_to_the_pair_of_device_and_user(server: Service) -> None:
    alice, bob, to_bob = mailbox(server, 10, 20, 30)
    name, carol = bob.name, server.user("seed")
    assert carol.user is not None
    alice.say(carol.user, "for carol", timestamp=10)
    bob.fetch()
    acknowledge(bob, 20)
    assert contents(server.device(bob, "seed").fetch()) == ["0", "1", "2"]
    bob.ask("LOGOUT")
    bob.login(carol.name)
    assert contents(bob.fetch()) == ["for carol"]
    acknowledge(bob, 10)
    alice.say(to_bob, "3", timestamp=40)
    bob.login(name)
    assert contents(bob.fetch()) == ["2", "3"]
    bob.login(carol.name)
    assert bob.fetch() == []
    assert contents(carol.fetch()) == ["for carol"]


@pytest.mark.parametrize("between", ["reset", "close", "logout", "login", "other user", "other connection"])
def test_what_was_delivered_is_known_as_long_as_the_server_runs(server: Service, between: str) -> None:
    alice, bob, to_bob = mailbox(server, 10, 20, 30)
    assert contents(bob.fetch()) == ["0", "1", "2"]
    name, now = bob.name, bob
    if between in ("reset", "close"):
        bob.reset() if between == "reset" else bob.close()
        now = server.again(bob, "seed")
    elif between == "logout":
        bob.ask("LOGOUT")
        bob.login(name)
    elif between == "login":
        bob.login(name)
    elif between == "other user":
        bob.login(alice.name)
        bob.login(name)
    else:
        now = server.again(bob, "seed")
    acknowledge(now, 20)
    assert left(server, bob) == ["2"]
    acknowledge(now, 30)
    alice.say(to_bob, "3", timestamp=40)
    assert left(server, bob) == ["3"]


def test_after_a_restart_cursors_stand_and_what_was_delivered_is_forgotten(
    service: Callable[..., Service],
) -> None:
    server = service().start()
    _, bob, _ = mailbox(server, 10, 20, 30)
    bob.fetch()
    acknowledge(bob, 10)
    server.hang_up()
    server.stop()
    server.start()
    again = server.again(bob, "seed")
    acknowledge(again, 30)
    assert left(server, bob) == ["1", "2"]
    assert contents(again.fetch()) == ["1", "2"]
    assert contents(again.fetch()) == ["1", "2"]  # it still uses ACKFETCH, and acknowledges in no other way
    acknowledge(again, 30)
    assert left(server, bob) == []


# No answer.


@pytest.mark.parametrize(
    "body",
    [None, [], {}, "x", {"timestamp": None}, {"timestamp": "30"}, {"timestamp": 30.5}, {"timestamp": True}],
)
def test_a_bad_ackfetch_is_not_answered_and_acknowledges_nothing(server: Service, body: Any) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    assert bob.user is not None
    alice.say(bob.user, "0", timestamp=30)
    assert contents(bob.fetch()) == ["0"]
    bob.send("ACKFETCH", body)
    assert contents(bob.fetch()) == ["0"]
    assert left(server, bob) == ["0"]


def test_no_ackfetch_is_answered_whatever_comes_with_it(server: Service, dialect: str) -> None:
    bob = server.user(dialect)
    bob.send("ACKFETCH", {"timestamp": 30}, b"payload" * 10_000)
    bob.send("ACKFETCH", {"timestamp": 30}, tokenid="none")
    bob.send("ACKFETCH", {"timestamp": 30}, tokenid=1.5)
    bob.send("STATE")
    assert bob.receive().response == "STATE"


def test_no_ackfetch_is_answered_whoever_sends_it(server: Service, dialect: str) -> None:
    stranger = server.connect(dialect)
    stranger.send("ACKFETCH", {"timestamp": 30})
    stranger.send("ACKFETCH")
    stranger.send("LOGOUT")
    assert [stranger.receive().response, stranger.receive().response] == ["TOKEN", "LOGOUT"]
    alice, bob, _ = mailbox(server, 10)
    bob.fetch()
    acknowledge(server.again(alice, dialect), 10)  # of somebody else
    acknowledge(server.device(bob, dialect), 10)  # of another device
    assert left(server, bob) == ["0"]


# The first ACKFETCH.


def test_from_its_first_ackfetch_on_a_device_acknowledges_in_no_other_way(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    assert bob.user is not None
    for number in range(3):
        alice.say(bob.user, str(number), timestamp=number)
    bob.fetch()
    bob.send("ACKFETCH", {"timestamp": 0})
    assert contents(bob.fetch()) == ["1", "2"]  # the first is acknowledged, and no FETCHMSG adds to that
    assert contents(bob.fetch()) == ["1", "2"]
    other = server.again(bob, "seed")
    assert contents(other.fetch()) == ["1", "2"]
    assert contents(other.fetch()) == ["1", "2"]
    other.close()
    bob.close()
    assert left(server, bob) == ["1", "2"]
    phone = server.device(bob, "seed")
    assert contents(phone.fetch()) == ["0", "1", "2"]
    assert phone.fetch() == []  # another device goes on without
