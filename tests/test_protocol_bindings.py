"""Section 4 of the protocol from outside: what binds a device to a user, what ends it, and for whom.

Tokens are tried in ``test_protocol_devices.py``, names and passwords in ``test_protocol_people.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.raw import Answer, Raw, in_base64, unique
from tests.service import Service

NOT_LOGGED_IN = "User not logged in"
#: Every request that needs a bound device, with a body that is right and one that is not.
NEED_LOGIN: list[tuple[str, Any]] = [
    ("STATE", None),
    ("PROFILE", {"userid": 1}),
    ("PROFILE", {"userid": 0}),
    ("PROFILE", None),
    ("MODIFYPROFILE", {"username": "x"}),
    ("MODIFYPROFILE", {"avatar": None}),
    ("MODIFYPROFILE", None),
    ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "other"}),
    ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": ""}),
    ("SENDMSG", {"userid": 1, "targetid": 1, "contenttype": "plaintext", "content": "", "md5encoded": "m"}),
    ("SENDMSG", None),
    ("FETCHMSG", None),
    ("FETCHMSG", {"limit": 0}),
    ("FINDFILE", {"filemd5": "0" * 32}),
    ("FETCHFILE", {"msgmd5": "0" * 32}),
    ("SEARCHUSR", {"username": "x"}),
    ("SEARCHUSR", {"userid": 1}),
    ("SEARCHUSR", None),
    ("ADDCONTACT", {"userid": 1}),
    ("ADDCONTACT", {"userid": 0}),
    ("FETCHCONTACT", None),
]


def user_of(raw: Raw) -> int | None:
    """Who is logged in on a connection's device."""
    state = raw.ask("STATE")
    if state.ok:
        return int(state.body["userid"])
    assert state == Answer("STATE", "ERR", NOT_LOGGED_IN, None)
    return None


def push_reaches(sender: Raw, user: int | None, reached: list[Raw], unreached: list[Raw]) -> None:
    """Send a message, see it pushed to some connections, and not to others."""
    assert user is not None
    content = in_base64(unique())
    sender.say(user, content)
    for raw in reached:
        assert raw.push()["content"] == content
    for raw in unreached:
        raw.ask("STATE")  # whatever was pushed came before this answer
        assert raw.pushes == []


@pytest.mark.parametrize("kind", ["new", "logged out", "unknown token"])
def test_without_a_bound_device_every_such_request_says_so(server: Service, kind: str) -> None:
    raw = server.user("seed") if kind == "logged out" else server.connect("seed")
    raw.ask("LOGOUT")
    for request, body in NEED_LOGIN:
        answer = raw.ask(request, body, tokenid=0 if kind == "unknown token" else raw.token)
        named = {"md5encoded": "m"} if request == "SENDMSG" and body else None
        assert answer == Answer(request, "ERR", NOT_LOGGED_IN, named), (request, body)
    raw.send("ACKFETCH", {"timestamp": 1})
    assert raw.ask("LOGOUT").ok


def test_state_follows_the_device_through_all_its_states(server: Service, dialect: str) -> None:
    raw, name = server.connect(dialect), unique()
    assert user_of(raw) is None
    user = raw.register(name)
    assert user_of(raw) == user
    assert raw.ask("LOGOUT") == Answer("LOGOUT", "OK", None, None)
    assert user_of(raw) is None
    assert raw.login(name) == user
    assert user_of(raw) == user
    assert user_of(server.connect(dialect, raw.token)) == user
    raw.ask("LOGOUT")
    assert user_of(server.connect(dialect, raw.token)) is None


def test_logout_is_ok_when_nobody_is_logged_in(server: Service) -> None:
    raw = server.connect()
    for _ in range(3):
        assert raw.ask("LOGOUT") == Answer("LOGOUT", "OK", None, None)
    raw.register(unique())
    for _ in range(2):
        assert raw.ask("LOGOUT") == Answer("LOGOUT", "OK", None, None)


def test_logout_takes_effect_at_once_on_all_connections_of_the_device(server: Service, dialect: str) -> None:
    sender, first = server.user(), server.user(dialect)
    same = [server.again(first, dialect) for _ in range(3)]
    elsewhere = server.device(first, dialect)
    push_reaches(sender, first.user, [first, *same, elsewhere], [])
    assert same[0].ask("LOGOUT").ok
    push_reaches(sender, first.user, [elsewhere], [first, *same])
    for raw in (first, *same):
        assert user_of(raw) is None
        assert raw.ask("FETCHMSG").info == NOT_LOGGED_IN
    assert user_of(elsewhere) == first.user


def test_logout_stands_between_pipelined_requests(server: Service) -> None:
    raw = server.user()
    kinds = ["STATE", "FETCHMSG", "LOGOUT", "STATE", "FETCHMSG"]
    raw.socket.sendall(b"".join(raw.frame({"request": kind, "tokenid": raw.token}) for kind in kinds))
    answers = [raw.answer() for _ in kinds]
    assert [answer.response for answer in answers] == kinds
    assert [answer.ok for answer in answers] == [True, True, True, False, False]


def test_login_stands_between_pipelined_requests(server: Service) -> None:
    raw, other = server.user("seed"), server.user("seed")
    credentials = {"username": other.name, "passwd": "secret"}
    for request, body in (("STATE", None), ("LOGIN", credentials), ("STATE", None)):
        raw.send(request, body)
    assert [raw.answer().body["userid"] for _ in range(3)] == [raw.user, other.user, other.user]


def test_login_on_one_connection_is_login_on_all_of_the_device(server: Service) -> None:
    sender, user = server.user(), server.user()
    for _ in range(10):  # the push must not come too early for any of them
        first = server.connect()
        first.ask("STATE")
        others = [server.again(first) for _ in range(3)]
        assert user_of(others[0]) is None
        assert first.login(user.name) == user.user
        push_reaches(sender, user.user, [first, *others, user], [])
        for raw in others:
            assert user_of(raw) == user.user


@pytest.mark.parametrize("how", ["LOGIN", "REGISTER"])
def test_binding_again_replaces_the_binding_everywhere(server: Service, how: str) -> None:
    sender, old, other = server.user(), server.user(), server.user()
    old_elsewhere = server.device(old)
    first, second = server.again(old), server.again(old)
    new = first.login(other.name) if how == "LOGIN" else first.register(unique())
    assert new != old.user
    push_reaches(sender, old.user, [old_elsewhere], [first, second, old])
    push_reaches(sender, new, [first, second, old], [old_elsewhere])
    for raw in (first, second, old):
        assert user_of(raw) == new
    assert user_of(old_elsewhere) == old_elsewhere.user


def test_binding_again_to_the_same_user_changes_nothing(server: Service) -> None:
    sender, first = server.user(), server.user()
    same = server.again(first)
    assert first.login(first.name) == first.user
    push_reaches(sender, first.user, [first, same], [])
    assert user_of(same) == first.user


def test_a_refused_login_or_registration_keeps_the_binding(server: Service) -> None:
    raw, other = server.user(), server.user()
    for request, username, passwd in (
        ("LOGIN", other.name, "wrong"),
        ("LOGIN", unique(), "secret"),
        ("REGISTER", other.name, "secret"),
        ("REGISTER", raw.name, "secret"),
        ("REGISTER", "", "secret"),
        ("REGISTER", unique(), ""),
    ):
        assert not raw.ask(request, {"username": username, "passwd": passwd}).ok
        assert user_of(raw) == raw.user


def test_a_user_may_be_logged_in_on_many_devices(server: Service, dialect: str) -> None:
    sender, first = server.user(), server.user(dialect)
    devices = [server.device(first, dialect) for _ in range(5)]
    assert len({raw.token for raw in (first, *devices)}) == 6
    push_reaches(sender, first.user, [first, *devices], [])
    devices[0].ask("LOGOUT")
    push_reaches(sender, first.user, [first, *devices[1:]], devices[:1])


def test_a_new_password_unbinds_all_other_devices_at_once(server: Service, dialect: str) -> None:
    sender, first, bystander = server.user(), server.user(dialect), server.user()
    same, others = server.again(first), [server.device(first) for _ in range(3)]
    other_again = server.again(others[0])
    push_reaches(sender, first.user, [first, same, *others, other_again], [])
    assert first.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "new"}) == Answer(
        "MODIFYPASSWD", "OK", None, None
    )
    push_reaches(sender, first.user, [first, same], [*others, other_again])
    for raw in (*others, other_again):
        for request, body in NEED_LOGIN:
            if request != "ADDCONTACT":  # two answers in this dialect
                assert raw.ask(request, body).info == NOT_LOGGED_IN, request
    for raw in (first, same):
        assert user_of(raw) == first.user
    assert user_of(bystander) == bystander.user
    assert user_of(server.connect(token=others[1].token)) is None
    assert others[1].login(first.name, "new") == first.user
    push_reaches(sender, first.user, [first, same, others[1]], [])


def test_a_message_of_a_device_that_was_just_unbound_is_refused(server: Service) -> None:
    first, target = server.user(), server.user()
    other = server.device(first)
    first.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "new"})
    answer = other.ask("SENDMSG", other.message(target.user or 0))
    assert (answer.status, answer.info) == ("ERR", NOT_LOGGED_IN)
    assert target.fetch() == []


def test_a_refused_new_password_unbinds_nobody(server: Service) -> None:
    first = server.user()
    other = server.device(first)
    for old, new in (("wrong", "new"), ("secret", ""), ("secret", "x" * 1025)):
        assert not first.ask("MODIFYPASSWD", {"passwd": old, "newPasswd": new}).ok
    assert user_of(other) == first.user
    assert server.device(first).user == first.user


class Pair(NamedTuple):
    """Two nodes on one store."""

    one: Service
    two: Service


@pytest.fixture
def nodes(service: Callable[..., Service]) -> Iterator[Pair]:
    one = service().start()
    store = next(one.directory.rglob("store.sock"))
    two = service("--redis", f"unix://{store}", name="two").start()
    yield Pair(one, two)
    two.end()  # before its store


def test_bindings_hold_and_end_on_every_node(nodes: Pair) -> None:
    one, two = nodes
    sender, first = one.user(), one.user()
    there = two.again(first)
    assert user_of(there) == first.user
    push_reaches(sender, first.user, [first, there], [])

    first.ask("LOGOUT")
    assert user_of(there) is None
    first.login(first.name)
    assert user_of(there) == first.user
    push_reaches(sender, first.user, [first, there], [])

    other = two.device(first)
    push_reaches(sender, first.user, [first, there, other], [])
    first.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "new"})
    assert user_of(other) is None
    assert user_of(there) == first.user

    new = first.register(unique())
    assert user_of(there) == new
    push_reaches(sender, new, [first, there], [])
