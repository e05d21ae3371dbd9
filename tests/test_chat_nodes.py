"""A device with connections to two nodes: what one node does to its binding, the other one learns in time.

On a store in memory and a still clock; with real nodes and a real store: `tests/test_nodes.py`.
"""

from __future__ import annotations

import pytest

from chatsvc.chat.hub import HEARTBEAT
from chatsvc.wire.errors import BAD_CREDENTIALS, NOT_LOGGED_IN, STORAGE_UNAVAILABLE
from chatsvc.wire.frames import SEED
from tests.fake_store import Scene
from tests.fakes import FakeClient

BOB = {"username": "bob", "passwd": "secret"}
ALICE = {"username": "alice", "passwd": "secret"}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def idle(scene: Scene, token: int | None = None) -> FakeClient:
    """A connection of a device that nobody is logged in on, by default of a new one."""
    client = scene.node.client(SEED, token)
    assert client.ask("STATE").info == NOT_LOGGED_IN
    return client


def elsewhere(scene: Scene, client: FakeClient) -> FakeClient:
    """A connection of the same device to the other node."""
    return scene.elsewhere.client(SEED, client.token)


def device_id(client: FakeClient) -> str:
    assert client.session.device is not None
    return client.session.device.id


def test_after_a_login_elsewhere_all_idle_connections_get_their_pushes(scene: Scene) -> None:
    first = idle(scene)
    second = idle(scene, first.token)
    assert elsewhere(scene, first).ask("LOGIN", BOB).ok
    scene.write("one")
    assert (first.contents(), second.contents()) == (["one"], ["one"])


def test_a_login_elsewhere_that_was_not_heard_of_is_found_when_the_node_hears_again(scene: Scene) -> None:
    client = idle(scene)
    scene.store.channels.deaf = True
    assert elsewhere(scene, client).ask("LOGIN", BOB).ok
    scene.store.channels.stand()
    scene.write("one")
    assert client.contents() == ["one"]


def test_a_device_that_changes_its_user_elsewhere_follows_the_new_one_at_once(scene: Scene) -> None:
    assert elsewhere(scene, scene.bob).ask("LOGIN", ALICE).ok
    scene.alice.send(scene.alice.user, "a note")
    assert scene.bob.contents() == ["a note"]


def test_and_at_the_heartbeat_if_that_was_not_heard_of(scene: Scene) -> None:
    scene.store.channels.deaf = True
    assert elsewhere(scene, scene.bob).ask("LOGIN", ALICE).ok
    scene.store.channels.deaf = False
    scene.clock.advance(HEARTBEAT)
    scene.alice.send(scene.alice.user, "a note")
    assert scene.bob.contents() == ["a note"]


@pytest.mark.parametrize("request_type", ["FETCHMSG", "SENDMSG"])
def test_and_when_the_store_refuses_a_request_of_the_one_before(scene: Scene, request_type: str) -> None:
    scene.store.channels.deaf = True
    assert elsewhere(scene, scene.bob).ask("LOGIN", ALICE).ok
    scene.store.channels.deaf = False
    body = scene.bob.message(scene.bob.user) if request_type == "SENDMSG" else None
    assert scene.bob.ask(request_type, body).info == NOT_LOGGED_IN
    scene.alice.send(scene.alice.user, "a note")
    assert scene.bob.contents() == ["a note"]


def test_a_logout_and_a_login_elsewhere_come_to_the_same_connection(scene: Scene) -> None:
    same = elsewhere(scene, scene.bob)
    for round_trip in ("one", "two"):
        assert same.ask("LOGOUT").ok
        scene.write("for nobody")
        assert same.ask("LOGIN", BOB).ok
        scene.write(round_trip)
        assert scene.bob.contents() == [round_trip]


def test_catching_up_ends_with_a_binding_whose_end_was_not_heard_of(scene: Scene) -> None:
    scene.bob.session.hold()
    scene.write("one")
    scene.store.channels.deaf = True
    assert elsewhere(scene, scene.bob).ask("LOGOUT").ok
    scene.bob.session.release()
    assert scene.bob.contents() == []
    assert scene.bob.user not in scene.store.channels.wanted


def test_what_is_published_waits_until_it_is_known_whether_the_end_of_a_binding_was_missed(
    scene: Scene,
) -> None:
    other = scene.login("bob")
    scene.store.channels.deaf = True
    assert elsewhere(scene, scene.bob).ask("LOGOUT").ok
    scene.store.gate.hold("stay_online")
    scene.store.channels.stand()
    scene.write("one")
    assert scene.bob.contents() == other.contents() == []
    scene.store.gate.release("stay_online")
    assert (scene.bob.contents(), other.contents()) == ([], ["one"])


def test_an_older_look_that_ends_later_holds_nothing_back(scene: Scene) -> None:
    scene.store.gate.hold("stay_online")
    scene.store.channels.stand()
    scene.store.channels.stand()
    scene.store.gate.release("stay_online", last_first=True)
    reads = scene.store.gate.calls["read"]
    scene.write("one")
    assert scene.bob.contents() == ["one"]
    assert scene.store.gate.calls["read"] == reads  # it was pushed as it was published


def test_a_device_is_listened_to_as_long_as_it_is_unbound_and_connected(scene: Scene) -> None:
    others = {scene.alice.user, scene.bob.user}
    first = idle(scene)
    second = idle(scene, first.token)
    assert scene.store.channels.wanted == others | {device_id(first)}
    assert first.ask("LOGIN", BOB).ok
    assert scene.store.channels.wanted == others
    assert second.ask("LOGOUT").ok
    first.close()
    assert scene.store.channels.wanted == others | {device_id(second)}
    second.close()
    assert scene.store.channels.wanted == others


def test_a_login_here_is_not_looked_for_in_the_store(scene: Scene) -> None:
    client = idle(scene)
    before = scene.store.gate.calls.copy()
    assert client.ask("LOGIN", BOB).ok
    asked = scene.store.gate.calls - before
    assert (asked["load"], asked["is_bound"], asked["stay_online"]) == (1, 0, 1)  # one as for each request


def test_after_a_login_that_was_refused_the_device_is_listened_to_again(scene: Scene) -> None:
    client = idle(scene)
    scene.store.gate.hold("bind")
    login = client.start("LOGIN", BOB)
    assert scene.bob.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "better"}).ok
    assert elsewhere(scene, client).ask("LOGIN", ALICE).ok  # of which this node does not hear now
    scene.store.gate.release("bind")
    login.result()
    assert [answer.info for answer in client.answers()] == [BAD_CREDENTIALS]
    scene.alice.send(scene.alice.user, "a note")
    assert client.contents() == ["a note"]


def test_a_store_that_cannot_say_whose_a_device_is_is_asked_again(scene: Scene) -> None:
    client = idle(scene)
    scene.store.gate.fail("load", times=2)
    assert elsewhere(scene, client).ask("LOGIN", BOB).ok
    scene.write("one")
    assert client.contents() == []
    for _ in range(2):
        scene.clock.advance(1)
    assert client.contents() == []  # what it has not fetched is not owed to it yet
    scene.write("two")
    assert client.contents() == ["two"]


def test_a_connection_that_could_not_begin_to_follow_does_so_within_a_moment(scene: Scene) -> None:
    second = scene.node.client(SEED, scene.bob.token)
    assert second.ask("LOGOUT").ok
    scene.store.gate.fail("stay_online", times=2)
    assert second.ask("LOGIN", BOB).info == STORAGE_UNAVAILABLE
    for _ in range(2):
        scene.clock.advance(1)
    scene.write("one")
    assert (scene.bob.contents(), second.contents()) == (["one"], ["one"])


def test_a_connection_that_is_gone_is_not_looked_for(scene: Scene) -> None:
    client = idle(scene)
    scene.store.gate.fail("load")
    assert elsewhere(scene, client).ask("LOGIN", BOB).ok
    client.close()
    calls = scene.store.gate.calls["stay_online"]
    scene.clock.advance(1)
    assert scene.store.gate.calls["stay_online"] == calls
    assert scene.store.channels.wanted == {scene.alice.user, scene.bob.user}


def test_what_a_connection_that_is_gone_waited_for_does_not_deafen_the_next(scene: Scene) -> None:
    client = idle(scene)
    scene.store.gate.fail("load")
    same = elsewhere(scene, client)
    assert same.ask("LOGIN", BOB).ok  # the look for it fails, and is to be repeated
    client.close()
    assert same.ask("LOGOUT").ok
    again = idle(scene, client.token)
    scene.clock.advance(1)
    assert same.ask("LOGIN", BOB).ok
    scene.write("one")
    assert again.contents() == ["one"]
