"""The bound that a store sets: Valkey alone, doing for each message what cannot be left out.

That is an entry in each of two streams and a publication, by script, on disk before the reply. No message is
checked, no repeat recognised, and nothing kept beside the streams.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hiredis

from bench.processes import Usage, family
from bench.talks import CHARACTERS, Outcome
from bench.wire import PATIENCE, READ, Broken
from tests.service import Valkey

_SCRIPT = """
for i = 1, #ARGV, 3 do
  redis.call('XADD', ARGV[i], '*', 'm', ARGV[i + 2])
  redis.call('XADD', ARGV[i + 1], '*', 'm', ARGV[i + 2])
  redis.call('SPUBLISH', ARGV[i + 1], ARGV[i + 2])
end
return 'OK'
"""
#: A message as it is stored: its text in base64, and what is around it.
_MESSAGE = "m" * (CHARACTERS * 4 // 3 + 180)
#: The setting of the server's own store that has a part in the cost.
_SETTINGS = ("--stream-node-max-bytes", "1024")


class StoreAlone:
    """A store, and the two connections that a server has to it: for commands, and for what is published."""

    def __init__(self, valkey: Valkey, pairs: int) -> None:
        assert valkey.process is not None
        self._pids = family(valkey.process.pid)
        self._commands, self._publications = (_Connection(valkey.socket_path) for _ in range(2))
        self._script = self._commands.ask("SCRIPT", "LOAD", _SCRIPT)
        keys = [(f"{{u:{number}}}:sent", f"{{u:{number}}}:mail") for number in range(pairs)]
        for _, channel in keys:
            self._publications.ask("SSUBSCRIBE", channel)
        self._next = itertools.cycle([(*pair, _MESSAGE) for pair in keys])

    def append(self, count: int, *, group: int, calls: int) -> Outcome:
        """Store so many messages: `calls` at once with `group` in each, and the next when they are done."""
        rounds = max(1, count // (group * calls))
        before, began = Usage.of(self._pids), time.perf_counter()
        for _ in range(rounds):
            self._commands.send(*(self._call(group) for _ in range(calls)))
            self._commands.receive(calls)
            self._publications.receive(group * calls)
        seconds = time.perf_counter() - began
        return Outcome(rounds * group * calls, 0, seconds, Usage.of(self._pids).since(before), [])

    def close(self) -> None:
        """Close the connections."""
        self._commands.close()
        self._publications.close()

    def _call(self, group: int) -> bytes:
        messages = itertools.chain.from_iterable(itertools.islice(self._next, group))
        return _packed("EVALSHA", self._script, 0, *messages)


@contextmanager
def store_alone(pairs: int) -> Iterator[StoreAlone]:
    """A store with as many mailboxes as so many pairs of people have."""
    with TemporaryDirectory(prefix="chatsvc-bench-") as directory:
        valkey = Valkey(Path(directory), *_SETTINGS)
        try:
            store = StoreAlone(valkey.start(), pairs)
            yield store
            store.close()
        finally:
            valkey.end()


class _Connection:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._replies = hiredis.Reader()

    def send(self, *commands: bytes) -> None:
        self._socket.sendall(b"".join(commands))

    def receive(self, count: int) -> Any:
        """Take so many replies or publications, and give the last."""
        for _ in range(count):
            while (reply := self._replies.gets()) is False:
                self._replies.feed(self._socket.recv(READ))
            if isinstance(reply, hiredis.ReplyError):
                raise Broken(f"The store refused a command: {reply}")
        return reply

    def ask(self, *command: str | int) -> Any:
        self.send(_packed(*command))
        return self.receive(1)

    def close(self) -> None:
        self._socket.close()


def _packed(*command: str | bytes | int) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows one part only
    return packed
