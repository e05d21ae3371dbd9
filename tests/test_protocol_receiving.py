"""Pushes and FETCHMSG as `docs/protocol.md` sections 5.1 and 5.2 have them: who gets what, in which order.

What moves a cursor is tried in `tests/test_protocol_acknowledging.py`.
"""

from __future__ import annotations

import base64
import json
import time
from itertools import chain
from threading import Thread
from typing import Any

import pytest

from tests.raw import Answer, Raw
from tests.service import Service


def unwrapped(content: str, dialect: str) -> str:
    """A content that is not base64 itself, as it was sent."""
    return base64.b64decode(content).decode() if dialect == "released" else content


def contents(messages: list[Any]) -> list[str]:
    return [message["content"] for message in messages]


def pair(server: Service) -> tuple[Raw, Raw, int]:
    """A sender, a reader, and the reader's id."""
    sender, reader = server.user("seed"), server.user("seed")
    assert reader.user is not None
    return sender, reader, reader.user


def fill(sender: Raw, target: int, count: int, content: str = "{}") -> list[str]:
    """Send many messages at once; gives their contents."""
    sent = [content.format(index) for index in range(count)]
    frames = []
    for index, text in enumerate(sent):
        message = sender.message(target, text, md5encoded=f"{time.monotonic_ns()}-{index}")
        frames.append(sender.frame({"request": "SENDMSG", "body": message, "tokenid": sender.token}))
    writing = Thread(target=sender.socket.sendall, args=(b"".join(frames),))
    writing.start()
    assert all(sender.answer().ok for _ in sent)
    writing.join()
    return sent


def answers(reader: Raw) -> list[Answer]:
    """All answers to one FETCHMSG."""
    reader.send("FETCHMSG")
    found = [reader.answer()]
    while found[-1].body["more"]:
        found.append(reader.answer())
    assert all((one.response, one.status) == ("FETCHMSG", "OK") for one in found)
    return found


def limited(reader: Raw, limit: int) -> tuple[list[str], bool]:
    """FETCHMSG with a limit: the contents, newest first, and whether more is left."""
    found = reader.ask("FETCHMSG", {"limit": limit})
    assert found.ok, found
    assert set(found.body) == {"messages", "more"}
    return contents(found.body["messages"]), found.body["more"]


# Pushes.


def test_a_push_is_a_forwardmsg_with_the_whole_message(server: Service, dialect: str) -> None:
    alice, bob = server.user(), server.user(dialect)
    assert bob.user is not None
    sent = alice.say(bob.user)
    assert bob.receive() == ("FORWARDMSG", "OK", None, sent, b"")


def test_every_other_device_of_both_users_is_pushed_all_in_mailbox_order(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert alice.user is not None
    senders = [alice, bob, server.device(alice, "seed"), server.device(bob, "network")]
    watchers = [server.device(alice, "network"), server.device(bob, "seed"), server.device(alice, "seed")]
    ours: list[list[str]] = []
    for number, sender in enumerate(senders):
        target = to_bob if sender.user == alice.user else alice.user
        ours.append([f"{number}.{index}" for index in range(25)])
        for text in ours[-1]:
            sender.send("SENDMSG", sender.message(target, text, md5encoded=text))
    for sender in senders:
        assert all(sender.answer().ok for _ in range(25))
    mailbox = contents(server.device(alice, "seed").fetch())
    assert sorted(mailbox) == sorted(chain.from_iterable(ours))
    assert sorted(contents(server.device(bob, "seed").fetch())) == sorted(mailbox)
    for user in (alice, bob):
        mailbox = contents(server.device(user, "seed").fetch())
        for watcher in (one for one in watchers if one.user == user.user):
            assert contents([watcher.push() for _ in range(100)]) == mailbox
        for own, sender in zip(ours, senders, strict=True):
            if sender.user == user.user:
                assert [text for text in mailbox if text in own] == own
                others = [text for text in mailbox if text not in own]
                assert contents([sender.push() for _ in range(75)]) == others


def test_no_connection_of_the_sending_device_is_pushed_its_message(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    other = server.again(alice, "seed")
    assert alice.user is not None
    alice.say(to_bob, "mine")
    other.say(to_bob, "mine too")
    bob.say(alice.user, "yours")
    assert contents([alice.push()]) == contents([other.push()]) == ["yours"]
    assert contents([bob.push(), bob.push()]) == ["mine", "mine too"]


def test_every_connection_of_a_device_that_made_a_request_is_pushed_to(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    others = [server.again(bob, dialect) for dialect in ("released", "seed", "network")]
    sent = alice.say(to_bob, "aGVsbG8=")
    assert [one.push() for one in (bob, *others)] == [sent] * 4


def test_a_device_that_is_not_bound_gets_no_push(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    gone = server.device(bob, "seed")
    assert gone.ask("LOGOUT").ok
    alice.say(to_bob, "between")
    gone.login(bob.name)
    alice.say(to_bob, "after")
    assert contents([gone.push()]) == ["after"]
    assert contents([bob.push(), bob.push()]) == ["between", "after"]


def test_a_device_that_changed_hands_gets_the_pushes_of_its_new_user(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    carol = server.user("seed")
    assert carol.user is not None
    device = server.device(bob, "seed")
    spare = server.again(device, "seed")
    device.login(carol.name)
    spare.ask("STATE")
    alice.say(to_bob, "for bob")
    alice.say(carol.user, "for carol")
    assert contents([device.push()]) == contents([spare.push()]) == ["for carol"]


# FETCHMSG.


def test_an_empty_mailbox_is_an_empty_list(server: Service, dialect: str) -> None:
    reader = server.user(dialect)
    for body in (None, {}, {"limit": None}, {"limit": 3}):
        assert reader.ask("FETCHMSG", body) == ("FETCHMSG", "OK", None, {"messages": [], "more": False}, b"")


def test_the_newest_message_stands_first_whatever_the_clocks_say(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    for timestamp in (3000, 1000, 2000, 2000, -5):
        alice.say(to_bob, str(timestamp), timestamp=timestamp)
    found = bob.ask("FETCHMSG")
    assert contents(found.body["messages"]) == ["-5", "2000", "2000", "1000", "3000"]
    assert found.body["more"] is False


def test_own_messages_are_left_out_but_not_those_of_one_s_other_devices(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    phone = server.device(bob, "seed")
    assert alice.user is not None
    bob.say(alice.user, "from bob's desk")
    phone.say(alice.user, "from bob's phone")
    alice.say(to_bob, "from alice")
    phone.say(to_bob, "to himself")
    assert contents(bob.fetch()) == ["from bob's phone", "from alice", "to himself"]
    assert contents(phone.fetch()) == ["from bob's desk", "from alice"]
    assert contents(server.again(bob, "seed").fetch()) == ["from bob's phone", "from alice", "to himself"]
    bob.ask("LOGOUT")
    bob.login(bob.name)
    assert "from bob's desk" not in contents(bob.fetch())


def test_a_new_device_gets_the_whole_history(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert alice.user is not None
    alice.say(to_bob, "one")
    bob.fetch()
    bob.ask("FETCHMSG")
    bob.say(alice.user, "two")
    assert contents(server.device(bob, "seed").fetch()) == ["one", "two"]
    assert contents(server.device(alice, "seed").fetch()) == ["one", "two"]


def test_a_device_that_changed_hands_gets_what_it_sent_to_its_new_user(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    alice.say(to_bob, "sent as alice")
    alice.login(bob.name)
    assert contents(alice.fetch()) == ["sent as alice"]


def test_more_than_500_messages_come_in_several_answers_the_oldest_part_first(
    server: Service, dialect: str
) -> None:
    alice, bob, to_bob = pair(server)
    sent = fill(alice, to_bob, 1203)
    reader = server.device(bob, dialect)
    found = answers(reader)
    assert [len(one.body["messages"]) for one in found] == [500, 500, 203]
    assert [one.body["more"] for one in found] == [True, True, False]
    oldest_first = [message for one in found for message in reversed(one.body["messages"])]
    assert [message["md5encoded"].rsplit("-", 1)[1] for message in oldest_first] == sent
    assert reader.ask("STATE").ok


def test_exactly_500_messages_are_one_answer(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    fill(alice, to_bob, 500)
    (found,) = answers(bob)
    assert (len(found.body["messages"]), found.body["more"]) == (500, False)


@pytest.mark.parametrize(("count", "filler"), [(1200, "." * 1000), (20, "é" * 30_000), (20, "." * 100_000)])
def test_an_answer_has_at_most_a_mebibyte(server: Service, dialect: str, count: int, filler: str) -> None:
    alice, bob, to_bob = pair(server)
    sent = fill(alice, to_bob, count, "{}" + filler)
    found = answers(server.device(bob, dialect))
    assert len(found) > 1
    for one in found:
        frame = {"response": one.response, "status": one.status, "info": None, "body": one.body}
        assert len(json.dumps(frame, separators=(",", ":"))) <= 1024 * 1024
    oldest_first = [text for one in found for text in reversed(contents(one.body["messages"]))]
    assert [unwrapped(text, dialect) for text in oldest_first] == sent


def test_a_message_over_a_mebibyte_is_an_answer_of_its_own(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    long = "x" * 1_200_000
    for content in ("a", long, long, "b", "c"):
        alice.say(to_bob, content)
    found = [contents(one.body["messages"]) for one in answers(bob)]
    assert found == [["a"], [long], [long], ["c", "b"]]
    assert limited(server.device(bob, "seed"), 10) == (["a"], True)


def test_pushes_stand_behind_the_answers_that_were_under_way(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    sent = fill(alice, to_bob, 1100)
    reader = server.device(bob, "seed")
    reader.send("FETCHMSG")
    late = fill(alice, to_bob, 50, "late {}")
    seen: list[str] = []
    more = True
    while more:
        found = reader.answer()
        more = found.body["more"]
        seen += reversed(contents(found.body["messages"]))
    while len(seen) < 1150:
        seen.append(reader.push()["content"])
    assert seen == sent + late


# FETCHMSG with a limit.


@pytest.mark.parametrize("limit", [0, -1, "5", 1.5, True, [], {}])
def test_a_limit_is_one_or_more(server: Service, limit: Any) -> None:
    alice, bob, to_bob = pair(server)
    fill(alice, to_bob, 3)
    reader = server.device(bob, "seed")  # not pushed what is stored: that would count as delivered
    assert limited(reader, 1) == (["0"], True)
    found = reader.ask("FETCHMSG", {"limit": limit})
    assert (found.response, found.status, found.body) == ("FETCHMSG", "ERR", None)
    assert limited(reader, 1) == (["1"], True)


def test_limited_answers_go_on_from_the_last(server: Service, dialect: str) -> None:
    alice, bob, to_bob = pair(server)
    fill(alice, to_bob, 7, "IDA{}")
    reader = server.device(bob, dialect)
    assert limited(reader, 3) == (["IDA2", "IDA1", "IDA0"], True)
    assert limited(reader, 1) == (["IDA3"], True)
    assert limited(reader, 3) == (["IDA6", "IDA5", "IDA4"], False)
    assert limited(reader, 3) == ([], False)
    alice.say(to_bob, "IDA7")
    assert limited(reader, 2**60) == (["IDA7"], False)


def test_a_limit_over_500_is_still_one_answer(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    sent = fill(alice, to_bob, 510)
    assert limited(bob, 600) == (sent[499::-1], True)
    assert limited(bob, 600) == (sent[:499:-1], False)


def test_more_does_not_count_what_the_device_sent(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    assert alice.user is not None
    bob.send("ACKFETCH", {"timestamp": 0})
    bob.say(alice.user, "own")
    alice.say(to_bob, "one")
    bob.say(alice.user, "own")
    bob.say(alice.user, "own")
    assert limited(bob, 1) == (["one"], False)
    alice.say(to_bob, "two")
    bob.say(alice.user, "own")
    assert limited(bob, 1) == (["two"], False)
    assert limited(bob, 1) == ([], False)


def test_a_fetch_without_limit_starts_over_from_the_cursor(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    bob.send("ACKFETCH", {"timestamp": 0})  # from here on nothing is acknowledged unasked
    sent = fill(alice, to_bob, 5)
    assert limited(bob, 2) == (["1", "0"], True)
    assert contents(bob.fetch()) == sent
    assert limited(bob, 2) == (["1", "0"], True)
    assert limited(bob, 2) == (["3", "2"], True)


def test_a_new_binding_starts_over_from_the_cursor(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    bob.send("ACKFETCH", {"timestamp": 0})
    fill(alice, to_bob, 5)
    assert limited(bob, 2) == (["1", "0"], True)
    bob.login(bob.name)
    assert limited(bob, 2) == (["1", "0"], True)
    bob.ask("LOGOUT")
    bob.login(bob.name)
    assert limited(bob, 2) == (["1", "0"], True)


def test_each_connection_goes_on_by_itself(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    bob.send("ACKFETCH", {"timestamp": 0})
    fill(alice, to_bob, 5)
    other = server.again(bob, "seed")
    assert limited(bob, 2) == (["1", "0"], True)
    assert limited(other, 3) == (["2", "1", "0"], True)
    assert limited(bob, 2) == (["3", "2"], True)
    assert limited(other, 3) == (["4", "3"], False)


def test_a_limited_fetch_goes_on_behind_what_was_acknowledged(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    bob.send("ACKFETCH", {"timestamp": 0})
    sent = [alice.say(to_bob, str(index), timestamp=index) for index in range(5)]
    other = server.again(bob, "seed")
    assert limited(bob, 1) == (["0"], True)
    assert contents(other.fetch()) == contents(sent)
    other.send("ACKFETCH", {"timestamp": 4})
    other.ask("STATE")
    assert limited(bob, 1) == ([], False)


def test_fetching_needs_a_bound_device(server: Service) -> None:
    for body in (None, {"limit": 1}, {"limit": 0}):
        found = server.connect().ask("FETCHMSG", body)
        assert found == ("FETCHMSG", "ERR", "User not logged in", None, b"")


def test_a_fetch_ends_when_its_binding_does(server: Service) -> None:
    alice, bob, to_bob = pair(server)
    fill(alice, to_bob, 16, "{}".ljust(1_200_000, "."))
    reader = server.device(bob, "seed")
    other = server.again(reader, "seed")
    reader.send("FETCHMSG")
    first = reader.answer()
    assert first.body["more"]
    assert other.ask("LOGOUT").ok
    found = first
    while found.ok:
        assert found.body["more"], "everything was sent to a device that is nobody's any more"
        found = reader.answer()
    assert (found.response, found.info) == ("FETCHMSG", "User not logged in")
