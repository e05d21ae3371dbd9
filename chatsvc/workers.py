"""The parent of worker processes: it holds the sockets that they serve, starts, watches and stops them.

What a worker does is in ``chatsvc/worker.py``; the store that all of them use is not known here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, eventFromJSON, globalLogPublisher
from twisted.python.failure import Failure

from chatsvc.children import Lines, how_it_ended
from chatsvc.net import peek
from chatsvc.net.listening import Listener
from chatsvc.net.metrics import merged
from chatsvc.net.server import DRAIN
from chatsvc.parts import CannotStart
from chatsvc.settings import Settings, encode
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import Pending, gather, spawn

log = Logger()

#: A worker's descriptors: what it is told and what it answers, and its sockets, in the order of the settings.
ORDERS, LOG, ERRORS, REPORTS, SOCKETS = range(5)
#: Ctrl-C in a terminal goes to all processes there, and so does its end; the parent alone acts on them.
LAUNCHER = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from chatsvc.worker import main
main()
"""
#: Seconds within which a worker must have started, and carried out a later order.
START = 60.0
RELOAD = 5.0
#: Seconds that a worker gets for its end, and then for the one after SIGKILL.
STOP = DRAIN + 5.0
KILL = 5.0
#: Seconds before a worker that died is replaced, at first and at most, and the life after which it is the
#: first again.
RETRY = 0.1
RETRY_CEILING = 10.0
SETTLED = 60.0


class Workers:
    """`settings.workers` nodes on the same `listeners` (``docs/architecture.md``); `url` is their store."""

    def __init__(
        self, settings: Settings, reactor: Any, url: StoreUrl, listeners: Sequence[Listener]
    ) -> None:
        self._settings = msgspec.structs.replace(settings, redis=url)
        self._reactor = reactor
        self._listeners = listeners
        #: For the sockets on which workers are asked how they fare; nobody else comes in here.
        self._directory = tempfile.TemporaryDirectory(prefix="chatsvc-")
        self._sites = [Path(self._directory.name, f"{index}.sock") for index in range(settings.workers)]
        self._workers = [_Worker(reactor, index, listeners, path) for index, path in enumerate(self._sites)]
        self._stopping = False

    async def start(self) -> None:
        """Bind, and return once all workers serve. Raises `CannotListen`, or `CannotStart` if one cannot."""
        for listener in self._listeners:
            await listener.hold()
        await gather(worker.start(self._settings) for worker in self._workers)

    async def reload(self, settings: Settings) -> None:
        """Have all workers, those to come too, use the limits of `settings` and read certificates again."""
        self._settings = msgspec.structs.replace(self._settings, limits=settings.limits)
        await gather(worker.reload(self._settings) for worker in self._workers)

    async def stop(self) -> None:
        """Close the sockets and stop all workers, side by side."""
        self._stopping = True
        await gather([listener.close() for listener in self._listeners] + [w.stop() for w in self._workers])
        self._directory.cleanup()

    # What the monitoring site asks (`chatsvc.net.http.Monitored`).

    async def problem(self) -> str | None:
        """Why no clients should be sent here now: what one of the workers says; None if they should."""
        if self._stopping:
            return "The server is stopping."
        pages = await self._ask("/readyz")
        for index, page in pages.items():
            if page is None:
                return f"Worker {index} does not answer."
            if not page.ok:
                return f"Worker {index}: {page.body.decode().strip()}"
        return None

    async def metrics(self) -> bytes:
        """The figures of all workers that answer, told apart by the label ``worker``."""
        pages = await self._ask("/metrics")
        return merged({index: page.body for index, page in pages.items() if page is not None and page.ok})

    async def _ask(self, name: str) -> dict[str, peek.Page | None]:
        pages = await gather(peek.page(self._reactor, path, name) for path in self._sites)
        return {str(index): page for index, page in enumerate(pages)}


class _Worker:
    """One of the places: a process that dies there is replaced by another."""

    def __init__(self, reactor: Any, index: int, listeners: Sequence[Listener], path: Path) -> None:
        self._reactor = reactor
        self._index = index
        self._listeners = listeners
        self._path = path
        self._settings: Settings
        self._process: _Process | None = None
        self._replaces = False
        self._restart: Any = None
        self._delay = RETRY

    async def start(self, settings: Settings) -> None:
        """Start the first process. Raises `CannotStart` if that does not come to serve."""
        self._settings = self._own(settings)
        problem = await self._begin()
        if problem is not None:
            raise CannotStart(problem)
        self._replaces = True

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings, now and in processes to come."""
        self._settings = self._own(settings)
        if self._process is not None and self._process.serves:
            problem = await self._process.order(self._settings, RELOAD)
            if problem is not None:
                log.error("Worker {worker} has not reloaded: {why}", worker=self._index, why=problem)

    async def stop(self) -> None:
        """End the process in order, or by force where it does not obey; none comes after it."""
        self._replaces = False
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._process is not None:
            await self._process.stop()

    def _own(self, settings: Settings) -> Settings:
        if settings.http is None:
            return settings
        path = quoteStringArgument(str(self._path))  # type: ignore[no-untyped-call]
        return msgspec.structs.replace(settings, http=f"unix:{path}:lockfile=0")

    async def _begin(self) -> str | None:
        """Start a process; why it cannot serve, None if it does."""
        self._path.unlink(missing_ok=True)
        process = _Process(self._reactor, self._index, self._ended)
        sockets = {SOCKETS + at: listener.descriptor for at, listener in enumerate(self._listeners)}
        command = [sys.executable, "-P", "-c", LAUNCHER, str(self._index)]
        # What we can import, it can, wherever we were started.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        descriptors = {ORDERS: "w", LOG: "r", ERRORS: "r", REPORTS: "r"} | sockets
        self._reactor.spawnProcess(process, command[0], command, environment, childFDs=descriptors)
        self._process = process
        problem = await process.order(self._settings, START)
        process.serves = problem is None
        if problem is not None:
            process.signal("KILL")
        return problem

    def _ended(self, process: _Process) -> None:
        if not self._replaces:
            return
        if self._reactor.seconds() - process.born >= SETTLED:
            self._delay = RETRY
        self._start_later(process.ended)

    def _start_later(self, reason: str) -> None:
        message = "In {delay} s worker {worker} is started again; it {reason}"
        log.error(message, delay=self._delay, worker=self._index, reason=reason)
        self._restart = self._reactor.callLater(self._delay, self._retry)
        self._delay = min(2 * self._delay, RETRY_CEILING)

    def _retry(self) -> None:
        self._restart = None
        spawn(self._start_again(), "starting a worker")

    async def _start_again(self) -> None:
        try:
            problem = await self._begin()
        except OSError as error:  # out of descriptors, memory or processes: that passes
            self._start_later(f"could not be started: {error}")
        else:
            if problem is None:
                log.info("Worker {worker} serves again", worker=self._index)
            elif self._replaces:
                log.error("Worker {worker} cannot start: {why}", worker=self._index, why=problem)


class _Process(ProcessProtocol):
    """One process of a worker."""

    transport: Any  # Twisted's interfaces carry no types

    def __init__(self, reactor: Any, index: int, on_end: Callable[[_Process], None]) -> None:
        self._reactor = reactor
        self._index = index
        self._on_end = on_end
        self.born = reactor.seconds()
        #: Whether it has started, and not ended.
        self.serves = False
        #: How it ended; empty while it lives or what it said is not read to the end.
        self.ended = ""
        self._gone: Pending[None] = Pending()
        self._answers: deque[Pending[str | None]] = deque()
        self._outputs = {
            LOG: Lines(self._logged),
            ERRORS: Lines(self._printed),
            REPORTS: Lines(self._reported),
        }

    async def order(self, settings: Settings, patience: float) -> str | None:
        """Have `settings` used; why they are not, within `patience` seconds, None if they are."""
        answer: Pending[str | None] = Pending()
        self._answers.append(answer)
        self.transport.writeToChild(ORDERS, encode(settings) + b"\n")
        late = f"Worker {self._index} did not do as it was told within {patience:g} s."
        timer = self._reactor.callLater(patience, answer.succeed, late)
        problem = await answer
        if timer.active():
            timer.cancel()
        return problem

    async def stop(self) -> None:
        """SIGTERM, after a while SIGKILL; return once it has ended."""
        self.signal("TERM")
        timers = [
            self._reactor.callLater(STOP, self.signal, "KILL"),
            self._reactor.callLater(STOP + KILL, self._gone.succeed, None),
        ]
        await self._gone
        for timer in timers:
            if timer.active():
                timer.cancel()

    def signal(self, name: str) -> None:
        """Send a signal; no matter if the process is gone."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def childDataReceived(self, fd: int, data: bytes) -> None:
        self._outputs[fd].receive(data)

    def processEnded(self, reason: Failure) -> None:
        for output in self._outputs.values():
            output.end()
        self.ended = how_it_ended(reason)
        self.serves = False
        while self._answers:
            self._answers.popleft().succeed(f"Worker {self._index} {self.ended}.")
        self._gone.succeed(None)
        self._on_end(self)

    def _reported(self, line: bytes) -> None:
        if self._answers:
            self._answers.popleft().succeed(msgspec.json.decode(line, type=str | None))

    def _logged(self, line: bytes) -> None:
        try:
            event = eventFromJSON(line.decode())
            level = event["log_level"].name
        except (ValueError, TypeError, KeyError, AttributeError):  # something has printed it
            self._printed(line)
            return
        if event.pop("log_failure", None) is not None:  # the exception does not travel, what it said does
            event.pop("log_flattened", None)
            event["log_format"] = "{log_text}"
        event["worker"] = self._index
        event["log_system"] = f"worker {self._index} {event.get('log_namespace')}#{level}"
        globalLogPublisher(event)

    def _printed(self, line: bytes) -> None:
        log.warn("Worker {worker}: {text}", worker=self._index, text=line.decode(errors="replace"))
