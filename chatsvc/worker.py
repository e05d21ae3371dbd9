"""A worker: one node in a process of its own, on sockets and by orders of its parent.

The parent's side of all that is in ``chatsvc/workers.py``.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import msgspec
from twisted.internet.process import ProcessReader
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure

from chatsvc.children import Lines
from chatsvc.logs import json_lines
from chatsvc.net.http import monitoring_site
from chatsvc.net.listening import Listener
from chatsvc.node import Node
from chatsvc.parts import Parts, spare_the_collector, why_not_started
from chatsvc.settings import Settings, decode
from chatsvc.tasks import deferred, spawn
from chatsvc.workers import ORDERS, REPORTS, SOCKETS

log = Logger()


def main() -> None:
    """Serve until the parent has had enough, or is gone; ``chatsvc/workers.py`` starts this."""
    from twisted.internet import reactor as installed

    reactor: Any = installed  # to a type checker it is a module
    globalLogBeginner.beginLoggingTo([json_lines(sys.stdout)], redirectStandardIO=False)
    worker = Worker(reactor, int(sys.argv[1]))
    ProcessReader(reactor, worker, "orders", ORDERS).startReading()  # type: ignore[no-untyped-call]
    # Twisted's own handler takes a second SIGTERM for an error. One may come from whoever sends it to all
    # processes, another from the parent.
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, lambda *_: reactor.callFromThread(worker.end))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: deferred(worker.stop()))
    reactor.run()


class Worker:
    """Carries out orders. Each is a line with settings: the first to start with, the next to go on with.

    Each is answered by a line with null, or with a sentence that says why it could not be carried out.
    """

    def __init__(self, reactor: Any, index: int) -> None:
        self._reactor = reactor
        self._index = index
        self._orders = Lines(self._order)
        self._parts = Parts()
        self._node: Node | None = None
        self._ending = False

    # What the reader of orders calls: Twisted's names.

    def childDataReceived(self, name: str, data: bytes) -> None:
        self._orders.receive(data)

    def childConnectionLost(self, name: str, reason: Failure) -> None:
        self.end()  # the parent is gone

    def end(self) -> None:
        """Have the process end in order, however often that is asked for."""
        if not self._ending:
            self._ending = True
            self._reactor.stop()

    async def stop(self) -> None:
        """Stop all parts; a start that is still under way is cut short."""
        await self._parts.stop()

    def _order(self, line: bytes) -> None:
        spawn(self._obey(line), "carrying out an order")

    async def _obey(self, line: bytes) -> None:
        try:
            settings = decode(line)
            if self._node is None:
                await self._parts.start(self._start(settings))
            else:
                await self._node.reload(settings)
        except Exception as error:
            if not self._ending:
                self._report(why_not_started(error))
        else:
            self._report(None)

    async def _start(self, settings: Settings) -> None:
        listeners = [
            Listener(self._reactor, endpoint, SOCKETS + at) for at, endpoint in enumerate(settings.endpoints)
        ]
        assert settings.redis is not None  # the parent runs the store, if nobody else does
        self._node = node = Node(settings, self._reactor, settings.redis, listeners, self._index)
        if settings.http is not None:
            site = Listener(self._reactor, settings.http)
            await site.open(monitoring_site(node, self._reactor))
            self._parts.add(site.close)
        self._parts.add(node.stop)
        await node.start()
        spare_the_collector()

    def _report(self, problem: str | None) -> None:
        os.write(REPORTS, msgspec.json.encode(problem) + b"\n")
