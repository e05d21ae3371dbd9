"""The runner of requests, tried with each row of the table: a row without an example here fails.

What each request means in detail is tested with its section of the protocol; here no socket is needed.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from errno import EDQUOT, EIO, EMFILE, ENFILE, ENOSPC
from typing import Any, NamedTuple

import pytest
from twisted.logger import LogEvent, capturedLogs, eventAsText

import chatsvc.chat
from chatsvc.chat.calls import TABLE, Call
from chatsvc.chat.session import Gone
from chatsvc.passwords import Busy
from chatsvc.store.errors import Unavailable
from chatsvc.wire import errors
from chatsvc.wire.errors import Refusal
from chatsvc.wire.frames import NETWORK, RELEASED, SEED, Dialect, Head
from chatsvc.wire.schema import encode
from tests.fake_store import Scene
from tests.fakes import FakeClient, FakePayload, Frame

for module in pkgutil.iter_modules(chatsvc.chat.__path__):
    importlib.import_module(f"chatsvc.chat.{module.name}")  # all that may add rows

FILE = b"the bytes of a file"
MD5 = hashlib.md5(FILE).hexdigest()
NAME = "0" * 32


class Example(NamedTuple):
    """A request of Bob that is answered OK, and the body of that answer; None for no answer."""

    body: Callable[[Scene], Any]
    answer: Callable[[Scene], Any]
    payload: bytes = b""


def nothing(scene: Scene) -> None:
    return None


def alice(scene: Scene) -> dict[str, Any]:
    return {"userid": scene.alice.user, "username": "alice", "avatar": None}


def bob(scene: Scene, **changed: Any) -> dict[str, Any]:
    return {"userid": scene.bob.user, "username": "bob", "avatar": None} | changed


EXAMPLES = {
    "STATE": Example(nothing, bob),
    "REGISTER": Example(
        lambda scene: {"username": "carol", "passwd": "another secret"},
        lambda scene: {"userid": scene.bob.user + 1, "username": "carol", "avatar": None},
    ),
    "LOGIN": Example(lambda scene: {"username": "alice", "passwd": "secret"}, alice),
    "LOGOUT": Example(nothing, nothing),
    "PROFILE": Example(lambda scene: {"userid": scene.alice.user}, alice),
    "MODIFYPROFILE": Example(
        lambda scene: {"username": "robert", "avatar": "aW1hZ2U="},
        lambda scene: bob(scene, username="robert", avatar="aW1hZ2U="),
    ),
    "MODIFYPASSWD": Example(lambda scene: {"passwd": "secret", "newPasswd": "new secret"}, nothing),
    "SENDMSG": Example(
        lambda scene: scene.bob.message(scene.alice.user, "hidden", contenttype="file", filemd5=MD5.upper()),
        lambda scene: {"md5encoded": NAME},
        FILE,
    ),
    "FETCHMSG": Example(nothing, lambda scene: {"messages": [], "more": False}),
    "ACKFETCH": Example(lambda scene: {"timestamp": 1}, nothing),
    "FINDFILE": Example(lambda scene: {"filemd5": send_file(scene)}, nothing),
    "FETCHFILE": Example(
        lambda scene: {"msgmd5": send_file(scene) and NAME},
        lambda scene: {"filemd5": MD5, "size": len(FILE)},
    ),
    "SEARCHUSR": Example(lambda scene: {"username": "YWxpY2U="}, alice),
    "ADDCONTACT": Example(lambda scene: {"userid": scene.alice.user}, nothing),
    "FETCHCONTACT": Example(nothing, lambda scene: {"contacts": [], "pending": [], "requesting": []}),
    "TYPING": Example(lambda scene: {"userid": scene.alice.user}, nothing),
    "MARK": Example(
        lambda scene: {"userid": scene.alice.user, "mark": "read", "timestamp": 1, "md5encoded": NAME},
        nothing,
    ),
    "REMOVECONTACT": Example(lambda scene: {"userid": scene.alice.user}, nothing),
    "BLOCKCONTACT": Example(lambda scene: {"userid": scene.alice.user}, nothing),
    "UNBLOCKCONTACT": Example(lambda scene: {"userid": scene.alice.user}, nothing),
}
SECRETS = ("secret", "hidden", "aW1hZ2U=", FILE.decode())


def send_file(scene: Scene) -> str:
    """Alice sends Bob a file, under the name `NAME`."""
    body = scene.alice.message(scene.bob.user, contenttype="file", filemd5=MD5)
    assert scene.alice.ask("SENDMSG", body, FakePayload(FILE)).ok
    return MD5


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Every connection has every request, without asking for features."""
    monkeypatch.setattr(Call, "_has", lambda self, row: True)
    return Scene()


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    with capturedLogs() as events:
        yield events  # type: ignore[misc]


every_row = pytest.mark.parametrize("kind", sorted(TABLE))


def ask(client: FakeClient, scene: Scene, kind: str, payload: bytes | None = None) -> Frame | None:
    """The answer to the example of a row, with its own payload or another; None if there is none."""
    example = EXAMPLES[kind]
    data = example.payload if payload is None else payload
    parts = FakePayload(data[:3], data[3:]) if data else None
    answers = client.ask_all(kind, example.body(scene), parts)
    assert [answer.response for answer in answers] == [kind] * TABLE[kind].answers
    if not client.closing:
        assert parts is None or not parts.left, "a payload must be read to its end"
    return answers[0] if answers else None


def refused(kind: str, answer: Frame | None) -> str | None:
    """Why it was not done; what each row's ERR has beside that is checked here."""
    if not TABLE[kind].answers:
        assert answer is None
        return None
    assert answer is not None
    assert not answer.ok
    assert answer.body == ({"md5encoded": NAME} if kind == "SENDMSG" else None)
    return answer.info


def text_of(events: list[LogEvent]) -> str:
    return "\n".join(eventAsText(event) + repr(sorted(map(str, event.values()))) for event in events)


# Each row.


def test_each_row_has_an_example() -> None:
    assert set(EXAMPLES) == set(TABLE)


@every_row
def test_it_does_what_it_is_asked(scene: Scene, kind: str) -> None:
    answer = ask(scene.bob, scene, kind)
    if TABLE[kind].answers:
        assert answer is not None
        assert (answer.ok, answer.info, answer.body) == (True, None, EXAMPLES[kind].answer(scene))
        assert answer.payload == (FILE if kind == "FETCHFILE" else b"")
    assert scene.node.blobs.open_files == 0


@every_row
def test_it_asks_for_a_login_if_it_needs_one(scene: Scene, kind: str) -> None:
    stranger = scene.node.client(SEED)
    answer = ask(stranger, scene, kind)
    if not TABLE[kind].login:
        assert answer is not None
        assert answer.ok
    else:
        told = refused(kind, answer)
        assert told == (errors.NOT_LOGGED_IN if TABLE[kind].answers else None)
    assert stranger.closing == bool(EXAMPLES[kind].payload)


@every_row
def test_it_knows_of_a_binding_that_ended_elsewhere(scene: Scene, kind: str) -> None:
    scene.store.channels.deaf = True
    assert scene.elsewhere.client(SEED, scene.bob.token).ask("LOGOUT").ok
    scene.store.channels.deaf = False
    answer = ask(scene.bob, scene, kind)
    if TABLE[kind].login and TABLE[kind].answers:
        assert refused(kind, answer) == errors.NOT_LOGGED_IN


@every_row
@pytest.mark.parametrize("body", [7, "text", [], True])
def test_it_refuses_a_body_that_is_no_object(scene: Scene, kind: str, body: Any) -> None:
    answers = scene.bob.ask_all(kind, body)
    assert [(answer.response, answer.ok) for answer in answers] == [(kind, False)] * TABLE[kind].answers
    assert all(str(answer.info).startswith("The body is not valid: ") for answer in answers)


@every_row
def test_it_takes_no_payload_unless_its_row_says_so(scene: Scene, kind: str) -> None:
    if TABLE[kind].payload:
        return
    assert refused(kind, ask(scene.bob, scene, kind, b"unasked")) in (f"{kind} takes no payload.", None)
    assert not scene.bob.closing
    assert scene.bob.ask("STATE").body == bob(scene)


@every_row
@pytest.mark.parametrize("who", ["nobody", "bob"])
def test_a_payload_that_is_not_admitted_is_not_read(scene: Scene, kind: str, who: str) -> None:
    client = scene.bob if who == "bob" else scene.node.client(SEED)
    limit = scene.hub.limits.payload
    size = limit + 1 if who == "bob" else 1
    payload = FakePayload(b"unread", length=size)
    answers = client.ask_all(kind, EXAMPLES[kind].body(scene), payload)
    told = refused(kind, answers[0] if answers else None)
    if TABLE[kind].answers:
        assert told == (
            f"A payload may have at most {limit} bytes, not {size}." if who == "bob" else errors.NOT_LOGGED_IN
        )
    assert client.closing
    assert payload.left == [b"unread"]


@every_row
def test_it_says_that_the_store_is_away(scene: Scene, kind: str, logged: list[LogEvent]) -> None:
    body = EXAMPLES[kind].body(scene)
    scene.store.gate.fail("any", times=20)
    [*answers] = scene.bob.ask_all(kind, body, FakePayload(FILE) if EXAMPLES[kind].payload else None)
    if TABLE[kind].answers:
        assert refused(kind, answers[0]) == errors.STORAGE_UNAVAILABLE
    assert not any(secret in text_of(logged) for secret in SECRETS)


@every_row
def test_what_nobody_expected_is_logged_and_not_told(
    scene: Scene, kind: str, logged: list[LogEvent], no_unhandled_failure: list[LogEvent]
) -> None:
    body = EXAMPLES[kind].body(scene)
    scene.store.gate.fail("any", RuntimeError("an inner matter"), times=20)
    [*answers] = scene.bob.ask_all(kind, body, FakePayload(FILE) if EXAMPLES[kind].payload else None)
    if TABLE[kind].answers:
        assert refused(kind, answers[0]) == errors.INTERNAL
    text = text_of(logged)
    assert f"{kind} failed" in text
    assert "an inner matter" in text
    assert not any(secret in text for secret in (*SECRETS, str(scene.bob.token)))
    no_unhandled_failure.clear()


# Errors, and what they become.


@pytest.mark.parametrize("kind", ["REGISTER", "LOGIN", "MODIFYPASSWD"])
def test_too_many_passwords_at_a_time(scene: Scene, kind: str) -> None:
    scene.node.passwords.gate.fail("any", Busy("the queue is full"))
    assert refused(kind, ask(scene.bob, scene, kind)) == errors.SERVER_BUSY
    answer = ask(scene.bob, scene, kind)
    assert answer is not None
    assert answer.ok


@pytest.mark.parametrize("step", ["write", "finish"])
@pytest.mark.parametrize("code", [ENOSPC, EDQUOT])
def test_no_room_for_a_file(scene: Scene, step: str, code: int, no_unhandled_failure: list[LogEvent]) -> None:
    scene.node.blobs.gate.fail(step, OSError(code, "No room"))
    assert refused("SENDMSG", ask(scene.bob, scene, "SENDMSG")) == errors.STORAGE_FULL
    assert (scene.node.blobs.open_files, scene.node.blobs.kept) == (0, {})
    assert scene.alice.fetch() == []
    no_unhandled_failure.clear()


@pytest.mark.parametrize("code", [EMFILE, ENFILE])
def test_no_descriptor_for_a_file(scene: Scene, code: int) -> None:
    scene.node.blobs.gate.fail("write", OSError(code, "Too many open files"))
    assert refused("SENDMSG", ask(scene.bob, scene, "SENDMSG")) == errors.SERVER_BUSY
    assert (scene.node.blobs.open_files, scene.node.blobs.kept) == (0, {})
    answer = ask(scene.bob, scene, "SENDMSG")
    assert answer is not None
    assert answer.ok


def test_a_broken_disk_is_our_fault(scene: Scene, no_unhandled_failure: list[LogEvent]) -> None:
    scene.node.blobs.gate.fail("write", OSError(EIO, "Input/output error"))
    assert refused("SENDMSG", ask(scene.bob, scene, "SENDMSG")) == errors.INTERNAL
    assert scene.node.blobs.open_files == 0
    assert len(no_unhandled_failure) == 1
    no_unhandled_failure.clear()


@pytest.mark.parametrize("error", [Unavailable(), Refusal(errors.STORAGE_FULL)])
def test_a_message_that_the_store_refuses(scene: Scene, error: Refusal) -> None:
    scene.store.gate.fail("append", error)
    assert refused("SENDMSG", ask(scene.bob, scene, "SENDMSG")) == error.info
    assert (scene.alice.contents(), scene.alice.fetch()) == ([], [])


# Frames that are no good requests.


@pytest.mark.parametrize(
    ("json", "kind"),
    [
        (None, "UNKNOWN"),
        (b"", "UNKNOWN"),
        (b"[]", "UNKNOWN"),
        (b'{"request":"STATE"', "UNKNOWN"),
        (b'{"request":7}', "UNKNOWN"),
        (b'{"request":"NOSUCH"}', "UNKNOWN"),
        (b'{"request":"TOKEN"}', "UNKNOWN"),
        (b'{"request":"STATE","tokenid":"7"}', "STATE"),
        (
            b'{"request":"SENDMSG","tokenid":[],"body":{"md5encoded":"00000000000000000000000000000000"}}',
            "SENDMSG",
        ),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"a payload"])
def test_a_frame_that_is_no_request(scene: Scene, json: bytes | None, kind: str, payload: bytes) -> None:
    parts = FakePayload(payload)
    scene.bob.start_raw(Head(json, len(payload)), parts).result()
    [answer] = scene.bob.frames()
    assert (answer.response, answer.ok) == (kind, False)
    assert refused(kind, answer) if kind in TABLE else answer.body is None
    assert parts.left == [b""] or not parts.left
    assert scene.bob.ask("STATE").ok


def test_a_frame_that_is_no_request_gets_no_token(scene: Scene) -> None:
    client = scene.node.client(SEED)
    client.start_raw(Head(b"{}", 0)).result()
    assert [frame.response for frame in client.frames()] == ["UNKNOWN"]
    client.ask("NOSUCH", response="UNKNOWN")
    assert client.token is not None


@pytest.mark.parametrize(("dialect", "follows"), [(RELEASED, True), (SEED, False), (NETWORK, False)])
def test_adding_a_contact_shows_all_contacts_to_the_released_client(
    scene: Scene, dialect: Dialect, follows: bool
) -> None:
    client = scene.node.client(dialect, scene.bob.token)
    for target, ok in ((scene.alice.user, True), (10**6, False), (None, False)):
        first, *rest = client.ask_all("ADDCONTACT", {"userid": target})
        assert (first.response, first.ok) == ("ADDCONTACT", ok)
        assert [(answer.response, answer.ok) for answer in rest] == [("FETCHCONTACT", True)] * follows


# Side by side.


def test_no_request_starts_beside_one_that_may_change_whose_it_is(scene: Scene) -> None:
    def may_start(kind: str, *running: str, payload: int = 0, token: int | None = None) -> bool:
        json = encode({"request": kind, "tokenid": token})
        return Call(scene.bob.session, Head(json, payload), None).may_start(running)

    assert all(may_start(kind) for kind in (*TABLE, "NOSUCH"))
    beside = {(one, two) for one in (*TABLE, "NOSUCH") for two in TABLE if may_start(one, two)}
    assert beside == {("SENDMSG", "SENDMSG"), ("ACKFETCH", "FETCHMSG"), ("ACKFETCH", "ACKFETCH")}
    assert may_start("SENDMSG", "SENDMSG", token=scene.bob.token)
    assert may_start("ACKFETCH", "ACKFETCH", "FETCHMSG")
    assert not may_start("SENDMSG", "SENDMSG", token=scene.alice.token)
    assert not may_start("SENDMSG", "SENDMSG", payload=1)
    assert not may_start("SENDMSG", "SENDMSG", "STATE")
    assert scene.bob.ask("LOGOUT").ok
    assert not may_start("SENDMSG", "SENDMSG")


@pytest.mark.parametrize("what", ["a file", "a long text"])
def test_no_message_overtakes_one_whose_bytes_go_to_the_disk(scene: Scene, what: str) -> None:
    step, payload = ("write", FakePayload(FILE)) if what == "a file" else ("put", None)
    scene.node.blobs.gate.hold(step)
    body = EXAMPLES["SENDMSG"].body(scene) if payload else scene.bob.message(scene.alice.user, "x" * 1001)
    sending = scene.bob.start("SENDMSG", body, payload)
    follower = Call(scene.bob.session, Head(b'{"request":"SENDMSG"}', 0), None)
    assert not follower.may_start({"SENDMSG": 1})
    scene.node.blobs.gate.release(step)
    sending.result()
    assert follower.may_start({"SENDMSG": 1})


# Uploads that come to nothing.


def test_a_peer_that_goes_during_its_upload_leaves_nothing(scene: Scene) -> None:
    payload = FakePayload(FILE)
    scene.node.blobs.gate.hold("write")
    sending = scene.bob.start("SENDMSG", EXAMPLES["SENDMSG"].body(scene), payload)
    payload.gone = True
    scene.bob.close()
    scene.node.blobs.gate.release("write")
    with pytest.raises(Gone):
        sending.result()
    assert (scene.node.blobs.open_files, scene.node.blobs.kept, scene.alice.fetch()) == (0, {}, [])


@pytest.mark.parametrize("wrong", [{"filemd5": "0" * 32}, {"targetid": 10**6}, {"userid": 10**6}])
def test_a_file_message_that_is_refused_leaves_nothing(scene: Scene, wrong: dict[str, Any]) -> None:
    payload = FakePayload(FILE)
    assert refused("SENDMSG", scene.bob.ask("SENDMSG", EXAMPLES["SENDMSG"].body(scene) | wrong, payload))
    assert not payload.left
    assert (scene.node.blobs.open_files, scene.node.blobs.kept, scene.alice.fetch()) == (0, {}, [])
