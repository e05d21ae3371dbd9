"""Section 5's ADDCONTACT and FETCHCONTACT from outside: relations in both directions."""

from __future__ import annotations

import pytest

from tests.raw import Answer, Raw
from tests.service import Service

PLAIN_DIALECTS = ["seed", "network"]


def relations(raw: Raw) -> dict[str, list[int]]:
    """Whom FETCHCONTACT lists, by id; what it shows of them must be their profile."""
    answer = raw.ask("FETCHCONTACT")
    assert answer.ok, answer
    assert set(answer.body) == {"contacts", "pending", "requesting"}
    for users in answer.body.values():
        for user in users:
            assert raw.ask("PROFILE", {"userid": user["userid"]}).body == user
    return {name: [user["userid"] for user in users] for name, users in answer.body.items()}


def related(
    contacts: list[Raw] | None = None, pending: list[Raw] | None = None, requesting: list[Raw] | None = None
) -> dict[str, list[int]]:
    """What `relations` must give."""
    lists = {"contacts": contacts, "pending": pending, "requesting": requesting}
    return {name: [raw.user or 0 for raw in raws or []] for name, raws in lists.items()}


def add(raw: Raw, other: Raw) -> None:
    """Add somebody; the FETCHCONTACT that a released client is sent must agree with one that it asks for."""
    assert raw.ask("ADDCONTACT", {"userid": other.user}) == Answer("ADDCONTACT", "OK", None, None)
    if raw.dialect == "released":
        follows = raw.answer()
        assert follows.response == "FETCHCONTACT"
        assert follows == raw.ask("FETCHCONTACT")


def test_a_new_user_has_nobody(server: Service, dialect: str) -> None:
    assert relations(server.user(dialect)) == related()


def test_adding_is_one_direction_and_adding_back_is_accepting(server: Service, dialect: str) -> None:
    alice, bob, carol = (server.user(dialect) for _ in range(3))
    add(alice, bob)
    assert relations(alice) == related(pending=[bob])
    assert relations(bob) == related(requesting=[alice])
    assert relations(carol) == related()
    add(carol, alice)
    assert relations(alice) == related(pending=[bob], requesting=[carol])
    add(bob, alice)
    assert relations(alice) == related(contacts=[bob], requesting=[carol])
    assert relations(bob) == related(contacts=[alice])
    add(alice, carol)
    assert relations(alice) == related(contacts=[bob, carol])
    assert relations(carol) == related(contacts=[alice])


def test_adding_again_changes_nothing(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    for _ in range(3):
        add(alice, bob)
        assert relations(alice) == related(pending=[bob])
        assert relations(bob) == related(requesting=[alice])
    for _ in range(2):
        add(bob, alice)
        add(alice, bob)
        assert relations(alice) == related(contacts=[bob])
        assert relations(bob) == related(contacts=[alice])


@pytest.mark.parametrize("dialect", PLAIN_DIALECTS)
def test_oneself_and_nobody_cannot_be_added(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    answer = raw.ask("ADDCONTACT", {"userid": raw.user})
    assert (answer.status, answer.body) == ("ERR", None)
    for number in (0, -1, 10**9, 2**53, 2**63, 2**64, 10**30):
        answer = raw.ask("ADDCONTACT", {"userid": number})
        assert answer == Answer("ADDCONTACT", "ERR", "User not found", None), number
    assert relations(raw) == related()


def test_each_list_ascends_by_id(server: Service) -> None:
    raw = server.user("seed")
    others = [server.user("seed") for _ in range(12)]
    order = [5, 11, 0, 8, 2, 10, 1, 7, 4, 9, 3, 6]
    for index in order:
        if index % 3 != 2:
            add(raw, others[index])
    for index in reversed(order):
        if index % 3 != 1:
            add(others[index], raw)
    assert relations(raw) == related(contacts=others[0::3], pending=others[1::3], requesting=others[2::3])


def test_all_devices_of_a_user_have_the_same_contacts(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("network")
    there = server.device(alice)
    add(there, bob)
    add(bob, alice)
    for raw in (alice, there, server.device(alice, "network")):
        assert relations(raw) == related(contacts=[bob])


def test_contacts_belong_to_the_user_and_not_to_the_device(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    add(alice, bob)
    alice_again = server.device(alice, "seed")
    alice.login(bob.name)
    assert relations(alice) == related(requesting=[alice_again])
    alice.login(alice_again.name)
    assert relations(alice) == related(pending=[bob])


def test_contacts_are_shown_as_they_are_now(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    add(alice, bob)
    changed = bob.ask("MODIFYPROFILE", {"username": bob.name + "!", "avatar": "picture"}).body
    assert alice.ask("FETCHCONTACT").body["pending"] == [changed]


def test_two_who_add_each_other_at_once_are_contacts(server: Service) -> None:
    for _ in range(5):
        alice, bob = server.user("seed"), server.user("seed")
        alice.send("ADDCONTACT", {"userid": bob.user})
        bob.send("ADDCONTACT", {"userid": alice.user})
        assert alice.answer().ok
        assert bob.answer().ok
        assert relations(alice) == related(contacts=[bob])
        assert relations(bob) == related(contacts=[alice])


def test_on_a_released_connection_a_fetchcontact_answer_follows_an_ok_and_an_err(server: Service) -> None:
    raw, other = server.user(), server.user()
    bodies = [{"userid": other.user}, {"userid": raw.user}, {"userid": 0}, {"userid": "x"}, {}, None, [], 5]
    for body in bodies:
        raw.send("ADDCONTACT", body)
    raw.send("ADDCONTACT", {"userid": other.user}, tokenid="x")
    raw.send("STATE")
    for index in range(len(bodies) + 1):
        added = raw.answer()
        assert (added.response, added.ok) == ("ADDCONTACT", index == 0)
        listed = raw.answer()
        assert (listed.response, listed.status) == ("FETCHCONTACT", "OK")
        assert [user["userid"] for user in listed.body["pending"]] == [other.user]
    assert raw.answer().response == "STATE"


def test_on_a_released_connection_it_follows_without_a_login_too(server: Service) -> None:
    raw = server.connect()
    raw.send("ADDCONTACT", {"userid": 1})
    raw.send("STATE")
    for kind in ("ADDCONTACT", "FETCHCONTACT", "STATE"):
        assert raw.answer() == Answer(kind, "ERR", "User not logged in", None)


@pytest.mark.parametrize("dialect", PLAIN_DIALECTS)
def test_on_other_connections_nothing_follows(server: Service, dialect: str) -> None:
    raw, other = server.user(dialect), server.user(dialect)
    for body in ({"userid": other.user}, {"userid": 0}, None):
        raw.send("ADDCONTACT", body)
    raw.send("STATE")
    assert [raw.answer().response for _ in range(4)] == ["ADDCONTACT"] * 3 + ["STATE"]
