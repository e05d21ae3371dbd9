"""The load: people who send to others over prepared frames, from one thread that waits on all connections.

It checks that everybody got exactly what was sent to them, once nothing is measured any more.
"""

from __future__ import annotations

import itertools
import secrets
import select
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

from bench.people import Person
from bench.processes import Usage
from bench.wire import PATIENCE, Broken, Line
from chatsvc.wire.frames import RELEASED, frame

#: Characters of text in a message; on the wire they are in base64, as the released client sends them.
CHARACTERS = 200

_SENDMSG = (
    b'{"request":"SENDMSG","body":{"userid":%d,"targetid":%d,"contenttype":"plaintext","content":"%b",'
    b'"timestamp":%d,"md5encoded":"%b","filemd5":null},"tokenid":%d}'
)


class Outcome(NamedTuple):
    """What came of a load."""

    messages: int
    deliveries: int
    #: From the first message sent to the last one delivered.
    seconds: float
    usage: Usage
    #: Seconds from sending to receipt, of each delivery.
    latencies: list[float]


class Talk:
    """One who sends, and the devices that are to get it: none if the other one is away."""

    def __init__(self, sender: Person, target: int, receivers: Sequence[Line]) -> None:
        self.sender = sender
        self.target = target
        self.receivers = receivers

    def prepare(self, count: int) -> None:
        """Make so many new messages, and forget the last ones."""
        self.content = b64encode(secrets.token_hex(CHARACTERS // 2).encode())
        self.names = [secrets.token_hex(16) for _ in range(count)]
        ids, token, now = (self.sender.user, self.target), self.sender.line.token, int(time.time() * 1000)
        self._frames = [
            frame(RELEASED, _SENDMSG % (*ids, self.content, now + at, name.encode(), token))
            for at, name in enumerate(self.names)
        ]
        self._sent_at: list[float] = []
        self._got_at: list[list[float]] = [[] for _ in self.receivers]

    def send(self, count: int) -> None:
        """Send the next messages, so many or what is left."""
        sent = len(self._sent_at)
        frames = self._frames[sent : sent + count]
        if frames:
            self._sent_at += [time.perf_counter()] * len(frames)
            self.sender.line.socket.sendall(b"".join(frames))

    def receive(self, at: int) -> int:
        """Read what has come to a receiver, and say how many messages."""
        came = self.receivers[at].read()
        self._got_at[at] += [time.perf_counter()] * came
        return came

    def latencies(self) -> list[float]:
        """Seconds from sending to receipt, of each delivery."""
        return [got - sent for times in self._got_at for sent, got in zip(self._sent_at, times, strict=True)]

    def check(self) -> None:
        """Raise `Broken` unless all is answered OK and came to each receiver once, in order and unchanged."""
        answers = self.sender.line.frames.take()
        if any(answer.status != "OK" for answer in answers):
            raise Broken(f"A message was refused: {next(a.info for a in answers if a.status != 'OK')}")
        if [answer.body["md5encoded"] for answer in answers] != self.names:
            raise Broken("The answers are not those to what was sent.")
        expected = [("FORWARDMSG", name, self.content.decode()) for name in self.names]
        for line in self.receivers:
            pushes = line.frames.take()
            got = [(push.response, push.body["md5encoded"], push.body["content"]) for push in pushes]
            if got != expected:
                raise Broken(f"Of {len(expected)} messages {len(got)} came, or others, or in another order.")


class Load:
    """Some talks at once, on a server of the processes `pids`; as a context manager it closes their lines."""

    def __init__(self, talks: Sequence[Talk], pids: Sequence[int], settle: float) -> None:
        """For `settle` seconds after the last delivery the server's CPU time still counts."""
        self._settle = settle
        self.talks = talks
        self._pids = pids
        self._missing = 0  # answers and deliveries that are still to come
        self._goes_on = False  # whether an answer lets its sender send the next message
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        for talk in talks:
            self._watch(talk.sender.line, partial(self._answered, talk))
            for at, line in enumerate(talk.receivers):
                self._watch(line, partial(self._delivered, talk, at))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()
        for talk in self.talks:
            for line in (talk.sender.line, *talk.receivers):
                line.close()

    def in_flight(self, count: int, window: int) -> Outcome:
        """Send so many messages in all; each sender has `window` of them unanswered all the time."""
        self._goes_on = True
        return self._run(count, partial(self._start, window))

    def paced(self, count: int, rate: float) -> Outcome:
        """Send so many messages in all, `rate` a second, whatever is answered."""
        self._goes_on = False
        return self._run(count, partial(self._pace, rate))

    def _run(self, count: int, send: Callable[[], None]) -> Outcome:
        each = count // len(self.talks)
        for talk in self.talks:
            talk.prepare(each)
        deliveries = each * sum(len(talk.receivers) for talk in self.talks)
        self._missing = deliveries + each * len(self.talks)
        before, began = Usage.of(self._pids), time.perf_counter()
        send()
        while self._missing > 0 and self._turn(PATIENCE):
            pass
        seconds = time.perf_counter() - began
        time.sleep(self._settle)
        usage = Usage.of(self._pids).since(before)
        while self._turn(0):  # nothing should: it would be too much
            pass
        for talk in self.talks:
            talk.check()
        latencies = [latency for talk in self.talks for latency in talk.latencies()]
        return Outcome(each * len(self.talks), deliveries, seconds, usage, latencies)

    def _start(self, window: int) -> None:
        for talk in self.talks:
            talk.send(window)

    def _pace(self, rate: float) -> None:
        began = time.perf_counter()
        senders = itertools.cycle(self.talks)
        for number in range(sum(len(talk.names) for talk in self.talks)):
            due = began + number / rate
            while self._turn(max(due - time.perf_counter(), 0)) or time.perf_counter() < due:
                pass
            next(senders).send(1)

    def _turn(self, wait: float) -> bool:
        """Take what has come, or comes within so many seconds; gives whether anything has."""
        ready = self._epoll.poll(wait)
        for descriptor, _ in ready:
            self._handlers[descriptor]()
        return bool(ready)

    def _watch(self, line: Line, handler: Callable[[], None]) -> None:
        self._epoll.register(line.socket, select.EPOLLIN)
        self._handlers[line.socket.fileno()] = handler

    def _answered(self, talk: Talk) -> None:
        came = talk.sender.line.read()
        self._missing -= came
        if self._goes_on:
            talk.send(came)

    def _delivered(self, talk: Talk, at: int) -> None:
        self._missing -= talk.receive(at)
