"""What an operator is told of a store's settings at start."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from chatsvc.store import checks
from chatsvc.store.checks import Unfit
from chatsvc.store.errors import TryAgain, Unavailable
from chatsvc.store.store import Store
from chatsvc.store.url import StoreUrl
from tests.service import Valkey
from tests.stores import DEADLINE, driven, reactor

SOUND = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction"}
NO_PERMISSION = RuntimeError("The store does not understand us: NOPERM User has no permissions")


class FakeLink:
    """A store with these settings; None: it does not tell."""

    def __init__(self, settings: dict[str, str] | None, info: dict[str, Any] | None) -> None:
        self._settings, self._info = settings, info

    async def call(self, *command: bytes) -> Any:
        if command == (b"INFO",):
            if self._info is None:
                raise NO_PERMISSION
            lines = [f"{key}:{value}\r\n" for key, value in self._info.items()]
            return "".join(["# Everything\r\n", *lines]).encode()
        assert command[:2] == (b"CONFIG", b"GET")
        if self._settings is None:
            raise NO_PERMISSION
        asked = [name.decode() for name in command[2:]]
        pairs = [(name, self._settings[name]) for name in asked if name in self._settings]
        return [part.encode() for pair in pairs for part in pair]


async def warned(*links: FakeLink, replica_acks: int = 0, failover: bool = False) -> list[str]:
    """What is said of these primaries."""
    return await checks.warnings(links, replica_acks=replica_acks, failover=failover)  # type: ignore[arg-type]


@driven
async def test_of_a_sound_store_nothing_is_said() -> None:
    info = {"redis_version": "7.2.4", "connected_slaves": 2}
    assert await warned(FakeLink(SOUND, info), replica_acks=2, failover=True) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"appendonly": "no"}, "keeps nothing on disk"),
        ({"appendonly": "no", "save": "3600 1"}, "no append-only file"),
        ({"appendfsync": "everysec"}, "a second or two of messages"),
        ({"appendfsync": "no"}, "half a minute of messages"),
        ({"maxmemory-policy": "volatile-lru"}, r"\(maxmemory-policy volatile-lru\)"),
    ],
)
@driven
async def test_a_weak_setting_is_named_in_a_sentence(setting: dict[str, str], said: str) -> None:
    [sentence] = await warned(FakeLink(SOUND | setting, {"redis_version": "7.0.0"}))
    assert_says(sentence, said)
    assert "Set " in sentence


def assert_says(sentence: str, said: str) -> None:
    """It is a sentence that says this."""
    assert re.search(said, sentence), sentence
    assert sentence.endswith(".")


@driven
async def test_a_store_that_hides_its_settings_is_judged_by_what_it_says_of_itself() -> None:
    info = {"redis_version": "7.2.4", "aof_enabled": 0, "maxmemory_policy": "allkeys-lru"}
    disk, memory = await warned(FakeLink(None, info))
    assert_says(disk, "no append-only file")
    assert_says(memory, "allkeys-lru")
    assert await warned(FakeLink(None, info | {"aof_enabled": 1, "maxmemory_policy": "noeviction"})) == []
    assert await warned(FakeLink(None, None)) == []
    assert await warned(FakeLink(SOUND, None), replica_acks=1, failover=True) == []


@driven
async def test_replicas_that_are_missing_or_not_waited_for() -> None:
    store = FakeLink(SOUND, {"redis_version": "7.2.4", "connected_slaves": 1})
    [missing] = await warned(store, replica_acks=2, failover=True)
    assert_says(missing, "has 1 of the 2 replicas that --replica-acks asks for")
    [lossy] = await warned(store, failover=True)
    assert_says(lossy, "a failover can lose messages")
    assert await warned(store) == []


@driven
async def test_of_many_primaries_each_is_looked_at_and_nothing_said_twice() -> None:
    info = {"redis_version": "7.2.4"}
    weak = SOUND | {"appendonly": "no"}
    said = await warned(FakeLink(weak, info), FakeLink(SOUND, info), FakeLink(weak, info))
    assert len(said) == 1
    with pytest.raises(Unfit):
        await warned(FakeLink(SOUND, info), FakeLink(SOUND, {"redis_version": "6.2.14"}))


@driven
async def test_a_node_that_has_just_gone_is_no_fault_of_ours() -> None:
    class GoneLink(FakeLink):
        async def call(self, *command: bytes) -> Any:
            raise TryAgain

    with pytest.raises(Unavailable):
        await warned(GoneLink(None, None))


@pytest.mark.parametrize(
    ("version", "fits"), [("6.2.14", False), ("7.0.0", True), ("10.1", True), ("?", True)]
)
@driven
async def test_a_store_that_is_too_old_is_refused(version: str, fits: bool) -> None:
    link = FakeLink(SOUND, {"redis_version": version})
    if fits:
        assert await warned(link) == []
    else:
        with pytest.raises(Unfit, match=r"Redis 6\.2\.14, .* 7\.0 or later, or Valkey, is needed"):
            await warned(link)


@driven
async def test_a_real_store_tells_what_is_asked(valkey: Callable[..., Valkey]) -> None:
    server = valkey("--maxmemory-policy", "allkeys-lru", "--appendfsync", "everysec").start()
    store = Store(reactor, StoreUrl(kind="unix", path=str(server.socket_path)), replica_acks=1)
    store.start()
    try:
        await store.ready(DEADLINE)
        disk, memory, replicas = await store.warnings()
        assert_says(disk, "everysec")
        assert_says(memory, "allkeys-lru")
        assert_says(replicas, "has 0 of the 1")
        server.ask("ACL SETUSER default -config")
        assert len(await store.warnings()) == 2  # it does not tell of appendfsync any more
        server.ask("ACL SETUSER default -info")
        assert await store.warnings() == []
    finally:
        await store.stop()
