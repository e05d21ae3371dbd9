"""A store in memory with the interface of `chatsvc.store.store.Store`, and two nodes that stand on it.

Nothing is tested here; `tests/test_store_contract.py` holds this store to the real one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.internet.task import Clock

from chatsvc.store import keys
from chatsvc.store.accounts import USER_ID_MAX, User
from chatsvc.store.append import REFUSED, Outgoing
from chatsvc.store.devices import DeviceRecord
from chatsvc.store.files import FileEntry
from chatsvc.store.keys import Whose
from chatsvc.store.mail import Entry, Incoming, Page, entry_id
from chatsvc.tasks import Pending
from chatsvc.wire import errors
from chatsvc.wire.errors import Refusal
from chatsvc.wire.frames import SEED
from chatsvc.wire.invites import normal
from chatsvc.wire.text import name_key
from tests.fake_contacts import FakeContacts, FakeSignals
from tests.fake_data import Data, Part, Record
from tests.fakes import FakeClient, Gate, Node, gated

#: Limits of a `Scene`, small so that little exceeds them.
SEND_BUFFER = 2000
INLINE = 1000


@gated
class FakeAccounts(Part):
    async def create(self, name: str, password_hash: bytes) -> User:
        user_id = len(self._data.users) + 1
        if self._data.names.setdefault(name_key(name), user_id) != user_id:
            raise Refusal(errors.NAME_TAKEN)
        self._data.users[user_id] = Record(name, password_hash)
        return User(user_id, name, None)

    async def find(self, name: str) -> User | None:
        return self._get(self._data.names.get(name_key(name), 0))

    async def get(self, user_id: int) -> User | None:
        return self._get(user_id) if user_id <= USER_ID_MAX else None

    def _get(self, user_id: int) -> User | None:
        record = self._data.users.get(user_id)
        return None if record is None else User(user_id, record.name, record.avatar)

    async def password_hash(self, user_id: int) -> bytes | None:
        record = self._data.users.get(user_id)
        return None if record is None else record.password

    async def rename(self, user: User, name: str) -> None:
        record, names = self._data.users[user.id], self._data.names
        if name_key(record.name) == name_key(name):
            return
        if names.setdefault(name_key(name), user.id) != user.id:
            raise Refusal(errors.NAME_TAKEN)
        del names[name_key(record.name)]
        record.name = name

    async def set_avatar(self, user_id: int, avatar: str | None) -> None:
        self._data.users[user_id].avatar = avatar


@gated
class FakeDevices(Part):
    async def create(self) -> int:
        token = 1_000_000_007 * (len(self._data.pointers) + 1)
        self._data.pointers[keys.device_id(token)] = None
        return token

    async def load(self, device: str) -> DeviceRecord | None:
        if device not in self._data.pointers:
            return None
        user_id = self._data.pointers[device]
        bound = user_id is not None and self._data.is_bound(device, user_id)
        return self._record(device, user_id if bound else None)

    def _record(self, device: str, user_id: int | None) -> DeviceRecord:
        return DeviceRecord(user_id, device in self._data.explicit, self._data.last_users.get(device))

    async def use(self, device: str) -> DeviceRecord | None:
        if device not in self._data.pointers:
            return None
        return self._record(device, self._data.pointers[device])

    async def is_bound(self, device: str, user_id: int) -> bool:
        return self._data.is_bound(device, user_id)

    async def touch(self, device: str, *, bound: bool) -> None:
        pass  # here nothing expires

    async def mark_explicit(self, device: str) -> None:
        self._data.explicit.add(device)

    async def bind(self, device: str, user_id: int, password_hash: bytes, most: int | None = None) -> bool:
        if user_id not in self._data.users or self._data.users[user_id].password != password_hash:
            return False
        devices = self._data.users[user_id].devices
        devices.add(device)
        self._data.use(device)
        others = [each for each in self._data.used if each in devices and each != device]
        others.sort(key=lambda each: (user_id, each) in self._data.online)
        for unused in others[: 0 if most is None else max(0, len(devices) - most)]:
            self._data.leave(user_id, unused)
            self._data.pointers[unused] = None
        before = self._data.pointers.get(device)
        if before is not None and before != user_id:
            self._data.leave(before, device)
        self._data.pointers[device] = self._data.last_users[device] = user_id
        self._data.publish(device, b"b")
        return True

    async def unbind(self, device: str, user_id: int) -> None:
        self._data.leave(user_id, device)
        if self._data.pointers.get(device) == user_id:
            self._data.pointers[device] = None

    async def change_password(self, user_id: int, old_hash: bytes, new_hash: bytes, keep: str) -> bool:
        user = self._data.users[user_id]
        if user.password not in (old_hash, new_hash):
            return False
        user.password = new_hash
        for device in sorted(user.devices - {keep}):
            self._data.leave(user_id, device)
            self._data.pointers[device] = None
        return True

    async def stay_online(self, user_id: int, devices: list[str]) -> tuple[int, list[str]]:
        gone = [device for device in devices if not self._data.is_bound(device, user_id)]
        was_online = self._data.is_online(user_id)
        for device in devices:
            if device not in gone:
                self._data.online.add((user_id, device))
                self._data.use(device)
        if not was_online and self._data.is_online(user_id):
            self._data.came_or_went(user_id)
        return self._data.end(user_id), gone

    async def go_offline(self, user_id: int, device: str) -> None:
        self._data.go_offline(user_id, device)


@gated
class FakeInvites(Part):
    async def create(self, code: str, uses: int, life: int) -> str:
        self._data.invites[str(normal(code))] = uses  # here nothing expires
        return code

    async def take(self, code: str) -> bool:
        left = self._data.invites.get(str(normal(code)), 0)
        self._data.invites[str(normal(code))] = max(0, left - 1)
        return left > 0

    async def give_back(self, code: str) -> None:
        self._data.invites[str(normal(code))] += 1


@gated
class FakeFiles(Part):
    async def of_message(self, user_id: int, md5encoded: str) -> FileEntry | None:
        return self._data.users[user_id].of_message.get(keys.message_key(md5encoded))

    async def by_md5(self, user_id: int, md5: str) -> FileEntry | None:
        return self._data.users[user_id].by_md5.get(md5)


@gated
class FakeSent(Part):
    async def total(self, user_id: int) -> int:
        return sum(self._data.users[user_id].sent.values())


@gated
class FakeMail(Part):
    async def append(self, outgoing: Outgoing) -> None:
        [result] = self._data.append([outgoing])
        if result != b"stored":
            raise Refusal(REFUSED[result])

    async def is_repeat(self, sender: int, repeat: str) -> bool:
        return repeat in self._data.users[sender].repeats

    async def open(self, user_id: int, device: str) -> tuple[int, int] | None:
        if not self._data.is_bound(device, user_id):
            return None
        return self._data.users[user_id].cursors.get(device, 0), self._data.end(user_id)

    async def end(self, user_id: int) -> int:
        return self._data.end(user_id)

    async def read(self, user_id: int, after: int, most: int) -> list[Entry]:
        found = [entry for entry in self._data.users[user_id].mail if entry.position > after][:most]
        befores = [after, *(entry.position for entry in found)]
        return [msgspec.structs.replace(e, before=b) for e, b in zip(found, befores, strict=False)]

    async def read_for(self, user_id: int, device: str, after: int, until: int, most: int) -> Page:
        found = [one for one in self._data.users[user_id].mail if after < one.position <= until][:most]
        messages = [
            Incoming(entry_id(one.position), one.flags, one.message) for one in found if one.origin != device
        ]
        return Page(messages, found[-1].position if len(found) == most else until)

    def acknowledge(self, user_id: int, device: str, cursor: int) -> None:
        cursors = self._data.users[user_id].cursors
        cursors[device] = max(cursor, cursors.get(device, 0))

    async def reset_cursor(self, user_id: int, device: str, cursor: int) -> None:
        self._data.users[user_id].cursors[device] = cursor


class FakeChannels:
    """The subscriptions of one node. What is published while `deaf` is lost, and no subscription stands."""

    def __init__(self, data: Data, clock: Clock) -> None:
        self.on_message: Callable[[Whose, bytes], None] = lambda whose, data: None
        self.on_subscribed: Callable[[Whose], None] = lambda whose: None
        self.deaf = False
        self.wanted: set[Whose] = set()
        self._clock = clock
        self._waiting: list[Pending[None]] = []
        data.nodes.append(self)

    async def subscribe(self, whose: Whose, wait: float) -> None:
        stands = whose in self.wanted and not self.deaf
        self.wanted.add(whose)
        if stands:
            return
        if not self.deaf:
            self.on_subscribed(whose)
            return
        self._waiting.append(Pending())
        self._clock.callLater(wait, self._waiting[-1].succeed, None)
        await self._waiting[-1]

    def unsubscribe(self, whose: Whose) -> None:
        self.wanted.discard(whose)

    def hear(self, whose: Whose, text: bytes) -> None:
        if whose in self.wanted and not self.deaf:
            self.on_message(whose, text)

    def stand(self) -> None:
        """All subscriptions stand (again)."""
        self.deaf = False
        waiting, self._waiting = self._waiting, []
        for subscribed in waiting:
            subscribed.succeed(None)
        for whose in sorted(self.wanted, key=str):
            self.on_subscribed(whose)


class FakeStore:
    """One node's way to a store. What happens to its calls is decided at the `gate` of all parts but
    the channels; `sibling` is another node's way to the same data."""

    def __init__(self, clock: Clock, data: Data | None = None) -> None:
        self._clock = clock
        self.data = Data(clock) if data is None else data
        self.gate = Gate()
        self.accounts = FakeAccounts(self.data, self.gate)
        self.devices = FakeDevices(self.data, self.gate)
        self.contacts = FakeContacts(self.data, self.gate)
        self.signals = FakeSignals(self.data, self.gate)
        self.files = FakeFiles(self.data, self.gate)
        self.invites = FakeInvites(self.data, self.gate)
        self.sent = FakeSent(self.data, self.gate)
        self.mail = FakeMail(self.data, self.gate)
        self.channels = FakeChannels(self.data, clock)

    def sibling(self) -> FakeStore:
        return FakeStore(self._clock, self.data)


class Scene:
    """Two nodes on one store; on the first one, Alice and Bob, on a connection each."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.store = FakeStore(self.clock)
        self.node = Node(self.clock, self.store, send_buffer=SEND_BUFFER, inline_content=INLINE)
        self.elsewhere = Node(self.clock, self.store.sibling())
        self.hub = self.node.hub
        self.hub.start()
        self.alice = self.node.user("alice", SEED)
        self.bob = self.node.user("bob", SEED)

    def write(self, *contents: str) -> None:
        """Alice writes to Bob."""
        for content in contents:
            self.alice.send(self.bob.user, content)

    def login(self, name: str, node: Node | None = None) -> FakeClient:
        """A new device of Alice or Bob."""
        client = (node or self.node).client(SEED)
        client.user = client.ask("LOGIN", {"username": name, "passwd": "secret"}).body["userid"]
        return client

    def lose(self, *contents: str) -> None:
        """Alice writes to Bob, and this node does not hear of it."""
        self.store.channels.deaf = True
        self.write(*contents)
        self.store.channels.deaf = False
