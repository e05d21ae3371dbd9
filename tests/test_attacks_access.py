"""A user who asks for what is others', or in their names: nothing comes of it, and nothing is learned.

Each request type is tried on what two others have, beside the same request about what nobody has: both are
answered alike, to the last character. Who may have a file at all is in ``test_protocol_files.py``.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from chatsvc.chat import files, messages, people  # noqa: F401 - they fill the table of requests
from chatsvc.chat.calls import TABLE
from tests.raw import Answer, Raw
from tests.service import Service, wait_for

FILE = b"what only two people have"
MD5 = hashlib.md5(FILE).hexdigest()
NOBODY = 2**62


class Scene(NamedTuple):
    """Alice and Bob, who have written to each other; and Mallory, whom neither knows."""

    alice: Raw
    bob: Raw
    mallory: Raw
    #: A message with the file.
    sent: dict[str, Any]

    def state(self) -> list[Any]:
        """All that Alice and Bob have, as new devices of theirs see it."""
        found: list[Any] = []
        for user in (self.alice, self.bob):
            with Raw(user.address, "seed") as device:
                device.login(user.name)
                found += [device.ask("STATE").body, device.ask("FETCHCONTACT").body, device.fetch()]
                found.append(device.ask("FETCHFILE", {"msgmd5": self.sent["md5encoded"]}).payload)
        return found


@pytest.fixture
def scene(server: Service) -> Scene:
    """The three, on the shared server."""
    return meet(server)


def meet(server: Service) -> Scene:
    """Three new users."""
    alice, bob, mallory = (server.user("seed") for _ in range(3))
    assert alice.ask("ADDCONTACT", {"userid": bob.user}).ok
    assert bob.ask("ADDCONTACT", {"userid": alice.user}).ok
    alice.say(bob.user or 0, "between the two of us")
    sent = alice.say(bob.user or 0, "a file", FILE, contenttype="file", filemd5=MD5)
    return Scene(alice, bob, mallory, sent)


Body = Callable[[Scene, bool], Any]


def message(**fields: Any) -> Body:
    """A SENDMSG of Mallory's; of a field that is a pair, one is about others and one about nobody."""

    def body(scene: Scene, others: bool) -> Any:
        chosen = {
            name: value[not others](scene) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }
        return scene.mallory.message(scene.mallory.user or 0, timestamp=1, md5encoded="a name") | chosen

    return body


def either(name: str, of_others: Callable[[Scene], Any], of_nobody: Any, **more: Any) -> Body:
    """A body with one field that is about others, or about nobody."""
    return lambda scene, others: {name: of_others(scene) if others else of_nobody} | more


def md5encoded(scene: Scene) -> str:
    return str(scene.sent["md5encoded"])


#: What is asked about others, and about nobody.
ATTACKS: list[tuple[str, Body]] = [
    ("FETCHFILE", either("msgmd5", md5encoded, "0" * 32)),
    ("FETCHFILE", either("msgmd5", md5encoded, "0" * 32, offset=3, length=4)),
    ("FETCHFILE", either("msgmd5", md5encoded, "0" * 32, offset=10**9)),
    ("FETCHFILE", either("msgmd5", lambda scene: MD5, "0" * 32)),
    ("FINDFILE", either("filemd5", lambda scene: MD5, "0" * 32)),
    ("FINDFILE", either("filemd5", lambda scene: MD5.upper(), "0" * 32)),
    ("SENDMSG", message(contenttype="file", filemd5=(lambda scene: MD5, lambda scene: "0" * 32))),
    ("SENDMSG", message(contenttype="image", filemd5=(lambda scene: MD5, lambda scene: "0" * 32))),
    ("SENDMSG", message(userid=(lambda scene: scene.alice.user, lambda scene: NOBODY))),
    ("SENDMSG", message(userid=(lambda scene: scene.bob.user, lambda scene: 0))),
]
#: What asks about nobody but the asker, whatever stands in it besides; and whether it is then OK.
OWN: list[tuple[str, dict[str, Any]]] = [
    ("STATE", {}),
    ("FETCHMSG", {}),
    ("FETCHCONTACT", {}),
    ("MODIFYPROFILE", {"avatar": "bWFsbG9yeQ=="}),
    ("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "secret"}),
    ("ACKFETCH", {"timestamp": 2**50}),
    ("LOGOUT", {}),
]
#: What tells everybody who is logged in the same of everybody, or tells whoever knows the password.
PUBLIC = {"PROFILE", "SEARCHUSR", "ADDCONTACT", "BLOCKCONTACT", "REGISTER", "LOGIN"}
#: What is answered OK whoever it is about, and does something among contacts only.
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("TYPING", {}),
    ("MARK", {"mark": "read", "timestamp": 1, "md5encoded": "m"}),
    ("REMOVECONTACT", {}),
    ("UNBLOCKCONTACT", {}),
]


def test_every_type_is_tried() -> None:
    assert {kind for kind, _ in [*ATTACKS, *OWN, *SILENT]} | PUBLIC == set(TABLE)


def test_what_others_have_is_answered_as_what_nobody_has(scene: Scene) -> None:
    before = scene.state()
    for kind, body in ATTACKS:
        answers = [scene.mallory.ask(kind, body(scene, others)) for others in (True, False)]
        assert answers[0] == answers[1], kind
        assert not answers[0].ok, kind
    assert scene.mallory.fetch() == []
    assert scene.state() == before


def test_what_is_for_contacts_says_nothing_of_others_and_does_nothing_to_them(scene: Scene) -> None:
    features = ("contacts", "marks", "presence", "typing")
    for raw in (scene.alice, scene.mallory):
        raw.ask_features(*features)
    scene.alice.hint("FORWARDPRESENCE")
    before = scene.state()
    for kind, body in SILENT:
        for user in (scene.alice.user, NOBODY, 0, -1):
            assert scene.mallory.ask(kind, body | {"userid": user}) == Answer(kind, "OK", None, None)
    assert scene.state() == before
    assert scene.alice.hints == scene.mallory.hints == []


def test_no_field_makes_a_request_about_another_user(scene: Scene) -> None:
    before, mallory = scene.state(), scene.mallory
    of_alice = {
        "userid": scene.alice.user,
        "username": None,
        "user": scene.alice.user,
        "tokenid": scene.alice.token,
    }
    for kind, body in OWN:
        mallory.send(kind, of_alice | body)
        if kind == "ACKFETCH":
            continue
        answer = mallory.answer()
        assert answer.ok, (kind, answer)
        told = str(answer.body)
        assert scene.alice.name not in told
        assert "between the two of us" not in told
        if kind == "STATE":
            assert answer.body["userid"] == mallory.user
    assert scene.alice.ask("STATE").ok
    assert scene.state() == before


def test_what_is_public_of_others_is_little(scene: Scene) -> None:
    alice, mallory = scene.alice, scene.mallory
    for kind, body in (("PROFILE", {"userid": alice.user}), ("SEARCHUSR", {"username": alice.name})):
        assert mallory.ask(kind, body).body == {"userid": alice.user, "username": alice.name, "avatar": None}
    assert mallory.ask("ADDCONTACT", {"userid": alice.user}).ok
    found = alice.ask("FETCHCONTACT").body
    assert [user["userid"] for user in found["requesting"]] == [mallory.user]
    assert [user["userid"] for user in found["contacts"]] == [scene.bob.user]


def test_a_name_that_others_gave_their_message_gets_one_s_own_file(scene: Scene) -> None:
    mallory, name = scene.mallory, scene.sent["md5encoded"]
    own = secrets.token_bytes(20)
    same = {"md5encoded": name, "timestamp": scene.sent["timestamp"], "contenttype": "file"}
    before = scene.state()
    mallory.say(mallory.user or 0, "mine", own, **same, filemd5=hashlib.md5(own).hexdigest())
    assert mallory.ask("FETCHFILE", {"msgmd5": name}).payload == own
    assert scene.state() == before


# In another one's name.


def test_whoever_is_logged_in_sends_in_no_other_name(scene: Scene, server: Service) -> None:
    """One connection changes between two users of its own and none, while others of its device send on."""
    before, mallory, second = scene.state(), scene.mallory, server.user("seed")
    users = {user.name: user.user or 0 for user in (mallory, second, scene.alice)}
    seed = secrets.randbelow(2**32)
    chance, bound = random.Random(seed), mallory.name
    frames, expected = b"", []
    for number in range(150):
        what = chance.choice(["LOGIN", "LOGOUT", *["SENDMSG"] * 6])
        name = chance.choice([mallory.name, second.name])
        if what == "LOGIN":
            body: Any = {"username": name, "passwd": "secret"}
            bound = name
        elif what == "LOGOUT":
            body, bound = None, ""
        else:
            name = chance.choice(list(users))
            body = mallory.message(scene.bob.user or 0)
            body |= {"userid": users[name], "md5encoded": f"{seed}-{number}"}
        frames += mallory.frame({"request": what, "body": body, "tokenid": mallory.token})
        expected.append((what, what != "SENDMSG" or bound == name))
    beside = [server.connect("seed", mallory.token) for _ in range(2)]
    spoofed = beside[0].message(scene.bob.user or 0, userid=scene.alice.user)
    for client in beside:
        for _ in range(20):
            client.send("SENDMSG", spoofed)
    mallory.socket.sendall(frames)
    answers = [mallory.answer() for _ in expected]
    assert [(answer.response, answer.ok) for answer in answers] == expected, seed
    others: list[Answer] = [client.answer() for client in beside for _ in range(20)]
    assert not any(answer.ok for answer in others)
    names = {answer.body["md5encoded"] for answer in answers if answer.response == "SENDMSG" and answer.ok}
    with Raw(scene.bob.address, "seed") as device:
        device.login(scene.bob.name)
        got = [one for one in device.fetch() if one["md5encoded"].startswith(f"{seed}-")]
    assert {one["md5encoded"] for one in got} == names
    assert {one["userid"] for one in got} <= {users[mallory.name], users[second.name]}
    assert scene.state()[:4] == before[:4]
    wait_for(lambda: "Refused: messages in another user's name" in server.log(), "it is logged")
