"""The connection to the store: what happens when it is slow, full, frozen or gone, or its answer is lost.

A scripted server says what no real one can be made to say; a real Valkey shows what was written.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock, deferLater

from chatsvc.store import keys
from chatsvc.store import link as link_module
from chatsvc.store.errors import Unavailable
from chatsvc.store.link import LINK_WAIT, PROBE_INTERVAL, REPLY_TIMEOUT, WRITE_WINDOW, Link
from chatsvc.store.script import COMMAND, Script
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from chatsvc.valkey import EmbeddedStore
from chatsvc.wire.errors import STORAGE_FULL, STORAGE_UNAVAILABLE
from tests.fakes import Running
from tests.stores import (
    DEADLINE,
    FIXTURES,
    SILENCE,
    Proxy,
    Scripted,
    driven,
    new_device,
    new_user,
    outgoing,
    reactor,
    refused,
    until,
)

valkey = FIXTURES[0]

#: Counts how often it was executed.
COUNT = Script("return redis.call('INCR', KEYS[1])")


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_000_000)
    return clock


@pytest_twisted.async_yield_fixture
async def server(tmp_path: Path, clock: Clock) -> Any:
    server = Scripted(str(tmp_path / "s"), clock)
    server.open()
    yield server
    await deferred(server.close())


@pytest_twisted.async_yield_fixture
async def new_link(server: Scripted, clock: Clock) -> Any:
    """Makes links to the scripted server, on a clock that stands still."""
    made = []

    def make(**more: Any) -> Link:
        endpoint = UNIXClientEndpoint(reactor, server.path)  # type: ignore[no-untyped-call]
        link: Any = Link
        made.append(link(clock, endpoint, scripts=(COUNT,), **more))
        made[-1].start()
        return made[-1]  # type: ignore[no-any-return]

    yield make
    for link in made:
        stopped = deferred(link.stop())
        clock.advance(link_module.CLOSE_WAIT)
        await stopped


NewLink = Callable[..., Link]


async def linked(new_link: NewLink, **more: Any) -> Link:
    """A link that is up."""
    link = new_link(**more)
    await until(lambda: link.up)
    return link


async def outcomes(clock: Clock, patience: float, *works: Coroutine[Any, Any, Any]) -> list[Any]:
    """What comes of all of these as time goes on, in at most `patience` seconds: results and errors."""
    running, end = list(map(Running, works)), clock.seconds() + patience
    while not all(one.done for one in running):
        assert clock.seconds() < end, f"not within {patience} s"
        await deferLater(reactor, 0.002)  # the sockets have their turn
        clock.advance(0.25)
    return [one.outcome[0] for one in running]


@pytest_twisted.async_yield_fixture
async def proxy(valkey: StoreUrl, tmp_path: Path) -> Any:
    proxy = Proxy(str(tmp_path / "proxy"), valkey.path)
    port = reactor.listenUNIX(proxy.path, proxy)
    yield proxy
    await port.stopListening()


@pytest_twisted.async_yield_fixture
async def store(proxy: Proxy) -> Any:
    """A real store, through the proxy."""
    store = Store(reactor, StoreUrl(kind="unix", path=proxy.path))
    store.start()
    await deferred(store.ready(DEADLINE))
    yield store
    await deferred(store.stop())


# Deadlines, on a real store.


@driven
async def test_bytes_come_back_as_they_were_written(store: Store) -> None:
    for value in (b"007", b"", b"\r\n$-1\0", "Zo\u00eb".encode()):
        await store._link.write(b"SET", b"{t}:bytes", value)
        assert await store._link.call(b"GET", b"{t}:bytes") == value
    assert await store._link.call(b"GET", b"{t}:none") is None


@driven
async def test_a_script_that_comes_too_late_writes_nothing(store: Store) -> None:
    link: Any = store._link
    link._clock_offset -= 2 * WRITE_WINDOW  # as if it had been on its way for so long
    no_more_tries = reactor.seconds() + REPLY_TIMEOUT
    with pytest.raises(Unavailable):
        await link.script(COMMAND, b"{t}:late", b"SET", b"value", expires=no_more_tries)
    assert await link.call(b"GET", b"{t}:late") is None


@driven
async def test_after_a_clock_has_jumped_writing_goes_on(store: Store) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    link: Any = store._mail_link
    link._clock_offset -= 3600.0
    await store.mail.append(outgoing(user_id, user_id, device, b"text"))
    assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"text"]


@driven
async def test_when_scripts_were_flushed_they_are_sent_again(store: Store) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    await store._link.call(b"SCRIPT", b"FLUSH")
    for text in (b"one", b"two"):
        await store.mail.append(outgoing(user_id, user_id, device, text))
    assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"one", b"two"]


@pytest.mark.parametrize("repeat", [None, "repeat"])
@driven
async def test_after_a_lost_answer_a_message_is_stored_once(
    store: Store, proxy: Proxy, repeat: str | None
) -> None:
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    proxy.losing = 1
    await store.mail.append(outgoing(user_id, user_id, device, b"text", repeat=repeat))
    assert proxy.lost == 1
    assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"text"]


@driven
async def test_a_subscription_is_made_again_on_a_new_connection(store: Store) -> None:
    user_id, stands = await new_user(store), list[keys.Whose]()
    store.channels.on_subscribed = stands.append
    await store.channels.subscribe(user_id, DEADLINE)
    link: Any = store._subscriber_link
    link._factory.pool[0].transport.abortConnection()
    await until(lambda: stands == [user_id] * 2)
    heard: list[bytes] = []
    store.channels.on_message = lambda _, text: heard.append(text)
    device = await new_device(store, user_id)
    await store.devices.unbind(device, user_id)
    await until(lambda: heard)


@pytest_twisted.async_yield_fixture
async def frozen(tmp_path: Path) -> Any:
    """A store of its own whose Valkey can be frozen, and the way to freeze it and to wake it."""
    embedded = EmbeddedStore(reactor, tmp_path / "store")
    await embedded.start()
    assert embedded._child is not None
    pid = embedded._child.pid
    store = Store(reactor, StoreUrl(kind="unix", path=embedded.socket_path))
    store.start()
    yield store, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)
    await deferred(store.stop())
    await embedded.stop()


@driven
async def test_while_the_store_is_frozen_clients_are_told_and_nothing_is_written_later(frozen: Any) -> None:
    store, freeze, wake = frozen
    user_id = await new_user(store)
    device = await new_device(store, user_id)
    freeze()
    began = reactor.seconds()
    assert await refused(store.mail.append(outgoing(user_id, user_id, device))) == STORAGE_UNAVAILABLE
    assert reactor.seconds() - began < 5.0
    wake()
    assert await store.mail.read(user_id, 0, 10) == []
    await store.mail.append(outgoing(user_id, user_id, device, b"later"))
    assert [entry.message for entry in await store.mail.read(user_id, 0, 10)] == [b"later"]


# What a store may say.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("LOADING Valkey is loading the dataset in memory", STORAGE_UNAVAILABLE),
        ("READONLY You can't write against a read only replica. script: x", STORAGE_UNAVAILABLE),
        ("MISCONF Errors writing to the AOF file: No space left on device", STORAGE_FULL),
        ("MISCONF Errors writing to the AOF file: Input/output error", STORAGE_UNAVAILABLE),
        ("MISCONF Valkey is configured to save RDB snapshots, but is unable to.", STORAGE_UNAVAILABLE),
        ("NOREPLICAS Not enough good replicas to write.", STORAGE_UNAVAILABLE),
        ("MASTERDOWN Link with MASTER is down", STORAGE_UNAVAILABLE),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", STORAGE_UNAVAILABLE),
        ("CLUSTERDOWN The cluster is down", STORAGE_UNAVAILABLE),
        ("BUSY Valkey is busy running a script.", STORAGE_UNAVAILABLE),
        ("OOM command not allowed when used memory > 'maxmemory'.", STORAGE_FULL),
        ("ERR OOM command not allowed when used memory > 'maxmemory'. script: x", STORAGE_FULL),
    ],
)
@driven
async def test_what_the_store_cannot_do_now(
    new_link: NewLink, server: Scripted, error: str, told: str
) -> None:
    link = await linked(new_link)
    server.says[b"EVALSHA"].append(f"-{error}\r\n".encode())
    assert await refused(link.script(COUNT, b"key")) == told
    assert await link.script(COUNT, b"key") == b"OK"


@driven
async def test_what_the_store_does_not_understand_is_our_fault(new_link: NewLink, server: Scripted) -> None:
    link = await linked(new_link)
    server.says[b"GET"].append(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
    with pytest.raises(RuntimeError, match="WRONGTYPE"):
        await link.call(b"GET", b"key")


@driven
async def test_a_deadline_is_told_by_the_stores_clock(
    new_link: NewLink, server: Scripted, clock: Clock
) -> None:
    server.ahead = 500.0
    link = await linked(new_link)
    await link.script(COUNT, b"key", b"argument")
    [command] = [command for command in server.heard if command[0] == b"EVALSHA"]
    assert command[1:4] == [COUNT.sha, b"1", b"key"]
    assert int(command[4]) == int(clock.seconds() + 500.0 + WRITE_WINDOW) * 1000 + 500
    assert command[5] == b"argument"


@pytest.mark.parametrize("late", [b"EVALSHA", b"EVAL"])
@driven
async def test_a_script_that_was_too_late_is_tried_again(
    new_link: NewLink, server: Scripted, late: bytes
) -> None:
    link = await linked(new_link)
    server.says[b"EVALSHA"] = [b"-NOSCRIPT No matching script.\r\n"] if late == b"EVAL" else []
    server.says[late].append(b"-DEADLINE passed script: x\r\n")
    assert await link.script(COUNT, b"key") == b"OK"


@driven
async def test_a_store_that_goes_after_a_script_was_too_late(
    new_link: NewLink, server: Scripted, clock: Clock
) -> None:
    link = await linked(new_link)
    server.says[b"EVALSHA"] = [b"-DEADLINE passed\r\n"] * 2
    server.says[b"TIME"] = [b"CUT"]
    assert (
        await refused(link.script(COUNT, b"key", expires=clock.seconds() + REPLY_TIMEOUT))
        == STORAGE_UNAVAILABLE
    )


# A store that is away, or does not answer.


@driven
async def test_all_who_wait_for_an_answer_are_told_in_time(
    new_link: NewLink, server: Scripted, clock: Clock
) -> None:
    link = await linked(new_link)
    server.says[b"GET"], server.says[b"EVALSHA"] = [SILENCE] * 2, [SILENCE]
    waiting = link.call(b"GET", b"key"), link.script(COUNT, b"key"), link.call(b"GET", b"key")
    errors = await outcomes(clock, LINK_WAIT + REPLY_TIMEOUT, *waiting)
    assert list(map(type, errors)) == [Unavailable] * 3
    await until(lambda: link.up)
    assert link.reconnects == 1
    assert await link.script(COUNT, b"key") == b"OK"


@driven
async def test_a_store_that_is_away_is_waited_for_so_long_only(
    new_link: NewLink, server: Scripted, clock: Clock
) -> None:
    link = await linked(new_link)
    await server.close()
    await until(lambda: not link.up)
    assert link.problem
    errors = await outcomes(clock, LINK_WAIT + 0.5, link.call(b"GET", b"key"), link.ready(0.5))
    assert list(map(type, errors)) == [Unavailable] * 2
    assert not link.tell(b"SSUBSCRIBE", b"channel")
    server.open()
    await until(lambda: link.up)
    assert not link.problem
    assert await link.call(b"GET", b"key") == b"OK"


@driven
async def test_who_waits_is_told_when_the_link_is_stopped(new_link: NewLink, server: Scripted) -> None:
    await server.close()
    link = new_link()
    waiting = Running(link.ready(3600))
    await link.stop()
    with pytest.raises(Unavailable):
        waiting.result()


@pytest.mark.parametrize(("on_push", "probe"), [(None, b"TIME"), (lambda link, reply: None, b"PING")])
@driven
async def test_a_silent_death_is_noticed(
    new_link: NewLink, server: Scripted, clock: Clock, on_push: Any, probe: bytes
) -> None:
    link = await linked(new_link, on_push=on_push)
    asked = server.count(probe)

    async def probed(times: int) -> None:
        clock.advance(PROBE_INTERVAL)
        await until(lambda: server.count(probe) == asked + times)

    await probed(1)
    await probed(2)
    server.says[probe] = [SILENCE]
    await probed(3)
    clock.advance(REPLY_TIMEOUT + 0.25)
    await until(lambda: link.reconnects == 1)


@driven
async def test_who_waits_is_served_as_soon_as_the_store_is_back(new_link: NewLink, server: Scripted) -> None:
    link = await linked(new_link)
    server.cut()
    await until(lambda: not link.up)
    assert await link.call(b"GET", b"key") == b"OK"
    assert link.reconnects == 1


@driven
async def test_each_connection_is_prepared_and_announced(new_link: NewLink, server: Scripted) -> None:
    ready: list[bool] = []
    login = ((b"AUTH", "user", "password"), (b"SELECT", 3))
    link = await linked(new_link, login=login, on_ready=lambda link: ready.append(True))
    server.cut()
    await until(lambda: link.reconnects == 1)
    names = [command[0] for command in server.heard]
    assert names == [b"AUTH", b"SELECT", b"SCRIPT", b"SCRIPT", b"TIME"] * 2
    assert ready == [True, True]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"AUTH", "WRONGPASS invalid username-password pair or user is disabled."),
        (b"SCRIPT", "LOADING Valkey is loading the dataset in memory"),
        (b"TIME", "NOPERM User has no permissions to run the 'time' command"),
    ],
)
@driven
async def test_a_store_that_does_not_accept_us_is_asked_again_and_again(
    new_link: NewLink, server: Scripted, clock: Clock, name: bytes, error: str
) -> None:
    server.says[name] = [f"-{error}\r\n".encode()] * 3
    link = new_link(login=((b"AUTH", "user", "the password"),))
    await until(lambda: link.problem.startswith(error.split()[0]))
    assert "the password" not in link.problem
    assert await outcomes(clock, 60, link.ready(60)) == [None]
    assert server.count(name) > 3
    assert not link.problem
