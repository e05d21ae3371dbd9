"""The commands about all data: stats, trim, collect, backup, restore, check."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from chatsvc import __version__
from chatsvc.admin import archive, checking, collecting, references
from chatsvc.admin import backup as backups
from chatsvc.admin.output import confirm, json_option, progress, read_age, say, say_all, time_of, yes_option
from chatsvc.admin.place import Place, need_files, run
from chatsvc.admin.trimming import Keep
from chatsvc.admin.trimming import trim as trim_mailbox
from chatsvc.admin.users import find
from chatsvc.blobkeeping import PARTS as BLOB_PARTS
from chatsvc.store.accounts import Account
from chatsvc.store.store import Store
from chatsvc.tasks import gather


@click.command()
@json_option
def stats(as_json: bool) -> None:
    """How much there is: users, devices, messages, files, memory."""

    async def work(place: Place) -> dict[str, Any]:
        store = place.store
        counts: Counter[str] = Counter()
        now = await store.now()
        with progress("Users", await store.accounts.newest_id()) as done:
            async for page in store.accounts.pages():
                for of_one in await gather(_counts(store, account, now) for account in page):
                    for name, count in of_one.items():
                        counts[name] += count
                done(len(page))
        blobs = blob_bytes = 0
        async for kept in place.keeper.listing():
            blobs += len(kept)
            blob_bytes += sum(each.size for each in kept)
        servers = await store.info()
        names = ("users", "disabled", "devices", "online", "mailboxes", "messages")
        return {
            **{name: counts[name] for name in names},
            "files": blobs,
            "file_bytes": blob_bytes,
            "store_memory_bytes": sum(int(info["used_memory"]) for info in servers),
            "store_servers": len(servers),
            "store_version": ", ".join(sorted({_version(info) for info in servers})),
            "chatsvc_version": __version__,
        }

    say_all(run(work), as_json=as_json)


async def _counts(store: Store, account: Account, now: int) -> dict[str, int]:
    ends = await store.upkeep.ends(account.id)
    return {
        "users": 1,
        "disabled": account.disabled,
        "devices": await store.upkeep.devices(account.id),
        "online": await store.upkeep.online(account.id, now),
        "mailboxes": ends.length > 0,
        "messages": ends.length,
    }


def _version(info: dict[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


@click.command()
@click.argument("users", nargs=-1, metavar="[USER]...")
@click.option("--older-than", callback=read_age, help="Remove what was stored longer ago, as 365d or 12h.")
@click.option("--keep", type=click.IntRange(0), help="Leave at most so many of the newest in a mailbox.")
@yes_option
@json_option
def trim(users: tuple[str, ...], older_than: int | None, keep: int | None, yes: bool, as_json: bool) -> None:
    """Remove old messages from the mailboxes of some users, or of all.

    Each user's copy goes by itself. Files that came with them go when collect runs.
    """
    if older_than is None and keep is None:
        raise click.UsageError("Say what is to be removed: with --older-than, with --keep, or with both.")
    whose = f"{len(users)} users" if users else "all users"
    confirm(f"Remove old messages from the mailboxes of {whose}, for good?", yes=yes)

    async def work(place: Place) -> tuple[int, int]:
        store = place.store
        since = 0 if older_than is None else await store.now() - older_than * 1000
        some = [(await find(store, user)).id for user in users]
        messages = files = 0
        wanted = some or range(1, await store.accounts.newest_id() + 1)
        with progress("Mailboxes", len(wanted)) as done:
            for user_id in wanted:
                trimmed = await trim_mailbox(store, user_id, Keep(since, keep))
                messages += trimmed.messages
                files += trimmed.files
                done(1)
        return messages, files

    messages, files = run(work, alone=True)
    say({"messages": messages, "file_entries": files}, f"Removed {messages} messages.", as_json=as_json)


@click.command()
@click.option(
    "--older-than", callback=read_age, default="7d", show_default=True, help="Spare what was used later."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@yes_option
@json_option
def collect(older_than: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete files that no message refers to any more; servers may run."""
    if older_than < collecting.YOUNGEST:
        raise click.UsageError(
            f"--older-than has to be {collecting.YOUNGEST}s at least: what was just uploaded waits for its "
            "message."
        )
    if not dry_run:
        confirm("Delete all files that no message refers to, for good?", yes=yes)

    async def work(place: Place) -> collecting.Collected:
        need_files(place)
        keeper, store = place.keeper, place.store
        await keeper.put_all_back()
        unused_since = await keeper.now() - older_than

        def needed() -> AsyncIterator[tuple[int, set[str]]]:
            return references.of_all(store)

        newest = await store.accounts.newest_id()
        with progress("Looking at users", newest) as done:
            found = await collecting.candidates(keeper, needed, unused_since, done)
        if dry_run:
            return collecting.Collected(len(found), sum(found.values()))
        with progress("Looking again", newest) as done:
            return await collecting.collect(keeper, needed, unused_since, found, done)

    collected = run(work, alone=True)
    how = "would be" if dry_run else "were"
    done = f"{collected.blobs} files with {collected.bytes} bytes {how} deleted."
    say({"files": collected.blobs, "bytes": collected.bytes, "dry_run": dry_run}, done, as_json=as_json)


_archive = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@_archive
@json_option
def backup(file: Path, as_json: bool) -> None:
    """Write all of the store and the files to one archive; servers may run.

    It shows one moment: what was stored before it is in it, nothing else. It holds password hashes and
    messages, so guard it.
    """

    async def work(place: Place) -> backups.Made:
        need_files(place)
        await place.keeper.put_all_back()
        newest = await place.store.accounts.newest_id()
        with progress("Copying", newest + BLOB_PARTS) as done:
            return await backups.make(place, file, done)

    manifest, damaged = run(work, alone=True)
    record = _described(manifest)
    record["damaged_files"] = damaged
    say_all({**record, "file": str(file)}, as_json=as_json)
    if damaged:
        raise click.ClickException(
            f"The backup is made, but {len(damaged)} files are damaged and not in it; check says which."
        )


def _described(manifest: archive.Manifest) -> dict[str, Any]:
    return {
        "made_of": time_of(manifest.cut),
        "users": manifest.users,
        "messages": manifest.entries,
        "files": manifest.blobs,
        "file_bytes": manifest.blob_bytes,
    }


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@yes_option
@json_option
def restore(file: Path, yes: bool, as_json: bool) -> None:
    """Write what a backup holds into an empty store and its data directory, and check it.

    All servers that use them must be stopped, also those that use a store of --redis. The whole archive is
    checked before anything is written.
    """
    confirm(f"Restore {file}? All servers must be stopped.", yes=yes)

    async def work(place: Place) -> tuple[archive.Manifest, int]:
        size = file.stat().st_size
        with progress("Checking the archive", size) as done:
            manifest = await backups.verify(file, place, done)
        with progress("Restoring", size) as done:
            await backups.restore(file, manifest, place, done)
        return manifest, await _check(place, digests=False, as_json=as_json)

    manifest, problems = run(work, alone=True, makes=True)
    say_all(_described(manifest), as_json=as_json)
    _judge(problems, as_json=as_json)


@click.command()
@click.option("--no-hash", is_flag=True, help="Do not read the files, only look whether they are there.")
@json_option
def check(no_hash: bool, as_json: bool) -> None:
    """Look whether all that the store and the files say of each other is true; servers may run."""

    async def work(place: Place) -> int:
        need_files(place)
        await place.keeper.put_all_back()
        return await _check(place, digests=not no_hash, as_json=as_json)

    _judge(run(work, alone=True), as_json=as_json)


async def _check(place: Place, *, digests: bool, as_json: bool) -> int:
    """Print what is found; gives how many problems that were."""
    problems = 0
    newest = await place.store.accounts.newest_id()
    with progress("Checking", newest + BLOB_PARTS) as done:
        async for what, leftover in checking.findings(place, done, digests=digests):
            kind = "leftover" if leftover else "problem"
            say({"kind": kind, "what": what}, f"{kind}: {what}", as_json=as_json)
            problems += not leftover
    return problems


def _judge(problems: int, *, as_json: bool) -> None:
    """End a command with status 1 if there are problems."""
    if problems:
        raise click.ClickException(f"{problems} problems were found.")
    if not as_json:
        click.echo("No problems were found.")
