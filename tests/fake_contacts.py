"""Contacts, and what they signal to each other, of the store in memory (`tests.fake_store`).

Nothing is tested here; `tests/test_store_contract_contacts.py` holds both to the real ones.
"""

from __future__ import annotations

from chatsvc.store.contacts import Relations
from chatsvc.store.signals import Seen
from tests.fake_data import Part
from tests.fakes import gated


@gated
class FakeContacts(Part):
    def _relation(self, user_id: int, other: int) -> str:
        user = self._data.users[user_id]
        if other in user.blocked:
            return "blocked"
        if other in user.out:
            return "contact" if other in user.into else "pending"
        return "requesting" if other in user.into else "none"

    def _change(self, user_id: int, other: int, by: str, *changes: str) -> None:
        user = self._data.users.get(user_id)
        if user is None:
            return
        before = self._relation(user_id, other)
        for change in changes:
            match change:
                case "add":
                    user.out.add(other)
                case "added":
                    user.into |= {other} - user.blocked
                case "block":
                    user.blocked.add(other)
                case "unblock":
                    user.blocked.discard(other)
                case "part":
                    user.out.discard(other)
                    user.into.discard(other)
                    user.marks = {key: mark for key, mark in user.marks.items() if key[0] != other}
        after = self._relation(user_id, other)
        if after != before:
            body = f'{{"userid":{other},"relation":"{after}"}}'
            self._data.publish(user_id, f"e FORWARDCONTACT {by} {body}".encode())

    async def add(self, user_id: int, other_id: int, by: str = "") -> None:
        self._change(other_id, user_id, "", "added")
        self._change(user_id, other_id, by, "unblock", "add")

    async def remove(self, user_id: int, other_id: int, by: str = "") -> None:
        self._change(user_id, other_id, by, "part")
        self._change(other_id, user_id, "", "part")

    async def block(self, user_id: int, other_id: int, by: str = "") -> None:
        self._change(user_id, other_id, by, "part", "block")
        self._change(other_id, user_id, "", "part")

    async def unblock(self, user_id: int, other_id: int, by: str = "") -> None:
        self._change(user_id, other_id, by, "unblock")

    async def has_added(self, user_id: int, other_id: int) -> bool:
        return other_id in self._data.users[user_id].out

    async def has_blocked(self, user_id: int, other_id: int) -> bool:
        return other_id in self._data.users[user_id].blocked

    async def of(self, user_id: int) -> Relations:
        out, into = self._data.users[user_id].out, self._data.users[user_id].into
        return Relations(sorted(out & into), sorted(out - into), sorted(into - out))

    async def blocked(self, user_id: int) -> list[int]:
        return sorted(self._data.users[user_id].blocked)


@gated
class FakeSignals(Part):
    def _is_contact(self, user_id: int, other: int) -> bool:
        user = self._data.users.get(user_id)
        return user is not None and other in user.out & user.into

    async def typing(self, user_id: int, to: int, body: bytes) -> None:
        if self._is_contact(to, user_id):
            self._data.publish(to, b"e FORWARDTYPING  " + body)

    async def mark(self, reader: int, sender: int, kind: str, mark: bytes, by: str) -> None:
        self._mark(sender, (reader, kind, "theirs"), mark, "")
        self._mark(reader, (sender, kind, "mine"), mark, by)

    def _mark(self, user_id: int, key: tuple[int, str, str], mark: bytes, by: str) -> None:
        if not self._is_contact(user_id, key[0]) or self._data.users[user_id].marks.get(key) == mark:
            return
        self._data.users[user_id].marks[key] = mark
        self._data.publish(user_id, b'e FORWARDMARK %b {"marks":[%b]}' % (by.encode(), mark))

    async def marks(self, user_id: int) -> list[bytes]:
        return list(self._data.users[user_id].marks.values())

    async def seen(self, user_id: int) -> Seen:
        if self._data.is_online(user_id):
            return Seen(True, 0)
        return Seen(False, self._data.users[user_id].seen)
