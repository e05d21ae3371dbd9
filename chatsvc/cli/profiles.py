"""What the command remembers: for each profile its server and its device's token, and where the messages are.

Whoever holds a token is that user, so a profile's files are for their owner alone. What is in the archive of
messages is known to ``archive``.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import msgspec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVER = re.compile(r"(?:(tls):)?(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):([0-9]{1,5})")


class Unusable(Exception):  # noqa: N818 - a sentence for whoever typed the command
    """A profile, its name or its files cannot be used; the message says why and what to do."""


class Saved(msgspec.Struct, omit_defaults=True):
    """What is kept of a profile from one command to the next."""

    #: As it was typed: ``host:port`` or ``tls:host:port``.
    server: str
    #: Names this device to that server, and to no other.
    token: int | None = None
    #: Who is logged in there, as far as is known.
    userid: int | None = None
    username: str | None = None


class Profile:
    """An account on this machine, known by a `name` that the user chose."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Unusable(
                f"{name!r} is no name for a profile; allowed are up to 64 letters, digits, dots, dashes and "
                "underscores, with a letter or digit first."
            )
        self.name = name
        self._state = _base("XDG_STATE_HOME", ".local/state") / name
        #: The directory of the archive of messages.
        self.data = _base("XDG_DATA_HOME", ".local/share") / name

    def load(self) -> Saved | None:
        """What is kept; None if nothing is. Raises `Unusable` for a file that cannot be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise Unusable(
                f"{self._file} cannot be read: {error}. Mend it, or remove it and log in again."
            ) from None

    def save(self, saved: Saved) -> None:
        """Keep this, and nothing else. It is there whole or not at all, whatever happens meanwhile."""
        try:
            make_private(self._state)
            handle, temporary = tempfile.mkstemp(dir=self._state)  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(saved))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._file)
        except OSError as error:
            raise Unusable(f"{self._file} cannot be written: {error.strerror}.") from None

    @property
    def _file(self) -> Path:
        return self._state / "device.json"


def make_private(directory: Path) -> None:
    """Make a directory for this user alone, unless it is there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def endpoint_of(server: str) -> str:
    """Twisted's name for a server that was typed as ``host:port`` or ``tls:host:port``. Raises `Unusable`."""
    found = _SERVER.fullmatch(server)
    if found is None or not 1 <= int(found[3]) <= 65535:
        raise Unusable(
            f"{server!r} is no address of a server; allowed is host:port, or tls:host:port for an encrypted "
            "connection, with [ ] around an IPv6 address."
        )
    host = found[2].strip("[]").replace(":", r"\:")
    return f"{found[1] or 'tcp'}:{host}:{found[3]}"


def _base(variable: str, default: str) -> Path:
    # A relative path there is to be ignored (XDG Base Directory Specification).
    given = Path(os.environ.get(variable) or "")
    return (given if given.is_absolute() else Path.home() / default) / "chatsvc"
