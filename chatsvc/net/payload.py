"""The payload of the request that a connection reads, as it comes.

When reading goes on or pauses is decided by the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.abstract import FileDescriptor

from chatsvc.chat.session import Gone
from chatsvc.tasks import Pending

if TYPE_CHECKING:
    from chatsvc.net.connection import Connection

#: Payload bytes that a plain socket is asked for at a time, as each time costs a turn of the event loop and a
#: visit to a thread; and that are held while a request is busy with what came before.
PAYLOAD_HELD = 256 * 1024


class IncomingPayload:
    """The payload of the request that is being read."""

    __slots__ = ("_connection", "_whole", "waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._whole = False
        self.waiting: Pending[None] | None = None
        connection.transport.bufferSize = PAYLOAD_HELD

    async def read(self) -> bytes:
        """The next part; empty at the end. Raises `Gone` if it will never come."""
        reader = self._connection.reader
        while not self._whole:  # from then on the reader may be at the payload of the next request
            data = reader.read_payload()
            if not reader.payload_left:
                self._whole = True
                self._connection.transport.bufferSize = FileDescriptor.bufferSize
            self._connection.regulate()
            if data or self._whole:
                return data
            if self._connection.ended:
                raise Gone
            self.waiting = Pending()
            await self.waiting
        return b""

    def wake(self) -> None:
        """Something has changed."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.succeed(None)
