"""How far others' messages came to this device: their senders are told, of each the last one alone.

What counts as got or read is decided by who calls.
"""

from __future__ import annotations

from typing import Any, Literal

from chatsvc.client import Client, NotConnected, RequestRefused, TimedOut
from chatsvc.tasks import spawn
from chatsvc.wire.schema import Message

#: Seconds for which marks are gathered.
PAUSE = 0.3
#: Seconds for which the mailbox may take to be shown before senders are told how far it came.
PATIENCE = 60.0


class Marking:
    """The marks of one client (``docs/protocol.md`` section 5.3); a server without them is told nothing."""

    def __init__(self, clock: Any, client: Client) -> None:
        self._clock = clock
        self._client = client
        #: By sender and kind.
        self._due: dict[tuple[int, Literal["delivered", "read"]], Message] = {}
        self._timer: Any = None
        self._telling = False

    def note(self, message: Message, mark: Literal["delivered", "read"]) -> None:
        """`message`, and all before it of that sender, were got or read here."""
        self._due[message.userid, mark] = message
        if mark == "read":
            self._due.pop((message.userid, "delivered"), None)
        self.soon()

    def soon(self) -> None:
        """Tell in a moment what is due; to be called too when the client has logged in (again)."""
        if self._due and self._timer is None and not self._telling:
            self._timer = self._clock.callLater(PAUSE, self._begin)

    async def close(self) -> None:
        """Tell what is due, if that needs no waiting for more messages."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._tell(patience=0)

    def _begin(self) -> None:
        self._timer = None
        spawn(self._keep_telling(), "Marking messages")

    async def _keep_telling(self) -> None:
        self._telling = True
        try:
            while self._due and await self._tell(PATIENCE):
                pass
        finally:
            self._telling = False

    async def _tell(self, patience: float) -> bool:
        """Tell what is due now; whether that went well. What did not is told after the next login."""
        try:
            # In the midst of catching up, what came last is older than what other devices have marked.
            await self._client.caught_up(patience)
        except (NotConnected, TimedOut):
            return False
        due, self._due = self._due, {}
        told = True
        for (sender, mark), message in due.items():
            try:
                await self._client.mark(message, mark)
            except (NotConnected, RequestRefused, TimedOut):
                self._due.setdefault((sender, mark), message)
                told = False
        return told
