"""What the workloads share: how much they do, servers, and where they note what they find.

The workloads themselves are in ``chatting``, ``mail``, ``devices``, ``files`` and ``sizes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, Self

import click
import msgspec

from bench.results import Results
from bench.servers import Server, bound, chat_service, server_of
from bench.talks import Outcome

#: The subjects that are measured.
CHATSVC = "chatsvc"
IN_MEMORY = "bare Twisted, in memory"
FRAMES_ONLY = "bare Twisted, frames only"
STORE_ALONE = "the store alone"

#: The figures that all workloads with messages have.
SERVER_CPU = "server CPU"
GENERATOR_CPU = "load generator's CPU"
PER_MESSAGE, PER_DELIVERY = "µs/message", "µs/delivery"
#: Of the resident memory of a server's own process, by what is measured, at the most.
GROWTH = "growth of the server"

MICRO = 1e6
MILLI = 1e3
KIB = 1024
MIB = 1024 * KIB


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done. The defaults are for `make bench`: a quarter of an hour on a small machine."""

    #: Seconds after the last delivery for which a server's CPU time counts: it puts work off for a second.
    settle: float = 1.5
    #: Each cheap measurement is made so often, the subjects in turn; costly ones are made once.
    repetitions: int = 3
    pairs: int = 50
    #: In each measurement with 16 in flight, and with one.
    messages: int = 30_000
    messages_one_in_flight: int = 10_000
    #: Paced messages a second, and for how many seconds.
    pace: int = 500
    paced_seconds: int = 8
    #: Sent to people who are away, who then come back.
    messages_to_absent: int = 20_000
    mailbox: int = 100_000
    #: Devices of each receiver where they have many, and deliveries in each measurement.
    devices: int = 20
    deliveries: int = 40_000
    idle: int = 10_000
    #: Files are so many blocks of about a megabyte long.
    file_blocks: int = 1_073
    #: Users, and messages, of which the store's sizes are taken: too few for it to write its file anew.
    sized_users: int = 2_000
    sized_messages: int = 40_000


#: For a look at whether all works; the figures mean nothing.
QUICK = Scale(
    settle=0.1,
    repetitions=1,
    pairs=3,
    messages=300,
    messages_one_in_flight=60,
    pace=200,
    paced_seconds=1,
    messages_to_absent=120,
    mailbox=1_200,
    devices=3,
    deliveries=90,
    idle=40,
    file_blocks=3,
    sized_users=40,
    sized_messages=300,
)


class Filled(NamedTuple):
    """A store that holds much."""

    #: What makes a server use it.
    options: tuple[str, ...]
    #: Its process, if it is no child of the server.
    pid: int | None
    #: The id of a user with a long mailbox.
    target: int | None


class Run:
    """One run; as a context manager it ends the servers that workloads share."""

    def __init__(
        self, scale: Scale, results: Results, options: tuple[str, ...] = (), filled: Filled | None = None
    ) -> None:
        """`options` are further ones of every chat server."""
        self.scale = scale
        self.results = results
        self.options = options
        self.filled = filled
        self._shared: dict[str, Server] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def chatsvc(self) -> Server:
        """A chat server for workloads to which it is the same what others have stored there."""
        if CHATSVC not in self._shared:
            service = self._stack.enter_context(chat_service(*self.options))
            self._shared[CHATSVC] = server_of(service)
        return self._shared[CHATSVC]

    def bound(self, kind: str) -> Server:
        """One of the servers of ``bounds``, started once."""
        if kind not in self._shared:
            self._shared[kind] = self._stack.enter_context(bound(kind))
        return self._shared[kind]

    def sheet(self, workload: str, reference: str) -> Sheet:
        """Where the figures of a workload are noted; the others are compared with the subject `reference`."""
        self.results.references[workload] = reference
        return Sheet(workload, self.results)

    def repetitions(self) -> range:
        """To walk through, in each step measuring every subject once: so all see the same machine."""
        return range(self.scale.repetitions)


class Sheet(NamedTuple):
    """The figures of one workload."""

    workload: str
    results: Results

    def note(self, subject: str, name: str, unit: str, value: float) -> None:
        """Note one value, and say it: a run takes long."""
        self.results.add(self.workload, subject, name, unit, value)
        click.echo(f"{self.workload}: {subject}: {name} {value:,.2f} {unit}")

    def cost(self, subject: str, outcome: Outcome) -> None:
        """Note what each delivery has cost; each message, if there was nobody to deliver it to."""
        unit = PER_DELIVERY if outcome.deliveries > outcome.messages else PER_MESSAGE
        count = outcome.deliveries or outcome.messages
        self.note(subject, SERVER_CPU, unit, outcome.usage.server / count * MICRO)
        self.note(subject, GENERATOR_CPU, unit, outcome.usage.generator / count * MICRO)

    def throughput(self, subject: str, outcome: Outcome) -> None:
        """Note how many a second there were; where the load generator used a core, it was the limit."""
        count = outcome.deliveries or outcome.messages
        self.note(subject, "throughput", "/s", count / outcome.seconds)

    def latencies(self, subject: str, seconds: Sequence[float]) -> None:
        """Note what half, and what all but a hundredth of these do not exceed."""
        ordered = sorted(seconds)
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            self.note(subject, name, "ms", ordered[int(part * (len(ordered) - 1))] * MILLI)
