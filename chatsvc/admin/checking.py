"""Whether all that the store and the files say of each other is true, beside nodes that change both.

What is found is told in sentences; nothing is mended here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple, TypeVar

from twisted.internet.task import deferLater

from chatsvc.admin import references
from chatsvc.admin.place import Place
from chatsvc.blobs import BlobMissing
from chatsvc.store import keys
from chatsvc.store.accounts import Account
from chatsvc.store.mail import entry_id
from chatsvc.tasks import gather
from chatsvc.wire.text import name_key

T = TypeVar("T")

#: Seconds after which what seems wrong is looked at again: a change may have been under way.
_SECOND_LOOK = 0.5
#: Users who are looked at side by side, and blobs that are read so.
_USERS_AT_ONCE = 20
_BLOBS_AT_ONCE = 4


class Finding(NamedTuple):
    """Something that is not as it should be; a `leftover` does no harm, it is only of no use."""

    what: str
    leftover: bool = False


async def findings(place: Place, on_step: Callable[[int], None], *, digests: bool) -> AsyncIterator[Finding]:
    """All that is wrong; with `digests`, each blob is read whole.

    `on_step` hears of users and `PARTS` of the blobs that were looked at.
    """
    if await place.store.transfer.is_begun():
        yield Finding("A restore was cut short; do it again with the same archive.")
    for part in (_users(place, on_step), _names(place), _strays(place), _blobs(place, on_step, digests)):
        async for found in part:
            for finding in found:
                yield finding


async def _users(place: Place, on_step: Callable[[int], None]) -> AsyncIterator[list[Finding]]:
    newest = await place.store.accounts.newest_id()
    for first in range(1, newest + 1, _USERS_AT_ONCE):
        some = range(first, min(first + _USERS_AT_ONCE, newest + 1))
        yield await _of_several(place, some, _of_user)
        on_step(len(some))


async def _names(place: Place) -> AsyncIterator[list[Finding]]:
    async for page in place.store.scan(keys.NAMES):
        yield await _of_several(place, page, _of_name)


async def _strays(place: Place) -> AsyncIterator[list[Finding]]:
    async for page in place.store.scan(keys.USERS):
        users = {keys.user_of(key) for key in page if not keys.is_repeat(key)}
        yield await _of_several(place, sorted(users), _of_nobody)


async def _blobs(place: Place, on_step: Callable[[int], None], digests: bool) -> AsyncIterator[list[Finding]]:
    async for page in place.keeper.listing():
        for start in range(0, len(page) if digests else 0, _BLOBS_AT_ONCE):
            some = [kept.sha256 for kept in page[start : start + _BLOBS_AT_ONCE]]
            yield [finding for finding in await gather(_of_blob(place, blob) for blob in some) if finding]
        on_step(1)


async def _of_several(
    place: Place, several: Iterable[T], look: Callable[[Place, T], AsyncIterator[Finding]]
) -> list[Finding]:
    found = await gather(_confirmed(place, one, look) for one in several)
    return [finding for of_one in found for finding in of_one]


async def _confirmed(
    place: Place, what: T, look: Callable[[Place, T], AsyncIterator[Finding]]
) -> list[Finding]:
    """What is found twice, with a moment between."""
    found = [finding async for finding in look(place, what)]
    if not found:
        return []
    await deferLater(place.reactor, _SECOND_LOOK)
    again = {finding async for finding in look(place, what)}
    return [finding for finding in found if finding in again]


async def _of_user(place: Place, user_id: int) -> AsyncIterator[Finding]:
    account = await place.store.accounts.account(user_id)
    if account is None:
        return
    for part in (_name, _contacts, _devices, _mailbox, _files, _sent):
        async for finding in part(place, account):
            yield finding


async def _name(place: Place, account: Account) -> AsyncIterator[Finding]:
    owner = await place.store.upkeep.owner(name_key(account.name))
    if owner != account.id:
        whose = "nobody's" if owner is None else f"that of user {owner}"
        yield Finding(f"User {account.id} is called {name_key(account.name)!r}, but that name is {whose}.")


async def _contacts(place: Place, account: Account) -> AsyncIterator[Finding]:
    user, upkeep = account.id, place.store.upkeep
    relations = await place.store.contacts.of(user)
    for other in relations.contacts + relations.pending:
        knows = await upkeep.is_added(other, user, by_other=True)
        if not knows and not await place.store.contacts.has_blocked(other, user):
            yield Finding(f"User {user} has added user {other}, who does not know.")
    for other in relations.contacts + relations.requesting:
        if not await upkeep.is_added(other, user, by_other=False):
            yield Finding(f"User {user} seems to be added by user {other}, who has not done so.")


async def _devices(place: Place, account: Account) -> AsyncIterator[Finding]:
    for device in await place.store.devices.of(account.id):
        if device.created is None:
            yield Finding(f"Device {device.id} of user {account.id} has expired.", leftover=True)
            continue
        record = await place.store.devices.load(device.id)
        if record is None or record.user_id != account.id:
            yield Finding(f"Device {device.id} is in the set of user {account.id} only.", leftover=True)


async def _mailbox(place: Place, account: Account) -> AsyncIterator[Finding]:
    user, upkeep = account.id, place.store.upkeep
    cursors = [page async for page in upkeep.cursors(user)]  # before the end, which only goes forward
    ends = await upkeep.ends(user)
    last = entry_id(ends.last).decode()
    if ends.length and ends.newest != ends.last:
        newest = entry_id(ends.newest).decode()
        yield Finding(f"The mailbox of user {user} ends at {newest}, but is said to end at {last}.")
    for page in cursors:
        for device, cursor in page.items():
            if cursor > ends.last:
                yield Finding(
                    f"Device {device} of user {user} has read to {entry_id(cursor).decode()}, beyond {last}."
                )


async def _files(place: Place, account: Account) -> AsyncIterator[Finding]:
    files: dict[str, int] = {}
    async for rows in place.store.files.index(account.id):
        files |= {row.sha256: row.size for row in rows if row.sha256 is not None}
    for sha256, told in sorted(files.items()):
        size = await place.keeper.size(sha256)
        if size != told:
            how = "is not there" if size is None else f"has {size} bytes instead of {told}"
            yield Finding(f"The file {sha256} of user {account.id} {how}.")
    for sha256 in sorted(await references.of_contents(place.store, account.id)):
        if await place.keeper.size(sha256) is None:
            yield Finding(f"The content {sha256} of a message of user {account.id} is not there.")


async def _sent(place: Place, account: Account) -> AsyncIterator[Finding]:
    counted = await place.store.sent.total(account.id)
    sizes: dict[str, int] = {}
    async for page in place.store.sent.sizes(account.id):
        sizes |= page
    in_all = sum(sizes.values())
    if counted != in_all:
        yield Finding(f"Of user {account.id}, {counted} bytes of files are counted, but there are {in_all}.")


async def _of_name(place: Place, key: bytes) -> AsyncIterator[Finding]:
    name = keys.name_at(key)
    owner = await place.store.upkeep.owner(name)
    account = None if owner is None else await place.store.accounts.account(owner)
    if owner is not None and (account is None or name_key(account.name) != name):
        yield Finding(f"The name {name!r} is kept for user {owner}, who is not called that.")


async def _of_nobody(place: Place, user_id: int) -> AsyncIterator[Finding]:
    if await place.store.accounts.account(user_id) is None:
        yield Finding(f"Something is left of user {user_id}, who is not there; delete {user_id} removes it.")


async def _of_blob(place: Place, sha256: str) -> Finding | None:
    try:
        sound = await place.keeper.is_sound(sha256)
    except BlobMissing:
        return None  # it is one that somebody refers to, or does not matter: the store tells
    return None if sound else Finding(f"The file {sha256} is damaged: its contents have another digest.")
