"""Groups of messages that a store breaks in their middle; what becomes of whole ones is tested elsewhere."""

from __future__ import annotations

from twisted.logger import LogEvent

from chatsvc.store import keys
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.wire.errors import INTERNAL
from tests.stores import (
    DEADLINE,
    FIXTURES,
    driven,
    heard_entries,
    listen,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

valkey = FIXTURES[0]


@driven
async def test_what_a_group_has_stored_when_it_fails_is_heard_and_counts(
    valkey: StoreUrl, no_unhandled_failure: list[LogEvent]
) -> None:
    store = Store(reactor, valkey)
    store.start()
    try:
        await store.ready(DEADLINE)
        alice, bob, carol = [await new_user(store) for _ in range(3)]
        device, heard = await new_device(store, alice), await listen(store, bob)
        await store._link.write(b"SET", keys.part(carol, b"mail"), b"no stream")
        group = [store.mail.append(outgoing(alice, target, device)) for target in (bob, carol, bob)]
        assert [await refused(one) for one in group] == [INTERNAL] * 3
        [failure] = [event["log_failure"] for event in no_unhandled_failure]
        assert "WRONGTYPE" in failure.getErrorMessage()
        no_unhandled_failure.clear()
        [stored] = await store.mail.read(bob, 0, 10)
        assert await store.mail.end(bob) == stored.position
        assert await store.mail.end(alice) == (await store.mail.read(alice, 0, 10))[-1].position
        await store.mail.append(outgoing(alice, bob, device, b"next"))
        await until(lambda: len(heard_entries(heard)) > 1)
        assert [(entry.before, entry.message) for entry in heard_entries(heard)] == [
            (0, b"{}"),
            (stored.position, b"next"),
        ]
    finally:
        await store.stop()
