"""What a store in memory holds, and what it does in one step; `tests.fake_store` is the way to it.

Nothing is tested here.
"""

from __future__ import annotations

from typing import Protocol, cast

from twisted.internet.task import Clock

from chatsvc.store.append import Outgoing
from chatsvc.store.files import FileEntry
from chatsvc.store.keys import PresenceOf, Whose
from chatsvc.store.mail import Entry, entry_id
from tests.fakes import Gate


class Record:
    """All that belongs to one user."""

    def __init__(self, name: str, password: bytes) -> None:
        self.name, self.password, self.avatar = name, password, cast("str | None", None)
        self.devices: set[str] = set()
        self.out: set[int] = set()
        self.into: set[int] = set()
        self.blocked: set[int] = set()
        self.marks: dict[tuple[int, str, str], bytes] = {}
        self.seen = 0  # when the last device went, ms
        self.mail: list[Entry] = []
        self.cursors: dict[str, int] = {}
        self.repeats: set[str] = set()
        self.of_message: dict[str, FileEntry] = {}
        self.by_md5: dict[str, FileEntry | None] = {}
        self.sent: dict[str, int] = {}


class Hears(Protocol):
    """Who is told what is published, if it wants to hear of that."""

    def hear(self, whose: Whose, text: bytes) -> None:
        """Something was published about a user or a device."""


class Data:
    """What all nodes of one store share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.users: dict[int, Record] = {}
        self.names: dict[str, int] = {}
        self.pointers: dict[str, int | None] = {}  # device to user
        self.last_users: dict[str, int] = {}  # of devices: to whom each is or was bound
        self.explicit: set[str] = set()
        self.invites: dict[str, int] = {}  # code to the uses that are left
        self.online: set[tuple[int, str]] = set()
        self.used: list[str] = []  # devices, the one that was used last comes last
        self.nodes: list[Hears] = []

    def use(self, device: str) -> None:
        if device in self.used:
            self.used.remove(device)
        self.used.append(device)

    def is_bound(self, device: str, user_id: int) -> bool:
        return user_id in self.users and device in self.users[user_id].devices

    def end(self, user_id: int) -> int:
        mail = self.users[user_id].mail if user_id in self.users else []
        return mail[-1].position if mail else 0

    def publish(self, whose: Whose, text: bytes) -> None:
        for node in self.nodes:
            node.hear(whose, text)

    def leave(self, user_id: int, device: str) -> None:
        if user_id in self.users:
            self.users[user_id].devices.discard(device)
        self.publish(user_id, b"r " + device.encode())
        self.go_offline(user_id, device)

    def go_offline(self, user_id: int, device: str) -> None:
        if (user_id, device) in self.online:
            self.online.discard((user_id, device))
            if not self.is_online(user_id):
                self.came_or_went(user_id)

    def is_online(self, user_id: int) -> bool:
        return any(user == user_id for user, _ in self.online)

    def came_or_went(self, user_id: int) -> None:
        """A user's first device has come online, or the last one is no more."""
        online, now = self.is_online(user_id), int(self._clock.seconds() * 1000)
        if user_id in self.users and not online:
            self.users[user_id].seen = now
        self.publish(PresenceOf(user_id), b"0" if online else b"%d" % now)
        if not online:
            self.publish(user_id, b"o")

    def append(self, group: list[Outgoing]) -> list[bytes]:
        """Store messages in one step, and tell each user of all that are new; gives what became of each."""
        news: dict[int, list[Entry]] = {}
        results = [self._append(out, news) for out in group]
        for user_id, entries in news.items():
            origins = {entry.origin for entry in entries}
            origin = origins.pop() if len(origins) == 1 else ""
            ends = entry_id(entries[0].before), entry_id(entries[-1].position)
            lines = [b" ".join((b"m", *ends, origin.encode()))]
            for entry in entries:
                parts = entry_id(entry.position), entry.origin.encode(), entry.flags, entry.message
                lines.append(b" ".join(parts))
            self.publish(user_id, b"\n".join(lines))
        return results

    def _append(self, out: Outgoing, news: dict[int, list[Entry]]) -> bytes:
        repeats = self.users[out.sender].repeats
        if not self.is_bound(out.device, out.sender) and out.repeat not in repeats:
            return b"unbound"
        if out.target not in self.users:
            return b"no target"
        if out.sender in self.users[out.target].blocked and out.repeat not in repeats:
            return b"blocked"
        if not self._count(out, is_repeat=out.repeat in repeats):
            return b"too much"
        if out.repeat is None or out.repeat not in repeats:
            if out.repeat is not None:
                repeats.add(out.repeat)
            self._deliver(out.sender, out.device, out, news)
            if out.target != out.sender:
                self._deliver(out.target, "", out, news)
        return b"stored"

    def _count(self, out: Outgoing, *, is_repeat: bool) -> bool:
        user, new = self.users[out.sender], []
        for blob in out.brought:
            held = user.by_md5.get(blob.digest)
            if blob.digest == blob.sha256:
                known = blob.digest in user.sent
            else:
                known = held is not None and held[1:] == blob[1:]
            if not known and blob.size:
                new.append(blob)
        total = sum(user.sent.values()) + sum(blob.size for blob in new)
        if new and out.quota is not None and not is_repeat and total > out.quota:
            return False
        for blob in new:
            user.sent[blob.digest] = user.sent.get(blob.digest, 0) + blob.size
        return True

    def _deliver(self, user_id: int, origin: str, out: Outgoing, news: dict[int, list[Entry]]) -> None:
        user, before = self.users[user_id], self.end(user_id)
        place = max(before + 1, int(self._clock.seconds() * 1000) << 32)
        entry = Entry(place, before, origin, out.flags, out.message)
        user.mail.append(entry)
        news.setdefault(user_id, []).append(entry)
        if out.file is not None:
            message_key, md5, packed = out.file
            sha256, size = packed.decode().split(":")
            file = FileEntry(md5, sha256, int(size))
            user.of_message[message_key] = file
            user.by_md5[md5] = file if user.by_md5.get(md5, file) == file else None


class Part:
    """A part of one node's way to the data; what happens to its calls is decided at the `gate`."""

    def __init__(self, data: Data, gate: Gate) -> None:
        self._data = data
        self.gate = gate
