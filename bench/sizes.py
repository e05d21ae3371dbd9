"""The workload of what a server, a user and a message take up, for the capacity in docs/operations.md.

What a connection takes is measured in ``idle``.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.chatting import pair_load
from bench.fill import Store
from bench.processes import anonymous
from bench.run import MIB, Run, Sheet
from bench.servers import chat_service, server_of
from bench.talks import CHARACTERS
from chatsvc.store.url import StoreUrl

_MEMORY = "store's memory"
#: Does now what time does in a day: the marks by which repeats are recognised go.
_FORGET = """
local cursor = '0'
repeat
  local found = redis.call('SCAN', cursor, 'MATCH', '*:repeat:*', 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do redis.call('DEL', key) end
until cursor == '0'
"""


class Taken(NamedTuple):
    """What a store has in use, in bytes."""

    memory: int
    file: int

    @classmethod
    def by(cls, store: Store) -> Taken:
        """Now."""
        return cls(int(store.info("used_memory")), int(store.info("aof_current_size")))


def sizes(run: Run) -> None:
    """What a server, a user with one device, and a message in both mailboxes take up."""
    scale = run.scale
    sheet = run.sheet("what is kept", reference="")
    with chat_service(*run.options) as service:
        server = server_of(service)
        url = StoreUrl(kind="unix", path=str(service.directory / "data" / "store" / "store.sock"))
        with Store(url) as store:
            sheet.note("a server that is idle", "server's memory", "MiB", anonymous(server.pids[0]) / MIB)
            empty = Taken.by(store)
            with pair_load(run, server, pairs=scale.sized_users // 2) as load:
                users = Taken.by(store)
                messages = load.in_flight(scale.sized_messages, 1).messages
                first_day = Taken.by(store)
                store.ask("EVAL", _FORGET, 0)
                later = Taken.by(store)
    message = f"a message of {CHARACTERS} characters"
    _note(sheet, "a user with a device", scale.sized_users, empty, users)
    _note(sheet, f"{message}, its first day", messages, users, first_day)
    sheet.note(f"{message}, later", _MEMORY, "bytes", (later.memory - users.memory) / messages)


def _note(sheet: Sheet, subject: str, count: int, before: Taken, after: Taken) -> None:
    sheet.note(subject, _MEMORY, "bytes", (after.memory - before.memory) / count)
    sheet.note(subject, "store's file", "bytes", (after.file - before.file) / count)
