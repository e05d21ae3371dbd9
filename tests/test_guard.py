"""Limits on what is asked: where each begins and ends, whom it does not hinder, and what lifts it.

The store and the sockets are in memory and the clock is the test's. What concerns accounts is in
``test_guard_accounts.py``; what the defaults leave people room for in ``test_guard_defaults.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from chatsvc.chat.calls import TABLE
from chatsvc.chat.guard import UNKNOWN_TOKENS
from chatsvc.wire.errors import NOT_LOGGED_IN, TOO_MANY_REQUESTS
from chatsvc.wire.frames import SEED
from chatsvc.wire.limits import Rate
from tests.fakes import FakeClient, FakePayload
from tests.guarding import HERE, THERE, World

#: Three at once, and one more each ten seconds.
THREE = Rate(3, 0.1)


def answers(client: FakeClient, kind: str, body: Any = None, times: int = 1) -> list[str | None]:
    """What each of some requests was refused for."""
    return [client.ask(kind, body).info for _ in range(times)]


# Tokens.


@pytest.mark.parametrize("token", [None, 7], ids=["no token", "an unknown one"])
def test_an_address_gets_so_many_devices_and_then_one_in_a_while(token: int | None) -> None:
    world = World(token_rate=THREE)
    for _ in range(3):
        assert world.client(token=token).ask("STATE").info == NOT_LOGGED_IN
    before, late = world.devices(), world.client(token=token)
    assert answers(late, "STATE", times=2) == [TOO_MANY_REQUESTS] * 2
    assert world.devices() == before
    assert world.client(token=world.bob.token).ask("STATE").ok
    assert world.client(THERE, token).ask("STATE").info == NOT_LOGGED_IN
    world.clock.advance(9.9)
    assert late.ask("STATE").info == TOO_MANY_REQUESTS
    world.clock.advance(0.1)
    assert late.ask("STATE").info == NOT_LOGGED_IN
    assert world.client(token=token).ask("STATE").info == TOO_MANY_REQUESTS
    assert world.node.hub.stats.refused["token_rate"] == 4


def test_the_neighbours_in_ipv6_are_one_address() -> None:
    world = World(token_rate=Rate(1, 0.1))
    assert world.client("2001:db8::1").ask("STATE").info == NOT_LOGGED_IN
    assert world.client("2001:db8::2").ask("STATE").info == TOO_MANY_REQUESTS
    assert world.client("2001:db8:0:1::1").ask("STATE").info == NOT_LOGGED_IN


def test_who_has_no_address_is_not_counted_by_it() -> None:
    world = World(token_rate=Rate(1, 0.1), address_failures=Rate(1, 0.1), registration_rate=Rate(1, 0.1))
    for number in range(3):
        client = world.client("")
        assert client.ask("REGISTER", {"username": f"n{number}", "passwd": "x"}).ok
        assert client.ask("LOGIN", {"username": f"n{number}", "passwd": "y"}).info != TOO_MANY_REQUESTS


def test_a_connection_that_tries_tokens_is_closed() -> None:
    world = World(token_rate=Rate(100, 1.0))
    client = world.client()
    for token in range(1, UNKNOWN_TOKENS + 1):
        for _ in range(2):  # to repeat one is no guess
            assert client.ask("STATE", tokenid=token).info == NOT_LOGGED_IN
    assert client.ask("STATE", tokenid=None).info == NOT_LOGGED_IN
    assert not client.closing
    last = client.ask("STATE", tokenid=99)
    assert (last.response, client.closing) == ("UNKNOWN", True)
    assert last.info == f"A connection may show at most {UNKNOWN_TOKENS} tokens that are not known."
    assert world.node.hub.stats.violations == 1


def test_tokens_that_are_refused_count_for_the_connection_too() -> None:
    world = World(token_rate=Rate(1, 0.001))
    client = world.client()
    for token in range(1, UNKNOWN_TOKENS + 1):
        client.ask("STATE", tokenid=token)
    assert client.ask("STATE", tokenid=99).response == "UNKNOWN"


def test_a_bound_device_pays_for_tokens_that_it_guesses() -> None:
    world = World(token_rate=Rate(2, 0.1))
    world.bob.session.address = HERE
    assert [world.bob.ask("STATE", tokenid=token).info for token in (5, 5, 6, 7)] == [
        None,
        None,
        None,
        TOO_MANY_REQUESTS,
    ]
    assert world.bob.ask("STATE").ok


def test_a_payload_with_a_token_that_is_refused_is_not_read() -> None:
    world = World(token_rate=Rate(1, 0.1))
    world.client().ask("STATE")
    payload, client = FakePayload(b"unread"), world.client()
    body = {"userid": 1, "targetid": 2, "contenttype": "file", "content": "", "md5encoded": "a name"}
    answer = client.ask("SENDMSG", body, payload)
    assert (answer.info, answer.body) == (TOO_MANY_REQUESTS, {"md5encoded": "a name"})
    assert client.closing
    assert payload.left == [b"unread"]


def test_without_a_limit_tokens_may_be_tried() -> None:
    world = World()
    client = world.client()
    for token in range(1, 40):
        assert client.ask("STATE", tokenid=token).info == NOT_LOGGED_IN
        assert world.client(token=token).ask("STATE").info == NOT_LOGGED_IN


# Requests.


def test_which_types_have_a_limit_of_their_own_or_none() -> None:
    found = {kind: row.limit for kind, row in TABLE.items() if row.limit != "request_rate"}
    people = {"ADDCONTACT", "MODIFYPROFILE", "PROFILE", "SEARCHUSR"}
    people |= {"REMOVECONTACT", "BLOCKCONTACT", "UNBLOCKCONTACT"}
    others = {"SENDMSG": "message_rate", "ACKFETCH": None, "LOGOUT": None}
    assert found == others | dict.fromkeys(people, "people_rate")


def ask(world: World, limit: str, client: FakeClient) -> str | None:
    """A request of a user that counts for a limit; why it is refused."""
    match limit:
        case "message_rate":
            return client.ask("SENDMSG", client.message(world.bob.user)).info
        case "people_rate":
            return client.ask("PROFILE", {"userid": world.bob.user}).info
    return client.ask("STATE").info


LIMITED = ["message_rate", "people_rate", "request_rate"]


@pytest.mark.parametrize("limit", LIMITED)
def test_a_user_may_ask_so_much_and_then_once_in_a_while(limit: str) -> None:
    world = World(**{limit: THREE})
    second = world.client()
    second.ask("LOGIN", {"username": "alice", "passwd": "secret"})
    second.user = world.alice.user
    world.clock.advance(1000)
    devices = [world.alice, second, world.alice]
    assert [ask(world, limit, device) for device in devices] == [None] * 3
    assert [ask(world, limit, device) for device in devices] == [TOO_MANY_REQUESTS] * 3
    assert ask(world, limit, world.bob) is None
    world.clock.advance(9.9)
    assert ask(world, limit, second) == TOO_MANY_REQUESTS
    world.clock.advance(0.1)
    assert [ask(world, limit, device) for device in devices] == [None] + [TOO_MANY_REQUESTS] * 2
    others = set(LIMITED) - {limit}
    assert [ask(world, other, world.alice) for other in others] == [None] * 2
    assert world.node.hub.stats.refused[limit] == 6  # type: ignore[index]


def test_to_ask_for_features_counts_as_asking_about_people() -> None:
    world = World(people_rate=THREE)
    features = {"features": ["presence"]}
    assert [world.alice.ask("STATE", features).info for _ in range(4)] == [None] * 3 + [TOO_MANY_REQUESTS]
    assert world.alice.ask("STATE").ok
    assert world.bob.ask("STATE", features).ok


@pytest.mark.parametrize("limit", LIMITED)
def test_without_a_limit_a_user_may_ask_at_will(limit: str) -> None:
    world = World(**{limit: Rate(1, 0.001)})
    world.limit(**{limit: None})
    assert [ask(world, limit, world.alice) for _ in range(500)] == [None] * 500


@pytest.mark.parametrize("limit", LIMITED)
def test_a_limit_that_changes_is_used_at_once(limit: str) -> None:
    world = World(**{limit: Rate(1, 0.001)})
    assert [ask(world, limit, world.alice) for _ in range(2)] == [None, TOO_MANY_REQUESTS]
    world.limit(**{limit: Rate(5, 5.0)})
    world.clock.advance(1)
    assert ask(world, limit, world.alice) is None


def test_a_message_over_the_limit_is_named_and_its_payload_thrown_away() -> None:
    world = World(message_rate=Rate(1, 0.1))
    world.alice.send(world.bob.user)
    file = world.alice.message(world.bob.user, contenttype="file", filemd5="0" * 32, md5encoded="a file")
    payload = FakePayload(b"thrown", b"away")
    answer = world.alice.ask("SENDMSG", file, payload)
    assert (answer.info, answer.body) == (TOO_MANY_REQUESTS, {"md5encoded": "a file"})
    assert (payload.left, world.alice.closing) == ([], False)
    assert len(world.bob.fetch()) == 1
    assert world.node.blobs.gate.calls["write"] == 0


def test_who_is_over_all_limits_can_log_out_and_acknowledge() -> None:
    world = World(**dict.fromkeys(LIMITED, Rate(1, 0.001)))
    for _ in range(3):
        world.alice.ask("STATE")
    assert world.alice.ask_all("ACKFETCH", {"timestamp": 1}) == []
    assert world.alice.session.device is not None
    assert world.alice.session.device.explicit
    assert world.alice.ask("LOGOUT").ok


def test_who_is_not_logged_in_is_counted_by_address_or_else_by_device() -> None:
    world = World(request_rate=THREE)
    first, second, there = world.client(), world.client(), world.client(THERE)
    assert answers(first, "STATE", times=2) == [NOT_LOGGED_IN] * 2
    assert answers(second, "STATE", times=2) == [NOT_LOGGED_IN, TOO_MANY_REQUESTS]
    assert answers(there, "STATE") == [NOT_LOGGED_IN]
    one, other = world.client(""), world.client("")
    assert answers(one, "STATE", times=4) == [NOT_LOGGED_IN] * 3 + [TOO_MANY_REQUESTS]
    assert answers(other, "STATE") == [NOT_LOGGED_IN]
    assert world.bob.ask("STATE").ok


# Strangers.


def write(sender: FakeClient, target: FakeClient) -> str | None:
    return sender.ask("SENDMSG", sender.message(target.user)).info


def test_so_many_strangers_get_a_first_message() -> None:
    world = World(stranger_rate=Rate(2, 1 / 3600))
    carol, dave, erin = (world.node.user(name, SEED) for name in ("carol", "dave", "erin"))
    assert [write(world.alice, each) for each in (world.bob, carol, world.bob, carol)] == [None] * 4
    assert [write(world.alice, dave) for _ in range(2)] == [TOO_MANY_REQUESTS] * 2
    assert dave.fetch() == []
    assert write(world.alice, world.alice) is None
    assert write(world.alice, world.bob) is None
    assert write(world.bob, dave) is None
    erin.ask("ADDCONTACT", {"userid": world.alice.user})
    assert write(world.alice, erin) is None
    world.clock.advance(3600)
    assert [write(world.alice, each) for each in (dave, erin)] == [None] * 2
    assert world.node.hub.stats.refused["stranger_rate"] == 2


def test_who_was_written_to_may_answer() -> None:
    world = World(stranger_rate=Rate(1, 1 / 3600))
    carol = world.node.user("carol", SEED)
    assert write(world.bob, carol) is None
    assert write(world.alice, world.bob) is None
    assert write(world.bob, world.alice) is None


def test_a_stranger_counts_once_the_store_could_say_whether_it_is_one() -> None:
    world = World(stranger_rate=Rate(1, 1 / 3600))
    world.store.gate.fail("has_added", times=3)
    for _ in range(3):
        assert write(world.alice, world.bob) == "Storage unavailable, try again"
    assert write(world.alice, world.bob) is None


# What the operator hears.


def test_a_refusal_is_logged_once_a_minute_for_whom_it_is_about() -> None:
    world = World(request_rate=Rate(1, 0.001))
    hostile = "203.0.113.9\x1b[31m\n"
    client = world.client(hostile)
    with capturedLogs() as logged:
        answers(client, "STATE", times=5)
        answers(world.alice, "STATE", times=5)
        world.clock.advance(59.9)
        answers(client, "STATE", times=5)
        assert len(logged) == 2
        world.clock.advance(0.1)
        answers(client, "STATE", times=5)
    lines = [formatEvent(event) for event in logged]
    about = f"Refused: request rate, from the address {hostile!r}, user None"
    assert lines == [about, f"Refused: request rate, from the address '', user {world.alice.user}", about]
    assert all(line.isprintable() for line in lines)


def test_a_message_in_another_ones_name_is_logged() -> None:
    world = World()
    with capturedLogs() as logged:
        for _ in range(3):
            answer = world.alice.ask("SENDMSG", world.alice.message(world.bob.user, userid=world.bob.user))
            assert answer.info == "The userid of a message is that of the user who is logged in."
    [event] = logged
    assert formatEvent(event).startswith("Refused: messages in another user's name, from the address")
    assert event["user"] == world.alice.user
    assert world.bob.fetch() == []
