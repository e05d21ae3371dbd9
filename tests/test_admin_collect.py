"""Collecting blobs that nobody needs, and every moment at which a node may come to need one after all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from chatsvc.admin import collecting
from chatsvc.admin.collecting import Collected
from chatsvc.blobkeeping import BlobKeeper
from chatsvc.blobs import BlobMissing, Blobs
from tests import blob_directory
from tests.blob_directory import HELLO, described, files, place, uploaded
from tests.stores import driven
from tests.waiting import reactor

threads, root, blobs = blob_directory.FIXTURES
SHA256 = described(HELLO).sha256
AGE = 1000.0


def nothing(count: int) -> None:
    """Nobody wants to know how far it is."""


@pytest.fixture
def keeper(root: Path, threads: Any) -> BlobKeeper:
    return BlobKeeper(root, threads, reactor)


class Nodes:
    """What running nodes do to a blob while it is collected: on the walk of that number, and from then on."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.needed: set[str] = set()
        self.before: dict[int, Callable[[], Any]] = {}
        self.walks = 0

    async def references(self) -> AsyncIterator[tuple[int, set[str]]]:
        """Walk over what is needed."""
        self.walks += 1
        if self.walks in self.before:
            await self.before[self.walks]()
        yield 1, set(self.needed)

    async def sends_again(self) -> None:
        """A message that reuses the file, if it is there; then there is a reference."""
        if await self.blobs.renew(SHA256, len(HELLO)):
            self.needed.add(SHA256)

    async def uploads(self) -> None:
        """A message that brings the file."""
        self.needed.add((await uploaded(self.blobs, HELLO)).sha256)


@pytest.fixture
def nodes(blobs: Blobs) -> Nodes:
    return Nodes(blobs)


def grow_old(path: Path) -> None:
    """Let a blob have been used long ago."""
    long_ago = path.stat().st_mtime - 10 * AGE
    os.utime(path, (long_ago, long_ago))


async def put_old(blobs: Blobs, root: Path, data: bytes = HELLO) -> Path:
    """A blob that was stored long ago."""
    await blobs.put(data)
    grow_old(place(root, data))
    return place(root, data)


async def collect(keeper: BlobKeeper, nodes: Nodes) -> Collected:
    """As the command does."""
    unused_since = await keeper.now() - AGE
    found = await collecting.candidates(keeper, nodes.references, unused_since, nothing)
    return await collecting.collect(keeper, nodes.references, unused_since, found, nothing)


@driven
async def test_what_nobody_needs_goes_when_it_is_old(
    keeper: BlobKeeper, blobs: Blobs, root: Path, nodes: Nodes
) -> None:
    await put_old(blobs, root)
    young, needed = described(b"young"), described(b"needed")
    await blobs.put(b"young")
    await put_old(blobs, root, b"needed")
    nodes.needed = {needed.sha256}
    assert await collect(keeper, nodes) == (1, len(HELLO))
    assert {path.name for path in files(root)} == {young.sha256, needed.sha256}
    assert await collect(keeper, nodes) == (0, 0)


@driven
async def test_a_blob_that_is_used_before_it_is_looked_at_again_stays(
    keeper: BlobKeeper, blobs: Blobs, root: Path, nodes: Nodes
) -> None:
    path = await put_old(blobs, root)
    nodes.before[1] = nodes.sends_again
    assert await collect(keeper, nodes) == (0, 0)
    assert path.read_bytes() == HELLO


@pytest.mark.parametrize("moment", ["before the look", "between the look and the move"])
@driven
async def test_a_blob_that_is_renewed_while_it_is_taken_aside_is_put_back(
    keeper: BlobKeeper, blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = await put_old(blobs, root)
    unused_since = await keeper.now() - AGE
    if moment == "before the look":
        assert await blobs.renew(SHA256, len(HELLO))
    else:
        rename = os.rename

        def late(source: Path, target: Path) -> None:
            monkeypatch.setattr(os, "rename", rename)
            os.utime(source)
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)
    assert not await keeper.take_aside(SHA256, unused_since)
    assert files(root) == {path}


@driven
async def test_a_blob_that_is_aside_is_not_there_for_a_new_message_but_is_read(
    keeper: BlobKeeper, blobs: Blobs, root: Path
) -> None:
    path = await put_old(blobs, root)
    assert await keeper.take_aside(SHA256, await keeper.now() - AGE)
    assert not await blobs.renew(SHA256, len(HELLO))
    assert await blobs.get(SHA256) == HELLO
    (await blobs.open(SHA256, 0, 5)).close()
    assert not path.exists()


@driven
async def test_a_reference_that_shows_after_the_first_walk_brings_the_blob_back(
    keeper: BlobKeeper, blobs: Blobs, root: Path, nodes: Nodes
) -> None:
    path = await put_old(blobs, root)

    async def by_an_older_node() -> None:
        nodes.needed.add(SHA256)  # which renews nothing

    nodes.before[2] = by_an_older_node
    assert await collect(keeper, nodes) == (0, 0)
    assert files(root) == {path}
    assert path.stat().st_mtime >= await keeper.now() - AGE


@pytest.mark.parametrize("walk", [1, 2])
@driven
async def test_a_blob_that_is_uploaded_again_meanwhile_stays(
    keeper: BlobKeeper, blobs: Blobs, root: Path, nodes: Nodes, walk: int
) -> None:
    path = await put_old(blobs, root)
    nodes.before[walk] = nodes.uploads
    await collect(keeper, nodes)
    assert files(root) == {path}
    assert await blobs.get(SHA256) == HELLO


@driven
async def test_a_blob_that_was_refused_while_it_was_aside_is_deleted(
    keeper: BlobKeeper, blobs: Blobs, root: Path, nodes: Nodes
) -> None:
    await put_old(blobs, root)
    nodes.before[2] = nodes.sends_again
    assert await collect(keeper, nodes) == (1, len(HELLO))
    assert nodes.needed == set()
    assert files(root) == set()
    with pytest.raises(BlobMissing):
        await blobs.get(SHA256)


@driven
async def test_what_a_killed_collector_left_aside_is_put_back(
    keeper: BlobKeeper, blobs: Blobs, root: Path
) -> None:
    path = await put_old(blobs, root)
    assert await keeper.take_aside(SHA256, await keeper.now() - AGE)
    assert await keeper.put_all_back() == 1
    assert files(root) == {path}
    assert await keeper.put_all_back() == 0


@driven
async def test_an_upload_of_what_is_there_makes_it_young(
    blobs: Blobs, root: Path, keeper: BlobKeeper
) -> None:
    path = await put_old(blobs, root)
    await blobs.put(HELLO)
    assert path.stat().st_mtime > await keeper.now() - AGE
    assert not await blobs.renew(SHA256, len(HELLO) + 1)
    assert not await blobs.renew("0" * 64, 5)


@driven
async def test_the_keeper_sees_blobs_alone(keeper: BlobKeeper, blobs: Blobs, root: Path) -> None:
    await blobs.put(HELLO)
    await blobs.put(b"more")
    (root / "ab").mkdir(exist_ok=True)
    (root / "ab" / "notes").write_text("of the operator")
    place(root, HELLO).with_name("0" * 64).symlink_to("/etc/passwd")
    found = [kept async for page in keeper.listing() for kept in page]
    assert {kept.sha256 for kept in found} == {described(HELLO).sha256, described(b"more").sha256}
    assert sum(kept.size for kept in found) == len(HELLO) + 4
    assert await keeper.size(SHA256) == len(HELLO)
    assert await keeper.size("0" * 64) is None
    assert await keeper.is_sound(SHA256)
    place(root, HELLO).write_bytes(b"damaged")
    assert not await keeper.is_sound(SHA256)
    with pytest.raises(BlobMissing):
        await keeper.is_sound(hashlib.sha256(b"nothing").hexdigest())
