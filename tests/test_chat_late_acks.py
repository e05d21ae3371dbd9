"""ACKFETCHs that come while the store is away: kept, in order, and taken when it is back.

How far one acknowledges is tested in `tests/test_chat_runner.py`.
"""

from __future__ import annotations

import pytest
from twisted.logger import LogEvent

from chatsvc.chat.calls import Call
from chatsvc.chat.messages import ACK_PAUSE, ACKS_KEPT
from chatsvc.chat.requests import perform
from chatsvc.store.link import LINK_WAIT
from chatsvc.wire import errors
from chatsvc.wire.frames import Head
from chatsvc.wire.schema import encode
from tests.fake_store import Scene
from tests.fakes import Running


@pytest.fixture
def scene() -> Scene:
    """Bob has fetched, and was pushed messages of the times 1 to 5."""
    scene = Scene()
    scene.bob.fetch()
    for time in range(1, 6):
        scene.alice.send(scene.bob.user, timestamp=time, md5encoded=f"{time}")
    scene.bob.flush()
    scene.bob.contents()
    return scene


def acknowledge(scene: Scene, *timestamps: int) -> None:
    """Bob does, and need not wait for the store."""
    for timestamp in timestamps:
        assert scene.bob.ask_all("ACKFETCH", {"timestamp": timestamp}) == []


def acknowledged(scene: Scene) -> int:
    """How many of the messages are, in the store."""
    bob = scene.store.data.users[scene.bob.user]
    [cursor] = bob.cursors.values() or [0]
    return sum(entry.position <= cursor for entry in bob.mail)


def is_marked(scene: Scene) -> bool:
    """Whether the store knows that Bob's device uses ACKFETCH."""
    assert scene.bob.session.device is not None
    return scene.bob.session.device.id in scene.store.data.explicit


def test_they_are_taken_when_the_store_is_back(scene: Scene) -> None:
    scene.store.gate.fail("mark_explicit", times=2)
    scene.store.gate.fail("read_for")
    acknowledge(scene, 2, 4)
    scene.clock.advance(ACK_PAUSE)  # still away
    assert not is_marked(scene)
    scene.clock.advance(ACK_PAUSE)  # it can be marked; the mailbox cannot be read
    assert (is_marked(scene), acknowledged(scene)) == (True, 0)
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 4


def test_they_are_taken_in_their_order(scene: Scene) -> None:
    scene.alice.send(scene.bob.user, timestamp=1, md5encoded="the time of the first one again")
    scene.bob.flush()
    scene.store.gate.fail("read_for")
    acknowledge(scene, 4, 1)  # up to the fourth; then up to the first one after it that has this time
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 6


def test_one_that_comes_later_does_not_overtake(scene: Scene) -> None:
    scene.alice.send(scene.bob.user, timestamp=1, md5encoded="the time of the first one again")
    scene.bob.flush()
    scene.store.gate.fail("read_for")
    acknowledge(scene, 4)
    acknowledge(scene, 1)  # the store is back
    assert acknowledged(scene) == 0
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 6


@pytest.mark.parametrize("way", ["pushed", "fetched"])
def test_one_says_nothing_of_what_was_delivered_after_it(scene: Scene, way: str) -> None:
    scene.store.gate.fail("read_for")
    acknowledge(scene, 99)  # all that was delivered by now
    scene.alice.send(scene.bob.user, timestamp=99, md5encoded="later")
    if way == "fetched":
        assert len(scene.bob.fetch()) == 6
    scene.bob.flush()
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 5


def test_from_the_first_one_on_nothing_else_acknowledges(scene: Scene) -> None:
    scene.store.gate.fail("mark_explicit")
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": "wrong"}) == []
    scene.clock.advance(ACK_PAUSE)
    assert is_marked(scene)
    scene.bob.session.peer_closed(scene.bob.outlet.offset)
    assert acknowledged(scene) == 0


def test_they_are_taken_though_the_device_has_gone(scene: Scene) -> None:
    scene.store.gate.fail("read_for")
    acknowledge(scene, 3)
    scene.bob.close()
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 3


def test_a_device_can_leave_so_many_to_be_taken(scene: Scene) -> None:
    scene.store.gate.fail("mark_explicit")
    acknowledge(scene, *[2] * (ACKS_KEPT - 1), 5)
    scene.clock.advance(ACK_PAUSE)
    assert acknowledged(scene) == 2
    acknowledge(scene, 5)
    assert acknowledged(scene) == 5


def test_what_the_store_cannot_make_out_holds_up_nothing(
    scene: Scene, no_unhandled_failure: list[LogEvent]
) -> None:
    scene.store.gate.fail("read_for", RuntimeError("WRONGTYPE"))
    acknowledge(scene, 3)
    [failure] = no_unhandled_failure
    assert "WRONGTYPE" in str(failure["log_failure"])
    no_unhandled_failure.clear()
    acknowledge(scene, 2)
    assert acknowledged(scene) == 2


def test_one_that_has_waited_behind_others_is_taken_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.store, "up", False, raising=False)
    received = scene.clock.seconds()
    scene.clock.advance(LINK_WAIT + 0.5)
    for kind, body in (("ACKFETCH", {"timestamp": 3}), ("FETCHCONTACT", None)):
        json = encode({"request": kind, "body": body, "tokenid": scene.bob.token})
        call = Call(scene.bob.session, Head(json, 0), None, received)
        scene.bob.outlet.send(Running(perform(call)).result())
    [answer] = scene.bob.answers()
    assert answer.info == errors.STORAGE_UNAVAILABLE
    assert acknowledged(scene) == 3
