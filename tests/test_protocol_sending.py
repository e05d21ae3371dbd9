"""SENDMSG as `docs/protocol.md` section 5.1 has it: what is refused, what is a repeat, and what order holds.

Text alone; messages with files are in `tests/test_protocol_files.py`.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.raw import Raw
from tests.service import Service

LATEST = 8_640_000_000_000_000
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def contents(messages: list[Any]) -> list[str]:
    return [message["content"] for message in messages]


def unread(server: Service, of: Raw) -> list[Any]:
    """The whole mailbox of a user, as a device that is new to it sees it."""
    return server.device(of, "seed").fetch()


def test_an_answer_names_the_message_and_nothing_else(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    found = alice.ask("SENDMSG", alice.message(bob.user, md5encoded="a name, not a digest"))
    assert found == ("SENDMSG", "OK", None, {"md5encoded": "a name, not a digest"}, b"")


def test_a_message_is_in_both_mailboxes_as_it_was_sent(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    sent = alice.say(bob.user, "YmFzZTY0", md5encoded="Ünï", timestamp=1_666_000_000_000)
    assert unread(server, bob) == unread(server, alice) == [sent]


def test_fields_that_nobody_knows_are_ignored(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    alice.say(bob.user, extra={"deep": [1]}, more=None)
    (found,) = bob.fetch()
    assert set(found) == set(alice.message(1))


def test_filemd5_may_be_absent(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user)
    del message["filemd5"]
    assert alice.ask("SENDMSG", message).ok
    assert bob.fetch() == [message | {"filemd5": None}]


@pytest.mark.parametrize("target", [0, -1, 2**31, 2**53, 2**63, 10**30])
def test_a_target_that_does_not_exist_is_refused(server: Service, target: int) -> None:
    alice = server.user()
    found = alice.ask("SENDMSG", alice.message(target, md5encoded="lost"))
    assert found == ("SENDMSG", "ERR", "User not found", {"md5encoded": "lost"}, b"")
    assert unread(server, alice) == []


def test_nobody_sends_in_the_name_of_somebody_else(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert alice.user is not None
    assert bob.user is not None
    for userid in (bob.user, 0, -1, 2**70):
        found = alice.ask("SENDMSG", alice.message(bob.user, userid=userid, md5encoded="forged"))
        assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "forged"})
    found = alice.ask("SENDMSG", alice.message(alice.user, userid=bob.user, md5encoded="forged"))
    assert not found.ok
    assert unread(server, alice) == unread(server, bob) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"userid": "1"},
        {"userid": None},
        {"targetid": "1"},
        {"targetid": 1.5},
        {"targetid": None},
        {"contenttype": "video"},
        {"contenttype": "PLAINTEXT"},
        {"contenttype": None},
        {"content": None},
        {"content": 1},
        {"content": ["a"]},
        {"timestamp": "1666000000000"},
        {"timestamp": 1.5},
        {"timestamp": True},
        {"timestamp": LATEST + 1},
        {"timestamp": -LATEST - 1},
        {"timestamp": 10**400},
        {"filemd5": 1},
        {"filemd5": ""},
        {"filemd5": EMPTY_MD5},
    ],
)
def test_a_wrong_field_is_refused_and_the_message_named(server: Service, wrong: dict[str, Any]) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    found = alice.ask("SENDMSG", alice.message(bob.user, md5encoded="wrong") | wrong)
    assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "wrong"})
    alice.say(bob.user, "cmlnaHQ=")
    assert contents(bob.fetch()) == ["cmlnaHQ="]


@pytest.mark.parametrize("absent", ["userid", "targetid", "contenttype", "content"])
def test_an_absent_field_is_refused_and_the_message_named(server: Service, absent: str) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, md5encoded="in part")
    del message[absent]
    found = alice.ask("SENDMSG", message)
    assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "in part"})
    assert bob.fetch() == []


@pytest.mark.parametrize("body", [None, [], "text", 7, {}, {"md5encoded": 7}, {"md5encoded": None}])
def test_a_body_that_names_no_message_is_refused(server: Service, body: Any) -> None:
    alice = server.user()
    found = alice.ask("SENDMSG", body)
    assert (found.response, found.status) == ("SENDMSG", "ERR")
    message = alice.message(1)
    del message["md5encoded"]
    assert not alice.ask("SENDMSG", message).ok
    assert alice.ask("STATE").ok


def test_an_error_names_the_message_whatever_is_wrong_around_it(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, md5encoded="around")
    for envelope in ({"tokenid": "none"}, {"tokenid": 1.5}):
        found = alice.ask("SENDMSG", message, **envelope)
        assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "around"})
    stranger = server.connect()
    found = stranger.ask("SENDMSG", message)
    assert found == ("SENDMSG", "ERR", "User not logged in", {"md5encoded": "around"}, b"")
    assert bob.fetch() == []


@pytest.mark.parametrize("half", [rb"\ud800", rb"\udc00", rb"\udfff\ud800", rb"a\uD83Dz"])
def test_half_a_surrogate_pair_is_refused(server: Service, half: bytes) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    for field in ("content", "md5encoded"):
        frame = alice.frame({"request": "SENDMSG", "body": alice.message(bob.user, **{field: "HERE"})})
        json = frame[alice.header.size :].replace(b"HERE", half)
        alice.socket.sendall(alice.frame(json))
        found = alice.answer()
        assert (found.response, found.status) == ("SENDMSG", "ERR")
    assert bob.fetch() == []


@pytest.mark.parametrize("timestamp", [0, -1, 1, LATEST, -LATEST])
def test_any_time_that_a_clock_can_show_is_taken(server: Service, timestamp: int) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    alice.say(bob.user, timestamp=timestamp)
    assert [message["timestamp"] for message in bob.fetch()] == [timestamp]


@pytest.mark.parametrize("form", ["absent", "null"])
def test_without_a_client_timestamp_every_message_is_new_and_has_the_server_s_time(
    server: Service, dialect: str, form: str
) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, timestamp=None)
    if form == "absent":
        del message["timestamp"]
    before = int(time.time() * 1000) - 1
    for _ in range(3):
        assert alice.ask("SENDMSG", message).ok
    after = int(time.time() * 1000) + 1
    found = unread(server, bob)
    assert len(found) == 3
    times = [one["timestamp"] for one in found]
    assert before <= times[0] <= times[1] <= times[2] <= after
    assert [bob.push()["timestamp"] for _ in range(3)] == times


def test_writing_to_oneself_stores_once_and_tells_the_other_devices(server: Service) -> None:
    alice = server.user()
    assert alice.user is not None
    phone = server.device(alice)
    note = alice.say(alice.user, "bm90ZQ==")
    assert phone.push() == note
    assert unread(server, alice) == phone.fetch() == [note]
    reply = phone.say(alice.user, "YWxzbw==")
    assert alice.push() == reply
    assert contents(alice.fetch()) == ["YWxzbw=="]


def test_plaintext_with_a_payload_is_read_thrown_away_and_refused(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    found = alice.ask("SENDMSG", alice.message(bob.user, md5encoded="too much"), b"x" * 300_000)
    assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "too much"})
    alice.say(bob.user, "bmV4dA==")
    assert contents(bob.fetch()) == ["bmV4dA=="]


# Repeats: the same sender, target, name and client timestamp.


def test_a_repeat_is_answered_ok_stored_once_and_pushed_once(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    first = alice.say(bob.user, "Zmlyc3Q=")
    for repeat in (first, first | {"content": "b3RoZXI="}, first | {"contenttype": "image"}):
        found = alice.ask("SENDMSG", repeat)
        assert (found.status, found.body) == ("OK", {"md5encoded": first["md5encoded"]})
    last = alice.say(bob.user, "bGFzdA==")
    assert [bob.push(), bob.push()] == [first, last]
    assert unread(server, bob) == unread(server, alice) == [first, last]


def test_a_repeat_may_come_from_any_connection_and_device_of_the_sender(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    phone = server.device(alice, "network")
    first = alice.say(bob.user)
    for sender in (server.again(alice, "seed"), phone, alice):
        assert sender.ask("SENDMSG", first).ok
    last = phone.say(bob.user, "bGFzdA==")
    assert alice.push() == last
    assert phone.push() == first
    assert bob.fetch() == unread(server, alice) == [first, last]
    assert phone.fetch() == [first]


def test_a_repeat_is_known_after_the_device_has_logged_in_again(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    first = alice.say(bob.user)
    assert alice.ask("LOGOUT").ok
    alice.login(alice.name)
    assert alice.ask("SENDMSG", first).ok
    assert bob.fetch() == [first]


def test_repeats_at_the_same_moment_are_stored_once(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    senders = [server.again(alice) for _ in range(4)] + [server.device(alice) for _ in range(4)]
    message = alice.message(bob.user)
    for _ in range(5):
        for sender in senders:
            sender.send("SENDMSG", message)
    for sender in senders:
        assert all(sender.answer().ok for _ in range(5))
    last = alice.say(bob.user, "bGFzdA==")
    assert [bob.push(), bob.push()] == [message, last]
    assert bob.fetch() == unread(server, alice) == [message, last]


def test_another_sender_target_name_or_time_is_no_repeat(server: Service) -> None:
    alice, bob = server.user(), server.user()
    carol = server.user()
    assert alice.user is not None
    assert bob.user is not None
    assert carol.user is not None
    first = alice.message(bob.user, timestamp=1000, md5encoded="0" * 32)
    others = [
        first | {"timestamp": 1001},
        first | {"timestamp": -1000},
        first | {"md5encoded": "0" * 31},
        first | {"md5encoded": "0" * 32 + " "},
        first | {"md5encoded": ""},
        first | {"targetid": alice.user},
        first | {"targetid": carol.user},
    ]
    for message in (first, *others):
        assert alice.ask("SENDMSG", message).ok
    by_carol = first | {"userid": carol.user}
    assert carol.ask("SENDMSG", by_carol).ok
    assert unread(server, alice) == [first, *others]
    assert unread(server, bob) == [first, *others[:5], by_carol]
    assert unread(server, carol) == [others[6], by_carol]


def test_what_was_refused_leaves_nothing_to_repeat(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user)
    assert not alice.ask("SENDMSG", message | {"filemd5": EMPTY_MD5}).ok
    assert not alice.ask("SENDMSG", message, b"payload").ok
    assert not alice.ask("SENDMSG", message | {"targetid": 0}).ok
    assert alice.ask("SENDMSG", message).ok
    assert bob.fetch() == [message]


# Order.


def test_pipelined_messages_keep_their_order(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert bob.user is not None
    messages = [alice.message(bob.user, str(index), md5encoded=f"n{index}") for index in range(200)]
    requests = [{"request": "SENDMSG", "body": message, "tokenid": alice.token} for message in messages]
    alice.socket.sendall(b"".join(alice.frame(request) for request in requests))
    assert [alice.answer().body["md5encoded"] for _ in messages] == [f"n{index}" for index in range(200)]
    assert contents(unread(server, alice)) == [message["content"] for message in messages]


def test_a_long_message_is_not_overtaken_by_the_short_one_behind_it(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    assert bob.user is not None
    messages = []
    for index in range(20):
        content = str(index) if index % 2 else str(index) + "." * 200_000
        messages.append(alice.message(bob.user, content, md5encoded=f"n{index}"))
        alice.send("SENDMSG", messages[-1])
    assert all(alice.answer().ok for _ in messages)
    assert contents(unread(server, bob)) == contents(messages)


def test_the_first_requests_of_a_connection_keep_their_order(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    sent = []
    for attempt in range(10):
        with Raw(server.address, "released", alice.token) as again:
            again.user = alice.user
            for index in range(5):
                sent.append(again.message(bob.user, f"{attempt}.{index}", md5encoded=f"{attempt}.{index}"))
                again.send("SENDMSG", sent[-1])
            assert all(again.answer().ok for _ in range(5))
    assert contents(unread(server, bob)) == contents(sent)
