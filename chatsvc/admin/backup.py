"""A backup of store and files beside running servers, and restoring it into another store.

The form of the archive is in ``archive`` beside this, how a store is copied in ``chatsvc/store/transfer.py``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from twisted.internet.threads import deferToThread

from chatsvc import __version__
from chatsvc.admin import archive
from chatsvc.admin.archive import Broken, Manifest, Member, Writer
from chatsvc.admin.place import Place
from chatsvc.blobs import BlobMissing
from chatsvc.store import items
from chatsvc.store.items import Added, Device, Item, Mail, User
from chatsvc.store.transfer import CannotCut
from chatsvc.tasks import gather

T = TypeVar("T")

#: Items in one part of the archive: so many, or entries of so many bytes.
_ITEMS = 1000
_BYTES = 4 * 1024 * 1024
#: Items that are written side by side when restoring.
_AT_ONCE = 100
#: Milliseconds by which the store's clock may differ from ours over a backup; it was set back if by more.
_DRIFT = 500


class Made(NamedTuple):
    """A finished backup, and the blobs that are not in it as they were damaged, by digest."""

    manifest: Manifest
    damaged: list[str]


async def make(
    place: Place, path: Path, on_step: Callable[[int], None], steady: Callable[[], float] = time.monotonic
) -> Made:
    """Write a backup to `path`; `on_step` hears of users and `PARTS` of the blobs that were copied.

    `steady` is a clock, in seconds, that nobody sets: the reactor's may be set back with the store's.
    Raises OSError, `CannotCut` and `Refusal`; then there is none.
    """
    writer = await deferToThread(Writer, path)
    place.parts.add(writer.abandon)
    try:
        manifest = await _copy_store(place, writer, on_step, steady)
        damaged = await _copy_blobs(place, writer, on_step)
        return Made(await deferToThread(writer.finish, manifest), damaged)
    finally:
        await deferToThread(writer.abandon)


async def _copy_store(
    place: Place, writer: Writer, on_step: Callable[[int], None], steady: Callable[[], float]
) -> Manifest:
    store = place.store
    cut = await store.transfer.cut()
    began = steady()
    manifest = Manifest(version=__version__, cut=cut.ms, users=0, entries=0)
    some: list[Item] = []
    size = reached = 0
    async for item in store.transfer.read(cut):
        match item:
            case User():
                manifest.users += 1
                on_step(item.id - reached)
                reached = item.id
            case Mail():
                manifest.entries += len(item.entries)
                size += sum(len(field) for _, fields in item.entries for field in fields)
        some.append(item)
        if len(some) >= _ITEMS or size >= _BYTES:
            await deferToThread(writer.add_items, items.packed(some))
            some, size = [], 0
    await deferToThread(writer.add_items, items.packed(some))
    if await store.now() < cut.ms + (steady() - began) * 1000 - _DRIFT:
        # What came after the cut may then have an id from before it.
        raise CannotCut("The store's clock was set back during the backup; make it again.")
    return manifest


async def _copy_blobs(place: Place, writer: Writer, on_step: Callable[[int], None]) -> list[str]:
    damaged = []
    async for page in place.keeper.listing():
        for kept in page:
            with suppress(BlobMissing):
                if not await place.keeper.in_file(kept.sha256, partial(writer.add_blob, kept.sha256)):
                    damaged.append(kept.sha256)
        on_step(1)
    return damaged


async def verify(path: Path, place: Place, on_bytes: Callable[[int], None]) -> Manifest:
    """Check an archive from its first byte to its last. Raises `Broken` and OSError."""

    def told(count: int) -> None:
        place.reactor.callFromThread(on_bytes, count)

    return await deferToThread(archive.verify, path, told)


async def restore(path: Path, manifest: Manifest, place: Place, on_bytes: Callable[[int], None]) -> None:
    """Write what a verified archive holds. Raises `Broken`, OSError, `Refusal`.

    Again with the same archive goes on where it was cut short.
    """
    what = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest().encode()
    if not await place.store.transfer.begin(what):
        raise Broken(
            "The store is not empty: a backup is restored into a new one, or after all of the old one was "
            "removed. Nothing was written."
        )
    await place.blobs.prepare()
    # The files first: nothing in the store ever refers to one that is not there.
    for wanted in (_put_blob, _put_items):
        found = archive.members(path)
        while (member := await deferToThread(_next, found)) is not None:
            if await wanted(place, member):
                on_bytes(member.size)
    await place.store.transfer.finish()


def _next(found: Iterator[T]) -> T | None:
    return next(found, None)


async def _put_blob(place: Place, member: Member) -> bool:
    if member.blob is None:
        return False
    upload = place.blobs.upload()
    try:
        chunks = member.chunks()
        while (data := await deferToThread(_next, chunks)) is not None:
            await upload.write(data)
        await upload.finish()
    finally:
        await upload.abandon()
    return True


async def _put_items(place: Place, member: Member) -> bool:
    if not member.holds_items:
        return False
    transfer = place.store.transfer
    waiting: list[Item] = []
    for item in items.unpacked(await deferToThread(b"".join, member.chunks())):
        if isinstance(item, Mail):  # the entries of a mailbox have an order
            await transfer.put(item)
            continue
        if len(waiting) == _AT_ONCE or (waiting and _looks_at_users(item) is not _looks_at_users(waiting[0])):
            await gather(map(transfer.put, waiting))
            waiting = []
        waiting.append(item)
    await gather(map(transfer.put, waiting))
    return True


def _looks_at_users(item: Item) -> bool:
    """Whether an item is only written if a user is there, whose item must not be on its way beside it."""
    return isinstance(item, Added | Device)
