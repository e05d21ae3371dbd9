"""Section 5's table from outside: accounts, passwords, profiles, and finding people.

The two forms of names are tried in ``test_protocol_names.py``, contacts in ``test_protocol_contacts.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.raw import Answer, Raw, unique
from tests.service import Service

EMOJI = "\U0001f600"
#: Unknown users, whoever asks.
NO_USERS = [0, -1, 10**9, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**30, -(2**63)]
AVATAR_LIMIT = 1024 * 1024


def refused(answer: Answer) -> str:
    """What an ERR without body says."""
    assert (answer.status, answer.body) == ("ERR", None), answer
    assert answer.info
    return answer.info


def password_works(server: Service, name: str, password: str) -> bool:
    """Whether one can log in with it, on a new device."""
    answer = server.connect().ask("LOGIN", {"username": name, "passwd": password})
    assert answer.ok or answer.info == "Invalid username or password", answer
    return answer.ok


def all_at_once(raws: list[Raw], request: str, bodies: list[Any]) -> list[Answer]:
    """The answers to requests that several connections send at the same time."""
    for raw in raws:
        raw.ask("STATE")  # so that each has its device
    for raw, body in zip(raws, bodies, strict=True):
        raw.send(request, body)
    return [raw.answer() for raw in raws]


# REGISTER and LOGIN.


def test_register_gives_the_new_user_and_binds(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    answer = raw.ask("REGISTER", {"username": unique(), "passwd": "secret"})
    assert answer.ok
    assert set(answer.body) == {"userid", "username", "avatar"}
    assert type(answer.body["userid"]) is int
    assert answer.body["avatar"] is None
    assert raw.ask("STATE").body == answer.body


def test_user_ids_are_positive_and_ascend(server: Service) -> None:
    ids = [server.user().user or 0 for _ in range(5)]
    assert ids[0] >= 1
    assert ids == sorted(set(ids))


def test_a_taken_name_cannot_be_registered(server: Service, dialect: str) -> None:
    taken = server.user(dialect)
    raw = server.connect(dialect)
    for password in ("secret", "other"):
        answer = raw.ask("REGISTER", {"username": taken.name, "passwd": password})
        assert refused(answer) == "Username already exists"
    assert password_works(server, taken.name, "secret")
    assert not password_works(server, taken.name, "other")


def test_of_many_who_register_one_name_exactly_one_gets_it(server: Service) -> None:
    raws, name = [server.connect() for _ in range(8)], unique()
    bodies = [{"username": name, "passwd": f"password {index}"} for index in range(8)]
    answers = all_at_once(raws, "REGISTER", bodies)
    assert sorted(answer.status for answer in answers) == ["ERR"] * 7 + ["OK"]
    assert {answer.info for answer in answers} == {None, "Username already exists"}
    winner = next(index for index, answer in enumerate(answers) if answer.ok)
    for index, raw in enumerate(raws):
        assert raw.ask("STATE").ok is (index == winner)
        assert password_works(server, name, f"password {index}") is (index == winner)
    found = raws[winner].ask("SEARCHUSR", {"username": name})
    assert found.body["userid"] == answers[winner].body["userid"]


def test_login_gives_the_user_and_binds(server: Service, dialect: str) -> None:
    user = server.user(dialect)
    user.ask("MODIFYPROFILE", {"avatar": "picture"})
    raw = server.connect(dialect)
    answer = raw.ask("LOGIN", {"username": user.name, "passwd": "secret"})
    assert answer.ok
    assert answer.body == user.ask("STATE").body == raw.ask("STATE").body
    assert answer.body["avatar"] == "picture"


def test_wrong_name_and_wrong_password_are_told_alike(server: Service, dialect: str) -> None:
    user = server.user()
    raw = server.connect(dialect)
    answers = [
        raw.ask("LOGIN", {"username": username, "passwd": passwd})
        for username, passwd in (
            (user.name, "wrong"),
            (user.name, ""),
            (user.name, "Secret"),
            (user.name, "secret "),
            (user.name, "secret\0"),
            (user.name, "x" * 100_000),
            (unique(), "secret"),
            (user.name.upper(), "secret"),
            (user.name + " ", "secret"),
            ("", ""),
            ("x" * 100_000, "secret"),
            ("a\nb", "secret"),
        )
    ]
    assert set(answers) == {Answer("LOGIN", "ERR", "Invalid username or password", None)}
    assert not raw.ask("STATE").ok


# Passwords.


@pytest.mark.parametrize(
    "password",
    ["x", " ", "\0", "a\0b", "\n", "é", EMOJI * 1024, "x" * 1024, "5ebe2294ecd0e0f08eab7690d2a6ee69"],
    ids=["1", "space", "NUL", "with NUL", "newline", "accent", "1024 emoji", "1024", "MD5"],
)
def test_passwords_within_the_limits_work_to_their_last_character(server: Service, password: str) -> None:
    first, name = server.connect(), unique()
    first.register(name, password)
    assert password_works(server, name, password)
    for near in (password[:-1], password + "\0", password + "x", password[:-1] + "~"):
        assert not password_works(server, name, near)
    second = server.user()
    assert second.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": password}).ok
    assert password_works(server, second.name, password)


@pytest.mark.parametrize("password", ["", "x" * 1025, EMOJI * 1025], ids=["0", "1025", "1025 emoji"])
def test_passwords_over_the_limits_are_refused(server: Service, password: str) -> None:
    raw, name = server.connect(), unique()
    refused(raw.ask("REGISTER", {"username": name, "passwd": password}))
    raw.register(name)
    refused(raw.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": password}))
    assert password_works(server, name, "secret")


def test_a_new_password_replaces_the_old_one(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    answer = raw.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "new"})
    assert answer == Answer("MODIFYPASSWD", "OK", None, None)
    assert raw.ask("STATE").body["userid"] == raw.user
    assert not password_works(server, raw.name, "secret")
    assert password_works(server, raw.name, "new")
    assert refused(raw.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "x"})) == "Wrong password"
    assert raw.ask("MODIFYPASSWD", {"passwd": "new", "newPasswd": "new"}).ok
    assert password_works(server, raw.name, "new")


def test_a_wrong_old_password_changes_nothing(server: Service) -> None:
    raw = server.user()
    for wrong in ("", "wrong", "secret ", "secret\0", "x" * 100_000):
        answer = raw.ask("MODIFYPASSWD", {"passwd": wrong, "newPasswd": "new"})
        assert refused(answer) == "Wrong password"
    assert password_works(server, raw.name, "secret")
    assert not password_works(server, raw.name, "new")


def test_of_two_new_passwords_at_once_one_is_taken(server: Service) -> None:
    first = server.user()
    raws = [first, *(server.device(first) for _ in range(3))]
    bodies = [{"passwd": "secret", "newPasswd": f"new {index}"} for index in range(4)]
    answers = all_at_once(raws, "MODIFYPASSWD", bodies)
    assert sorted(answer.status for answer in answers) == ["ERR"] * 3 + ["OK"]
    for index, (raw, answer) in enumerate(zip(raws, answers, strict=True)):
        assert password_works(server, first.name, f"new {index}") is answer.ok
        assert raw.ask("STATE").ok is answer.ok


# Profiles.


def test_everybody_s_profile_can_be_read(server: Service, dialect: str) -> None:
    raw, other = server.user(dialect), server.user(dialect)
    other.ask("MODIFYPROFILE", {"avatar": "picture"})
    for user in (raw, other):
        assert raw.ask("PROFILE", {"userid": user.user}).body == user.ask("STATE").body
    for number in NO_USERS:
        assert refused(raw.ask("PROFILE", {"userid": number})) == "User not found", number


def test_what_modifyprofile_does_not_name_stays(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    shown = raw.ask("STATE").body
    changes: list[tuple[Any, dict[str, Any]]] = [
        (None, {}),
        ({}, {}),
        ({"username": None}, {}),
        ({"avatar": "one"}, {"avatar": "one"}),
        ({}, {}),
        ({"username": None, "avatar": "two"}, {"avatar": "two"}),
        ({"username": raw.name}, {}),
        ({"avatar": ""}, {"avatar": ""}),
        ({"avatar": EMOJI + "\0\n"}, {"avatar": EMOJI + "\0\n"}),
        ({"username": None, "avatar": None}, {"avatar": None}),
        ({"avatar": None}, {}),
    ]
    for body, change in changes:
        shown |= change
        assert raw.ask("MODIFYPROFILE", body) == Answer("MODIFYPROFILE", "OK", None, shown), body
        assert raw.ask("STATE").body == shown


def test_a_new_name_takes_the_old_one_s_place_and_frees_it(server: Service) -> None:
    raw, new = server.user("seed"), unique()
    answer = raw.ask("MODIFYPROFILE", {"username": new, "avatar": "picture"})
    assert answer.body == {"userid": raw.user, "username": new, "avatar": "picture"}
    other = server.user("seed")
    assert other.ask("PROFILE", {"userid": raw.user}).body == answer.body
    assert other.ask("SEARCHUSR", {"username": new}).body == answer.body
    assert refused(other.ask("SEARCHUSR", {"username": raw.name})) == "User not found"
    assert password_works(server, new, "secret")
    assert not password_works(server, raw.name, "secret")
    heir = server.connect("seed")
    assert heir.register(raw.name) != raw.user
    assert other.ask("SEARCHUSR", {"username": raw.name}).body["userid"] == heir.user
    assert not raw.ask("MODIFYPROFILE", {"username": raw.name}).ok
    assert raw.ask("STATE").body == answer.body


def test_a_taken_name_changes_nothing(server: Service, dialect: str) -> None:
    raw, other = server.user(dialect), server.user(dialect)
    before = raw.ask("STATE").body
    refused(raw.ask("MODIFYPROFILE", {"username": other.name, "avatar": "picture"}))
    assert raw.ask("STATE").body == before
    assert other.ask("SEARCHUSR", {"username": raw.name}).body == before


def test_of_many_who_take_one_name_exactly_one_gets_it(server: Service) -> None:
    raws, name = [server.user("seed") for _ in range(8)], unique()
    answers = all_at_once(raws, "MODIFYPROFILE", [{"username": name}] * 8)
    assert sorted(answer.status for answer in answers) == ["ERR"] * 7 + ["OK"]
    for raw, answer in zip(raws, answers, strict=True):
        assert raw.ask("STATE").body["username"] == (name if answer.ok else raw.name)


def test_new_names_on_several_devices_at_once_leave_only_one_name_taken(server: Service) -> None:
    first = server.user("seed")
    raws = [first, *(server.device(first, "seed") for _ in range(5))]
    names = [unique() for _ in range(5 * len(raws))]
    for start in range(0, len(names), len(raws)):
        bodies = [{"username": name} for name in names[start : start + len(raws)]]
        assert all(answer.ok for answer in all_at_once(raws, "MODIFYPROFILE", bodies))
    borne = first.ask("STATE").body["username"]
    assert borne in names[-len(raws) :]
    for name in [first.name, *names]:
        answer = server.connect().ask("REGISTER", {"username": name, "passwd": "secret"})
        assert answer.ok is (name != borne), name


@pytest.mark.parametrize("character", ["x", "\n"])
def test_an_avatar_of_exactly_the_limit_is_kept(server: Service, dialect: str, character: str) -> None:
    raw = server.user(dialect)
    avatar = character * AVATAR_LIMIT
    assert raw.ask("MODIFYPROFILE", {"avatar": avatar}).body["avatar"] == avatar
    assert raw.ask("STATE").body["avatar"] == avatar


def test_an_avatar_over_the_limit_changes_nothing(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    raw.ask("MODIFYPROFILE", {"avatar": "picture"})
    before = raw.ask("STATE").body
    refused(raw.ask("MODIFYPROFILE", {"username": unique(), "avatar": "x" * (AVATAR_LIMIT + 1)}))
    assert raw.ask("STATE").body == before


# SEARCHUSR.


def test_people_are_found_by_exact_name_and_by_id(server: Service, dialect: str) -> None:
    raw, other = server.user(dialect), server.user(dialect)
    for user in (raw, other):
        shown = user.ask("STATE").body
        assert raw.ask("SEARCHUSR", {"username": user.name}) == Answer("SEARCHUSR", "OK", None, shown)
        assert raw.ask("SEARCHUSR", {"userid": user.user}).body == shown
        assert raw.ask("SEARCHUSR", {"username": None, "userid": user.user}).body == shown
        assert raw.ask("SEARCHUSR", {"username": user.name, "userid": None}).body == shown


def test_nobody_is_found_by_anything_else(server: Service) -> None:
    raw, other = server.user("seed"), server.user()
    near = [other.name[:-1], other.name + "x", " " + other.name, other.name.upper(), other.name + "\0"]
    for name in [*near, "", "*", f"{other.name[:-1]}?", "x" * 100_000, "a\nb", str(other.user)]:
        assert refused(raw.ask("SEARCHUSR", {"username": name})) == "User not found", name
    for number in NO_USERS:
        assert refused(raw.ask("SEARCHUSR", {"userid": number})) == "User not found", number
    refused(raw.ask("SEARCHUSR", {"username": None, "userid": None}))


def test_people_survive_a_kill(service: Callable[..., Service]) -> None:
    server = service().start()
    raw, other = server.user("seed"), server.user("seed")
    old, new = raw.name, unique()
    raw.ask("MODIFYPROFILE", {"username": new, "avatar": "picture"})
    raw.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "new"})
    other.ask("ADDCONTACT", {"userid": raw.user})
    server.kill_store()
    server.kill()
    server.hang_up()
    server.start()
    again = server.connect("seed")
    assert again.login(new, "new") == raw.user
    assert again.ask("STATE").body == {"userid": raw.user, "username": new, "avatar": "picture"}
    assert [user["userid"] for user in again.ask("FETCHCONTACT").body["requesting"]] == [other.user]
    assert not password_works(server, new, "secret")
    assert server.connect().register(old) > (other.user or 0)
