"""Many connections of one user, or many that go at once, on a store in memory and a still clock."""

from __future__ import annotations

import pytest

from chatsvc.chat.hub import LOOKS
from chatsvc.store import keys
from chatsvc.wire.errors import NOT_LOGGED_IN
from chatsvc.wire.frames import SEED
from tests.fake_store import Scene
from tests.fakes import FakeClient
from tests.limits import unlimited


@pytest.fixture
def scene() -> Scene:
    return Scene()


def connections(scene: Scene, count: int) -> list[FakeClient]:
    """So many further ones of Bob's device, a second apart; each has made a request."""
    made = []
    for _ in range(count):
        scene.clock.advance(1)
        made.append(scene.node.client(SEED, scene.bob.token))
        assert made[-1].ask("STATE").ok
    return made


def cut(clients: list[FakeClient]) -> list[bool]:
    """Which of them the server has cut."""
    return [client.outlet.aborted for client in clients]


# Connections of one user.


def test_over_the_cap_of_a_user_the_longest_idle_connection_is_cut(scene: Scene) -> None:
    scene.hub.limits = unlimited(connections_per_user=3)
    first, second = connections(scene, 2)
    scene.clock.advance(1)
    scene.bob.ask("STATE")
    assert cut([scene.bob, first, second, scene.alice]) == [False] * 4
    [third] = connections(scene, 1)
    phone = scene.login("bob")
    assert cut([scene.bob, first, second, third, phone, scene.alice]) == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert scene.hub.stats.dropped == {"user": 2}
    scene.write("one")
    assert [client.contents() for client in (scene.bob, third, phone)] == [["one"]] * 3
    assert first.session.device is None


def test_one_that_is_served_is_not_idle(scene: Scene) -> None:
    scene.hub.limits = unlimited(connections_per_user=3, send_buffer=10**6)
    [reading] = connections(scene, 1)
    reading.reads = False
    reading.ask("STATE")
    scene.store.gate.hold("get")
    waiting = scene.node.client(SEED, scene.bob.token)
    asking = waiting.start("PROFILE", {"userid": 1})
    idle = scene.bob
    scene.clock.advance(10)
    idle.ask("FETCHMSG")
    newest = scene.login("bob")
    assert cut([idle, reading, waiting, newest]) == [True, False, False, False]
    scene.store.gate.release("get")
    asking.result()


def test_many_that_come_in_one_turn_leave_as_many_as_may_be(scene: Scene) -> None:
    scene.hub.limits = unlimited(connections_per_user=4)
    scene.store.gate.hold("stay_online")
    made = [scene.node.client(SEED, scene.bob.token) for _ in range(10)]
    asking = [client.start("STATE") for client in made]
    scene.store.gate.release("stay_online")
    assert cut(made).count(False) <= 4
    assert len(scene.hub._users[scene.bob.user].sessions) == 4
    assert all(one.done for one in asking)


def test_without_a_cap_all_stay(scene: Scene) -> None:
    made = connections(scene, 100)
    assert not any(cut([scene.bob, *made]))


# Devices of one user.


def test_one_device_too_many_logs_the_longest_unused_out_everywhere(scene: Scene) -> None:
    tablet = scene.login("bob", scene.elsewhere)
    scene.bob.close()
    scene.hub.limits = unlimited(devices_per_user=2)
    newest = scene.login("bob")
    scene.write("one")
    assert (tablet.contents(), newest.contents()) == (["one"], ["one"])
    assert scene.node.client(SEED, scene.bob.token).ask("STATE").info == NOT_LOGGED_IN
    scene.store.data.online.discard((scene.bob.user, keys.device_id(tablet.token or 0)))
    scene.login("bob")
    scene.write("two")
    assert (tablet.contents(), newest.contents()) == ([], ["two"])


# Thousands that go in one turn.


def test_those_who_go_together_are_noted_some_at_a_time(scene: Scene) -> None:
    many = [scene.login("bob") for _ in range(2 * LOOKS + 1)]
    scene.store.gate.hold("go_offline reply")
    for client in many:
        client.close()
    calls = scene.store.gate.calls
    assert calls["go_offline"] == 1
    waiting = scene.store.gate._held["go_offline reply"]
    for noted in (1 + LOOKS, 1 + 2 * LOOKS, 1 + 2 * LOOKS):
        for pending in waiting[:]:
            waiting.remove(pending)
            pending.succeed(None)
        assert calls["go_offline"] == noted
    assert scene.store.data.online == {
        (client.user, keys.device_id(client.token or 0)) for client in (scene.alice, scene.bob)
    }


def test_who_is_back_before_it_was_noted_stays_online(scene: Scene) -> None:
    first, second = scene.login("bob"), scene.login("bob")
    scene.store.gate.hold("go_offline reply")
    first.close()
    second.close()
    scene.node.client(SEED, second.token).ask("STATE")
    scene.store.gate.release("go_offline reply")
    assert (scene.bob.user, keys.device_id(second.token or 0)) in scene.store.data.online
    assert (scene.bob.user, keys.device_id(first.token or 0)) not in scene.store.data.online


def test_a_store_that_is_away_keeps_nobody_on_the_list(scene: Scene) -> None:
    scene.store.gate.fail("go_offline", times=2)
    first, second = scene.login("bob"), scene.login("bob")
    first.close()
    second.close()
    assert scene.hub._leaving == {}
    third = scene.login("bob")
    third.close()
    assert (scene.bob.user, keys.device_id(third.token or 0)) not in scene.store.data.online
