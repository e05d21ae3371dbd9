"""Bugs to be planted into a server: the fault tests must find each (`tests/chaos/control.py`).

The product knows nothing of them. `python -m tests.chaos.plants NAME ...` changes what it has imported, then
runs twistd with the other arguments.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from chatsvc import bloblayout, blobs, disk, valkey
from chatsvc.chat import hub, messages
from chatsvc.chat.calls import Call
from chatsvc.chat.guard import Guard
from chatsvc.chat.hub import Hub
from chatsvc.chat.session import Session
from chatsvc.passwords import ANYBODY, Passwords, Turn
from chatsvc.store import append, keys, mail, two_step
from chatsvc.store.files import FileEntry, Files
from chatsvc.store.protocol import Packed
from chatsvc.store.replicas import ReplicatedLink
from chatsvc.store.script import Script
from chatsvc.tasks import gather, pause, spawn
from chatsvc.wire.errors import Refusal
from chatsvc.wire.schema import Message
from tests import launch
from tests.fuzz.planted import logs_what_is_said

PLANTS: dict[str, Callable[[], None]] = {}
#: Seconds for which a message that was answered OK too early is not stored.
LATE = 0.05
#: And those for which its file is not there.
FILE_LATE = 5.0


def plant(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The bug of this name."""

    def named(bug: Callable[[], None]) -> Callable[[], None]:
        PLANTS[name] = bug
        return bug

    return named


def command(name: str) -> tuple[str, ...]:
    """What runs a server with this bug, for `tests.service.Service`."""
    return sys.executable, "-m", "tests.chaos.plants", name, "-n", "--pidfile="


@plant("early-ok")
def _early_ok() -> None:
    """SENDMSG is answered OK before the store has answered, and whatever it answers."""
    original = append.GroupCommit.append
    commit = append.GroupCommit._commit

    def answered(self: append.GroupCommit, outgoing: append.Outgoing) -> append.Waiting:
        waiting = original(self, outgoing)
        waiting.succeed(None)
        return waiting

    async def late(self: append.GroupCommit, group: list[append.Waiting]) -> None:
        await pause(self._clock, LATE)
        await commit(self, group)

    _replace(append.GroupCommit, "append", answered)
    _replace(append.GroupCommit, "_commit", late)


@plant("failed-group-ok")
def _failed_group_ok() -> None:
    """A group of messages is answered OK though the store did not take it."""

    def settle(group: list[append.Waiting], refusal: Refusal) -> None:
        for waiting in group:
            waiting.succeed(None)

    _replace(append.Queue, "_fail", staticmethod(settle))


@plant("no-repeats")
def _no_repeats() -> None:
    """No message is known as the repeat of another one."""
    original = append.Waiting.__init__

    def forgetful(self: append.Waiting, outgoing: append.Outgoing, now: float) -> None:
        original(self, outgoing, now)
        self.repeat = secrets.token_hex(16)

    _replace(append.Waiting, "__init__", forgetful)


@plant("one-mailbox")
def _one_mailbox() -> None:
    """The two mailboxes are written by two scripts, one after the other."""
    sender_s = _changed(append._APPEND, ("if target ~= sender then", "if false then"))
    target_s = _changed(append._APPEND, ("deliver(sender, device, text)", ""), ("':repeat:'", "':second:'"))

    async def twice(self: append.GroupCommit, group: list[append.Waiting]) -> None:
        args = Packed(b"".join(map(append._packed, group)), append._ARGUMENTS * len(group))
        record = keys.user(group[0].outgoing.sender)
        results = await self._link.script(sender_s, record, args, expires=group[0].expires)
        await pause(self._clock, LATE)
        await self._link.script(target_s, record, args, expires=group[0].expires)
        for waiting, result in zip(group, results, strict=True):
            waiting.settle(result)

    _replace(append.GroupCommit, "_commit", twice)


def _changed(script: Script, *changes: tuple[str, str]) -> Script:
    source = script.source.decode()
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    changed = Script("")
    changed.source = source.encode()
    changed.sha = hashlib.sha1(changed.source, usedforsecurity=False).hexdigest().encode()
    return changed


@plant("forgotten-second")
def _forgotten_second() -> None:
    """In a cluster, a message that did not come into the second mailbox at once never does."""

    async def forget(self: two_step.TwoStep, key: bytes, before: int | None) -> int:
        await self._router.write(b"DEL", key)
        return 0

    _replace(two_step.TwoStep, "_bring", forget)


@plant("deaf")
def _deaf() -> None:
    """What was published while a node did not hear is not looked for, nor missed later."""
    entries = mail.Published.entries

    def follow(self: mail.Published) -> list[mail.Entry]:
        return [mail.Entry(one.position, 0, one.origin, one.flags, one.message) for one in entries(self)]

    _replace(mail.Published, "entries", follow)
    _replace(Hub, "_subscribed", lambda self, whose: None)


@plant("early-cursor")
def _early_cursor() -> None:
    """The cursor moves when a message is about to be written to a device, not when it is acknowledged."""
    original = Session._pass

    def passed(self: Session, position: int, frames: list[bytes]) -> None:
        original(self, position, frames)
        if self.device is not None and self.device.delivery is not None:
            self.hub.acknowledge(self.device, self.device.delivery, position)

    _replace(Session, "_pass", passed)


@plant("no-revocation")
def _no_revocation() -> None:
    """A node does not heed what it hears of the end of a binding."""
    _replace(Hub, "doubt", lambda self, device: None)


@plant("cursor-ahead")
def _cursor_ahead() -> None:
    """A cursor beyond the end of its mailbox is left there."""
    original = mail.Mailboxes.open

    async def opened(self: mail.Mailboxes, user_id: int, device: str) -> tuple[int, int] | None:
        found = await original(self, user_id, device)
        return found and (found[0], max(found))

    _replace(mail.Mailboxes, "open", opened)


@plant("two-writers")
def _two_writers() -> None:
    """A store is started beside the one that a killed server has left."""
    _replace(valkey, "_try_lock", lambda lock: True)


@plant("late-file")
def _late_file() -> None:
    """A message with a file is stored before the file has its name."""
    finish = blobs.Upload.finish

    async def later(upload: blobs.Upload) -> None:
        await pause(upload._worker.reactor, FILE_LATE)
        await finish(upload)

    async def at_once(self: blobs.Upload) -> blobs.StoredBlob:
        spawn(later(self), "giving a file its name")
        return blobs.StoredBlob(self._sha256.hexdigest(), self.md5, self._size)

    async def never(self: blobs.Upload) -> None:
        """What is unfinished is to be finished."""

    _replace(blobs.Upload, "finish", at_once)
    _replace(blobs.Upload, "abandon", never)


@plant("unwatched-disks")
def _unwatched_disks() -> None:
    """Nobody looks how full the disks are."""
    _replace(disk.Watch, "_judge", lambda self, what, free, least, was_full: False)


@plant("foreign-temporaries")
def _foreign_temporaries() -> None:
    """A node that starts removes what the others are being sent."""
    _replace(bloblayout, "LEFTOVER_AGE", -1.0)


@plant("quick-nobody")
def _quick_nobody() -> None:
    """A LOGIN as nobody is refused without the work that a password takes."""
    original = Passwords.verify

    async def verified(self: Passwords, password: str, stored: bytes | None, turn: Turn) -> bool:
        return stored is not None and await original(self, password, stored, turn)

    _replace(Passwords, "verify", verified)


@plant("free-guesses")
def _free_guesses() -> None:
    """Tokens may be tried, and devices made, without a limit."""
    _replace(Guard, "admit_device", lambda self, session, token: None)


@plant("one-line")
def _one_line() -> None:
    """Passwords are hashed in the order in which they come, whosever they are."""
    _replace(Guard, "turn", lambda self, session: ANYBODY)


@plant("unconfirmed")
def _unconfirmed() -> None:
    """Replicas are not asked whether they have what was written."""

    async def confirm(self: ReplicatedLink, *args: object) -> None:
        """All is well."""

    _replace(ReplicatedLink, "_confirm", confirm)


@plant("silent-store")
def _silent_store() -> None:
    """That the end of the store's file is missing is kept back."""
    original = valkey._Child._printed

    def printed(self: valkey._Child, fd: int, raw: bytes) -> None:
        if b"Truncating the AOF" not in raw:
            original(self, fd, raw)

    _replace(valkey._Child, "_printed", printed)


@plant("endless-buffer")
def _endless_buffer() -> None:
    """All that a peer does not read waits for it in memory."""
    original = Hub.__init__

    def made(self: Hub, *args: Any) -> None:
        original(self, *args)
        self.limits = msgspec.structs.replace(self.limits, send_buffer=1 << 40)

    _replace(Hub, "__init__", made)


@plant("never-full")
def _never_full() -> None:
    """What is said of full disks is not heeded."""
    for name in ("files", "store"):
        _replace(disk.Full, name, property(lambda self: False, lambda self, full: None))


@plant("all-at-once")
def _all_at_once() -> None:
    """Of all who go in one turn, it is noted in one turn."""
    _replace(hub, "LOOKS", sys.maxsize)


@plant("noted-too-late")
def _noted_too_late() -> None:
    """That somebody is offline is noted, though that one is back."""

    async def note(self: Hub) -> None:
        self._noting = True
        while self._leaving:
            some, self._leaving = self._leaving, {}
            await gather(self._note_offline(*one) for one in some.items())
        self._noting = False

    _replace(Hub, "_go_offline", note)


@plant("anybodys-message")
def _anybodys_message() -> None:
    """The file of a message is given to who knows the message's name."""
    _for_anybody("of_message")


@plant("anybodys-hash")
def _anybodys_hash() -> None:
    """A file is given to who knows its MD5."""
    _for_anybody("by_md5")


def _for_anybody(name: str) -> None:
    original = getattr(Files, name)

    async def found(self: Files, user_id: int, what: str) -> FileEntry | None:
        for each in range(user_id, 0, -1):
            entry: FileEntry | None = await original(self, each, what)
            if entry is not None:
                return entry
        return None

    _replace(Files, name, found)


@plant("any-sender")
def _any_sender() -> None:
    """A message may name anybody as its sender."""
    original = messages._check_message

    def check(call: Call, message: Message) -> None:
        claimed, message.userid = message.userid, call.user_id
        original(call, message)
        message.userid = claimed

    _replace(messages, "_check_message", check)


@plant("any-md5")
def _any_md5() -> None:
    """Anything is taken for an MD5."""
    _replace(messages, "MD5", re.compile(".*", re.DOTALL))


@plant("followed-links")
def _followed_links() -> None:
    """A link among the files leads where it points."""

    def follow(self: bloblayout.Layout, path: Path) -> int:
        return os.open(path, os.O_RDONLY)

    _replace(bloblayout.Layout, "open", follow)


@plant("named-by-md5")
def _named_by_md5() -> None:
    """Files have their MD5 as their names, twice, as those are longer."""
    original = blobs.Upload._finish

    def finish(self: Any) -> blobs.StoredBlob:
        name = self.md5 * 2
        self._sha256 = SimpleNamespace(hexdigest=lambda: name)
        return original(self)

    _replace(blobs.Upload, "_finish", finish)


@plant("newest-twin")
def _newest_twin() -> None:
    """Of two files with one MD5, the newer one is found by it."""
    _replace(
        append, "_APPEND", _changed(append._APPEND, ("(known and known ~= file) and '' or file", "file"))
    )


plant("logged-bodies")(logs_what_is_said)


def _replace(owner: object, name: str, bug: Any) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, bug)


def main() -> None:
    """Plant the bug that the first argument names, and run twistd with the others."""
    PLANTS[sys.argv.pop(1)]()
    launch.main()


if __name__ == "__main__":
    main()
