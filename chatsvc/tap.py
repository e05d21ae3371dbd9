"""The service that ``twistd`` and ``twist`` run: all of a server, from its store to its processes.

What serves clients within one process is put together in ``chatsvc/node.py``.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.usage import UsageError

from chatsvc import __version__
from chatsvc.net.http import monitoring_site
from chatsvc.net.listening import Listener, warn_of_plain_text
from chatsvc.node import STORE_WAIT, Node
from chatsvc.notify import notify
from chatsvc.options import Options
from chatsvc.parts import CannotStart, Parts, spare_the_collector, why_not_started
from chatsvc.settings import Settings
from chatsvc.store.errors import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred, spawn
from chatsvc.valkey import DataDirectory, EmbeddedStore
from chatsvc.workers import Workers

log = Logger()

#: Seconds between two looks at a store that is not there yet.
STORE_LOOK = 1.0

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> ChatService:
    """What ``twistd chatsvc`` runs."""
    from twisted.internet import reactor

    return ChatService(options.settings(), reactor, options.read)


class ChatService(Service):
    """One server: it starts from the store upwards and stops in the opposite order.

    `read_again` gives what the settings are now, and raises `UsageError` if they are wrong.
    """

    name = "chatsvc"

    def __init__(self, settings: Settings, reactor: Any, read_again: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reactor = reactor
        self._read_again = read_again
        self._parts = Parts()
        self._serving: Node | Workers | None = None
        self._stopping = False
        self._waits_for = ""  # what a start cannot go on without, in a sentence

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hung_up))
        spawn(self._run(), "starting")

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        notify("STOPPING=1", "STATUS=What is under way is being answered.")
        return deferred(self._parts.stop())

    async def _run(self) -> None:
        try:
            await self._parts.start(self._start())
        except Exception as error:
            if not self._stopping:
                self._give_up(why_not_started(error))

    async def _start(self) -> None:
        settings, reactor, parts = self._settings, self._reactor, self._parts
        notify("STATUS=Starting.")
        if settings.http is not None:
            site = Listener(reactor, settings.http)
            await site.open(monitoring_site(self, reactor))
            parts.add(site.close)
            log.info(
                "Health and metrics are on {where} ({endpoint}).", where=site.where, endpoint=site.endpoint
            )
        url = settings.redis or await self._start_store()
        if settings.redis is not None:
            await self._wait_for(url)
        listeners = [Listener(reactor, endpoint) for endpoint in settings.endpoints]
        kind = Node if settings.workers == 1 else Workers
        serving = kind(settings, reactor, url, listeners)
        parts.add(serving.stop)
        await serving.start()
        spare_the_collector()
        self._serving = serving
        for listener in listeners[: len(settings.listen)]:
            log.info("Listening on {where} ({endpoint}).", where=listener.where, endpoint=listener.endpoint)
        for page in listeners[len(settings.listen) :]:
            log.info("Chat in a browser: {address}", address=_address_of(page))
        warn_of_plain_text(listeners)
        whose = "its own, in the same directory" if settings.redis is None else url.safe
        log.info("Files are in {directory}. The store is {store}.", directory=settings.data_dir, store=whose)
        log.info("chatsvc {version} is ready.", version=__version__)
        notify("READY=1", "STATUS=Serving.")

    async def _start_store(self) -> StoreUrl:
        """Our own store in the data directory."""
        directory = DataDirectory(self._settings.data_dir)
        directory.claim()
        self._parts.add(directory.release)
        store = EmbeddedStore(self._reactor, self._settings.data_dir / "store", self._settings.durability)
        self._parts.add(store.stop)
        await store.start()
        return StoreUrl(kind="unix", path=store.socket_path)

    async def _wait_for(self, url: StoreUrl) -> None:
        """Return once the store of others can be asked.

        One that is not there yet is waited for, however long that takes: machines start in any order. One
        that is there and does not let us in has to be mended by somebody.
        """
        store = Store(self._reactor, url)
        store.start()
        give_up_at = self._reactor.seconds() + STORE_WAIT
        try:
            while not self._stopping:
                with suppress(Unavailable):
                    await store.ready(STORE_LOOK)
                    self._waits_for = ""
                    return
                if not self._waits_for:
                    log.info("Waiting for the store at {store}.", store=url.safe)
                self._waits_for = f"The store at {url.safe} cannot be used: {store.problem}."
                notify(f"STATUS={self._waits_for}")
                if store.may_come:
                    give_up_at = self._reactor.seconds() + STORE_WAIT
                elif self._reactor.seconds() >= give_up_at:
                    break
        finally:
            await store.stop()
        raise CannotStart(self._waits_for)

    def _give_up(self, why: str) -> None:
        """End the process with an exit status that tells; neither twistd nor twist can be asked for one."""
        log.error("chatsvc cannot start: {why}", why=why)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    # SIGHUP.

    def _hung_up(self) -> None:
        spawn(self._reload(), "reloading")

    async def _reload(self) -> None:
        """Use the limits that are set now, and the certificates that are there now.

        Settings that are wrong stay as they were; the certificates are read nevertheless, for old ones
        expire.
        """
        if self._serving is None or self._stopping:
            log.warn("Nothing is reloaded while the server starts or stops.")
            return
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._take_limits()
            await self._serving.reload(self._settings)
        finally:
            log.info("The reload is done.")
            notify("READY=1")

    def _take_limits(self) -> None:
        old = self._settings
        try:
            new = self._read_again()
        except UsageError as error:
            log.error("The settings stay as they were: {why}", why=str(error))
            return
        self._settings = msgspec.structs.replace(old, limits=new.limits)
        for field in Settings.__struct_fields__:
            if getattr(new, field) != getattr(self._settings, field):
                log.warn("--{option} has changed, which needs a restart", option=field.replace("_", "-"))

    # What the monitoring site asks (`chatsvc.net.http.Monitored`).

    async def problem(self) -> str | None:
        """Why no clients should be sent here now, in a sentence; None if they should."""
        if self._stopping:
            return "The server is stopping."
        if self._serving is None:
            return self._waits_for or "The server is starting."
        return await self._serving.problem()

    async def metrics(self) -> bytes:
        """All figures; none before it has started."""
        return b"" if self._serving is None else await self._serving.metrics()


def _address_of(page: Listener) -> str:
    """What to type into a browser on this machine; of what is no port, the endpoint."""
    scheme = "https" if page.endpoint.startswith(("ssl:", "tls:")) else "http"
    host, colon, port = page.where.rpartition(":")
    if not colon or not port.isdigit():
        return page.endpoint
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}/"


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
