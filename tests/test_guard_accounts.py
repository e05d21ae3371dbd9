"""Limits on passwords and new accounts: guessing is slow, nobody is locked out, and invites are used up.

The store is in memory and the clock is the test's.
"""

from __future__ import annotations

from typing import Any

import pytest

from chatsvc.passwords import Busy, Turn
from chatsvc.wire import errors
from chatsvc.wire.errors import BAD_CREDENTIALS, NAME_TAKEN, TOO_MANY_REQUESTS, WRONG_INVITE, WRONG_PASSWORD
from chatsvc.wire.frames import RELEASED
from chatsvc.wire.invites import make
from chatsvc.wire.limits import Rate
from chatsvc.wire.text import encoded
from tests.fakes import FakeClient
from tests.guarding import HERE, THERE, World

#: So many at once, and one more in a while.
THREE, FIVE = Rate(3, 0.1), Rate(5, 0.01)
CODE = "7H3K-9QX2-WM4D-R8VZ"


def login(client: FakeClient, name: str = "alice", password: str = "wrong") -> str | None:
    return client.ask("LOGIN", {"username": name, "passwd": password}).info


def register(client: FakeClient, name: str, **more: Any) -> str | None:
    return client.ask("REGISTER", {"username": name, "passwd": "secret"} | more).info


def hashed(world: World) -> int:
    """How many passwords were hashed or checked."""
    calls = world.node.passwords.gate.calls
    return calls["verify"] + calls["hash"]


# Passwords.


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_an_account_takes_so_many_wrong_passwords_and_then_one_in_a_while(name: str) -> None:
    world = World(account_failures=FIVE)
    forms = [name, encoded(name)]
    for number in range(5):
        assert login(world.client(f"192.0.2.{number}"), forms[number % 2]) == BAD_CREDENTIALS
    before = hashed(world)
    for password in ("wrong", "secret"):
        assert login(world.client(THERE), name, password) == TOO_MANY_REQUESTS
    assert hashed(world) == before
    assert login(world.client(), "bob", "secret") is None
    world.clock.advance(99.9)
    assert login(world.client(), name) == TOO_MANY_REQUESTS
    world.clock.advance(0.1)
    assert login(world.client(), name) == BAD_CREDENTIALS
    assert login(world.client(), name) == TOO_MANY_REQUESTS
    assert world.node.hub.stats.refused["account_failures"] == 4


def test_a_refusal_asks_the_store_nothing_about_the_name() -> None:
    world = World(account_failures=Rate(1, 0.001))
    asked = []
    for name in ("alice", "nobody"):
        login(world.client(), name)
        client = world.client()
        client.ask("STATE")
        before = world.store.gate.calls.copy()
        assert login(client, name) == TOO_MANY_REQUESTS
        asked.append(world.store.gate.calls - before)
    assert asked[0] == asked[1]
    assert not {"find", "get", "password_hash"} & set(asked[0])


def test_right_passwords_are_not_counted() -> None:
    world = World(account_failures=FIVE, address_failures=FIVE)
    for _ in range(20):
        assert login(world.client(), "alice", "secret") is None


def test_whoever_guesses_does_not_lock_a_device_of_the_user_out() -> None:
    world = World(account_failures=FIVE, address_failures=FIVE)
    world.alice.session.address = HERE
    assert world.alice.ask("LOGOUT").ok
    for _ in range(6):
        login(world.client())
    assert login(world.client(), "alice", "secret") == TOO_MANY_REQUESTS
    again = world.client(token=world.alice.token)
    assert login(again, "alice", "secret") is None
    assert again.ask("LOGOUT").ok
    assert [login(again) for _ in range(6)] == [BAD_CREDENTIALS] * 5 + [TOO_MANY_REQUESTS]
    world.clock.advance(100)
    assert login(world.client(token=world.alice.token), "alice", "secret") is None


def test_a_device_that_a_new_password_has_logged_out_is_still_the_users() -> None:
    world = World(account_failures=FIVE)
    second = world.client()
    assert login(second, "alice", "secret") is None
    assert second.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "newer"}).ok
    for _ in range(6):
        login(world.client())
    assert login(world.client(token=world.alice.token), "alice", "newer") is None


def test_a_device_of_another_user_is_nobody_special() -> None:
    world = World(account_failures=FIVE)
    assert [login(world.bob) for _ in range(6)] == [BAD_CREDENTIALS] * 5 + [TOO_MANY_REQUESTS]
    assert login(world.bob, "bob", "secret") is None


def test_an_address_gets_so_many_passwords_wrong() -> None:
    world = World(address_failures=THREE)
    for number in range(3):
        assert login(world.client(), f"name {number}") == BAD_CREDENTIALS
    before = hashed(world)
    assert login(world.client(), "alice", "secret") == TOO_MANY_REQUESTS
    assert hashed(world) == before
    assert login(world.client(THERE), "alice", "secret") is None
    world.clock.advance(10)
    assert login(world.client(), "alice", "secret") is None
    assert login(world.client(), "alice") == BAD_CREDENTIALS
    assert login(world.client(), "alice") == TOO_MANY_REQUESTS
    assert world.node.hub.stats.refused["address_failures"] == 2


def test_what_an_address_is_refused_does_not_count_for_the_account() -> None:
    world = World(address_failures=Rate(1, 0.001), account_failures=FIVE)
    assert login(world.client()) == BAD_CREDENTIALS
    assert [login(world.client()) for _ in range(10)] == [TOO_MANY_REQUESTS] * 10
    assert login(world.client(THERE), "alice", "secret") is None


def test_the_old_password_may_be_wrong_so_often() -> None:
    world = World(account_failures=FIVE)
    change = {"passwd": "wrong", "newPasswd": "newer"}
    for _ in range(5):
        assert world.alice.ask("MODIFYPASSWD", change).info == WRONG_PASSWORD
    before = hashed(world)
    assert world.alice.ask("MODIFYPASSWD", change | {"passwd": "secret"}).info == TOO_MANY_REQUESTS
    assert hashed(world) == before
    assert world.alice.ask("STATE").ok
    world.clock.advance(100)
    assert world.alice.ask("MODIFYPASSWD", change | {"passwd": "secret"}).ok


def test_passwords_that_are_being_checked_count_until_it_is_known() -> None:
    world = World(account_failures=FIVE)
    world.node.passwords.gate.hold("verify")
    clients = [world.client() for _ in range(6)]
    running = [client.start("LOGIN", {"username": "alice", "passwd": "secret"}) for client in clients]
    assert [one.done for one in running] == [False] * 5 + [True]
    world.node.passwords.gate.release("verify")
    assert [client.answers()[0].info for client in clients] == [None] * 5 + [TOO_MANY_REQUESTS]
    assert login(clients[5], "alice", "secret") is None


@pytest.mark.parametrize("trouble", ["verify", "password_hash"])
def test_a_password_that_could_not_be_checked_is_not_wrong(trouble: str) -> None:
    world = World(account_failures=Rate(1, 0.001), address_failures=Rate(1, 0.001))
    if trouble == "verify":
        world.node.passwords.gate.fail("verify", Busy("the queue is full"), times=3)
    else:
        world.store.gate.fail("password_hash", times=3)
    client = world.client()
    assert TOO_MANY_REQUESTS not in [login(client) for _ in range(3)]
    assert login(client, "alice", "secret") is None


def test_without_limits_passwords_may_be_wrong() -> None:
    world = World()
    client = world.client()
    assert {login(client) for _ in range(50)} == {BAD_CREDENTIALS}


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_a_login_checks_one_password_whoever_is_meant(name: str) -> None:
    world = World()
    client = world.client()
    client.ask("STATE")
    before = world.node.passwords.gate.calls.copy()
    assert login(client, name) == BAD_CREDENTIALS
    assert world.node.passwords.gate.calls - before == {"verify": 1}


def test_turns_go_by_address() -> None:
    world = World(passwords_per_address=2)
    session = world.client("2001:db8::1").session
    assert world.node.hub.guard.turn(session) == Turn("2001:db8::/64", 2)
    world.limit(passwords_per_address=None)
    assert world.node.hub.guard.turn(session) == Turn("2001:db8::/64", None)


# Registration.


def test_an_address_makes_so_many_accounts() -> None:
    world = World(registration_rate=THREE)
    assert [register(world.client(), f"name {number}") for number in range(3)] == [None] * 3
    before = hashed(world)
    assert register(world.client(), "one more") == TOO_MANY_REQUESTS
    assert hashed(world) == before
    assert register(world.client(THERE), "elsewhere") is None
    world.clock.advance(9.9)
    assert register(world.client(), "one more") == TOO_MANY_REQUESTS
    world.clock.advance(0.1)
    assert register(world.client(), "one more") is None
    assert world.node.hub.stats.refused["registration_rate"] == 2


def test_what_makes_no_account_does_not_count_as_one() -> None:
    world = World(registration_rate=Rate(1, 0.001))
    client = world.client()
    assert register(client, "") is not None
    assert register(client, "alice") == NAME_TAKEN
    world.node.passwords.gate.fail("hash", Busy("the queue is full"))
    assert register(client, "carol") == errors.SERVER_BUSY
    world.store.gate.fail("create")
    assert register(client, "carol") == errors.STORAGE_UNAVAILABLE
    assert register(client, "carol") is None
    assert register(client, "dave") == TOO_MANY_REQUESTS


def test_asking_which_names_are_taken_is_guessing() -> None:
    world = World(address_failures=THREE)
    assert [register(world.client(), name) for name in ("alice", "bob", "alice")] == [NAME_TAKEN] * 3
    before = world.store.gate.calls["find"]
    assert register(world.client(), "alice") == TOO_MANY_REQUESTS
    assert world.store.gate.calls["find"] == before
    assert register(world.client(THERE), "alice") == NAME_TAKEN
    world.clock.advance(10)
    assert register(world.client(), "carol") is None
    assert register(world.client(), "dave") is None


def test_a_server_that_is_closed_makes_no_accounts() -> None:
    world = World(registration="closed")
    assert register(world.client(), "carol") == errors.REGISTRATION_CLOSED
    assert hashed(world) == hashed(World())
    assert login(world.client(), "alice", "secret") is None


def invited(uses: int = 1, **limits: Any) -> World:
    """A server that wants invites, and has one."""
    world = World(registration="invite", **limits)
    world.store.data.invites[CODE.replace("-", "")] = uses
    return world


@pytest.mark.parametrize(
    "body",
    [
        {"username": "carol", "invite": CODE},
        {"username": "carol", "invite": "7h3k9qx2wm4dr8vz"},
        {"username": f"carol {CODE}"},
        {"username": f"carol  {CODE.lower()}"},
        {"username": encoded(f"carol {CODE}")},
        {"username": encoded("carol"), "invite": CODE},
    ],
)
def test_an_invite_makes_an_account(body: dict[str, str]) -> None:
    world = invited()
    answer = world.client().ask("REGISTER", body | {"passwd": "secret"})
    assert answer.body["username"] in ("carol", encoded("carol"))
    assert (answer.body["username"] == "carol") == body["username"].startswith("carol")
    assert login(world.client(), "carol", "secret") is None
    assert register(world.client(), "dave", invite=CODE) == WRONG_INVITE


@pytest.mark.parametrize("name", ["carol", "carol smith", "carol 7H3K", f"carol{CODE}"])
def test_without_an_invite_there_is_no_account(name: str) -> None:
    world = invited(address_failures=Rate(1, 0.001))
    for _ in range(3):
        assert register(world.client(), name) == errors.NEEDS_INVITE


@pytest.mark.parametrize("code", ["", "7H3K", CODE[:-1] + "Y", CODE * 100, "x" * 16, "Ünïcödé1234567ß"])
def test_a_wrong_invite_counts_as_a_wrong_password(code: str) -> None:
    world = invited(address_failures=THREE)
    for _ in range(3):
        assert register(world.client(), "alice", invite=code) == WRONG_INVITE
    assert register(world.client(), "carol", invite=CODE) == TOO_MANY_REQUESTS
    assert login(world.client(), "alice", "secret") == TOO_MANY_REQUESTS
    assert register(world.client(THERE), "carol", invite=CODE) is None


def test_an_invite_for_several_is_used_up_by_as_many() -> None:
    world = invited(uses=2)
    answers = [register(world.client(), f"name {number}", invite=CODE) for number in range(3)]
    assert answers == [None, None, WRONG_INVITE]


@pytest.mark.parametrize("trouble", ["taken", "busy", "away"])
def test_an_invite_that_made_no_account_can_be_used_again(trouble: str) -> None:
    world = invited()
    client = world.client()
    client.ask("STATE")
    if trouble == "busy":
        world.node.passwords.gate.fail("hash", Busy("the queue is full"))
    elif trouble == "away":
        world.store.gate.fail("create")
    assert register(client, "alice" if trouble == "taken" else "carol", invite=CODE) is not None
    assert register(client, "carol", invite=CODE) is None
    assert register(client, "dave", invite=CODE) == WRONG_INVITE


def test_an_invite_that_is_being_used_is_nobody_elses() -> None:
    world = invited()
    world.node.passwords.gate.hold("hash")
    first, second = world.client(), world.client()
    running = first.start("REGISTER", {"username": "carol", "passwd": "secret", "invite": CODE})
    assert register(second, "dave", invite=CODE) == WRONG_INVITE
    world.node.passwords.gate.release("hash")
    running.result()
    assert first.answers()[0].ok


def test_where_no_invite_is_needed_a_name_may_look_like_one() -> None:
    world = World()
    answer = world.client().ask("REGISTER", {"username": f"carol {CODE}", "passwd": "secret", "invite": "x"})
    assert answer.body["username"] == f"carol {CODE}"


def test_the_released_client_reads_the_name_without_the_invite() -> None:
    world = invited()
    client = world.node.client(RELEASED)
    answer = client.ask("REGISTER", {"username": encoded(f"carol {CODE}"), "passwd": "secret"})
    assert answer.body["username"] == encoded("carol")


def test_codes_are_random_and_easy_to_type() -> None:
    codes = {make() for _ in range(200)}
    assert len(codes) == 200
    assert all(len(code) == 19 and code.count("-") == 3 for code in codes)
    assert not set("".join(codes)) & set("ILOU")
    world = invited()
    world.store.data.invites["0123456789ABCDEF"] = 1
    assert register(world.client(), "carol", invite="ol23-4567-89ab-cdef") is None
