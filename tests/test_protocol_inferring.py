"""What the server infers of devices that never use ACKFETCH, as `docs/protocol.md` section 5.2 has it.

A close in order, and a later request, say that the client has read what came before; a reset says nothing.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.raw import DEADLINE, Raw
from tests.service import Service, wait_for

#: Seconds from which on a request other than FETCHMSG says that the last answer was read.
LATER = 1.0


def contents(messages: list[Any]) -> list[str]:
    return [message["content"] for message in messages]


def left(server: Service, reader: Raw) -> list[str]:
    """What the cursor of a device leaves, seen without moving it."""
    looking = server.connect("seed", reader.token)
    found = contents(looking.fetch())
    looking.reset()
    return found


def pair(server: Service, *texts: str) -> tuple[Raw, Raw, int]:
    """A sender, a reader who has these messages and has not fetched them, and the reader's id."""
    sender, reader = server.user("seed"), server.user("seed")
    assert reader.user is not None
    for text in texts:
        sender.say(reader.user, text)
    for text in texts:
        assert reader.push()["content"] == text
    return sender, reader, reader.user


def sleep_until_later() -> None:
    """The one time that the protocol itself speaks of here."""
    time.sleep(LATER + 0.05)


# Later requests.


def test_a_fetch_alone_acknowledges_nothing(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1")
    assert contents(bob.fetch()) == ["0", "1"]
    assert left(server, bob) == ["0", "1"]
    assert left(server, bob) == ["0", "1"]


def test_a_later_fetch_acknowledges_at_once(server: Service) -> None:
    alice, bob, to_bob = pair(server, "0", "1")
    assert contents(bob.fetch()) == ["0", "1"]
    assert bob.fetch() == []
    alice.say(to_bob, "2")
    assert left(server, bob) == ["2"]


def test_limited_fetches_acknowledge_one_by_one(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1", "2")
    for number in range(3):
        found = bob.ask("FETCHMSG", {"limit": 1})
        assert contents(found.body["messages"]) == [str(number)]
        assert left(server, bob) == ["0", "1", "2"][number:]
    assert bob.ask("FETCHMSG", {"limit": 1}).body == {"messages": [], "more": False}
    assert left(server, bob) == []


def test_another_request_acknowledges_only_when_it_comes_a_second_after(server: Service) -> None:
    kinds: list[tuple[str, Any]] = [
        ("STATE", None),
        ("FETCHCONTACT", {}),
        ("SENDMSG", "a message"),
        ("FINDFILE", {"filemd5": "none"}),
        ("LOGOUT", None),
        ("NOSUCHTHING", None),
    ]
    readers = [pair(server, "0", "1")[1] for _ in kinds]
    soon = [reader for reader in readers if not read_and_ask_soon(reader)]
    assert len(soon) < len(readers), "the machine is too slow for this test"
    for reader in readers:
        if reader not in soon:
            assert left(server, reader) == ["0", "1"]
    for reader in readers:
        assert contents(reader.fetch()) in (["0", "1"], [])
    sleep_until_later()
    for reader, (kind, body) in zip(readers, kinds, strict=True):
        assert reader.user is not None
        reader.ask(kind, reader.message(reader.user) if kind == "SENDMSG" else body)
    for reader, (kind, _) in zip(readers, kinds, strict=True):
        if kind == "LOGOUT":
            reader.login(reader.name)
        assert left(server, reader) == []


def read_and_ask_soon(reader: Raw) -> bool:
    """Fetch, and ask something else; whether it was within the second."""
    began = time.monotonic()
    assert contents(reader.fetch()) == ["0", "1"]
    reader.ask("STATE")
    return time.monotonic() - began < LATER


def test_a_broken_request_is_no_later_request(server: Service) -> None:
    _, bob, _ = pair(server, "0")
    bob.fetch()
    sleep_until_later()
    bob.socket.sendall(bob.frame(b'{"request": "STATE"'))
    assert not bob.answer().ok
    assert left(server, bob) == ["0"]


def test_pipelined_requests_acknowledge_nothing(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1")
    fetch = bob.frame({"request": "FETCHMSG", "tokenid": bob.token})
    bob.socket.sendall(fetch * 3)
    assert [contents(bob.answer().body["messages"]) for _ in range(3)] == [["1", "0"]] * 3
    assert left(server, bob) == ["0", "1"]


def test_a_request_begun_before_the_answer_acknowledges_nothing(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1")
    fetch = bob.frame({"request": "FETCHMSG", "tokenid": bob.token})
    bob.socket.sendall(fetch + fetch[:1])
    assert contents(bob.answer().body["messages"]) == ["1", "0"]
    bob.socket.sendall(fetch[1:20])
    sleep_until_later()
    bob.socket.sendall(fetch[20:])
    assert contents(bob.answer().body["messages"]) == ["1", "0"]
    assert left(server, bob) == ["0", "1"]


def test_a_request_in_pieces_acknowledges_if_its_first_byte_came_late_enough(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1")
    assert contents(bob.fetch()) == ["0", "1"]
    fetch = bob.frame({"request": "FETCHMSG", "tokenid": bob.token})
    for byte in range(len(fetch)):
        bob.socket.sendall(fetch[byte : byte + 1])
    assert bob.answer().body["messages"] == []


def test_a_push_behind_the_last_answer_may_be_unread_and_one_before_it_is_read(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert bob.fetch() == []
    alice.say(to_bob, "0")
    assert bob.push()["content"] == "0"
    assert contents(bob.fetch()) == ["0"]  # it was written after the last answer
    alice.say(to_bob, "1")
    assert bob.push()["content"] == "1"
    bob.ask("STATE")
    alice.say(to_bob, "2")
    assert bob.push()["content"] == "2"
    assert contents(bob.fetch()) == ["2"]  # the others were written before the end of an answer
    sleep_until_later()
    alice.say(to_bob, "3")
    assert bob.push()["content"] == "3"
    bob.ask("STATE")
    assert left(server, bob) == ["3"]


def test_a_connection_that_never_fetched_acknowledges_nothing(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    fetching = server.again(bob, "seed")
    assert fetching.fetch() == []
    alice.say(to_bob, "0")
    assert bob.push()["content"] == fetching.push()["content"] == "0"
    bob.ask("STATE")
    sleep_until_later()
    bob.ask("STATE")
    bob.close()
    assert left(server, bob) == ["0"]


def test_a_new_binding_needs_a_new_fetch(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert bob.fetch() == []
    bob.login(bob.name)
    alice.say(to_bob, "0")
    assert bob.push()["content"] == "0"
    bob.close()
    assert left(server, bob) == ["0"]


# A request that changes the device.


def test_a_request_of_another_device_acknowledges_for_the_one_before(server: Service) -> None:
    alice, bob, _ = pair(server, "0", "1")
    spare = server.again(bob, "seed")
    assert contents(spare.fetch()) == ["0", "1"]
    other = spare.ask("FETCHMSG", tokenid=alice.token)  # at once, as it is a FETCHMSG
    assert other.body["messages"] == []
    assert left(server, bob) == []
    assert left(server, alice) == []


def test_another_request_of_another_device_does_so_a_second_after(server: Service) -> None:
    alice, bob, _ = pair(server, "0", "1")
    early, late = server.again(bob, "seed"), server.again(bob, "seed")
    began = time.monotonic()
    early.fetch()
    early.ask("STATE", tokenid=alice.token)
    soon = time.monotonic() - began < LATER
    assert not soon or left(server, bob) == ["0", "1"]
    late.fetch()
    sleep_until_later()
    assert late.ask("STATE", tokenid=alice.token).body["userid"] == alice.user
    assert left(server, bob) == []


# Closing.


def test_a_close_in_order_acknowledges_what_was_delivered_on_that_connection(server: Service) -> None:
    alice, bob, to_bob = pair(server, "0", "1")
    assert contents(bob.fetch()) == ["0", "1"]
    alice.say(to_bob, "2")
    assert bob.push()["content"] == "2"  # written after the last answer, but read by now
    bob.close()
    wait_for(lambda: left(server, bob) == [], "the close acknowledges")


def test_a_close_acknowledges_no_more_than_was_asked_for(server: Service) -> None:
    _, bob, _ = pair(server, "0", "1", "2")
    assert contents(bob.ask("FETCHMSG", {"limit": 2}).body["messages"]) == ["1", "0"]
    bob.close()
    wait_for(lambda: left(server, bob) == ["2"], "the close acknowledges")


def test_a_refused_fetch_is_none(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert not bob.ask("FETCHMSG", {"limit": 0}).ok
    alice.say(to_bob, "0")
    assert bob.push()["content"] == "0"
    bob.close()
    assert left(server, bob) == ["0"]


def test_a_close_acknowledges_nothing_of_another_connection(server: Service) -> None:
    _, bob, _ = pair(server, "0")
    spare = server.again(bob, "seed")
    assert contents(bob.fetch()) == ["0"]
    spare.close()
    server.again(bob).close()
    assert left(server, bob) == ["0"]


def test_a_half_close_is_a_close(server: Service) -> None:
    _, bob, _ = pair(server, "0")
    assert contents(bob.fetch()) == ["0"]
    bob.socket.shutdown(socket.SHUT_WR)
    assert bob.closed()
    assert left(server, bob) == []


def test_what_is_written_after_the_close_was_seen_is_not_acknowledged(server: Service) -> None:
    _, bob, _ = pair(server, "0")
    bob.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # request and close leave together
    bob.send("FETCHMSG")
    bob.socket.shutdown(socket.SHUT_WR)
    assert contents(bob.answer().body["messages"]) == ["0"]
    assert bob.closed()
    assert left(server, bob) == ["0"]


def test_a_close_acknowledges_no_more_than_the_peer_s_system_has(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    for number in range(12):
        alice.say(to_bob, str(number).ljust(1_200_000, "."))
    reader = server.connect("seed", bob.token)
    reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    reader.send("FETCHMSG")
    assert reader.answer().body["messages"][0]["content"].startswith("0.")
    reader.socket.shutdown(socket.SHUT_WR)
    last = reader.answer()
    while last.body["more"]:
        last = reader.answer()
    assert reader.closed()
    remaining = [text.rstrip(".") for text in left(server, bob)]
    assert remaining == [str(number) for number in range(12)][-len(remaining) :]
    assert 0 < len(remaining) < 12


@pytest.mark.parametrize("end", ["reset", "unread"])
def test_a_reset_acknowledges_nothing(server: Service, end: str) -> None:
    alice, bob, to_bob = pair(server, "0")
    if end == "reset":
        assert contents(bob.fetch()) == ["0"]
        bob.reset()
    else:
        bob.fetch()
        alice.say(to_bob, "1")
        assert select.select([bob.socket], [], [], DEADLINE)[0]
        bob.close()  # with unread bytes: the kernel resets
    assert left(server, bob) == ["0", "1"][: 1 if end == "reset" else 2]


def test_a_crash_of_the_server_acknowledges_nothing(service: Callable[..., Service]) -> None:
    server = service().start()
    _, bob, _ = pair(server, "0")
    assert contents(bob.fetch()) == ["0"]
    server.kill()
    bob.close()
    server.start()
    assert left(server, bob) == ["0"]
    again = server.again(bob, "seed")
    assert contents(again.fetch()) == ["0"]
    again.close()
    wait_for(lambda: left(server, bob) == [], "the close acknowledges")
    server.stop()
    server.start()
    assert left(server, bob) == []


# Bindings that end in between.


@pytest.mark.parametrize("how", ["logout", "elsewhere", "other user"])
def test_what_was_delivered_before_a_logout_is_acknowledged_by_the_close(server: Service, how: str) -> None:
    alice, bob, _ = pair(server, "0", "1")
    spare = server.again(bob, "seed")
    assert contents(bob.fetch()) == ["0", "1"]
    if how == "logout":
        assert bob.ask("LOGOUT").ok
    elif how == "elsewhere":
        assert spare.ask("LOGOUT").ok
    else:
        name = bob.name
        bob.login(alice.name)
        bob.name = name
    bob.close()

    def seen() -> list[Any]:
        again = server.connect("seed", bob.token)
        again.login(bob.name)
        found = again.fetch()
        again.reset()
        return found

    wait_for(lambda: seen() == [], "the close acknowledges")


def test_a_request_after_a_logout_acknowledges_for_the_user_before(server: Service) -> None:
    _, bob, _ = pair(server, "0")
    bob.fetch()
    bob.ask("LOGOUT")
    sleep_until_later()
    bob.ask("STATE")
    bob.login(bob.name)
    assert bob.fetch() == []
