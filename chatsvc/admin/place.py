"""What a command works on: the store and the files, found by the server's own options, and the reactor's run.

A running server's embedded store is used beside it; one that nobody runs is started for the command.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from twisted.internet import task
from twisted.python import usage
from twisted.python.threadpool import ThreadPool

from chatsvc.admin.archive import Broken
from chatsvc.blobkeeping import BlobKeeper
from chatsvc.blobs import Blobs
from chatsvc.options import Options
from chatsvc.parts import Parts
from chatsvc.passwords import Passwords
from chatsvc.settings import ROWS, Settings
from chatsvc.store.errors import Unavailable
from chatsvc.store.store import Store
from chatsvc.store.transfer import CannotCut
from chatsvc.store.url import StoreUrl
from chatsvc.tasks import deferred
from chatsvc.valkey import DataDirectory, EmbeddedStore, StoreError, connectable, socket_of
from chatsvc.wire.errors import Refusal

T = TypeVar("T")

#: The server's options that the command shares.
_NAMES = ("data-dir", "redis", "replica-acks", "bcrypt-cost", "config")
SHARED = tuple(row for row in ROWS if row.name in _NAMES)
#: Seconds within which a store must answer.
STORE_WAIT = 10.0
#: Threads that read and write files.
FILE_THREADS = 4


class Place(NamedTuple):
    """What a command works on."""

    reactor: Any
    settings: Settings
    store: Store
    blobs: Blobs
    keeper: BlobKeeper
    passwords: Passwords
    parts: Parts


def read_settings(given: dict[str, Any]) -> Settings:
    """The server's settings as far as the command shares them. Raises `click.UsageError`."""
    words = [f"--{row.name}={given[row.field]}" for row in SHARED if given[row.field] is not None]
    # Other variables are the server's alone, and may name what this user cannot read.
    names = {name for row in SHARED for name in (row.variable, f"{row.variable}_FILE")}
    options = Options({name: value for name, value in os.environ.items() if name in names})
    try:
        options.parseOptions(words)  # type: ignore[no-untyped-call]
    except usage.UsageError as error:
        raise click.UsageError(str(error)) from None
    return options.settings()


def run(work: Callable[[Place], Coroutine[Any, Any, T]], *, alone: bool = False, makes: bool = False) -> T:
    """What `work` gives, done in a reactor's run; a process has one such run.

    `alone` keeps others that are so off the same data directory; `makes` permits a store that is new.
    Raises `click.ClickException` with a sentence for the operator.
    """
    settings = read_settings(click.get_current_context().find_root().params)
    results: list[T] = []
    errors: list[Exception] = []

    async def main(reactor: Any) -> None:
        parts = Parts()
        # Ctrl-C ends the reactor's run, not the work, which then finds its parts stopped.
        reactor.addSystemEventTrigger("before", "shutdown", lambda: deferred(parts.stop()))
        try:
            if alone:
                _lock(settings.data_dir, parts)
            results.append(await work(await _open(reactor, settings, parts, makes=makes)))
        except Exception as error:
            errors.append(error)
        await parts.stop()

    with suppress(SystemExit):  # that is how `react` returns
        task.react(lambda reactor: deferred(main(reactor)))
    if errors:
        raise _told(errors[0], settings) from errors[0]
    if not results:
        raise click.Abort
    return results[0]


def _told(error: Exception, settings: Settings) -> Exception:
    """An error as the operator is told of it; what nobody foresaw stays as it is."""
    match error:
        case Unavailable():
            where = settings.data_dir if settings.redis is None else settings.redis.safe
            return click.ClickException(f"The store of {where} does not answer.")
        case Refusal():
            return click.ClickException(f"{error.info.rstrip('.')}.")
        case StoreError() | CannotCut() | Broken() | OSError():
            return click.ClickException(str(error))
    return error


async def _open(reactor: Any, settings: Settings, parts: Parts, *, makes: bool) -> Place:
    url = settings.redis or await _own_store(reactor, settings.data_dir, parts, makes=makes)
    threads = ThreadPool(0, FILE_THREADS, name="chatsvc-admin files")
    threads.start()
    parts.add(threads.stop)
    passwords = Passwords(settings.bcrypt_cost, None, 1, reactor)
    passwords.start()
    parts.add(passwords.stop)
    store = Store(reactor, url, replica_acks=settings.replica_acks)
    store.start()
    parts.add(store.stop)
    try:
        await store.ready(STORE_WAIT)
    except Unavailable:
        raise StoreError(f"The store at {url.safe} cannot be used: {store.problem}.") from None
    directory = settings.data_dir / "blobs"
    blobs = Blobs(directory, f"admin-{os.getpid()}", threads, reactor)
    keeper = BlobKeeper(directory, threads, reactor)
    return Place(reactor, settings, store, blobs, keeper, passwords, parts)


async def _own_store(reactor: Any, data_dir: Path, parts: Parts, *, makes: bool) -> StoreUrl:
    """The embedded store of a data directory: that of the server that runs on it, or one of our own."""
    directory = data_dir / "store"
    if not directory.is_dir() and not makes:
        raise StoreError(
            f"There is no store in {data_dir}. Name the server's directory with --data-dir, or the address "
            "of its store with --redis."
        )
    claimed = DataDirectory(data_dir)
    try:
        claimed.claim()
    except StoreError:
        if not socket_of(directory).exists():
            raise
        path, shortcut = connectable(socket_of(directory.absolute()))
        if shortcut is not None:
            parts.add(shortcut.cleanup)
        return StoreUrl(kind="unix", path=path)
    parts.add(claimed.release)
    _must_own(data_dir)
    click.echo("No server runs on the data directory; its store is started for this command.", err=True)
    embedded = EmbeddedStore(reactor, directory)
    parts.add(embedded.stop)
    await embedded.start()
    return StoreUrl(kind="unix", path=embedded.socket_path)


def _must_own(data_dir: Path) -> None:
    """What is written there must be the server's; root may do too much."""
    if data_dir.exists() and (owner := data_dir.stat().st_uid) != os.geteuid():
        raise StoreError(
            f"{data_dir} belongs to the user with the id {owner}: run this command as that user, or the "
            "server could not read what is written."
        )


def _lock(data_dir: Path, parts: Parts) -> None:
    """Keep other commands that need the data directory alone off it, until this one ends."""
    _must_own(data_dir)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / "upkeep.lock", os.O_RDWR | os.O_CREAT, 0o600)
    parts.add(lambda: os.close(lock))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            f"Another chatsvc-admin is at work on {data_dir}; of trim, collect, backup, restore and check "
            "only one can run at a time."
        ) from None


def need_files(place: Place) -> None:
    """Raises `StoreError` if the files are not here: then nothing can be said about them."""
    directory = place.settings.data_dir / "blobs"
    if not directory.is_dir():
        raise StoreError(
            f"There are no files in {directory}. Name the directory that the servers keep them in with "
            "--data-dir."
        )
