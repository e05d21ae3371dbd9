"""Section 5.3 from outside: what connections get that ask for features, and what all others do not."""

from __future__ import annotations

from typing import Any

import pytest

from chatsvc.wire.errors import NOT_TAKEN
from tests.raw import Answer, Raw
from tests.service import Service

ALL = ("contacts", "marks", "presence", "typing")
REQUESTS: dict[str, dict[str, Any]] = {
    "TYPING": {"userid": 1},
    "MARK": {"userid": 1, "mark": "read", "timestamp": 1, "md5encoded": "m"},
    "REMOVECONTACT": {"userid": 1},
    "BLOCKCONTACT": {"userid": 1},
    "UNBLOCKCONTACT": {"userid": 1},
}


def contacts(server: Service, dialect: str = "released") -> tuple[Raw, Raw]:
    """Two users who are contacts of each other."""
    one, other = server.user(dialect), server.user(dialect)
    befriend(one, other)
    return one, other


def befriend(one: Raw, other: Raw) -> None:
    for adds, added in ((one, other), (other, one)):
        assert adds.ask("ADDCONTACT", {"userid": added.user}).ok
        if adds.dialect == "released":
            assert adds.answer().response == "FETCHCONTACT"


def ok(raw: Raw, request: str, **body: Any) -> None:
    assert raw.ask(request, body) == Answer(request, "OK", None, None)


def nothing_came(raw: Raw) -> bool:
    """Whether nothing was pushed before the answer to a further request."""
    assert raw.ask("FINDFILE", {"filemd5": "0" * 32}).info == "File not found"
    return not raw.hints and not raw.pushes


def test_a_state_says_which_features_there_are(server: Service, dialect: str) -> None:
    raw = server.user(dialect)
    plain = raw.ask("STATE").body
    assert set(plain) == {"userid", "username", "avatar"}
    assert raw.ask_features("typing", "of tomorrow", "marks", "marks") == plain | {
        "features": ["marks", "typing"]
    }
    assert raw.ask("STATE").body == raw.ask("STATE", {"features": None}).body == plain
    assert raw.ask_features() == plain | {"features": []}
    assert raw.ask("STATE", {"features": "typing"}).status == "ERR"


def test_who_does_not_ask_has_no_such_requests_and_gets_none_of_it(server: Service, dialect: str) -> None:
    alice, bob = contacts(server, dialect)
    alice.ask_features(*ALL)
    assert alice.hint("FORWARDPRESENCE")["users"][0]["online"]
    for request, body in REQUESTS.items():
        refused = bob.ask(request, body)
        assert (refused.response, refused.status, refused.body) == ("UNKNOWN", "ERR", None)
        assert request not in str(refused.info)
        assert "SENDMSG" in str(refused.info)
    ok(alice, "TYPING", userid=bob.user)
    ok(alice, "MARK", **(REQUESTS["MARK"] | {"userid": bob.user}))
    ok(alice, "REMOVECONTACT", userid=bob.user)
    assert nothing_came(bob)
    assert set(bob.ask("FETCHCONTACT").body) == {"contacts", "pending", "requesting"}


def test_a_feature_ends_with_the_binding_and_with_the_next_choice(server: Service) -> None:
    alice, bob = contacts(server)
    alice.ask_features("typing")
    alice.ask_features("marks")
    assert alice.ask("TYPING", {"userid": bob.user}).response == "UNKNOWN"
    assert alice.ask("LOGOUT").ok
    alice.login(alice.name)
    assert alice.ask("MARK", REQUESTS["MARK"]).response == "UNKNOWN"


def test_a_contact_is_told_who_types(server: Service, dialect: str) -> None:
    alice, bob = contacts(server, dialect)
    stranger = server.user(dialect)
    for raw in (alice, bob, stranger):
        raw.ask_features("typing")
    ok(alice, "TYPING", userid=bob.user)
    assert bob.hint("FORWARDTYPING") == {"userid": alice.user, "typing": True}
    ok(alice, "TYPING", userid=bob.user, typing=False)
    assert bob.hint("FORWARDTYPING") == {"userid": alice.user, "typing": False}
    ok(stranger, "TYPING", userid=bob.user)
    for nobody in (stranger.user, 0, -1, 10**30 % 2**63, 10**9):
        ok(alice, "TYPING", userid=nobody)
    assert nothing_came(bob)
    assert nothing_came(stranger)


def test_marks_go_to_both_on_all_devices_and_are_kept(server: Service, dialect: str) -> None:
    alice, bob = contacts(server, dialect)
    tablet = server.device(bob, dialect)
    for raw in (alice, bob, tablet):
        raw.ask_features("marks")
    sent = alice.say(bob.user or 0)
    said = {"userid": alice.user, "timestamp": sent["timestamp"], "md5encoded": sent["md5encoded"]}
    told = {**said, "userid": bob.user, "targetid": alice.user}
    for kind in ("delivered", "read"):
        ok(bob, "MARK", mark=kind, **said)
        for raw in (alice, tablet):
            assert raw.hint("FORWARDMARK") == {"marks": [told | {"mark": kind}]}
    ok(bob, "MARK", mark="read", **said)
    assert not bob.hints
    for of in (alice, bob):
        late = server.device(of, dialect)
        late.ask_features("marks")
        marks = late.hint("FORWARDMARK")["marks"]
        assert sorted(mark["mark"] for mark in marks) == ["delivered", "read"]
        assert all(mark | told == mark for mark in marks)
    assert bob.ask("MARK", said | {"mark": "burnt"}).status == "ERR"
    assert bob.ask("MARK", said | {"mark": "read", "md5encoded": "m" * 257}).status == "ERR"


def test_marks_of_strangers_go_nowhere(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    for raw in (alice, bob):
        raw.ask_features("marks")
    for sender in (alice.user, bob.user, 0, 10**9):
        ok(bob, "MARK", userid=sender, mark="read", timestamp=1, md5encoded="m")
    assert nothing_came(alice)
    late = server.device(bob, "seed")
    late.ask_features("marks")
    assert nothing_came(late)


def test_who_comes_and_goes_is_seen_by_contacts(server: Service, dialect: str) -> None:
    alice, bob = contacts(server, dialect)
    stranger = server.user(dialect)
    for raw in (alice, stranger):
        raw.ask_features("presence")
    online = {"userid": bob.user, "online": True, "lastseen": None}
    assert alice.hint("FORWARDPRESENCE") == {"users": [online]}
    second = server.device(bob, dialect)
    bob.close()
    assert nothing_came(alice)  # one of his devices is there
    second.close()
    [gone] = alice.hint("FORWARDPRESENCE")["users"]
    assert (gone["userid"], gone["online"]) == (bob.user, False)
    assert abs(gone["lastseen"] - alice.message(1)["timestamp"]) < 3_600_000
    back = server.device(bob, dialect)
    assert alice.hint("FORWARDPRESENCE") == {"users": [online]}
    assert back.ask("LOGOUT").ok
    assert not alice.hint("FORWARDPRESENCE")["users"][0]["online"]
    assert nothing_came(stranger)


def test_presence_follows_who_is_a_contact(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    alice.ask_features("presence", "contacts")
    befriend(bob, alice)
    assert alice.hint("FORWARDCONTACT") == {"userid": bob.user, "relation": "requesting"}
    assert alice.hint("FORWARDPRESENCE")["users"] == [{"userid": bob.user, "online": True, "lastseen": None}]
    ok(alice, "REMOVECONTACT", userid=bob.user)
    assert alice.hint("FORWARDPRESENCE")["users"] == [{"userid": bob.user, "online": False, "lastseen": None}]
    bob.close()
    assert nothing_came(alice)


def test_relations_are_told_as_they_change(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    tablet = server.device(alice, dialect)
    for raw in (alice, bob, tablet):
        raw.ask_features("contacts")

    def told(raw: Raw, other: Raw, relation: str) -> bool:
        return bool(raw.hint("FORWARDCONTACT") == {"userid": other.user, "relation": relation})

    befriend(alice, bob)
    assert told(bob, alice, "requesting")
    assert told(tablet, bob, "pending")
    assert told(tablet, bob, "contact")
    assert told(alice, bob, "contact")
    ok(bob, "REMOVECONTACT", userid=alice.user)
    assert told(alice, bob, "none")
    assert told(tablet, bob, "none")
    ok(bob, "REMOVECONTACT", userid=alice.user)
    assert nothing_came(alice)
    assert nothing_came(bob)
    for raw, other in ((alice, bob), (bob, alice)):
        lists = raw.ask("FETCHCONTACT").body
        assert lists == {"contacts": [], "pending": [], "requesting": [], "blocked": []}, (raw, other)


@pytest.mark.parametrize("dialect", ["seed"])
def test_who_is_blocked_cannot_write_nor_ask(server: Service, dialect: str) -> None:
    alice, bob = contacts(server, dialect)
    alice.ask_features("contacts")
    stored = bob.say(alice.user or 0)
    assert alice.push() == stored
    ok(alice, "BLOCKCONTACT", userid=bob.user)
    for content in ("short", "long " * 20_000):
        message = bob.message(alice.user or 0, content, md5encoded="refused")
        assert bob.ask("SENDMSG", message) == Answer("SENDMSG", "ERR", NOT_TAKEN, {"md5encoded": "refused"})
    assert bob.ask("SENDMSG", stored).ok  # a repeat of what was stored before
    ok(bob, "ADDCONTACT", userid=alice.user)
    assert nothing_came(alice)
    lists = alice.ask("FETCHCONTACT").body
    assert [user["userid"] for user in lists.pop("blocked")] == [bob.user]
    assert not any(lists.values())
    assert [user["userid"] for user in bob.ask("FETCHCONTACT").body["pending"]] == [alice.user]
    assert [each["content"] for each in bob.fetch()] == []
    alice.say(bob.user or 0, "a last word")
    assert bob.push()["content"] == "a last word"

    ok(alice, "UNBLOCKCONTACT", userid=bob.user)
    ok(alice, "UNBLOCKCONTACT", userid=bob.user)
    bob.say(alice.user or 0, "again")
    assert alice.push()["content"] == "again"
    ok(bob, "ADDCONTACT", userid=alice.user)
    assert alice.hint("FORWARDCONTACT") == {"userid": bob.user, "relation": "requesting"}


def test_adding_ends_a_block(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    alice.ask_features("contacts")
    ok(alice, "BLOCKCONTACT", userid=bob.user)
    ok(alice, "ADDCONTACT", userid=bob.user)
    lists = alice.ask("FETCHCONTACT").body
    assert [user["userid"] for user in lists["pending"]] == [bob.user]
    assert lists["blocked"] == []
    bob.say(alice.user or 0)


@pytest.mark.parametrize("request_", ["REMOVECONTACT", "BLOCKCONTACT", "UNBLOCKCONTACT"])
def test_oneself_is_nobody_to_end_a_relation_with(server: Service, request_: str) -> None:
    alice = server.user("seed")
    alice.ask_features("contacts")
    assert alice.ask(request_, {"userid": alice.user}).status == "ERR"
    for nobody in (0, -1, 10**9, 2**64):
        expected = "ERR" if request_ == "BLOCKCONTACT" else "OK"
        assert alice.ask(request_, {"userid": nobody}).status == expected
