"""What the assembly is done with: parts that end in the opposite order, sentences for a failed start, and
what a process does once when all is there.

Which parts there are, and how they fit together, is known to ``chatsvc/node.py`` and ``chatsvc/tap.py``.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.logger import Logger

from chatsvc.net.listening import CannotListen
from chatsvc.store.checks import Unfit
from chatsvc.tasks import Pending, as_failure
from chatsvc.valkey import StoreError

log = Logger()


class CannotStart(Exception):  # noqa: N818 - a sentence for the operator
    """The server cannot do its work; the message says why and what to do."""


class Parts:
    """What has been started, as the calls that stop it."""

    def __init__(self) -> None:
        self._stops: list[Callable[[], Awaitable[None] | None]] = []
        self._started: Pending[None] = Pending()
        self._started.succeed(None)

    def add(self, stop: Callable[[], Awaitable[None] | None]) -> None:
        """`stop` ends what was started last."""
        self._stops.append(stop)

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry out `work`, which starts and adds parts. Raises what it raises."""
        self._started = Pending()
        try:
            await work
        finally:
            self._started.succeed(None)

    async def stop(self) -> None:
        """Stop all, the last first; a start that is under way is cut short, as its parts end under it."""
        await self._unwind()
        await self._started
        await self._unwind()

    async def _unwind(self) -> None:
        while self._stops:
            try:
                ended = self._stops.pop()()
                if ended is not None:
                    await ended
            except Exception as error:
                log.failure("A part could not be stopped", failure=as_failure(error))


def spare_the_collector() -> None:
    """Have Python's cycle collector look less often, and never at what is there now and stays for good.

    Requests leave no cycles, and with ten thousand connections a full run keeps everybody waiting for as long
    as a thousand messages take (``docs/performance.md``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def why_not_started(error: Exception) -> str:
    """Sentences for the operator; what nobody foresaw is logged with its traceback."""
    if isinstance(error, (CannotStart, CannotListen, StoreError, Unfit, OSError)):
        return str(error)
    log.failure("The server cannot start", failure=as_failure(error))
    return "This is a fault of the server's own; the log has the details."
