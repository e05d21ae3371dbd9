"""Workloads of many connections on which nothing happens: their memory, and their coming back all at once.

Those in which messages pass are in ``chatting``.
"""

from __future__ import annotations

import resource
import select
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bench.people import fetch, register
from bench.processes import Usage, resident
from bench.run import CHATSVC, IN_MEMORY, KIB, MICRO, MILLI, Run, Sheet
from bench.servers import Server, bound, chat_service, server_of
from bench.wire import PATIENCE, Address, Broken, Line, request

#: Connections that come and go before memory is looked at, so that what is made once is there; and how many
#: are made at the same time where they do not all come at once.
_SOME = 100
#: Descriptors that are kept for anything but these connections.
_SPARE = 200
#: What a device asks when it comes back.
_ASKED = ("STATE", "FETCHMSG")
#: Seconds between the questions of somebody who looks on.
_PAUSE = 0.01


def idle(run: Run) -> None:
    """Connections that are logged in: what each takes, and how it goes when all come back after a restart."""
    count = _affordable(run.scale.idle)
    memory = run.sheet(f"{count:,} idle connections", IN_MEMORY)
    storm = run.sheet(f"{count:,} devices that come back at once", IN_MEMORY)
    with chat_service(*run.options) as service:
        tokens = _registered(service.address, count)
        service.stop()
        service.start()  # so what registering has left behind does not count
        _measure_memory(memory, CHATSVC, server_of(service), tokens, run.scale.settle)
        service.stop()
        service.start()
        _measure_storm(storm, CHATSVC, server_of(service), tokens)
    with bound("memory") as server:
        tokens = _registered(server.address, count)
        _measure_storm(storm, IN_MEMORY, server, tokens)
    with bound("memory") as server:
        _measure_memory(memory, IN_MEMORY, server, _registered(server.address, count), run.scale.settle)


def _registered(server: Address, count: int) -> list[int | None]:
    """The tokens of new users who have gone again."""
    tokens: list[int | None] = []
    while len(tokens) < count:
        for person in register(server, min(_SOME, count - len(tokens))):
            person.line.close()
            tokens.append(person.line.token)
    return tokens


def _measure_memory(
    sheet: Sheet, subject: str, server: Server, tokens: Sequence[int | None], settle: float
) -> None:
    for line in _come_one_by_one(server.address, tokens[:_SOME]):
        line.close()
    time.sleep(settle)
    before = resident(server.pids)
    lines = _come_one_by_one(server.address, tokens)
    time.sleep(settle)
    sheet.note(subject, "memory", "KiB/connection", (resident(server.pids) - before) / len(lines) / KIB)
    for line in lines:
        line.close()


def _come_one_by_one(server: Address, tokens: Sequence[int | None]) -> list[Line]:
    lines: list[Line] = []
    while len(lines) < len(tokens):
        some = [Line(server, token) for token in tokens[len(lines) : len(lines) + _SOME]]
        fetch(some)
        lines += some
    return lines


def _measure_storm(sheet: Sheet, subject: str, server: Server, tokens: Sequence[int | None]) -> None:
    """The first of them looks on while all others come."""
    with _looking_on(Line(server.address, tokens[0])) as waits:
        before = Usage.of(server.pids)
        seconds, visitors = _come_at_once(server.address, tokens[1:])
        usage = Usage.of(server.pids).since(before)
    for visitor in visitors:  # not before: that they go all at once is not what was to be seen
        visitor.check()
        visitor.line.close()
    cut = sum(visitor.cut for visitor in visitors)
    sheet.note(subject, "all are back after", "s", seconds)
    sheet.note(subject, "connections cut", "", cut)
    sheet.note(subject, "longest wait of another", "ms", max(waits) * MILLI)
    sheet.note(subject, "server CPU", "µs/device", usage.server / len(tokens) * MICRO)


@contextmanager
def _looking_on(line: Line) -> Iterator[list[float]]:
    """Somebody who asks time and again, and how many seconds each answer took."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not (waits and over.wait(_PAUSE)):
            began = time.perf_counter()
            line.ask("STATE")
            waits.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield waits
        finally:
            over.set()
        asking.result()
    line.close()


class _Visitor:
    """A device that comes back, and comes again when its connection is cut, as clients do."""

    def __init__(self, server: Address, token: int | None, epoll: select.epoll) -> None:
        self._server = server
        self._epoll = epoll
        self.cut = 0
        self.connect(token)

    def connect(self, token: int | None) -> None:
        """Begin, from nothing."""
        self.line = Line(self._server, token, wait=False)
        self.missing = len(_ASKED)
        self._epoll.register(self.line.socket, select.EPOLLOUT)

    def go_on(self, event: int) -> None:
        """Do what its connection is ready for."""
        try:
            if event & select.EPOLLIN:
                self.missing -= self.line.read()
            else:
                self.line.socket.sendall(b"".join(request(kind, None, self.line.token) for kind in _ASKED))
                self._epoll.modify(self.line.socket, select.EPOLLIN)
        except (OSError, Broken):
            self.cut += 1
            self.line.close()
            self.connect(self.line.token)

    def check(self) -> None:
        """Raise `Broken` unless all was answered OK."""
        answers = [(answer.response, answer.status) for answer in self.line.frames.take()]
        if answers != [(kind, "OK") for kind in _ASKED]:
            raise Broken(f"A device that came back got {answers}.")


def _come_at_once(server: Address, tokens: Sequence[int | None]) -> tuple[float, list[_Visitor]]:
    """Seconds until each of these devices has its answers, and the devices."""
    began = time.perf_counter()
    with select.epoll() as epoll:
        visitors = [_Visitor(server, token, epoll) for token in tokens]
        missing = {visitor.line.socket.fileno(): visitor for visitor in visitors}
        while missing:
            ready = epoll.poll(PATIENCE)
            if not ready:
                raise Broken(f"Nothing came for {PATIENCE} s, and {len(missing)} devices are missing.")
            for descriptor, event in ready:
                visitor = missing.pop(descriptor)
                visitor.go_on(event)
                if visitor.missing:
                    missing[visitor.line.socket.fileno()] = visitor
        return time.perf_counter() - began, visitors


def _affordable(count: int) -> int:
    """So many connections, or as many as a process may have here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(count, hard - _SPARE)
