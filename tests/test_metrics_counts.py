"""What is counted when something happens: each figure moves for its reason, and for no other.

The store and the sockets are in memory, and the clock is the test's. Names and pages are in
``test_metrics.py``.
"""

from __future__ import annotations

import hashlib

import pytest

from chatsvc.chat.calls import TABLE
from chatsvc.chat.session import Gone
from chatsvc.stats import Histogram, Outcome, Stats
from chatsvc.wire.frames import RELEASED, SEED
from chatsvc.wire.limits import KIB, MIB
from tests.fake_store import INLINE, SEND_BUFFER, Scene
from tests.fakes import FakeClient, FakePayload
from tests.network import LIMITS, NODE, PER_ADDRESS, Node, request

FILE = b"a file"
MD5 = hashlib.md5(FILE).hexdigest()


@pytest.fixture
def scene() -> Scene:
    return Scene()


node = NODE


def spread(histogram: Histogram) -> dict[float, int]:
    """How many values are in the bucket that ends at a bound; those over all end at infinity."""
    bounds = (*histogram.bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, histogram.counts, strict=True) if count}


def counted(stats: Stats) -> dict[tuple[str, Outcome], int]:
    """How many requests there were, by their type and outcome."""
    found = ((kind, each) for kind, outcomes in stats.requests.items() for each in outcomes.items())
    return {(kind, outcome): histogram.count for kind, (outcome, histogram) in found if histogram.count}


def test_a_histogram_counts_up_to_each_bound() -> None:
    subject = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.2, 1.0, 1.5, 7.0):
        subject.observe(value)
    assert subject.counts == [2, 2, 2]
    assert subject.count == 6
    assert subject.sum == pytest.approx(9.8)


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    subject = Histogram((0.1, 1.0))
    subject.observe(-3600.0)
    assert (subject.counts, subject.sum) == ([1, 0, 0], 0.0)


# Requests.


def test_requests_are_counted_by_type_and_answer(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    scene.bob.ask("STATE")
    scene.bob.ask("PROFILE", {"userid": 999})
    scene.bob.ask("PROFILE", {"userid": "a string"})
    scene.node.client(SEED).ask("FETCHCONTACT")
    scene.write("one")
    scene.bob.fetch()
    assert scene.bob.ask_all("ACKFETCH", {"timestamp": 1}) == []
    assert counted(stats) == {
        ("STATE", "ok"): 1,
        ("PROFILE", "err"): 2,
        ("FETCHCONTACT", "err"): 1,
        ("SENDMSG", "ok"): 1,
        ("FETCHMSG", "ok"): 1,
        ("ACKFETCH", "none"): 1,
    }


def test_what_clients_make_up_makes_no_new_names(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    for kind in ("NONSENSE", "state", "\n", "UNKNOWN"):
        assert not scene.bob.ask(kind).ok
    assert "UNKNOWN" not in TABLE
    assert counted(stats) == {("UNKNOWN", "err"): 4}


def test_a_request_whose_client_goes_has_no_answer(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    payload = FakePayload(length=len(FILE))
    payload.gone = True
    message = scene.alice.message(scene.bob.user, contenttype="file", filemd5=MD5)
    with pytest.raises(Gone):
        scene.alice.start("SENDMSG", message, payload).result()
    assert counted(stats) == {("SENDMSG", "none"): 1}


def test_a_request_lasts_until_it_is_answered(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    scene.store.accounts.gate.hold("get")
    running = scene.bob.start("PROFILE", {"userid": scene.alice.user})
    scene.clock.advance(0.3)
    assert not counted(stats)
    scene.store.accounts.gate.release("get")
    running.result()
    assert spread(stats.requests["PROFILE"]["ok"]) == {0.5: 1}
    assert stats.requests["PROFILE"]["ok"].sum == pytest.approx(0.3)


# Messages.


def test_stored_and_pushed_messages_are_counted(scene: Scene) -> None:
    bob2 = scene.login("bob")
    stats = scene.hub.stats = Stats()
    scene.write("one", "two")
    assert not scene.alice.ask("SENDMSG", scene.alice.message(999)).ok
    assert (scene.bob.contents(), bob2.contents()) == (["one", "two"], ["one", "two"])
    assert stats.requests["SENDMSG"]["ok"].count == 2
    assert stats.delivery_lag.count == 4  # not to the device that sent them
    assert stats.catch_ups == 0


def test_a_message_that_was_missed_is_late(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    scene.lose("one")
    scene.clock.advance(3.0)
    scene.write("two")
    assert scene.bob.contents() == ["one", "two"]
    assert stats.catch_ups == 2  # Bob's connection, and Alice's, which learns that it was her own
    assert spread(stats.delivery_lag) == {0.005: 1, 5.0: 1}
    assert stats.delivery_lag.sum == pytest.approx(3.0)


def test_a_client_that_does_not_read_is_behind_once(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    scene.bob.reads = False
    scene.write(*("x" * 100,) * (SEND_BUFFER // 50))
    assert stats.catch_ups == 1


# Attachments.


def upload(client: FakeClient, target: int, md5: str) -> bool:
    message = client.message(target, contenttype="file", filemd5=md5, md5encoded="a name")
    return client.ask("SENDMSG", message, FakePayload(FILE[:2], FILE[2:])).ok


def test_attachments_are_counted_in_both_ways(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    assert upload(scene.alice, scene.bob.user, MD5)
    assert not upload(scene.alice, scene.bob.user, "0" * 32)
    assert (stats.uploads, stats.upload_bytes) == (1, len(FILE))
    assert scene.bob.ask("FETCHFILE", {"msgmd5": "a name"}).payload == FILE
    assert scene.bob.ask("FETCHFILE", {"msgmd5": "a name", "offset": 2, "length": 3}).payload == FILE[2:5]
    assert not scene.bob.ask("FETCHFILE", {"msgmd5": "another"}).ok
    assert (stats.downloads, stats.download_bytes) == (2, len(FILE) + 3)


def test_a_long_text_is_no_attachment(scene: Scene) -> None:
    stats = scene.hub.stats = Stats()
    scene.write("x" * (INLINE + 1))
    assert stats.uploads == 0


# Connections.


def test_connections_and_violations_are_counted(node: Node) -> None:
    made, _ = node.connect()
    node.connect(bound=True)
    assert (node.hub.stats.accepted, node.hub.stats.violations) == (2, 0)
    made.dataReceived(RELEASED.header.pack(-1, 0))
    made.dataReceived(RELEASED.header.pack(-1, 0))
    assert node.hub.stats.violations == 1


def test_what_the_limits_close_is_counted_by_the_limit(node: Node) -> None:
    dropped = node.hub.stats.dropped
    stalled, _ = node.connect("192.0.2.1")
    stalled.dataReceived(b"\x05")
    node.sleep(LIMITS.frame_timeout + 2)
    assert dropped == {"stalled": 1}
    for _ in range(PER_ADDRESS + 1):
        node.connect("192.0.2.2")
    node.sleep(1)
    assert dropped == {"stalled": 1, "crowded": 1}
    node.sleep(LIMITS.unbound_idle + 2)
    assert dropped == {"stalled": 1, "crowded": 1, "idle": PER_ADDRESS}
    assert node.hub.stats.slow_clients == 0


def test_clients_that_do_not_read_are_counted(node: Node) -> None:
    made, wire = node.connect(bound=True)
    wire.deaf = True
    made.outbox.send(b"x" * KIB)
    node.sleep(LIMITS.send_timeout + 2)
    assert node.hub.stats.slow_clients == 1
    assert not node.hub.stats.dropped


def test_what_unfinished_requests_hold_is_known(node: Node) -> None:
    made, _ = node.connect(bound=True)
    made.dataReceived(request(length=MIB // 2)[: 100 * KIB])
    assert 99 * KIB < node.server.budget.held <= 100 * KIB
    made.connectionLost()
    assert node.server.budget.held == 0


# The reactor.


def test_a_reactor_that_is_kept_busy_is_late(node: Node) -> None:
    node.sleep(5)
    assert spread(node.hub.stats.loop_delay) == {0.001: 5}
    node.clock.advance(3.2)  # all at once: somebody did not let go
    assert spread(node.hub.stats.loop_delay) == {0.001: 5, 2.5: 1}
