"""One node: the parts that serve clients from one process, put together, started and stopped in order.

Where its store comes from, and whether it is the only process, is decided in ``chatsvc/tap.py``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from chatsvc.blobs import Blobs
from chatsvc.chat.hub import Hub
from chatsvc.disk import Disk, Watch
from chatsvc.net.listening import Listener
from chatsvc.net.metrics import NodeMonitor
from chatsvc.net.server import Server
from chatsvc.net.web import WebSite
from chatsvc.parts import CannotStart, Parts
from chatsvc.passwords import Passwords
from chatsvc.settings import Settings
from chatsvc.store.errors import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.wire.errors import Refusal

log = Logger()

#: Threads that read and write files.
FILE_THREADS = 4
#: Of the files that the process may open, parts of a hundred that may be connections; the rest is for
#: attachments, the store and what else there is.
FILES_SHARE = 80
#: Seconds within which a store must answer for the server to start.
STORE_WAIT = 10.0


class Node:
    """What serves clients in this process (``docs/architecture.md``).

    `url` is its store, `listeners` are where it accepts, in the order of
    `Settings.endpoints`. `worker` is its number among several on them.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        url: StoreUrl,
        listeners: Sequence[Listener],
        worker: int | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._url = url
        self._listeners = listeners
        self._worker = worker
        self._parts = Parts()
        self._server: Server | None = None
        self._monitor: NodeMonitor | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start from the store upwards. Raises what `chatsvc.parts.why_not_started` has sentences for."""
        await self._parts.start(self._start())

    async def _start(self) -> None:
        settings, reactor, parts = self._settings, self._reactor, self._parts
        room = _raise_file_limit() * FILES_SHARE // 100
        files = ThreadPool(1, FILE_THREADS, name="chatsvc files")
        files.start()
        parts.add(files.stop)
        blobs = Blobs(settings.data_dir / "blobs", _node_name(settings, self._worker), files, reactor)
        try:
            await blobs.prepare()
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            raise CannotStart(f"The directory {settings.data_dir} cannot hold files: {why}.") from None
        # All cores but one, shared out to the workers.
        threads = settings.bcrypt_threads or max(1, ((os.cpu_count() or 1) - 1) // settings.workers)
        passwords = Passwords(settings.bcrypt_cost, threads, settings.bcrypt_queue, reactor)
        passwords.start()
        parts.add(passwords.stop)
        store = Store(reactor, self._url, replica_acks=settings.replica_acks)
        store.start()
        parts.add(store.stop)
        try:
            await store.ready(STORE_WAIT)
        except Unavailable:
            raise CannotStart(f"The store at {self._url.safe} cannot be used: {store.problem}.") from None
        if settings.redis is not None and not self._worker:  # the first of several speaks for all
            await self._judge(store)
        hub = Hub(reactor, store, blobs, passwords, settings.limits)
        hub.start()
        parts.add(hub.stop)
        await self._watch(hub, files)
        server = Server(hub, room)
        server.start()
        parts.add(server.stop)
        factories: list[Any] = [server] * len(settings.listen)
        if settings.web is not None:
            site = WebSite(server, reactor, settings.web_origin or ())
            site.start()
            parts.add(site.stop)
            factories.append(site)
        for listener, factory in zip(self._listeners, factories, strict=True):
            await listener.open(factory)
            parts.add(listener.close)
        server.doors.control(self._accept)
        if (most := settings.limits.connections) is not None and room < most and not self._worker:
            log.warn(
                "The limit of open files has room for {room} connections of a process, not for the {most} of "
                "--max-connections: more will have to wait. Raise it (LimitNOFILE, nofile, ulimit -n).",
                room=room,
                most=most,
            )
        self._server = server
        self._monitor = NodeMonitor(hub, server, Disk(settings.data_dir, files, reactor))

    async def _watch(self, hub: Hub, threads: ThreadPool) -> None:
        """Look at the disks that are ours from now on: a store of others has its own operator."""
        where, reactor = self._settings.data_dir, self._reactor
        files = Disk(where / "blobs", threads, reactor)
        store = Disk(where / "store", threads, reactor) if self._settings.redis is None else None
        watch = Watch(reactor, hub.room.full, lambda: hub.limits, files, store)
        await watch.look()
        watch.start()
        self._parts.add(watch.stop)

    def _accept(self, accept: bool) -> None:
        for listener in self._listeners:
            listener.accept(accept)

    async def _judge(self, store: Store) -> None:
        try:
            for warning in await store.warnings():
                log.warn("{warning}", warning=warning)
        except Refusal:
            raise CannotStart(f"The store at {self._url.safe} does not answer.") from None

    async def reload(self, settings: Settings) -> None:
        """Use the limits of `settings`, and read certificates again; no connection is dropped for that.

        Only for a node that has started.
        """
        assert self._server is not None
        self._server.use(settings.limits)
        for listener in self._listeners:
            listener.reload()

    async def stop(self) -> None:
        """Accept nobody, let what is under way be answered, reset connections, stop the other parts.

        A start that is still under way is cut short by that.
        """
        self._stopping = True
        await self._parts.stop()

    # What the monitoring site asks (`chatsvc.net.http.Monitored`).

    async def problem(self) -> str | None:
        """Why no clients should be sent here now, in a sentence; None if they should."""
        if self._stopping:
            return "The server is stopping."
        if self._monitor is None:
            return "The server is starting."
        return await self._monitor.problem()

    async def metrics(self) -> bytes:
        """All figures; none before it has started."""
        return b"" if self._monitor is None else await self._monitor.metrics()


def _node_name(settings: Settings, worker: int | None) -> str:
    """What this node's temporary files are called: the same after a restart, another on another node."""
    listen = hashlib.sha256(" ".join(settings.listen).encode()).hexdigest()[:8]
    number = "" if worker is None else f"-{worker}"
    return f"{re.sub('[^A-Za-z0-9]', '-', platform.node()) or 'node'}-{listen}{number}"


def _raise_file_limit() -> int:
    """How many files may be open: each client needs one, and the usual soft limit is about a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warn("The limit of open files stays at {soft}: {error}", soft=soft, error=error)
            return soft
    return hard
