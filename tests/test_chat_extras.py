"""The extras of one node: who is told what, what is left out and told again, and what is let go.

On a store in memory and a still clock; over sockets: `tests/test_protocol_features.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent

from chatsvc.chat.extras import LOOK_INTERVAL, WATCHED_MOST
from chatsvc.store.keys import PresenceOf
from chatsvc.wire.frames import SEED
from tests.fake_store import SEND_BUFFER, Scene
from tests.fakes import FakeClient

ALL = ("contacts", "marks", "presence", "typing")


@pytest.fixture
def scene() -> Scene:
    """Alice and Bob are contacts."""
    scene = Scene()
    befriend(scene.alice, scene.bob)
    return scene


def befriend(one: FakeClient, other: FakeClient) -> None:
    for adds, added in ((one, other), (other, one)):
        assert adds.ask("ADDCONTACT", {"userid": added.user}).ok


def wish(client: FakeClient, *features: str) -> list[tuple[str, Any]]:
    """Ask for features; gives what is pushed at once."""
    assert client.ask("STATE", {"features": list(features)}).ok
    return hints(client)


def hints(client: FakeClient) -> list[tuple[str, Any]]:
    """What was pushed since the last look, but messages."""
    assert client.answers() == []
    found, client.hints = client.hints, []
    return found


def presence(user_id: int, online: bool = True, lastseen: int | None = None) -> tuple[str, Any]:
    users = [{"userid": user_id, "online": online, "lastseen": lastseen}]
    return "FORWARDPRESENCE", {"users": users}


def mark(client: FakeClient, sender: int, name: str) -> None:
    body = {"userid": sender, "mark": "read", "timestamp": 1, "md5encoded": name}
    assert client.ask("MARK", body).ok


def names(found: list[tuple[str, Any]]) -> list[str]:
    """The names of the messages that marks are on."""
    return [each["md5encoded"] for kind, body in found if kind == "FORWARDMARK" for each in body["marks"]]


def test_who_asks_for_nothing_has_the_store_asked_nothing_more(scene: Scene) -> None:
    before = scene.store.gate.calls.copy()
    scene.write("one")
    scene.clock.advance(3 * LOOK_INTERVAL)
    scene.clock.advance(3 * LOOK_INTERVAL)
    asked = scene.store.gate.calls - before
    assert not {"seen", "marks", "of", "typing", "mark"} & set(asked)
    assert not any(isinstance(whose, PresenceOf) for whose in scene.store.channels.wanted)


def test_one_connection_asks_and_the_others_of_the_device_get_nothing(scene: Scene) -> None:
    other = scene.node.client(SEED, scene.alice.token)
    assert other.ask("STATE").ok
    wish(scene.alice, "typing")
    wish(scene.bob, "typing")
    assert scene.bob.ask("TYPING", {"userid": scene.alice.user}).ok
    assert hints(scene.alice) == [("FORWARDTYPING", {"userid": scene.bob.user, "typing": True})]
    assert hints(other) == []
    assert scene.hub.stats.hints == {"FORWARDTYPING": 1}


def test_it_works_across_nodes(scene: Scene) -> None:
    wish(scene.alice, *ALL)
    tablet = scene.login("bob", scene.elsewhere)
    wish(tablet, *ALL)
    assert tablet.ask("TYPING", {"userid": scene.alice.user}).ok
    mark(tablet, scene.alice.user, "m")
    assert [kind for kind, _ in hints(scene.alice)] == ["FORWARDTYPING", "FORWARDMARK"]
    assert tablet.ask("REMOVECONTACT", {"userid": scene.alice.user}).ok
    assert hints(scene.alice) == [
        ("FORWARDCONTACT", {"userid": scene.bob.user, "relation": "none"}),
        presence(scene.bob.user, online=False),
    ]


def test_a_client_that_does_not_read_is_told_the_whole_state_when_it_does(scene: Scene) -> None:
    wish(scene.alice, *ALL)
    wish(scene.bob, *ALL)
    scene.alice.reads = False
    scene.alice.start("FINDFILE", {"filemd5": "0" * 32})
    size = 0
    for number in range(100):
        mark(scene.bob, scene.alice.user, f"m{number}")
        assert scene.bob.ask("TYPING", {"userid": scene.alice.user}).ok
        size = scene.alice.outlet.offset - scene.alice.outlet.written
    assert SEND_BUFFER < size < SEND_BUFFER + 500
    scene.alice.flush()
    told = [frame for frame in scene.alice.frames() if frame.response.startswith("FORWARD")]
    assert [frame.response for frame in told[-3:]] == ["FORWARDPRESENCE", "FORWARDMARK", "FORWARDCONTACT"]
    assert told[-2].body["marks"][0]["md5encoded"] == "m99"
    assert told[-1].body == {"userid": None, "relation": None}


def test_nothing_is_told_within_an_answer_and_all_of_it_after(scene: Scene) -> None:
    wish(scene.alice, "marks")
    wish(scene.bob, "marks")
    scene.store.gate.hold("read_for")
    scene.write("one")
    scene.bob.send(scene.alice.user, "two")
    fetching = scene.alice.start("FETCHMSG")
    mark(scene.bob, scene.alice.user, "m")
    assert hints(scene.alice) == []
    scene.store.gate.release("read_for")
    fetching.result()
    kinds = [frame.response for frame in scene.alice.frames()]
    assert kinds[-2:] == ["FETCHMSG", "FORWARDMARK"]


def test_what_was_published_while_nobody_heard_is_told_when_somebody_does(scene: Scene) -> None:
    wish(scene.alice, *ALL)
    wish(scene.bob, "marks")
    scene.store.channels.deaf = True
    mark(scene.bob, scene.alice.user, "missed")
    assert hints(scene.alice) == []
    scene.store.channels.stand()
    assert names(hints(scene.alice)) == ["missed"]


def test_who_went_while_nobody_heard_is_known_when_somebody_does(scene: Scene) -> None:
    wish(scene.alice, "presence")
    scene.store.channels.deaf = True
    scene.bob.session.close()
    assert hints(scene.alice) == []
    scene.store.channels.stand()
    scene.clock.advance(1)
    _, told = hints(scene.alice)[-1]
    assert not told["users"][0]["online"]


def test_what_is_heard_is_newer_than_what_was_asked(scene: Scene) -> None:
    scene.store.gate.hold("seen reply")
    wish(scene.alice, "presence")
    scene.bob.session.close()
    scene.store.gate.release("seen reply")
    [(_, told)] = hints(scene.alice)
    assert not told["users"][0]["online"]


def test_a_relation_that_changes_while_the_store_is_away_is_looked_at_again(scene: Scene) -> None:
    wish(scene.alice, "presence")
    scene.store.gate.fail("of")
    assert scene.bob.ask("REMOVECONTACT", {"userid": scene.alice.user}).response == "UNKNOWN"
    wish(scene.bob, "contacts")
    assert scene.bob.ask("REMOVECONTACT", {"userid": scene.alice.user}).ok
    assert hints(scene.alice) == []
    scene.clock.advance(1)
    assert PresenceOf(scene.bob.user) not in scene.store.channels.wanted


def test_a_store_that_is_away_is_asked_again(scene: Scene) -> None:
    scene.store.gate.fail("marks")
    mark_of = wish(scene.bob, "marks")
    assert mark_of == []
    mark(scene.bob, scene.alice.user, "m")
    scene.clock.advance(1)
    assert names(hints(scene.bob)) == ["m"]


def test_somebody_whose_node_died_is_found_to_be_offline(scene: Scene) -> None:
    assert wish(scene.alice, "presence") == [presence(scene.bob.user)]
    scene.store.data.online.clear()
    scene.store.data.users[scene.bob.user].seen = 1234
    scene.clock.advance(LOOK_INTERVAL + 1)
    found = hints(scene.alice)
    assert found[0] == presence(scene.bob.user, online=False, lastseen=1234)


def test_who_is_online_though_another_node_says_no_says_so_at_once(scene: Scene) -> None:
    wish(scene.alice, "presence")
    device = scene.bob.session.device
    assert device is not None
    scene.store.data.go_offline(scene.bob.user, device.id)  # by a node that the device has left
    [(_, gone)] = hints(scene.alice)
    assert not gone["users"][0]["online"]
    scene.clock.advance(1)
    assert hints(scene.alice) == [presence(scene.bob.user)]


def test_of_several_who_watch_one_person_the_store_is_asked_once(scene: Scene) -> None:
    wish(scene.alice, "presence")
    asked = scene.store.gate.calls["seen"]
    for _ in range(3):
        assert wish(scene.login("alice"), "presence") == [presence(scene.bob.user)]
    assert scene.store.gate.calls["seen"] == asked


def test_nobody_is_watched_for_connections_that_are_gone(scene: Scene) -> None:
    wish(scene.alice, "presence")
    second = scene.login("alice")
    wish(second, "presence")
    wanted = scene.store.channels.wanted
    assert PresenceOf(scene.bob.user) in wanted
    scene.alice.session.close()
    assert PresenceOf(scene.bob.user) in wanted
    wish(second, "typing")
    assert PresenceOf(scene.bob.user) not in wanted
    assert scene.hub.extras.watched == 0


@pytest.mark.parametrize("call", ["of", "seen", "marks"])
def test_who_goes_while_the_store_is_asked_is_told_nothing(
    scene: Scene, call: str, no_unhandled_failure: list[LogEvent]
) -> None:
    scene.store.gate.hold(call)
    wish(scene.alice, *ALL)
    scene.alice.session.close()
    scene.store.gate.release(call)
    assert hints(scene.alice) == []
    assert scene.hub.extras.watched == 0
    assert no_unhandled_failure == []


def test_a_logout_ends_what_was_asked_for(scene: Scene) -> None:
    wish(scene.alice, *ALL)
    assert scene.alice.ask("LOGOUT").ok
    assert scene.alice.session.wishes is None
    assert scene.hub.extras.watched == 0
    assert hints(scene.alice) == []


def test_a_former_contact_is_not_seen_though_others_here_do(scene: Scene) -> None:
    carol = scene.node.user("carol", SEED)
    befriend(carol, scene.bob)
    wish(carol, "presence")
    wish(scene.alice, "presence", "contacts")
    assert scene.alice.ask("REMOVECONTACT", {"userid": scene.bob.user}).ok
    assert hints(scene.alice) == [presence(scene.bob.user, online=False)]


def test_no_more_than_so_many_are_watched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatsvc.chat.extras.WATCHED_MOST", 2)
    others = [scene.node.user(f"other{number}", SEED) for number in range(3)]
    for other in others:
        befriend(scene.alice, other)
    [(_, told)] = wish(scene.alice, "presence")
    assert [user["userid"] for user in told["users"]] == [scene.bob.user, others[0].user]
    assert scene.hub.extras.watched == 2
    assert WATCHED_MOST >= 1000  # what docs/protocol.md says


def test_long_lists_come_in_several_pushes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatsvc.chat.extras._IN_PUSH", 2)
    for number in range(3):
        other = scene.node.user(f"other{number}", SEED)
        befriend(scene.alice, other)
        wish(other, "marks")
        mark(other, scene.alice.user, f"m{number}")
    found = wish(scene.alice, "presence", "marks")
    assert [kind for kind, _ in found] == ["FORWARDPRESENCE"] * 2 + ["FORWARDMARK"] * 2
    assert sorted(names(found)) == ["m0", "m1", "m2"]


def test_a_state_that_is_more_than_what_is_queued_comes_once_as_it_is_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatsvc.chat.extras._IN_PUSH", 1)
    for number in range(20):
        other = scene.node.user(f"other{number}", SEED)
        befriend(scene.alice, other)
        wish(other, "marks")
        mark(other, scene.alice.user, f"m{number:02}")
    scene.alice.reads = False
    scene.alice.start("STATE", {"features": ["marks"]}).result()
    found: list[str] = []
    while waiting := scene.alice.outlet.offset - scene.alice.outlet.written:
        assert waiting < SEND_BUFFER + 500
        scene.alice.flush()
        found += names([(frame.response, frame.body) for frame in scene.alice.frames()])
    assert sorted(found) == [f"m{number:02}" for number in range(20)]


def test_a_kind_that_a_later_version_publishes_is_passed_over(scene: Scene) -> None:
    wish(scene.alice, *ALL)
    scene.store.data.publish(scene.alice.user, b"e FORWARDSOMETHING  {}")
    assert hints(scene.alice) == []
