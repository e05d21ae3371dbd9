"""Requests one after the other: tokens, what a later one acknowledges, answers in parts, files."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from twisted.logger import LogEvent, capturedLogs

from chatsvc.chat.calls import Call
from chatsvc.chat.requests import IMPLICIT_AFTER, perform
from chatsvc.chat.session import Gone
from chatsvc.store.files import FileEntry
from chatsvc.wire import errors
from chatsvc.wire.frames import SEED, Head
from chatsvc.wire.schema import TOKEN_MAX, encode
from tests.fake_store import Scene
from tests.fakes import FILE_CHUNK, FakeClient, FakePayload, Node, Running, now


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Tokens.


@pytest.mark.parametrize("token", [None, 5, 0, -1, TOKEN_MAX, TOKEN_MAX + 1, 2**70])
def test_who_is_not_known_gets_a_token_once(scene: Scene, token: int | None) -> None:
    client = scene.node.client(SEED, token)
    client.start("STATE").result()
    given, answer = client.frames()
    assert (given.response, given.ok, given.info) == ("TOKEN", True, None)
    assert (answer.response, answer.info) == ("STATE", errors.NOT_LOGGED_IN)
    for other in (token, None, 7):
        client.start("STATE", tokenid=other).result()
        assert [frame.response for frame in client.frames()] == ["STATE"]
    assert client.ask("LOGIN", {"username": "bob", "passwd": "secret"}).ok
    again = scene.elsewhere.client(SEED, given.body["tokenid"])
    assert again.ask("STATE").body["username"] == "bob"


def test_a_known_token_is_not_given_again(scene: Scene) -> None:
    client = scene.node.client(SEED, scene.bob.token)
    for _ in range(2):
        client.start("STATE").result()
        [answer] = client.frames()
        assert answer.body["username"] == "bob"


def test_a_connection_belongs_to_the_device_of_its_latest_request(scene: Scene) -> None:
    client = scene.node.client(SEED, scene.bob.token)
    for token, name in (
        (scene.bob.token, "bob"),
        (scene.alice.token, "alice"),
        (None, "alice"),
        (7, "alice"),
    ):
        assert client.ask("STATE", tokenid=token).body["username"] == name


def test_no_token_is_given_while_the_store_is_away(scene: Scene) -> None:
    client = scene.node.client(SEED)
    scene.store.gate.fail("create")
    client.start("STATE").result()
    [answer] = client.frames()
    assert answer.info == errors.STORAGE_UNAVAILABLE
    client.start("STATE").result()
    assert [frame.response for frame in client.frames()] == ["TOKEN", "STATE"]


# What a later request acknowledges, for a device that knows no ACKFETCH.


def acknowledged(scene: Scene) -> int:
    """How many messages Bob's first device has acknowledged."""
    assert scene.bob.session.device is not None
    mail = scene.store.sibling().mail
    opened = now(mail.open(scene.bob.user, scene.bob.session.device.id))
    assert opened is not None
    return sum(entry.position <= opened[0] for entry in now(mail.read(scene.bob.user, 0, 1000)))


def test_a_fetch_acknowledges_at_once_what_the_last_answer_had(scene: Scene) -> None:
    scene.write("one", "two")
    assert scene.bob.fetch() == ["one", "two"]
    assert acknowledged(scene) == 0
    assert scene.bob.fetch() == []
    assert acknowledged(scene) == 2


@pytest.mark.parametrize(("later", "count"), [(0.0, 0), (IMPLICIT_AFTER - 0.1, 0), (IMPLICIT_AFTER, 1)])
def test_another_request_acknowledges_after_a_while(scene: Scene, later: float, count: int) -> None:
    scene.write("one")
    scene.bob.fetch()
    scene.clock.advance(later)
    scene.bob.ask("STATE")
    assert acknowledged(scene) == count


def test_a_push_behind_the_last_answer_may_be_unread(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    scene.write("two")
    scene.bob.flush()
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.ask("STATE")
    assert acknowledged(scene) == 1
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.ask("STATE")
    assert acknowledged(scene) == 2


def fetch_again(scene: Scene, arrived: float | None) -> None:
    """A FETCHMSG of Bob whose first byte came then; None if another request was outstanding."""
    json = encode({"request": "FETCHMSG", "tokenid": scene.bob.token})
    assert Running(perform(Call(scene.bob.session, Head(json, 0), arrived))).done


def test_a_request_that_did_not_wait_for_the_last_answer_acknowledges_nothing(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    fetch_again(scene, None)
    fetch_again(scene, scene.clock.seconds() - 0.1)
    assert acknowledged(scene) == 0
    fetch_again(scene, scene.clock.seconds())
    assert acknowledged(scene) == 1


def test_an_answer_that_is_not_written_out_is_not_read(scene: Scene) -> None:
    scene.write("one")
    scene.bob.reads = False
    scene.bob.start("FETCHMSG").result()
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.start("FETCHMSG").result()
    assert acknowledged(scene) == 0


def test_what_is_no_request_acknowledges_nothing(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.start_raw(Head(b"{", 0)).result()
    assert acknowledged(scene) == 0


def test_a_request_that_changes_the_device_speaks_for_the_old_one(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    device = scene.bob.session.device
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.ask("STATE", tokenid=scene.alice.token)
    assert scene.bob.session.device is not device
    scene.bob.ask("STATE")
    assert acknowledged(scene) == 1


def test_a_device_does_not_acknowledge_what_another_one_was_given(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    scene.bob.ask("STATE", tokenid=scene.alice.token)
    scene.clock.advance(IMPLICIT_AFTER)
    scene.bob.ask("STATE", tokenid=scene.alice.token)
    scene.bob.session.peer_closed(scene.bob.outlet.offset)
    assert scene.store.data.users[scene.bob.user].cursors == {}


def test_a_device_that_knows_better_acknowledges_by_no_request(scene: Scene) -> None:
    scene.write("one")
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": 0}) == []
    for _ in range(2):
        assert scene.bob.fetch() == ["one"]
        scene.clock.advance(IMPLICIT_AFTER)
        scene.bob.ask("STATE")
    assert acknowledged(scene) == 0


# ACKFETCH.


@pytest.mark.parametrize(
    ("timestamp", "count"), [(5, 0), (10, 1), (12, 1), (15, 4), (20, 2), (25, 4), (30, 5), (99, 5)]
)
@pytest.mark.parametrize("way", ["fetched", "pushed"])
def test_an_acknowledgement_goes_as_far_as_its_timestamp_says(
    scene: Scene, way: str, timestamp: int, count: int
) -> None:
    if way == "pushed":
        scene.bob.fetch()
    for n, time in enumerate((10, 20, 20, 15, 30)):
        scene.alice.send(scene.bob.user, timestamp=time, md5encoded=f"{n}")
        scene.bob.send(scene.bob.user, timestamp=timestamp, md5encoded=f"{n}")  # one's own do not count
    if way == "fetched":
        scene.bob.fetch()
    scene.bob.flush()
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": timestamp}) == []
    done = now(scene.store.mail.read(scene.bob.user, 0, acknowledged(scene)))
    assert sum(not entry.origin for entry in done) == count


def test_what_another_run_of_the_node_delivered_is_not_acknowledged(scene: Scene) -> None:
    scene.write("one")
    assert scene.bob.fetch() == ["one"]
    restarted = Node(scene.clock, scene.store.sibling()).client(SEED, scene.bob.token)
    assert restarted.ask_all("ACKFETCH", {"timestamp": int(scene.clock.seconds() * 1000)}) == []
    assert restarted.fetch() == ["one"]


# Long answers.


def limit(scene: Scene, **limits: int) -> None:
    scene.hub.limits = msgspec.structs.replace(scene.hub.limits, **limits)


def parts(client: FakeClient, body: Any = None) -> list[tuple[list[str], bool]]:
    """The answers of a FETCHMSG: contents as they stand there, and whether more are to come."""
    return [
        ([message["content"] for message in answer.body["messages"]], answer.body["more"])
        for answer in client.ask_all("FETCHMSG", body)
    ]


def test_a_large_mailbox_comes_in_several_answers(scene: Scene) -> None:
    limit(scene, answer_messages=2)
    scene.write("1", "2", "3", "4", "5")
    expected = [(["2", "1"], True), (["4", "3"], True), (["5"], False)]
    assert parts(scene.bob) == expected
    limit(scene, answer_messages=500, answer_bytes=600)
    scene.write("6" * 700)
    sizes = [len(contents) for contents, _ in parts(scene.login("bob"))]
    assert sum(sizes) == 6
    assert sizes[-1] == 1
    assert len(sizes) > 2


def test_a_fetch_with_a_limit_goes_on_where_the_last_one_ended(scene: Scene) -> None:
    scene.write("1", "2", "3", "4", "5")
    two = {"limit": 2}
    assert parts(scene.bob, two) == [(["2", "1"], True)]
    assert parts(scene.bob, two) == [(["4", "3"], True)]
    assert parts(scene.bob, two) == [(["5"], False)]
    assert parts(scene.bob, two) == [([], False)]
    second = scene.login("bob")
    assert parts(second, two) == [(["2", "1"], True)]
    assert parts(second, {"limit": 10**9}) == [(["5", "4", "3"], False)]
    for wrong in (0, -1, "2", 1.5):
        assert not second.ask("FETCHMSG", {"limit": wrong}).ok
    third = scene.login("bob")
    assert parts(third, two) == [(["2", "1"], True)]
    assert parts(third)[-1][1] is False
    assert parts(third, two) == [([], False)]


def test_the_next_answer_is_made_when_the_last_one_is_read(scene: Scene) -> None:
    limit(scene, answer_messages=4)
    scene.write(*("x" * 900 for _ in range(10)))
    second = scene.login("bob")
    second.reads = False
    fetching = second.start("FETCHMSG")
    for count in (1, 1, 1):
        assert len(second.answers()) == count
        second.flush()
    fetching.result()


def test_a_cursor_beyond_the_end_is_set_back(scene: Scene) -> None:
    scene.write("one")
    assert scene.bob.contents() == ["one"]
    device = scene.bob.session.device
    assert device is not None
    scene.store.mail.acknowledge(scene.bob.user, device.id, 2**80)
    with capturedLogs() as logged:
        assert scene.bob.fetch() == []
    assert [event["log_format"] for event in logged] == ["A cursor beyond its mailbox's end is reset"]
    assert acknowledged(scene) == 1
    scene.write("two")
    assert (scene.bob.contents(), scene.node.client(SEED, scene.bob.token).fetch()) == (["two"], ["two"])


def test_a_fetch_that_was_refused_is_not_one(scene: Scene) -> None:
    scene.store.gate.fail("read_for")
    scene.write("one")
    scene.bob.contents()
    assert scene.bob.ask("FETCHMSG").info == errors.STORAGE_UNAVAILABLE
    assert not scene.bob.session.fetched
    assert scene.bob.fetch() == ["one"]
    assert scene.bob.session.fetched


# Files.


def send_file(scene: Scene, data: bytes) -> None:
    md5 = hashlib.md5(data).hexdigest()
    body = scene.alice.message(scene.bob.user, contenttype="file", filemd5=md5, md5encoded="name")
    assert scene.alice.ask("SENDMSG", body, FakePayload(data)).ok
    scene.bob.contents()


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({}, b"0123456789"),
        ({"offset": 4}, b"456789"),
        ({"offset": 4, "length": 3}, b"456"),
        ({"offset": 8, "length": 30}, b"89"),
        ({"offset": 10}, b""),
        ({"length": 0}, b""),
        ({"offset": 11}, None),
        ({"offset": -1}, None),
        ({"length": -1}, None),
        ({"msgmd5": "another name"}, None),
    ],
)
def test_a_range_of_a_file(scene: Scene, fields: dict[str, Any], data: bytes | None) -> None:
    send_file(scene, b"0123456789")
    answer = scene.bob.ask("FETCHFILE", {"msgmd5": "name"} | fields)
    assert answer.ok == (data is not None)
    assert answer.payload == (data or b"")
    assert not answer.ok or answer.body["size"] == 10
    assert scene.node.blobs.open_files == 0


def test_a_file_is_sent_as_fast_as_it_is_read_and_nothing_comes_into_it(scene: Scene) -> None:
    data = bytes(range(256)) * (3 * FILE_CHUNK // 256)
    send_file(scene, data)
    scene.bob.reads = False
    fetching = scene.bob.start("FETCHFILE", {"msgmd5": "name"})
    scene.write("one")
    while not fetching.done:
        assert scene.bob.outlet.offset - scene.bob.outlet.written <= 2 * FILE_CHUNK + 1000
        scene.bob.flush()
    answer, push = scene.bob.frames()
    assert answer.payload == data
    assert push.body["content"] == "one"
    assert scene.node.blobs.open_files == 0


@pytest.mark.parametrize("what", ["file", "peer"])
def test_a_file_that_cannot_be_sent_to_its_end(
    scene: Scene, what: str, no_unhandled_failure: list[LogEvent]
) -> None:
    send_file(scene, bytes(3 * FILE_CHUNK))
    scene.bob.reads = False
    fetching = scene.bob.start("FETCHFILE", {"msgmd5": "name"})
    if what == "file":
        scene.node.blobs.gate.fail("read", OSError(5, "Input/output error"))
        while not fetching.done:
            scene.bob.flush()
    else:
        scene.bob.close()
    with pytest.raises(Gone):
        fetching.result()
    assert (scene.bob.outlet.aborted, len(no_unhandled_failure)) == (
        (True, 1) if what == "file" else (False, 0)
    )
    assert scene.node.blobs.open_files == 0
    no_unhandled_failure.clear()


def test_a_file_whose_bytes_are_lost_is_not_found(scene: Scene) -> None:
    send_file(scene, b"data")
    scene.node.blobs.kept.clear()
    assert scene.bob.ask("FETCHFILE", {"msgmd5": "name"}).info == errors.FILE_NOT_FOUND
    assert (
        scene.bob.ask("FINDFILE", {"filemd5": hashlib.md5(b"data").hexdigest()}).info == errors.FILE_NOT_FOUND
    )


def test_a_file_that_no_header_can_announce_is_fetched_in_parts(scene: Scene) -> None:
    send_file(scene, b"data")
    index = scene.store.data.users[scene.bob.user].of_message
    for key, file in index.items():
        index[key] = FileEntry(file.md5, file.sha256, 2**31)
    assert str(scene.bob.ask("FETCHFILE", {"msgmd5": "name"}).info).startswith(
        "Fetch at most 2147483647 bytes"
    )
    assert scene.bob.ask("FETCHFILE", {"msgmd5": "name", "length": 4}).payload == b"data"
