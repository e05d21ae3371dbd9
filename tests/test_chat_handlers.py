"""What the handlers refuse, and the few turns that only a fake can bring about, on a store in memory."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from chatsvc.chat import people
from chatsvc.store.accounts import User
from chatsvc.wire import errors
from chatsvc.wire.frames import SEED
from chatsvc.wire.schema import MESSAGE_NAME_LENGTH, TIMESTAMP_MAX
from tests.fake_store import Scene
from tests.fakes import FakePayload, now

FILE = b"the bytes of a file"
MD5 = hashlib.md5(FILE).hexdigest()


@pytest.fixture
def scene() -> Scene:
    return Scene()


NO_DIGEST = "A filemd5 has 32 hexadecimal digits."
NO_PASSWORD = "A password has 1 to 1024 characters, this one has 0."
CONTROL = "A username has no control characters, neither as sent nor decoded from base64."
LARGE = "An avatar may have at most 1048576 characters, not 1048577."
NOBODY = 10**6


@pytest.mark.parametrize(
    ("kind", "body", "info"),
    [
        ("REGISTER", {"username": "Ym9i", "passwd": "x"}, errors.NAME_TAKEN),
        ("REGISTER", {"username": "", "passwd": "x"}, "A username has 1 to 256 characters, this one has 0."),
        ("REGISTER", {"username": "carol", "passwd": ""}, NO_PASSWORD),
        ("LOGIN", {"username": "bob", "passwd": "wrong"}, errors.BAD_CREDENTIALS),
        ("LOGIN", {"username": "nobody", "passwd": "secret"}, errors.BAD_CREDENTIALS),
        ("PROFILE", {"userid": NOBODY}, errors.USER_NOT_FOUND),
        ("PROFILE", {"userid": 2**70}, errors.USER_NOT_FOUND),
        ("MODIFYPROFILE", {"username": "alice"}, errors.NAME_TAKEN),
        ("MODIFYPROFILE", {"username": "a\n"}, CONTROL),
        ("MODIFYPROFILE", {"avatar": "x" * (2**20 + 1)}, LARGE),
        ("MODIFYPASSWD", {"passwd": "wrong", "newPasswd": "better"}, errors.WRONG_PASSWORD),
        ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": ""}, NO_PASSWORD),
        ("SEARCHUSR", {"username": "nobody"}, errors.USER_NOT_FOUND),
        ("SEARCHUSR", {"userid": NOBODY}, errors.USER_NOT_FOUND),
        ("SEARCHUSR", {}, "SEARCHUSR needs a username or a userid."),
        ("ADDCONTACT", {"userid": 2}, "You cannot add yourself as a contact."),
        ("ADDCONTACT", {"userid": NOBODY}, errors.USER_NOT_FOUND),
        ("FINDFILE", {"filemd5": "../../etc/passwd"}, errors.FILE_NOT_FOUND),
        ("FINDFILE", {"filemd5": MD5}, errors.FILE_NOT_FOUND),
        ("FETCHFILE", {"msgmd5": "../../etc/passwd"}, errors.FILE_NOT_FOUND),
    ],
)
def test_what_is_refused_changes_nothing(scene: Scene, kind: str, body: Any, info: str) -> None:
    answer = scene.bob.ask(kind, body)
    assert (answer.ok, answer.info) == (False, info)
    assert scene.bob.ask("STATE").body == {"userid": 2, "username": "bob", "avatar": None}
    assert scene.login("bob").user == 2
    assert len(scene.store.data.users) == 2


@pytest.mark.parametrize(
    ("fields", "info"),
    [
        ({"userid": 1}, "The userid of a message is that of the user who is logged in."),
        ({"targetid": NOBODY}, errors.USER_NOT_FOUND),
        ({"targetid": 0}, errors.USER_NOT_FOUND),
        ({"targetid": 2**63}, errors.USER_NOT_FOUND),
        ({"timestamp": TIMESTAMP_MAX + 1}, f"A timestamp is in milliseconds, at most {TIMESTAMP_MAX}."),
        ({"timestamp": -TIMESTAMP_MAX - 1}, f"A timestamp is in milliseconds, at most {TIMESTAMP_MAX}."),
        ({"md5encoded": "n" * (MESSAGE_NAME_LENGTH + 1)}, "An md5encoded has at most 256 characters."),
        ({"filemd5": MD5}, "A message of type plaintext has no filemd5."),
        ({"contenttype": "file"}, "A message with a file needs its filemd5."),
        ({"contenttype": "file", "filemd5": "../" + MD5[3:]}, NO_DIGEST),
        ({"contenttype": "file", "filemd5": MD5}, errors.FILE_NOT_FOUND),
        ({"contenttype": "image", "filemd5": MD5 + "0"}, NO_DIGEST),
    ],
)
def test_a_message_that_is_refused_is_named_and_not_stored(scene: Scene, fields: Any, info: str) -> None:
    body = scene.bob.message(scene.alice.user, **fields)
    answer = scene.bob.ask("SENDMSG", body)
    assert (answer.ok, answer.info, answer.body) == (False, info, {"md5encoded": body["md5encoded"]})
    assert (scene.alice.contents(), scene.alice.fetch(), scene.bob.fetch()) == ([], [], [])
    assert scene.node.blobs.kept == {}


@pytest.mark.parametrize(
    ("fields", "info"),
    [
        ({}, "A message of type plaintext takes no payload."),
        ({"contenttype": "image"}, "A message with a file needs its filemd5."),
        (
            {"contenttype": "file", "filemd5": "0" * 32},
            "The MD5 of the payload is not the filemd5; nothing was stored.",
        ),
    ],
)
def test_a_payload_that_does_not_fit_its_message(scene: Scene, fields: Any, info: str) -> None:
    payload = FakePayload(FILE)
    answer = scene.bob.ask("SENDMSG", scene.bob.message(scene.alice.user, **fields), payload)
    assert (answer.ok, answer.info) == (False, info)
    assert (payload.left, scene.node.blobs.kept, scene.alice.fetch()) == ([], {}, [])


def test_a_repeat_is_answered_ok_whatever_comes_with_it(scene: Scene) -> None:
    fields: dict[str, Any] = {"contenttype": "file", "filemd5": MD5, "timestamp": 1000}
    first = scene.bob.message(scene.alice.user, **fields)
    assert scene.bob.ask("SENDMSG", first, FakePayload(FILE)).ok
    for body, payload in (
        (first, FakePayload(FILE)),
        (first, FakePayload(b"other bytes")),
        (first | {"filemd5": "0" * 32}, None),
        (scene.bob.message(scene.alice.user, "other content", timestamp=1000), None),
    ):
        answer = scene.bob.ask("SENDMSG", body, payload)
        assert (answer.ok, answer.body) == (True, {"md5encoded": first["md5encoded"]})
    assert scene.alice.contents() == ["aGk="]
    assert not scene.bob.ask("SENDMSG", first | {"timestamp": 1001, "filemd5": "0" * 32}).ok


def test_a_file_that_one_may_fetch_need_not_be_sent_again(scene: Scene) -> None:
    fields = {"contenttype": "file", "filemd5": MD5}
    assert scene.bob.ask("SENDMSG", scene.bob.message(scene.alice.user, **fields), FakePayload(FILE)).ok
    carol = scene.node.user("carol", SEED)
    assert carol.ask("SENDMSG", carol.message(scene.bob.user, **fields)).info == errors.FILE_NOT_FOUND
    assert scene.alice.ask("SENDMSG", scene.alice.message(carol.user, **fields)).ok
    assert carol.ask("FINDFILE", {"filemd5": MD5.upper()}).ok
    assert carol.ask("SENDMSG", carol.message(scene.bob.user, **fields)).ok


def test_the_empty_file_needs_no_bytes(scene: Scene) -> None:
    empty = hashlib.md5(b"").hexdigest()
    body = scene.bob.message(scene.alice.user, contenttype="file", filemd5=empty, md5encoded="empty")
    assert scene.bob.ask("SENDMSG", body).ok
    answer = scene.alice.ask("FETCHFILE", {"msgmd5": "empty"})
    assert (answer.body, answer.payload) == ({"filemd5": empty, "size": 0}, b"")


def test_a_message_without_a_time_gets_the_servers(scene: Scene) -> None:
    scene.write("one")
    scene.bob.answers()
    assert [push["timestamp"] for push in scene.bob.pushes] == [int(scene.clock.seconds() * 1000)]


# A password that changes while it is checked.


def test_a_password_that_changes_during_a_login_is_wrong(scene: Scene) -> None:
    client = scene.node.client(SEED)
    scene.node.passwords.gate.hold("verify reply")
    login = client.start("LOGIN", {"username": "bob", "passwd": "secret"})
    scene.store.data.users[scene.bob.user].password = b"another"
    scene.node.passwords.gate.release("verify reply")
    login.result()
    assert [answer.info for answer in client.answers()] == [errors.BAD_CREDENTIALS]
    assert client.ask("STATE").info == errors.NOT_LOGGED_IN


def test_of_two_changes_of_a_password_at_once_one_is_made(scene: Scene) -> None:
    second = scene.login("bob")
    scene.node.passwords.gate.hold("hash reply")
    changes = [
        client.start("MODIFYPASSWD", {"passwd": "secret", "newPasswd": new})
        for client, new in ((scene.bob, "new one"), (second, "new two"))
    ]
    scene.node.passwords.gate.release("hash reply")
    for change in changes:
        change.result()
    assert [client.answers()[0].ok for client in (scene.bob, second)] == [True, False]
    assert scene.node.client(SEED).ask("LOGIN", {"username": "bob", "passwd": "new one"}).ok


def test_a_name_that_nobody_has_costs_a_check_too(scene: Scene) -> None:
    for name in ("bob", "nobody"):
        scene.node.client(SEED).ask("LOGIN", {"username": name, "passwd": "wrong"})
    assert scene.node.passwords.gate.calls["verify"] == 2


# Contacts.


def test_contacts_are_shown_with_their_profiles(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    carol, dave = scene.node.user("carol", SEED), scene.node.user("dave", SEED)
    for who, whom in (
        (scene.bob, scene.alice),
        (scene.alice, scene.bob),
        (scene.bob, carol),
        (dave, scene.bob),
    ):
        assert who.ask("ADDCONTACT", {"userid": whom.user}).ok
    for client in (scene.alice, carol, dave):
        assert client.ask("MODIFYPROFILE", {"avatar": "1234"}).ok

    def shown() -> dict[str, list[tuple[str, str | None]]]:
        body = scene.bob.ask("FETCHCONTACT").body
        return {kind: [(user["username"], user["avatar"]) for user in users] for kind, users in body.items()}

    everybody = {
        "contacts": [("alice", "1234")],
        "pending": [("carol", "1234")],
        "requesting": [("dave", "1234")],
    }
    assert shown() == everybody
    monkeypatch.setattr(people, "_AT_ONCE", 1)
    assert shown() == everybody
    monkeypatch.setattr(people, "AVATARS_IN_ANSWER", 8)
    assert shown() == everybody | {"requesting": [("dave", None)]}


def test_a_contact_without_a_record_is_left_out(scene: Scene) -> None:
    assert scene.bob.ask("ADDCONTACT", {"userid": scene.alice.user}).ok
    del scene.store.data.users[scene.alice.user]
    assert scene.bob.ask("FETCHCONTACT").body == {"contacts": [], "pending": [], "requesting": []}
    assert now(scene.store.accounts.get(scene.bob.user)) == User(scene.bob.user, "bob", None)
