"""Workloads for people who are away: storing what is sent to them, and what it takes when they come back.

Those for people who are online are in ``chatting``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.chatting import WINDOW, to_one
from bench.people import Person, register
from bench.processes import Usage, peak, reset_peak
from bench.run import CHATSVC, GROWTH, IN_MEMORY, MIB, Run
from bench.servers import Server, chat_service, server_of
from bench.talks import Load, Outcome, Talk
from bench.wire import Broken, Line

#: How the last of the answers to a FETCHMSG ends.
_LAST = b'"more":false}}'


def absent(run: Run) -> None:
    """Messages to people who are away, and then all of these coming back at once."""
    scale = run.scale
    with ExitStack() as stack:
        worlds = {}
        for subject, server in ((CHATSVC, run.chatsvc()), (IN_MEMORY, run.bound("memory"))):
            senders, away = (register(server.address, scale.pairs) for _ in range(2))
            hang_up(server, away)
            talks = [Talk(sender, target.user, []) for sender, target in zip(senders, away, strict=True)]
            worlds[subject] = server, away, stack.enter_context(Load(talks, server.pids, scale.settle))
        storing = run.sheet("storing for people who are away", IN_MEMORY)
        fetching = run.sheet("people who come back", IN_MEMORY)
        for _ in run.repetitions():
            for subject, (server, away, load) in worlds.items():
                storing.cost(subject, load.in_flight(scale.messages_to_absent, WINDOW))
                fetching.cost(subject, come_back(run, server, away, load.talks))


def mailbox(run: Run) -> None:
    """One who comes back to a long mailbox, and to a tenth of it: what a message costs, and memory."""
    scale = run.scale
    counts = (scale.mailbox // 10, scale.mailbox)
    subjects = [f"{CHATSVC}, {count:,} messages" for count in counts]
    sheet = run.sheet("one mailbox", subjects[0])
    with chat_service(*run.options) as service:
        server = server_of(service)
        for count, subject in zip(counts, subjects, strict=True):
            away = register(server.address, 1)
            hang_up(server, away)
            with to_one(run, server, away[0].user) as load:
                load.in_flight(count, WINDOW)
                before = reset_peak(server.pids[0])
                sheet.cost(subject, come_back(run, server, away, load.talks))
                sheet.note(subject, GROWTH, "MiB", (peak(server.pids[0]) - before) / MIB)


def hang_up(server: Server, people: Sequence[Person]) -> None:
    """Close their connections, and return when the server has noticed: who comes after that is let in."""
    for person in (*people, *register(server.address, 1)):
        person.line.close()


def come_back(run: Run, server: Server, people: Sequence[Person], talks: Sequence[Talk]) -> Outcome:
    """Have people who were away fetch and acknowledge what was sent to them, and go away again.

    What is measured begins when they are logged in. Raises `Broken` unless each got all of `talks` that was
    for him, once and in its order.
    """
    lines = [Line(server.address, person.line.token) for person in people]
    for line in lines:
        line.ask("STATE")
    before, began = Usage.of(server.pids), time.perf_counter()
    for line in lines:
        line.send("FETCHMSG")
    came = [_fetched(line) for line in lines]
    for line in lines:
        line.ask("STATE")  # so the acknowledgements before it have been read
    seconds = time.perf_counter() - began
    time.sleep(run.scale.settle)
    usage = Usage.of(server.pids).since(before)
    for line in lines:
        line.close()
    for person, names in zip(people, came, strict=True):
        _check([talk for talk in talks if talk.target == person.user], names)
    return Outcome(sum(map(len, came)), 0, seconds, usage, [])


def _fetched(line: Line) -> list[str]:
    """The names of all messages that come, oldest first; each answer is acknowledged."""
    while not line.frames.ends_with(_LAST):
        line.read()
    names: list[str] = []
    for answer in line.frames.take():
        messages = answer.body["messages"]
        line.send("ACKFETCH", {"timestamp": messages[0]["timestamp"]})
        names += [message["md5encoded"] for message in reversed(messages)]
    return names


def _check(talks: Sequence[Talk], names: list[str]) -> None:
    if len(names) != sum(len(talk.names) for talk in talks):
        raise Broken(f"{len(names)} messages were fetched, more or fewer than were sent.")
    for talk in talks:
        sent = set(talk.names)
        if [name for name in names if name in sent] != talk.names:
            raise Broken("What was fetched is not what was sent, or in another order.")
