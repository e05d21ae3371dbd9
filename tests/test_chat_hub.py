"""Whose connections follow which mailbox, and what ends that, on a store in memory and a still clock."""

from __future__ import annotations

import pytest

from chatsvc.chat.hub import HEARTBEAT, LOOKS, SUBSCRIBE_WAIT, TOUCH_INTERVAL
from chatsvc.chat.session import Gone
from chatsvc.wire.errors import NOT_LOGGED_IN, STORAGE_UNAVAILABLE
from chatsvc.wire.frames import SEED
from tests.fake_store import Scene
from tests.fakes import FakeClient


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Following a mailbox.


def test_logging_in_and_out_goes_for_all_connections_of_a_device(scene: Scene) -> None:
    second = scene.node.client(SEED, scene.bob.token)
    second.ask("STATE")
    scene.bob.ask("LOGOUT")
    scene.write("one")
    assert (scene.bob.contents(), second.contents()) == ([], [])
    assert second.ask("STATE").info == NOT_LOGGED_IN
    second.ask("LOGIN", {"username": "bob", "passwd": "secret"})
    scene.write("two")
    assert (scene.bob.contents(), second.contents()) == (["two"], ["two"])


def test_a_device_that_changes_its_user_follows_the_new_one(scene: Scene) -> None:
    scene.bob.ask("LOGIN", {"username": "alice", "passwd": "secret"})
    scene.write("for bob and for alice's other devices")
    assert scene.bob.contents() == ["for bob and for alice's other devices"]
    assert scene.store.channels.wanted == {scene.alice.user}


def test_a_connection_that_changes_its_device_follows_the_new_one(scene: Scene) -> None:
    client = scene.node.client(SEED, scene.alice.token)
    client.ask("STATE")
    client.token = scene.bob.token
    client.ask("STATE")
    scene.write("one")
    assert client.contents() == ["one"]
    scene.bob.close()
    scene.write("two")
    assert client.contents() == ["two"]


def test_a_binding_made_elsewhere_is_found_at_the_next_request(scene: Scene) -> None:
    client = scene.node.client(SEED)
    client.ask("LOGOUT")
    same = scene.elsewhere.client(SEED, client.token)
    same.ask("LOGIN", {"username": "bob", "passwd": "secret"})
    assert client.ask("STATE").body["username"] == "bob"
    scene.write("one")
    assert client.contents() == ["one"]


def test_a_subscription_that_does_not_stand_is_waited_for_a_moment_only(scene: Scene) -> None:
    scene.bob.close()
    scene.store.channels.deaf = True
    client = scene.node.client(SEED, scene.bob.token)
    asking = client.start("STATE")
    scene.write("before the answer")
    assert not asking.done
    scene.clock.advance(SUBSCRIBE_WAIT)
    asking.result()
    client.frames()
    scene.write("after it")
    assert client.contents() == []
    scene.store.channels.stand()
    assert client.contents() == ["after it"]


def test_what_could_not_be_followed_is_at_the_next_request(scene: Scene) -> None:
    scene.bob.close()
    client = scene.node.client(SEED, scene.bob.token)
    scene.store.gate.fail("stay_online")
    assert client.ask("STATE").info == STORAGE_UNAVAILABLE
    assert scene.store.channels.wanted == {scene.alice.user}
    assert client.ask("STATE").ok
    scene.write("one")
    assert client.contents() == ["one"]


def test_two_requests_that_begin_to_follow_at_once_skip_and_repeat_nothing(scene: Scene) -> None:
    client = scene.node.client(SEED, scene.bob.token)
    scene.store.gate.hold("stay_online reply")
    joins = [client.start("STATE"), client.start("STATE")]
    scene.write("one")
    scene.store.gate.release("stay_online reply")
    scene.write("two")
    for join in joins:
        join.result()
    pushed = [frame.body["content"] for frame in client.frames() if frame.response == "FORWARDMSG"]
    assert pushed == ["one", "two"]


def test_a_connection_that_ends_while_it_begins_to_follow_leaves_nothing(scene: Scene) -> None:
    scene.alice.close()
    scene.bob.close()
    for step in ("use", "stay_online", "create"):
        client = scene.node.client(SEED, None if step == "create" else scene.bob.token)
        scene.store.gate.hold(step)
        asking = client.start("STATE")
        client.close()
        scene.store.gate.release(step)
        assert asking.done
        assert (scene.hub._users, scene.hub._devices) == ({}, {})
    assert scene.store.channels.wanted == set()


def test_a_closed_session_gets_no_device(scene: Scene) -> None:
    device = scene.bob.session.device
    assert device is not None
    scene.bob.close()
    with pytest.raises(Gone):
        scene.hub.attach(scene.bob.session, device)


def test_a_device_in_use_is_touched_now_and_then(scene: Scene) -> None:
    for _ in range(3):
        scene.bob.ask("STATE")
    assert scene.store.gate.calls["touch"] == 0
    scene.clock.advance(TOUCH_INTERVAL + 1)
    for _ in range(3):
        scene.bob.ask("STATE")
    assert scene.store.gate.calls["touch"] == 1


# Bindings that end.


def ended(scene: Scene, client: FakeClient) -> bool:
    """Whether nothing is pushed to a client that was Bob's."""
    scene.write("one more")
    return client.contents() == []


def test_a_new_password_ends_bindings_on_all_nodes_at_once(scene: Scene) -> None:
    second, third = scene.login("bob"), scene.login("bob", scene.elsewhere)
    assert third.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "better"}).ok
    scene.write("one")
    assert [client.contents() for client in (scene.bob, second, third)] == [[], [], ["one"]]
    assert scene.bob.ask("STATE").info == NOT_LOGGED_IN
    assert second.ask("SENDMSG", second.message(scene.alice.user)).info == NOT_LOGGED_IN


def test_a_logout_elsewhere_ends_the_binding_here(scene: Scene) -> None:
    same = scene.elsewhere.client(SEED, scene.bob.token)
    assert same.ask("LOGOUT").ok
    assert ended(scene, scene.bob)
    assert scene.bob.user not in scene.store.channels.wanted


def test_nothing_is_pushed_while_it_is_asked_whether_a_binding_holds(scene: Scene) -> None:
    assert scene.bob.session.device is not None
    scene.store.gate.hold("is_bound")
    scene.store.data.publish(scene.bob.user, b"r " + scene.bob.session.device.id.encode())
    scene.write("one")
    assert scene.bob.contents() == []
    scene.store.gate.release("is_bound")
    assert scene.bob.contents() == ["one"]  # it was made anew before the news of its end came


@pytest.mark.parametrize("sign", ["a request", "time"])
def test_as_long_as_nobody_knows_whether_a_binding_holds_it_does_not(scene: Scene, sign: str) -> None:
    assert scene.bob.session.device is not None
    for call in ("is_bound", "load"):
        scene.store.gate.fail(call)
    scene.store.data.publish(scene.bob.user, b"r " + scene.bob.session.device.id.encode())
    assert ended(scene, scene.bob)
    if sign == "time":
        scene.clock.advance(1)
    else:
        assert scene.bob.ask("STATE").ok
    scene.write("two")
    assert scene.bob.contents() == ["two"]


def test_news_of_others_ends_no_binding(scene: Scene) -> None:
    assert scene.bob.session.device is not None
    device = scene.bob.session.device.id.encode()
    for user_id, text in (
        (scene.bob.user, b"r 0123456789"),
        (scene.alice.user, b"r " + device),
        (scene.bob.user, b"x of a later version"),
        (10**6, b"r " + device),
    ):
        scene.store.data.publish(user_id, text)
    scene.write("one")
    assert scene.bob.contents() == ["one"]


def test_the_end_of_a_binding_that_was_not_heard_of_shows_at_the_heartbeat(scene: Scene) -> None:
    scene.store.channels.deaf = True
    same = scene.elsewhere.client(SEED, scene.bob.token)
    assert same.ask("LOGOUT").ok
    scene.store.channels.deaf = False
    scene.clock.advance(HEARTBEAT)
    assert ended(scene, scene.bob)


def test_a_binding_that_ended_unheard_is_ended_by_the_next_request(scene: Scene) -> None:
    scene.store.channels.deaf = True
    same = scene.elsewhere.client(SEED, scene.bob.token)
    assert same.ask("LOGIN", {"username": "alice", "passwd": "secret"}).ok
    scene.store.channels.deaf = False
    assert scene.bob.ask("STATE").body["username"] == "alice"
    assert scene.bob.ask("LOGOUT").ok
    assert same.ask("STATE").info == NOT_LOGGED_IN


def test_a_binding_that_ended_while_the_device_came_back_is_none(scene: Scene) -> None:
    token = scene.bob.token
    scene.bob.close()
    scene.store.gate.hold("use reply")
    client = scene.node.client(SEED, token)
    asking = client.start("STATE")
    assert scene.elsewhere.client(SEED, token).ask("LOGOUT").ok
    scene.store.gate.release("use reply")
    asking.result()
    assert client.answers()[-1].info == NOT_LOGGED_IN
    assert scene.elsewhere.client(SEED, token).ask("LOGIN", {"username": "bob", "passwd": "secret"}).ok
    scene.write("one")
    assert client.contents() == ["one"]


def test_a_fetch_that_is_under_way_ends_with_the_binding(scene: Scene) -> None:
    second = scene.login("bob")
    scene.write(*("x" * 900 for _ in range(1500)))
    second.contents()
    second.reads = False
    fetching = second.start("FETCHMSG")
    assert not fetching.done
    assert scene.bob.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "better"}).ok
    second.flush()
    fetching.result()
    first, last = second.answers()
    assert first.body["more"]
    assert last.info == NOT_LOGGED_IN


def test_the_heartbeat_looks_at_a_few_users_at_a_time(scene: Scene) -> None:
    scene.bob.close()
    for number in range(2 * LOOKS):
        scene.node.client(SEED).ask("REGISTER", {"username": f"user {number}", "passwd": "secret"})
    calls = scene.store.gate.calls
    before = calls["stay_online"]
    scene.store.gate.hold("stay_online")
    scene.clock.advance(HEARTBEAT)
    assert calls["stay_online"] - before == LOOKS
    scene.clock.advance(1)  # the next beat does not run beside it
    assert calls["stay_online"] - before == LOOKS
    scene.store.gate.release("stay_online")
    assert calls["stay_online"] - before == 2 * LOOKS + 1  # with Alice
    scene.clock.advance(HEARTBEAT)
    assert calls["stay_online"] - before == 2 * (2 * LOOKS + 1)


def test_the_heartbeat_can_be_stopped_twice(scene: Scene) -> None:
    scene.lose("one")
    scene.hub.stop()
    scene.hub.stop()
    scene.clock.advance(2 * HEARTBEAT)
    assert scene.bob.contents() == []


# What was delivered, and to whom.


def seen_by(scene: Scene, token: int | None) -> list[str]:
    """What a new connection of a device is given of the mailbox."""
    client = scene.node.client(SEED, token)
    contents = client.fetch()
    client.close()
    return contents


def test_a_clean_close_acknowledges_what_arrived(scene: Scene) -> None:
    scene.write("one")
    assert scene.bob.fetch() == ["one"]
    scene.write("two")
    arrived = scene.bob.outlet.offset
    scene.write("three")
    scene.bob.flush()
    scene.bob.session.peer_closed(arrived)
    scene.bob.close()
    assert seen_by(scene, scene.bob.token) == ["three"]


def test_a_cut_connection_acknowledges_nothing(scene: Scene) -> None:
    scene.write("one")
    scene.bob.fetch()
    scene.bob.close()
    assert seen_by(scene, scene.bob.token) == ["one"]


def test_a_device_that_knows_better_acknowledges_nothing_by_closing(scene: Scene) -> None:
    scene.write("one")
    scene.bob.ask_all("ACKFETCH", {"timestamp": 5})
    scene.bob.fetch()
    scene.bob.session.peer_closed(scene.bob.outlet.offset)
    scene.bob.close()
    assert seen_by(scene, scene.bob.token) == ["one"]


def test_a_push_counts_only_where_messages_were_fetched(scene: Scene) -> None:
    login_page = scene.node.client(SEED, scene.bob.token)
    login_page.ask("STATE")
    assert scene.bob.fetch() == []
    scene.bob.outlet.lose()
    scene.bob.session.close()
    scene.write("one")
    assert login_page.contents() == ["one"]
    login_page.flush()
    login_page.session.peer_closed(login_page.outlet.offset)
    login_page.close()
    assert seen_by(scene, scene.bob.token) == ["one"]


def test_connections_of_a_device_share_what_was_delivered(scene: Scene) -> None:
    second = scene.node.client(SEED, scene.bob.token)
    assert (scene.bob.fetch(), second.fetch()) == ([], [])
    scene.write("one", "two")
    scene.bob.flush()
    scene.bob.close()
    second.flush()
    assert second.ask_all("ACKFETCH", {"timestamp": int(scene.clock.seconds() * 1000)}) == []
    scene.write("three")
    assert seen_by(scene, scene.bob.token) == ["two", "three"]
