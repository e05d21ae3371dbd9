"""The assembly: the one place that knows all parts, puts them together and starts and stops them in order."""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import re
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from chatsvc import __version__
from chatsvc.blobs import Blobs
from chatsvc.chat.hub import Hub
from chatsvc.net.server import Server
from chatsvc.options import Options
from chatsvc.passwords import Passwords
from chatsvc.settings import Settings
from chatsvc.store.link import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import Pending, as_failure, deferred, spawn
from chatsvc.valkey import DataDirectory, EmbeddedStore, StoreError

log = Logger()

#: Threads that read and write files.
FILE_THREADS = 4
#: Seconds within which a store must answer for the server to start.
STORE_WAIT = 10.0
#: Connections that may wait to be accepted. Twisted's 50 are few when all clients come back at once:
#: whoever finds no room tries again after a second, then two, then four.
BACKLOG = 1024
#: Passwords that may wait to be hashed.
PASSWORD_QUEUE = 64

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> ChatService:
    """What ``twistd chatsvc`` runs."""
    from twisted.internet import reactor

    return ChatService(options.settings(), reactor)


class CannotStart(Exception):  # noqa: N818 - a sentence for the operator
    """The server cannot do its work; the message says why and what to do."""


class ChatService(Service):
    """One node: it starts from the store upwards and stops in the opposite order."""

    name = "chatsvc"

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor
        self._undo: list[Callable[[], Awaitable[None] | None]] = []
        self._started: Pending[None] = Pending()
        self._stopping = False

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        spawn(self._run(), "starting")

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return deferred(self._stop())

    async def _run(self) -> None:
        try:
            await self._start()
        except (CannotStart, StoreError, CannotListenError, OSError) as error:
            self._give_up(str(error))
        except Exception as error:
            if not self._stopping:
                log.failure("The server cannot start", failure=as_failure(error))
            self._give_up("This is a fault of the server's own; the log has the details.")
        finally:
            self._started.succeed(None)

    async def _start(self) -> None:
        settings, reactor = self._settings, self._reactor
        _raise_file_limit()
        url = settings.redis or await self._start_store()
        files = ThreadPool(1, FILE_THREADS, name="chatsvc files")
        files.start()
        self._undo.append(files.stop)
        blobs = Blobs(settings.data_dir / "blobs", _node_name(settings), files, reactor)
        try:
            await blobs.prepare()
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            raise CannotStart(f"The directory {settings.data_dir} cannot hold files: {why}.") from None
        passwords = Passwords(settings.bcrypt_cost, None, PASSWORD_QUEUE, reactor)
        passwords.start()
        self._undo.append(passwords.stop)
        store = Store(reactor, url)
        store.start()
        self._undo.append(store.stop)
        try:
            await store.ready(STORE_WAIT)
        except Unavailable:
            raise CannotStart(f"The store at {url.safe} cannot be used: {store.problem}.") from None
        hub = Hub(reactor, store, blobs, passwords, settings.limits)
        hub.start()
        self._undo.append(hub.stop)
        server = Server(hub)
        server.start()
        self._undo.append(server.stop)
        for endpoint in settings.listen:
            await self._listen(endpoint, server)
        whose = "its own, in the same directory" if settings.redis is None else url.safe
        log.info("Files are in {directory}. The store is {store}.", directory=settings.data_dir, store=whose)
        log.info("chatsvc {version} is ready.", version=__version__)

    async def _start_store(self) -> StoreUrl:
        """Our own store in the data directory."""
        directory = DataDirectory(self._settings.data_dir)
        directory.claim()
        self._undo.append(directory.release)
        store = EmbeddedStore(self._reactor, self._settings.data_dir / "store", self._settings.durability)
        self._undo.append(store.stop)
        await store.start()
        return StoreUrl(kind="unix", path=store.socket_path)

    async def _listen(self, endpoint: str, server: Server) -> None:
        try:
            listening = serverFromString(self._reactor, endpoint)  # type: ignore[no-untyped-call]
            port = await listening.listen(server)
        except CannotListenError as error:
            raise CannotStart(
                f"Cannot listen on {endpoint}: {error.socketError}. Is another server there already?"
            ) from None
        except (OSError, ValueError) as error:
            raise CannotStart(f"Cannot listen on {endpoint}: {error}.") from None
        self._undo.append(port.stopListening)
        if hasattr(port, "socket"):
            port.socket.listen(BACKLOG)
        address = port.getHost()
        where = f"{address.host}:{address.port}" if hasattr(address, "port") else str(address)
        log.info("Listening on {where} ({endpoint}).", where=where, endpoint=endpoint)

    async def _stop(self) -> None:
        """Stop the parts, the last first; a start that is still under way is cut short by that."""
        self._stopping = True
        await self._unwind()
        await self._started
        await self._unwind()

    async def _unwind(self) -> None:
        while self._undo:
            try:
                ended = self._undo.pop()()
                if ended is not None:
                    await ended
            except Exception as error:
                log.failure("A part could not be stopped", failure=as_failure(error))

    def _give_up(self, why: str) -> None:
        """End the process with an exit status that tells; neither twistd nor twist can be asked for one."""
        if self._stopping:
            return
        log.error("chatsvc cannot start: {why}", why=why)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _node_name(settings: Settings) -> str:
    """What this node's temporary files are called: the same after a restart, another on another node."""
    listen = hashlib.sha256(" ".join(settings.listen).encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9]', '-', platform.node()) or 'node'}-{listen}"


def _raise_file_limit() -> None:
    """Each client needs a file descriptor; the usual soft limit is about a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warn("The limit of open files stays at {soft}: {error}", soft=soft, error=error)
