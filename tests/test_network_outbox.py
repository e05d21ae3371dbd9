"""What waits to be written to one peer: when it goes out, and how exactly that is known.

How files go out is in ``test_network_files.py``; why it must be known, in ``docs/adr/0007-written-out.md``.
"""

from __future__ import annotations

import pytest

from chatsvc.chat.session import Gone
from chatsvc.net.outbox import Outbox
from chatsvc.tasks import run
from chatsvc.wire.limits import KIB, Limits
from tests.network import NODE, Node, Wire

node = NODE


# The outbox, on a transport that only says when it is full.


class Pushed:
    """A transport that takes what it gets, as TLS does."""

    def __init__(self) -> None:
        self.data = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Take it."""
        self.data += data

    def registerProducer(self, producer: Outbox, streaming: bool) -> None:  # noqa: N802 - Twisted's name
        """It is a push producer."""
        assert streaming

    def unregisterProducer(self) -> None:  # noqa: N802 - Twisted's name
        """No more."""

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Cut."""
        self.aborted = True


def test_a_transport_that_is_full_gets_no_more(node: Node) -> None:
    transport, told = Pushed(), []
    outbox = Outbox(transport, node.server.turn, lambda: told.append(outbox.written))
    outbox.attach()
    outbox.send(b"a" * 10)
    assert (outbox.offset, outbox.written) == (10, 0)
    node.clock.advance(0)
    assert told == [10]
    outbox.pauseProducing()
    outbox.send(b"b" * 10)
    assert (len(transport.data), outbox.queued) == (10, 10)
    ends: list[object] = []
    run(outbox.drained(5), ends.append, ends.append)
    assert ends == []
    outbox.resumeProducing()
    node.clock.advance(0)
    assert (len(transport.data), outbox.queued, ends) == (20, 0, [None])


def test_nobody_waits_for_a_peer_that_is_gone(node: Node) -> None:
    outbox = Outbox(Pushed(), node.server.turn, lambda: None)
    outbox.attach()
    outbox.pauseProducing()
    outbox.send(b"x")
    ends: list[object] = []
    run(outbox.drained(0), ends.append, ends.append)
    outbox.lost()
    assert isinstance(ends.pop(), Gone)
    run(outbox.drained(0), ends.append, ends.append)
    assert isinstance(ends.pop(), Gone)
    outbox.send(b"y")
    assert outbox.offset == 1


def test_a_plain_socket_tells_exactly_what_is_written_out(node: Node) -> None:
    wire = Wire()
    outbox = Outbox(wire, node.server.turn, lambda: None)
    outbox.attach()
    for at in range(10):
        outbox.send(bytes([at]) * 64 * KIB)
    assert outbox.queued == 640 * KIB
    assert wire.sent() == b""
    wire.deaf = True
    node.clock.advance(0)
    wire.deaf = False
    assert len(wire.sent()) == 64 * KIB  # the rest is given when that is gone
    wire.flow()
    assert (outbox.queued, len(wire.sent())) == (0, 640 * KIB)
    assert wire.sent() == b"".join(bytes([at]) * 64 * KIB for at in range(10))
    assert Limits().send_buffer >= 64 * KIB


def test_what_a_socket_does_not_take_at_once_goes_through_the_transport(node: Node) -> None:
    wire, told = Wire(), list[int]()
    outbox = Outbox(wire, node.server.turn, lambda: told.append(outbox.written))
    outbox.attach()
    wire.room = 100
    outbox.send(b"a" * 200)
    outbox.send(b"b" * 100)
    node.clock.advance(0)
    assert (told, len(wire.sent())) == ([100], 300)
    outbox.send(b"c")
    node.clock.advance(0)
    assert len(wire.sent()) == 300  # not past what the transport still has
    wire.flow()
    assert (outbox.written, wire.sent()) == (301, b"a" * 200 + b"b" * 100 + b"c")


def test_of_a_connection_that_was_reset_nothing_is_known_to_have_arrived(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, wire = node.connect()
    monkeypatch.setattr(Outbox, "in_kernel", lambda outbox: 0)
    made.outbox.send(b"arrived")
    node.flow()
    assert made.outbox.reached_peer() == len(b"arrived")
    wire.broken = True  # sending tells of the reset, and so reading does not
    made.outbox.send(b"lost")
    node.flow()
    assert made.outbox.reached_peer() == 0
