"""Files on the network floor without sockets: how payloads are read, and what a transport is given of a file.

Plain sockets get files from the system itself: ``test_protocol_downloads.py``.
"""

from __future__ import annotations

from typing import Any

from chatsvc.chat.calls import Payload
from chatsvc.chat.session import Gone
from chatsvc.net.outbox import FILE_CHUNK
from chatsvc.tasks import run, spawn
from chatsvc.wire.limits import KIB
from tests.network import NODE, Node, request

node = NODE


def test_a_socket_is_asked_for_more_at_a_time_as_long_as_a_payload_comes(node: Node) -> None:
    made, wire = node.connect(bound=True)
    usual = wire.bufferSize
    made.dataReceived(request("SENDMSG", payload_length=10) + b"12345")
    assert wire.bufferSize == 256 * KIB > usual
    payload = node.calls[0][0].payload
    assert payload is not None
    got: list[bytes] = []

    async def read() -> None:
        while data := await payload.read():
            got.append(data)

    spawn(read(), "reading")
    assert wire.bufferSize == 256 * KIB
    made.dataReceived(b"67890" + request())
    assert got == [b"12345", b"67890"]
    assert wire.bufferSize == usual


def test_a_payload_ends_where_it_ends_though_the_next_one_is_there_already(node: Node) -> None:
    made, _ = node.connect(bound=True)
    made.dataReceived(request("SENDMSG", payload_length=5) + b"12345")
    payload = node.calls[0][0].payload
    assert payload is not None
    got: list[bytes] = []
    spawn(_read_into(got, payload), "reading")
    made.dataReceived(request("SENDMSG", payload_length=5) + b"67890")  # while those bytes are being written
    spawn(_read_into(got, payload), "reading on")
    assert got == [b"12345", b""]


async def _read_into(got: list[bytes], payload: Payload) -> None:
    got.append(await payload.read())


class File:
    """As much of a download as has to be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, most: int) -> bytes:
        """The next bytes."""
        found, self.data = self.data[:most], self.data[most:]
        return found


def test_what_is_no_socket_is_given_a_file_as_fast_as_its_peer_reads(node: Node) -> None:
    made, wire = node.connect(bound=True)
    data = bytes(range(256)) * (5 * FILE_CHUNK // 256)
    file: Any = File(data)
    wire.deaf = True
    ends: list[object] = []
    run(made.outbox.send_file(file), ends.append, ends.append)
    node.flow()
    assert made.outbox.queued == 2 * FILE_CHUNK
    assert ends == []
    wire.deaf = False
    node.flow()
    assert ends == [None]
    assert wire.sent() == data


def test_a_file_is_not_sent_to_a_peer_that_is_gone(node: Node) -> None:
    made, wire = node.connect(bound=True)
    wire.deaf = True
    file: Any = File(bytes(5 * FILE_CHUNK))
    ends: list[Any] = []
    run(made.outbox.send_file(file), ends.append, ends.append)
    node.flow()
    left = len(file.data)
    made.outbox.lost()
    run(made.outbox.send_file(file), ends.append, ends.append)
    assert [type(end) for end in ends] == [Gone, Gone]
    assert len(file.data) >= left - FILE_CHUNK
