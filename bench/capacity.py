"""Measures what a user, a connection and a message cost: `python -m bench.capacity [--help]`.

The figures are for the capacity section of docs/operations.md; how fast the server is, is not measured here.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.raw import Raw
from tests.service import Service, wait_for

#: Messages that are sent before the first answer is read.
AHEAD = 32
#: A script that deletes the marks by which repeats are recognised.
_FORGET = (
    "local c = '0' repeat local r = redis.call('SCAN', c, 'MATCH', '*:repeat:*', 'COUNT', 1000) c = r[1] "
    "for _, key in ipairs(r[2]) do redis.call('DEL', key) end until c == '0' return 'OK'"
)
#: Users that come and go before anything is measured, so that what is made once is there.
WARM_UP = 100


class Taken(NamedTuple):
    """What is in use, in bytes."""

    server: int
    store: int
    disk: int

    def each(self, before: Taken, count: int) -> Taken:
        """What each of `count` things has added since `before`."""
        return Taken(*((now - then) // count for now, then in zip(self, before, strict=True)))


class Store:
    """The server's own store, asked on a connection of ours."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(directory / "store.sock"))
        self._replies = self._socket.makefile("rb")

    def info(self, section: str, field: str) -> int:
        """A number of INFO."""
        text = self._ask(f"INFO {section}")
        found = re.search(rf"^{field}:(\d+)", text, re.M)
        assert found is not None, text
        return int(found[1])

    def forget_repeats(self) -> None:
        """Do now what time does in a day: the marks by which repeats are recognised expire."""
        self._ask(f'EVAL "{_FORGET}" 0')

    def _ask(self, command: str) -> str:
        self._socket.sendall(command.encode() + b"\r\n")
        head = self._replies.readline()
        assert head[:1] in b"+$", head
        return self._replies.read(int(head[1:]) + 2).decode() if head[:1] == b"$" else head.decode()


class Bench:
    """One server with its own store, in a directory that goes when the bench ends."""

    def __init__(self, directory: Path, workers: int) -> None:
        options = ["--unbound-per-address", "1000000", "--workers", str(workers)]
        self.service = Service(directory, *options)
        self.directory = directory / "data" / "store"

    def taken(self) -> Taken:
        """What the server and its store have in use now."""
        store = Store(self.directory)
        store_pid = self.service.store_pid
        pids = [pid for pid in self.service.processes() if pid != store_pid]
        server = sum(_resident(pid) for pid in pids)
        return Taken(
            server, store.info("memory", "used_memory"), store.info("persistence", "aof_current_size")
        )

    def users(self, count: int) -> list[Raw]:
        """New users, each with a device and a connection that gets pushes."""
        found = []
        for _ in range(count):
            found.append(self.service.user())
            found[-1].fetch()
        return found

    def send(self, sender: Raw, receiver: Raw, count: int, characters: int) -> None:
        """Store messages, each of them in two mailboxes."""
        assert receiver.user is not None
        for begin in range(0, count, AHEAD):
            numbers = range(begin, min(begin + AHEAD, count))
            for number in numbers:
                content = f"{number:0{characters}}"
                sender.send("SENDMSG", sender.message(receiver.user, content, md5encoded=f"{number:032x}"))
            for _ in numbers:
                answer = sender.answer()
                assert answer.ok, answer


def _resident(pid: int) -> int:
    with suppress(OSError):  # it has ended
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss_Anon: +(\d+) kB", text, re.M)  # without code, which processes share
        assert found is not None, text
        return int(found[1]) * 1024
    return 0


def measure(users: int, messages: int, characters: int, workers: int) -> list[tuple[str, Taken]]:
    """The table's rows: what, and what each of it takes."""
    with tempfile.TemporaryDirectory(prefix="capacity-") as directory:
        bench = Bench(Path(directory), workers)
        with bench.service.running():
            idle = bench.taken()
            bench.users(WARM_UP)
            bench.service.hang_up()
            before = bench.taken()
            alice, bob, *_ = bench.users(users)
            connected = bench.taken()
            bench.send(alice, bob, messages, characters)
            sent = bench.taken()
            store = Store(bench.directory)
            store.forget_repeats()
            next_day = bench.taken()
            bench.service.hang_up()
            wait_for(lambda: store.info("clients", "pubsub_clients") <= workers, "subscriptions end")
            users_row = connected.each(before, users)._replace(server=0)
            message = f"A message of {characters} characters, its first day"
            return [
                ("An idle server", idle),
                ("A user with one device", users_row),
                ("A connection that is logged in", Taken(connected.each(before, users).server, 0, 0)),
                (message, sent.each(connected, messages)._replace(server=0)),
                ("The same, later", next_day.each(connected, messages)._replace(server=0, disk=0)),
            ]


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--users", type=int, default=2000, help="users and connections (default 2000)")
    parser.add_argument("--messages", type=int, default=50_000, help="default 50000")
    parser.add_argument("--characters", type=int, default=100, help="in each message (default 100)")
    parser.add_argument("--workers", type=int, default=1, help="as the server's option (default 1)")
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {given.users} users, {given.messages} messages, {given.workers} worker(s)\n"
    )
    print("| what | server memory | store memory | store's file |\n|---|---|---|---|")
    for name, taken in measure(given.users, given.messages, given.characters, given.workers):
        print(f"| {name} | {' | '.join(f'{value:,} B' if value else '' for value in taken)} |")


if __name__ == "__main__":
    main()
