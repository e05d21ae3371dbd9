"""One connection as a client has it: requests out, frames in, to the byte.

What it asks, and what it makes of what it gets, is its device's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from chatsvc.tasks import Pending
from chatsvc.wire.frames import Dialect, FrameReader, frame
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import Response, encode
from tests.fakes import Frame
from tests.simulation.wires import Wire


class Cut(Exception):  # noqa: N818 - what connections come to
    """The connection has ended."""


class Client:
    """A client's end. It hears of tokens, of pushes, and of the first parts of long answers."""

    def __init__(
        self,
        dialect: Dialect,
        on_token: Callable[[int], None],
        on_push: Callable[[Any], None],
        on_part: Callable[[Any], None],
    ) -> None:
        self.over = False
        self.wire: Wire
        self._dialect = dialect
        self._on_token, self._on_push, self._on_part = on_token, on_push, on_part
        self._reader = FrameReader(Limits(), dialect)
        self._waiting: deque[Pending[Frame]] = deque()
        self._begun: tuple[Response, list[bytes]] | None = None  # an answer whose payload is still to come

    @property
    def waits(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting)

    def tell(self, kind: str, body: Any, token: int | None, payload: bytes = b"") -> None:
        """Send a request that is not answered."""
        json = encode({"request": kind, "body": body, "tokenid": token})
        self.wire.send(frame(self._dialect, json, len(payload)) + payload)

    def ask(self, kind: str, body: Any, token: int | None, payload: bytes = b"") -> Pending[Frame]:
        """Send a request; the answer, or the last of its answers, comes to the Pending, or `Cut`."""
        answer: Pending[Frame] = Pending()
        if self.over:
            answer.fail(Cut())
        else:
            self._waiting.append(answer)
            self.tell(kind, body, token, payload)
        return answer

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        self._reader.receive(data)
        while not self.over and (self._begun is not None or self._next()):
            assert self._begun is not None
            response, payload = self._begun
            payload.append(self._reader.read_payload())
            if self._reader.payload_left:
                return
            self._begun = None
            body = msgspec.json.decode(response.body)
            self._got(
                Frame(response.response, response.status == "OK", response.info, body, b"".join(payload))
            )

    def _next(self) -> bool:
        head = self._reader.next_head()
        if head is None:
            return False
        assert head.json is not None
        self._begun = msgspec.json.decode(head.json, type=Response), []
        return True

    def _got(self, got: Frame) -> None:
        if got.response == "TOKEN":
            self._on_token(got.body["tokenid"])
        elif got.response == "FORWARDMSG":
            self._on_push(got.body)
        elif got.response == "FETCHMSG" and got.ok and got.body["more"]:
            self._on_part(got.body)
        else:
            self._waiting.popleft().succeed(got)

    def ended(self) -> None:
        """Nothing comes any more."""
        self.over = True
        while self._waiting:
            self._waiting.popleft().fail(Cut())

    def reset(self) -> None:
        """Cut the connection."""
        self.wire.reset()
        self.ended()

    def close(self) -> None:
        """Close it in order."""
        self.wire.close()
        self.ended()
