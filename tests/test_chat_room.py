"""Files and messages that there is no room for: quotas, and disks that are nearly full."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chatsvc.wire import errors
from tests.fake_store import INLINE, Scene
from tests.fakes import FakeClient, FakePayload, Frame, Running
from tests.limits import unlimited


@pytest.fixture
def scene() -> Scene:
    return Scene()


def allow(scene: Scene, quota: int | None) -> None:
    """What an operator sets, and a SIGHUP brings."""
    scene.hub.limits = msgspec.structs.replace(scene.hub.limits, quota=quota)


def file_of(client: FakeClient, target: int, data: bytes, **more: Any) -> dict[str, Any]:
    md5 = hashlib.md5(data).hexdigest()
    return client.message(target, contenttype="file", filemd5=md5, **more)


def send_file(client: FakeClient, target: int, data: bytes, **more: Any) -> Frame:
    return client.ask("SENDMSG", file_of(client, target, data, **more), FakePayload(data))


def refused(answer: Frame) -> str | None:
    assert not answer.ok
    return answer.info


def sent(scene: Scene, client: FakeClient) -> int:
    return sum(scene.store.data.users[client.user].sent.values())


# Quotas.


def test_files_are_taken_up_to_the_last_byte(scene: Scene) -> None:
    allow(scene, 100)
    assert send_file(scene.alice, scene.bob.user, b"a" * 99).ok
    assert refused(send_file(scene.alice, scene.bob.user, b"bb")) == errors.QUOTA_EXCEEDED
    assert send_file(scene.alice, scene.bob.user, b"b").ok
    assert refused(send_file(scene.alice, scene.bob.user, b"c")) == errors.QUOTA_EXCEEDED
    assert scene.hub.stats.refused == {"quota": 2}
    scene.write("a text")
    assert send_file(scene.bob, scene.alice.user, b"d" * 100).ok
    assert [len(content) for content in scene.bob.fetch()] == [4, 4, 6]
    allow(scene, None)
    assert send_file(scene.alice, scene.bob.user, b"e" * 1000).ok


def test_what_is_too_much_is_known_before_it_is_read(scene: Scene) -> None:
    allow(scene, 10)
    answer = send_file(scene.alice, scene.bob.user, b"a" * 11, md5encoded="too large")
    assert (refused(answer), answer.body) == (errors.QUOTA_EXCEEDED, {"md5encoded": "too large"})
    assert (scene.node.blobs.kept, scene.node.blobs.gate.calls["write"]) == ({}, 0)
    assert (scene.bob.fetch(), scene.bob.pushes) == ([], [])
    assert scene.alice.ask("STATE").ok


def test_long_contents_are_files_too(scene: Scene) -> None:
    content = "x" * (INLINE + 1)
    size = len(content) + 2  # as JSON it has quotation marks
    allow(scene, 2 * size - 1)
    scene.write(content)
    assert sent(scene, scene.alice) == size
    other = scene.alice.message(scene.bob.user, "y" * (INLINE + 1))
    assert refused(scene.alice.ask("SENDMSG", other)) == errors.QUOTA_EXCEEDED
    assert len(scene.node.blobs.kept) == 1
    allow(scene, 2 * size)
    assert scene.alice.ask("SENDMSG", other).ok
    scene.write("short ones do not count")


def test_what_a_user_has_sent_may_be_sent_again(scene: Scene) -> None:
    allow(scene, 100)
    assert send_file(scene.alice, scene.bob.user, b"a" * 100).ok
    assert send_file(scene.alice, scene.bob.user, b"a" * 100).ok  # a client that does not ask before
    by_hash = file_of(scene.alice, scene.bob.user, b"a" * 100)
    assert scene.alice.ask("SENDMSG", by_hash).ok
    assert sent(scene, scene.alice) == 100


def test_a_repeat_is_answered_ok_when_there_is_no_room_any_more(scene: Scene) -> None:
    allow(scene, 100)
    first = {"timestamp": 1, "md5encoded": "first"}
    assert send_file(scene.alice, scene.bob.user, b"a" * 100, **first).ok
    allow(scene, 50)
    assert send_file(scene.alice, scene.bob.user, b"a" * 100, **first).ok
    assert send_file(scene.alice, scene.bob.user, b"other", **first).ok
    assert refused(send_file(scene.alice, scene.bob.user, b"other")) == errors.QUOTA_EXCEEDED
    assert len(scene.bob.fetch()) == 1


def test_what_is_on_its_way_counts(scene: Scene) -> None:
    allow(scene, 100)
    scene.node.blobs.gate.hold("write")
    other = scene.login("alice")
    body = file_of(scene.alice, scene.bob.user, b"a" * 60)
    first = scene.alice.start("SENDMSG", body, FakePayload(b"a" * 60))
    assert refused(send_file(other, scene.bob.user, b"b" * 41)) == errors.QUOTA_EXCEEDED
    second = other.start("SENDMSG", file_of(other, scene.bob.user, b"b" * 40), FakePayload(b"b" * 40))
    scene.node.blobs.gate.release("write")
    assert (first.done, second.done) == (True, True)
    assert sent(scene, scene.alice) == 100
    assert scene.hub.room._coming == {}


def test_an_empty_file_may_come_beside_another_one_and_end_last(scene: Scene) -> None:
    empty = scene.hub.room.coming(scene.alice.user, 0)
    with empty:
        assert send_file(scene.alice, scene.bob.user, b"a" * 10).ok
    assert send_file(scene.alice, scene.bob.user, b"").ok


def test_what_broke_off_does_not_count(scene: Scene) -> None:
    allow(scene, 100)
    broken = FakePayload(length=100)
    broken.gone = True
    running: Running[None] = scene.alice.start(
        "SENDMSG", file_of(scene.alice, scene.bob.user, b"a" * 100), broken
    )
    assert running.done
    wrong = scene.bob.message(scene.alice.user, contenttype="file", filemd5="0" * 32)
    assert not scene.bob.ask("SENDMSG", wrong, FakePayload(b"b" * 100)).ok
    assert scene.hub.room._coming == {}
    assert send_file(scene.login("alice"), scene.bob.user, b"c" * 100).ok
    assert send_file(scene.bob, scene.alice.user, b"d" * 100).ok


def test_another_node_may_have_taken_the_rest_meanwhile(scene: Scene) -> None:
    allow(scene, 100)
    elsewhere = scene.elsewhere.client()
    elsewhere.user = elsewhere.ask("LOGIN", {"username": "alice", "passwd": "secret"}).body["userid"]
    scene.node.blobs.gate.hold("write")
    body = file_of(scene.alice, scene.bob.user, b"a" * 60)
    running = scene.alice.start("SENDMSG", body, FakePayload(b"a" * 60))
    assert send_file(elsewhere, scene.bob.user, b"b" * 60).ok
    scene.node.blobs.gate.release("write")
    running.result()
    [answer] = scene.alice.answers()
    assert refused(answer) == errors.QUOTA_EXCEEDED
    assert scene.hub.stats.refused == {"quota": 1}
    assert len(scene.bob.fetch()) == 1


def test_what_the_released_client_sends_over_and_over_counts_once(scene: Scene) -> None:
    allow(scene, 2_000)
    photo = scene.alice.message(scene.bob.user, "cGhv" * 300, timestamp=1, md5encoded="photo")
    for _ in range(20):
        assert scene.alice.ask("SENDMSG", photo).ok
        assert send_file(scene.alice, scene.bob.user, b"f" * 700, timestamp=2, md5encoded="file").ok
    assert sent(scene, scene.alice) == 1_202 + 700
    assert len(scene.bob.fetch()) == 2


def test_the_default_is_five_gibibytes(scene: Scene) -> None:
    assert unlimited().quota is None
    scene.hub.limits = type(scene.hub.limits)()
    gib = 1024**3
    scene.store.data.users[scene.alice.user].sent["0" * 32] = 5 * gib - 1
    assert send_file(scene.alice, scene.bob.user, b"1").ok
    assert refused(send_file(scene.alice, scene.bob.user, b"2")) == errors.QUOTA_EXCEEDED


# Disks that are nearly full.


def test_with_a_full_disk_of_files_texts_go_on(scene: Scene) -> None:
    assert send_file(scene.alice, scene.bob.user, b"before", timestamp=1).ok
    scene.hub.room.full.files = True
    assert refused(send_file(scene.alice, scene.bob.user, b"a file")) == errors.STORAGE_FULL
    long = scene.alice.message(scene.bob.user, "x" * (INLINE + 1))
    assert refused(scene.alice.ask("SENDMSG", long)) == errors.STORAGE_FULL
    assert len(scene.node.blobs.kept) == 1
    scene.write("a text")
    assert send_file(scene.alice, scene.bob.user, b"before", timestamp=1).ok  # a repeat
    assert scene.alice.ask("SENDMSG", file_of(scene.alice, scene.bob.user, b"before")).ok  # sent on
    assert scene.bob.ask("FETCHFILE", {"msgmd5": "0" * 32}).payload == b"before"
    scene.hub.room.full.files = False
    assert send_file(scene.alice, scene.bob.user, b"a file").ok
    assert scene.hub.stats.refused == {"storage": 2}


REFUSED: dict[str, Callable[[FakeClient], Any]] = {
    "SENDMSG": lambda client: client.message(client.user),
    "MODIFYPROFILE": lambda client: {"avatar": "AAAA"},
    "ADDCONTACT": lambda client: {"userid": 1},
    "REGISTER": lambda client: {"username": "carol", "passwd": "secret"},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_with_a_full_store_nothing_new_is_stored(scene: Scene, kind: str) -> None:
    scene.hub.room.full.store = True
    assert refused(scene.bob.ask(kind, REFUSED[kind](scene.bob))) == errors.STORAGE_FULL
    assert scene.hub.stats.refused == {"storage": 1}
    scene.hub.room.full.store = False
    assert scene.bob.ask(kind, REFUSED[kind](scene.bob)).ok


def test_with_a_full_store_who_reads_is_served(scene: Scene) -> None:
    phone = scene.login("bob")
    assert phone.ask("LOGOUT").ok
    scene.write("before")
    scene.bob.contents()
    first = {"timestamp": 1, "md5encoded": "first"}
    scene.alice.send(scene.bob.user, "repeated", **first)
    scene.hub.room.full.store = True
    assert scene.bob.fetch() == ["before", "repeated"]
    scene.bob.ask_all("ACKFETCH", {"timestamp": 1})
    assert scene.bob.fetch() == []
    for kind in ("STATE", "FETCHCONTACT"):
        assert scene.bob.ask(kind).ok
    assert phone.ask("LOGIN", {"username": "bob", "passwd": "secret"}).ok
    assert phone.fetch() == ["before", "repeated"]
    assert scene.alice.ask("SENDMSG", scene.alice.message(scene.bob.user, "repeated", **first)).ok
    changed = {"passwd": "secret", "newPasswd": "another"}
    assert scene.bob.ask("MODIFYPASSWD", changed).ok
    assert scene.hub.stats.refused == {}


def test_with_a_full_store_there_are_no_new_devices(scene: Scene) -> None:
    scene.hub.room.full.store = True
    stranger = scene.node.client()
    assert refused(stranger.ask("LOGIN", {"username": "bob", "passwd": "secret"})) == errors.STORAGE_FULL
    assert stranger.token is None
    scene.hub.room.full.store = False
    assert stranger.ask("LOGIN", {"username": "bob", "passwd": "secret"}).ok
