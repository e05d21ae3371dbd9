"""Passwords: hashing and checking with bcrypt, in a small thread pool of its own with a bounded queue.

Which passwords are allowed, and where their hashes are kept, is decided elsewhere.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import bcrypt
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from chatsvc.tasks import Pending

T = TypeVar("T")

#: The characters of a bcrypt hash after its salt.
_DIGEST_LENGTH = 31


class Busy(Exception):  # noqa: N818 - it is an answer, not a fault
    """No room for another password now; nothing was computed, trying again later may succeed."""


class Turn(NamedTuple):
    """For whom a password is hashed, so that the turns are fair."""

    #: Who wants it; empty for all those who have no address.
    address: str = ""
    #: How many of one address may be computed at a time; None for any.
    most: int | None = None


ANYBODY = Turn()


class Passwords:
    """Hashes and checks passwords off the reactor thread (``docs/architecture.md``).

    A call waits for its turn, and until `start`; it gets `Busy` from `stop` on. The turns go round the
    addresses that wait, however many passwords each of them wants to have checked.
    """

    def __init__(self, cost: int, threads: int | None, queue: int, reactor: IReactorFromThreads) -> None:
        """Take bcrypt's `cost` (4 to 31, each step doubles the time), the number of `threads` (None:
        one fewer than cores, at least one) and how many calls, running and waiting, the `queue` admits.

        Raises ValueError for a cost that bcrypt does not know.
        """
        self._cost = cost
        self._queue = queue
        self._reactor = reactor
        self._size = max(1, (os.cpu_count() or 1) - 1) if threads is None else threads
        self._threads = ThreadPool(0, self._size, "passwords")
        self._calls: set[Deferred[Any]] = set()
        #: How many passwords of each address the threads were given.
        self._given: Counter[str] = Counter()
        #: Who waits, by address, the one whose turn is next first.
        self._lines: OrderedDict[str, deque[tuple[int | None, Pending[None]]]] = OrderedDict()
        self._stopped = False
        #: Calls that got `Busy` for there was no room.
        self.refused = 0
        # Well formed, but made from no password: checking against it is the same work, at no cost here.
        self._nobody = bcrypt.gensalt(cost) + b"." * _DIGEST_LENGTH

    def start(self) -> None:
        """Let the threads work."""
        self._threads.start()

    def stop(self) -> None:
        """Fail every call that is not done with `Busy`, and end the threads.

        Waits for the hashes that are being computed, at most one a thread: bcrypt cannot be interrupted.
        """
        if self._stopped:
            return
        self._stopped = True
        lines, self._lines = self._lines, OrderedDict()
        for line in lines.values():
            for _, turn in line:
                turn.fail(Busy("The password was not checked: the server is shutting down."))
        # Now, not by way of the threads: when the reactor is ending it no longer hears from them.
        for call in list(self._calls):
            call.cancel()
        self._threads.stop()

    @property
    def running(self) -> int:
        """Passwords that a thread is at."""
        return len(self._threads.working)

    @property
    def waiting(self) -> int:
        """Passwords whose turn is still to come."""
        return max(0, self._admitted - self.running)

    @property
    def _admitted(self) -> int:
        return self._given.total() + sum(map(len, self._lines.values()))

    async def hash(self, password: str, turn: Turn = ANYBODY) -> bytes:
        """The bcrypt hash to store for `password`, of which every byte counts. Raises `Busy`."""
        return await self._in_thread(lambda: hashed(password, self._cost), turn)

    async def verify(self, password: str, stored: bytes | None, turn: Turn = ANYBODY) -> bool:
        """Whether `password` is the one that was `stored` (what `hash` gave); False for None.

        None stands for an unknown user and costs the same time, so that nobody learns from an answer's
        delay who has an account (``docs/protocol.md`` section 5, LOGIN). Raises `Busy`, and ValueError
        for a stored value that is no bcrypt hash.
        """
        expected = self._nobody if stored is None else stored
        matches = await self._in_thread(lambda: bcrypt.checkpw(_secret(password), expected), turn)
        return matches and stored is not None

    async def _in_thread(self, work: Callable[[], T], turn: Turn) -> T:
        if self._stopped:
            raise Busy("No password is checked any more: the server is shutting down.")
        if self._admitted >= self._queue:
            self.refused += 1
            raise Busy(f"At most {self._queue} passwords are checked or wait for it at a time.")
        comes: Pending[None] = Pending()
        self._lines.setdefault(turn.address, deque()).append((turn.most, comes))
        self._go_on()
        await comes

        def unless_stopped() -> T:
            if self._stopped:
                raise CancelledError  # `stop` has told the waiter
            return work()

        call = deferToThreadPool(self._reactor, self._threads, unless_stopped)
        self._calls.add(call)
        try:
            return await call
        except CancelledError:
            raise Busy("The password was not checked: the server is shutting down.") from None
        finally:
            self._calls.discard(call)
            self._given -= Counter((turn.address,))  # which forgets who has none left
            self._go_on()

    def _go_on(self) -> None:
        """Let those compute whose turn it is, one for each thread that has nothing to do."""
        while self._given.total() < self._size:
            address = next(filter(self._may_compute, self._lines), None)
            if address is None:
                return
            line = self._lines.pop(address)
            _, comes = line.popleft()
            if line:
                self._lines[address] = line  # behind all others
            self._given[address] += 1
            comes.succeed(None)

    def _may_compute(self, address: str) -> bool:
        most, _ = self._lines[address][0]
        return not address or most is None or self._given[address] < most


def hashed(password: str, cost: int) -> bytes:
    """The bcrypt hash to store for `password`, computed here and now: for programs that serve nobody."""
    return bcrypt.hashpw(_secret(password), bcrypt.gensalt(cost))


def _secret(password: str) -> bytes:
    # bcrypt takes at most 72 bytes and ends at a NUL; these are 44 bytes without one.
    return b64encode(sha256(password.encode()).digest())
