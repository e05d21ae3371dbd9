"""Backups and restores that do not go well: what is left of them, and that they can be done again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.python.threadpool import ThreadPool

from chatsvc.admin import backup
from chatsvc.admin.archive import Broken
from chatsvc.admin.place import Place
from chatsvc.blobkeeping import BlobKeeper
from chatsvc.blobs import Blobs
from chatsvc.parts import Parts
from chatsvc.store import keys
from chatsvc.store.errors import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.transfer import CannotCut
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from chatsvc.valkey import EmbeddedStore
from tests.stores import DEADLINE, HASH, driven, new_user, outgoing, reactor

PICTURE = b"a picture"


def nothing(count: int) -> None:
    """Nobody wants to know how far it is."""


@pytest_twisted.async_yield_fixture
async def places(tmp_path: Path) -> Any:
    """Two places with empty stores."""
    made, parts = [], Parts()
    for name in ("one", "two"):
        embedded = EmbeddedStore(reactor, tmp_path / name / "store")
        parts.add(embedded.stop)
        await embedded.start()
        store = Store(reactor, StoreUrl(kind="unix", path=embedded.socket_path))
        parts.add(store.stop)
        store.start()
        await deferred(store.ready(DEADLINE))
        threads = ThreadPool(0, 2, name)
        threads.start()
        parts.add(threads.stop)
        directory = tmp_path / name / "blobs"
        blobs, keeper = Blobs(directory, name, threads, reactor), BlobKeeper(directory, threads, reactor)
        await deferred(blobs.prepare())
        unused: Any = None
        made.append(Place(reactor, unused, store, blobs, keeper, unused, Parts()))
    yield made
    await deferred(parts.stop())


async def fill(place: Place) -> int:
    """Something to copy: a user with messages and a file."""
    store = place.store
    user_id = await new_user(store)
    device = keys.device_id(await store.devices.create())
    assert await store.devices.bind(device, user_id, HASH)
    for number in range(300):
        await store.mail.append(outgoing(user_id, user_id, device, b"%d" % number))
    await place.blobs.put(PICTURE)
    return user_id


@driven
async def test_a_clock_that_is_set_back_spoils_the_backup(places: list[Place], tmp_path: Path) -> None:
    place = places[0]
    await fill(place)
    passed = itertools.count(
        step=3600
    )  # an hour from each look to the next, of which the store knows nothing
    with pytest.raises(CannotCut, match="was set back"):
        await backup.make(place, tmp_path / "backup.tar", nothing, lambda: next(passed))
    assert not list(tmp_path.glob("backup*"))


@driven
async def test_a_restore_that_was_cut_short_is_done_again_with_the_same_archive(
    places: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = places
    user_id = await fill(one)
    path, other = tmp_path / "backup.tar", tmp_path / "other.tar"
    manifest, _ = await backup.make(one, path, nothing)
    assert await backup.verify(path, one, nothing) == manifest
    await one.store.accounts.set_avatar(user_id, "changed since")
    changed, _ = await backup.make(one, other, nothing)
    real, left = two.store.transfer.put, [4]

    async def until_the_store_goes(item: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Unavailable
        await real(item)

    monkeypatch.setattr(two.store.transfer, "put", until_the_store_goes)
    with pytest.raises(Unavailable):
        await backup.restore(path, manifest, two, nothing)
    monkeypatch.undo()
    assert await two.store.transfer.is_begun()
    with pytest.raises(Broken, match="not empty"):
        await backup.restore(other, changed, two, nothing)
    await backup.restore(path, manifest, two, nothing)
    assert not await two.store.transfer.is_begun()
    assert await two.store.mail.read(user_id, 0, 1000) == await one.store.mail.read(user_id, 0, 1000)
    [kept] = [kept async for page in two.keeper.listing() for kept in page]
    assert await two.blobs.get(kept.sha256) == PICTURE
    with pytest.raises(Broken, match="not empty"):
        await backup.restore(path, manifest, two, nothing)
