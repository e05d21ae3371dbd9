"""Fills an empty store by script: `python -m bench.fill --redis URL [--help]`.

What it writes is what servers would have written, key for key (``docs/architecture.md``); what a server then
does with it is measured elsewhere (``docs/performance.md``).
"""

from __future__ import annotations

import random
import socket
import string
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import click
import hiredis

from chatsvc.passwords import hashed
from chatsvc.store import keys
from chatsvc.store.append import REPEAT_LIFE, entry_text
from chatsvc.store.devices import BOUND_LIFE
from chatsvc.store.url import StoreUrl, parse
from chatsvc.wire.schema import Message, encode
from chatsvc.wire.text import encoded

#: Commands that are sent before the replies to those before them are read.
AHEAD = 1000
#: Seconds for one reply: a store of many gigabytes takes its time to fork.
PATIENCE = 60.0
#: Users on either side of each user who are its contacts and to whom it writes, one after the other.
NEIGHBOURS = 5
DAY_MS = 24 * 3600 * 1000


class Refused(click.ClickException):
    """The store cannot be filled; the message is a sentence for the operator."""


class Store:
    """A store, to which commands are sent many at a time; each reply is looked at."""

    def __init__(self, url: StoreUrl) -> None:
        """Connect; raises `Refused`."""
        if url.kind not in ("unix", "tcp") or url.tls:
            raise Refused("Only a store at a redis:// or unix:// address can be filled.")
        self.url = url
        try:
            self._socket = _connected(url)
        except OSError as error:
            raise Refused(f"The store at {url.safe} cannot be reached: {error.strerror}.") from None
        self._replies = hiredis.Reader()
        self._commands: list[bytes] = []
        self._unread = 0
        if url.password is not None:
            self.ask("AUTH", url.username or "default", url.password)
        if url.db:
            self.ask("SELECT", url.db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def add(self, *command: bytes | str | int) -> None:
        """Send a command with others; `ask` and `flush` raise `Refused` if it failed."""
        self._commands.append(_packed(command))
        if len(self._commands) == AHEAD:
            self._send()

    def flush(self) -> None:
        """Return when all that was added is done."""
        self._send()
        self._send()

    def ask(self, *command: bytes | str | int) -> Any:
        """The reply to one command, after all that was added before it."""
        self.flush()
        self._socket.sendall(_packed(command))
        return self._reply()

    def info(self, field: str) -> str:
        """A field of INFO."""
        lines = self.ask("INFO", "everything").decode().splitlines()
        return str(dict(line.split(":", 1) for line in lines if ":" in line)[field])

    def _send(self) -> None:
        """Send what waits, and read the replies to what was sent before: so both sides work all the time."""
        self._socket.sendall(b"".join(self._commands))
        for _ in range(self._unread):
            self._reply()
        self._unread = len(self._commands)
        self._commands.clear()

    def _reply(self) -> Any:
        while (reply := self._replies.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise Refused("The store has closed the connection.")
            self._replies.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise Refused(f"The store refused a command: {reply}.")
        return reply


def _packed(command: tuple[bytes | str | int, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows one part only
    return packed


def _connected(url: StoreUrl) -> socket.socket:
    if url.kind == "tcp":
        return socket.create_connection((url.host, url.port), timeout=PATIENCE)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(url.path)
    except OSError:
        connection.close()
        raise
    return connection


class Plan(NamedTuple):
    """What is to be in the store."""

    users: int
    #: Messages between neighbours, each in two mailboxes.
    messages: int
    #: Messages that come after those, from everybody in turn to the user with the highest id.
    to_last: int
    #: Days over which the messages are spread evenly; a step is a millisecond at least.
    days: int
    #: Characters of a message, before they are put into base64.
    characters: int
    #: What all names begin with; six digits or more follow, from 000000 on.
    names: str
    password: str
    bcrypt_cost: int


class Sent(NamedTuple):
    """A message's users, and when it was stored, in ms since 1970."""

    sender: int
    target: int
    when: int


class Filling:
    """A plan on its way into a store."""

    def __init__(self, plan: Plan, store: Store, now: int) -> None:
        """`now`, in ms since 1970, is when the last message will have been stored."""
        self._plan = plan
        self._store = store
        self._now = now
        self._total = plan.messages + plan.to_last
        self._step = max(1, plan.days * DAY_MS // self._total) if self._total else 1
        near = [user for distance in range(1, NEIGHBOURS + 1) for user in (distance, -distance)]
        #: From a user to its contacts, if there are as many users; no two of them are one.
        self._offsets = near[: plan.users - 1] or [0]
        #: When each mailbox got its newest entry, by user id: 8 bytes a user are all that is kept.
        self._lasts = array("q", bytes(8 * (plan.users + 1)))
        # Texts are cut from this: letters and blanks that a store cannot compress better than people's.
        letters = random.Random(4).choices(string.ascii_lowercase + "    ", k=1 << 16)
        self._letters = "".join(letters) + "".join(letters)[: plan.characters]

    def parts(self) -> list[tuple[str, int, Callable[[int], None]]]:
        """What is written, in this order: what it is called, how many there are, and how each is."""
        plan = self._plan
        marked = min(self._total, DAY_MS // self._step)
        return [
            ("user", plan.users, self._user),
            ("device", plan.users, self._device),
            ("contacts of a user", plan.users, self._contacts),
            ("message", self._total, self._message),
            ("mark of a message of the last day", marked, self._mark),
            ("end of a mailbox, and a cursor", plan.users, self._end),
        ]

    def begin(self) -> None:
        """Raises `Refused` for a store that holds something: it may be somebody's."""
        if self._store.ask("DBSIZE"):
            raise Refused(
                "The store is not empty, and was left as it is: only an empty one is filled. "
                "If nobody needs what it holds, FLUSHALL empties it."
            )
        # One for all of them: a million hashes would take hours.
        self._hash = hashed(self._plan.password, self._plan.bcrypt_cost)

    def finish(self) -> None:
        """From then on new users can come: their ids are beyond those that were given."""
        self._store.ask("SET", keys.USER_COUNTER, self._plan.users)

    def _user(self, number: int) -> None:
        name = f"{self._plan.names}{number:06}"
        record = keys.user(number + 1)
        self._store.add("HSET", record, "username", encoded(name), "password", self._hash)
        self._store.add("SET", keys.name(name), number + 1)

    def _device(self, number: int) -> None:
        user_id = number + 1
        device = _device_of(user_id)
        fields = ("created", self._now, "user", user_id, "explicit", 1)
        self._store.add("HSET", keys.device(device), *fields)
        self._store.add("EXPIRE", keys.device(device), BOUND_LIFE)
        self._store.add("SADD", keys.part(user_id, b"devices"), device)
        self._store.add("ZADD", keys.part(user_id, b"used"), self._now, device)

    def _contacts(self, number: int) -> None:
        if self._plan.users > 1:
            others = [(number + offset) % self._plan.users + 1 for offset in self._offsets]
            for side in (b"out", b"in"):
                self._store.add("SADD", keys.part(number + 1, side), *others)

    def _sent(self, number: int) -> Sent:
        users = self._plan.users
        turn, sender = divmod(number, users)
        target = (sender + self._offsets[turn % len(self._offsets)]) % users
        if number >= self._plan.messages:
            target = users - 1
        return Sent(sender + 1, target + 1, self._now - (self._total - number) * self._step)

    def _message(self, number: int) -> None:
        sender, target, when = self._sent(number)
        start = number * 7919 % (1 << 16)
        content = encoded(self._letters[start : start + self._plan.characters])
        message = encode(
            Message(
                userid=sender,
                targetid=target,
                contenttype="plaintext",
                content=content,
                timestamp=when,
                md5encoded=_name_of(number),
            )
        )
        self._deliver(sender, when, _device_of(sender), message)
        if target != sender:
            self._deliver(target, when, "", message)

    def _deliver(self, user_id: int, when: int, origin: str, message: bytes) -> None:
        self._lasts[user_id] = when
        self._store.add(
            "XADD", keys.part(user_id, b"mail"), b"%d-0" % when, "e", entry_text(origin, b"", message)
        )

    def _mark(self, number: int) -> None:
        number = self._total - 1 - number
        sender, target, when = self._sent(number)
        repeat = keys.repeat(target, when, _name_of(number))
        mark = keys.part(sender, b"repeat:" + repeat.encode())
        self._store.add("SET", mark, "", "PXAT", when + REPEAT_LIFE * 1000)

    def _end(self, number: int) -> None:
        user_id = number + 1
        if last := self._lasts[user_id]:
            self._store.add("SET", keys.part(user_id, b"last"), b"%d-0" % last)
            self._store.add("HSET", keys.part(user_id, b"cursors"), _device_of(user_id), b"%d-0" % last)


def _device_of(user_id: int) -> str:
    """The one device of a user, whose token is the user's id. Nobody else may ever reach such a store."""
    return keys.device_id(user_id)


def _name_of(number: int) -> str:
    """The ``md5encoded`` of a message."""
    return f"{number:032x}"


@contextmanager
def unlogged(store: Store) -> Iterator[None]:
    """Have the store write its append-only file, if it has one, once in the end rather than all the time."""
    _, wanted = store.ask("CONFIG", "GET", "appendonly")
    if wanted != b"yes":
        yield
        return
    store.ask("CONFIG", "SET", "appendonly", "no")
    try:
        yield
    finally:
        # On a connection of its own: after a failure replies are due on the other.
        with Store(store.url) as again:
            again.ask("CONFIG", "SET", "appendonly", "yes")
            while "1" in (again.info("aof_rewrite_in_progress"), again.info("aof_rewrite_scheduled")):
                time.sleep(0.1)


def fill(plan: Plan, store: Store, now: int) -> list[tuple[str, int, int]]:
    """Write it all; gives what was written, how many of it, and the bytes of memory that they take.

    `now` is in ms since 1970. Raises `Refused`.
    """
    filling = Filling(plan, store, now)
    taken = []
    filling.begin()
    with unlogged(store):
        for what, count, write in filling.parts():
            before = int(store.info("used_memory"))
            with click.progressbar(
                range(count), label=what, file=sys.stderr, update_min_steps=1000
            ) as numbers:
                for number in numbers:
                    write(number)
            store.flush()
            taken.append((what, count, int(store.info("used_memory")) - before))
        filling.finish()
    return taken


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--redis", required=True, help="The store: redis:// or unix://. It has to be empty.")
@click.option("--users", type=click.IntRange(1), default=1_000_000, help="Users, each with a device.")
@click.option("--messages", type=click.IntRange(0), default=5_000_000, help="Each of them in two mailboxes.")
@click.option("--to-last", type=click.IntRange(0), default=0, help="Messages besides, all to the last user.")
@click.option("--days", type=click.IntRange(1), default=10, help="Over which the messages are spread.")
@click.option("--characters", type=click.IntRange(1, 10_000), default=100, help="In each message.")
@click.option("--names", default="u", help="What the names begin with; they end in 000000 and so on.")
@click.option("--password", default="secret", help="The password of all of them.")
@click.option("--bcrypt-cost", type=click.IntRange(4, 31), default=4, help="Of the one hash for all.")
def main(redis: str, **plan: Any) -> None:
    """Fill an empty store with users who write to each other.

    Names are u000000, u000001, ... with ids from 1 on. Each user has one device, which has acknowledged all,
    and whose token is the user's id: never do this to a store that anybody else can reach.
    """
    try:
        url = parse(redis)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--redis") from None
    with Store(url) as store:
        taken = fill(Plan(**plan), store, int(time.time() * 1000))
        print("| what | how many | bytes of the store's memory for each |\n|---|---|---|")
        for what, count, size in taken:
            print(f"| {what} | {count:,} | {size / max(1, count):,.0f} |")
        print(
            f"\nIn all {int(store.info('used_memory')):,} B, in a file of {store.info('aof_current_size')} B."
        )


if __name__ == "__main__":
    main()
