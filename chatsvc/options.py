"""How options are read: from the command line, the environment, files that a variable names, or one file.

Which options there are is in ``chatsvc/settings.py``; the parts that they are for are put together in
``chatsvc/tap.py``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twisted.python import usage

from chatsvc import __version__
from chatsvc.kinds import show_size
from chatsvc.settings import ORDERED, ROWS, Row, Settings
from chatsvc.wire.limits import Limits


class Given(NamedTuple):
    """A value as somebody wrote it, and where."""

    row: Row
    source: str
    text: str


class Options(usage.Options):
    """The command line of ``twistd chatsvc``; `ROWS` is what it knows."""

    synopsis = "[options]"
    longdesc = (
        "A self-hosted one-to-one chat server. Every option can also be set by an environment variable, "
        "named CHATSVC_ and the option in capitals with underscores, as CHATSVC_MAX_JSON for --max-json; "
        "an empty variable counts as not set. The same name with _FILE at its end, as CHATSVC_REDIS_FILE, "
        "names a file that holds the value. CHATSVC_LISTEN and CHATSVC_PORT may hold several values with "
        "white space between; --listen or --port replaces what both of them say. A file that --config names "
        'holds settings in TOML, as max-json = "1MiB". The command line goes before the environment, that '
        "before the file, and that before the default. SIGHUP has the files read again, and the limits in "
        "them used; certificates too."
    )
    compData = usage.Completions(  # type: ignore[no-untyped-call]  # noqa: N815 - Twisted's name
        optActions={"data-dir": usage.CompleteDirs()},  # type: ignore[no-untyped-call]
        multiUse=[row.name for row in ROWS if row.repeats],
    )

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._environ = os.environ if environ is None else environ
        self._command_line: list[Given] = []
        self._known: dict[Given, Any] = {}

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"chatsvc {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Make the settings. Raises `usage.UsageError` with a sentence about the first wrong value."""
        self._settings = self.read()

    def settings(self) -> Settings:
        """What was set, once `parseOptions` is through."""
        return self._settings

    def read(self) -> Settings:
        """What is set now: files may have changed. Raises `usage.UsageError` as `postOptions` does."""
        self._file: list[Given] = []
        config = self._setting("config")
        if config is not None:
            self._file = list(_read_config(config))
        self._unlimited = bool(self._setting("unlimited"))
        fields = {row.field: self._setting(row.field) for row in ROWS if row.field != "unlimited"}
        limits = {name: fields.pop(name) for name in Limits.__struct_fields__ if name in fields}
        for less, more in ORDERED:
            if limits[less] > limits[more]:
                low, high = (_named(field, limits[field]) for field in (less, more))
                raise usage.UsageError(f"{low} cannot be over {high}.")
        if fields["replica_acks"] and fields["redis"] is None:
            raise usage.UsageError("--replica-acks needs --redis: the server's own store has no replicas.")
        return Settings(limits=Limits(**limits), **fields)

    def _setting(self, field: str) -> Any:
        """The value of one field, from the first source that has one."""
        rows = [row for row in ROWS if row.field == field]
        for where in (self._on_command_line, self._in_environment, self._in_file, self._by_default):
            values = [self._value(given) for row in rows for given in where(row)]
            if values:
                return tuple(values) if rows[0].repeats else values[-1]
        return None

    def _value(self, given: Given) -> Any:
        """What was read once stays as it was: a relative path is that of the directory at the start."""
        if given not in self._known:
            self._known[given] = _read(given)
        return self._known[given]

    def _on_command_line(self, row: Row) -> Iterator[Given]:
        return (given for given in self._command_line if given.row is row)

    def _in_environment(self, row: Row) -> Iterator[Given]:
        source = row.variable
        text = self._environ.get(source, "").strip()
        file = self._environ.get(f"{source}_FILE", "").strip()
        if text and file:
            raise usage.UsageError(f"{source} and {source}_FILE are both set; only one of them is allowed.")
        if file:
            source = f"{source}_FILE"
            text = _read_text(source, file)
            if not text:
                raise usage.UsageError(f"{source} names {file!r}, which is empty; it has to hold the value.")
        if text:
            yield from (Given(row, source, part) for part in (text.split() if row.repeats else [text]))

    def _in_file(self, row: Row) -> Iterator[Given]:
        return (given for given in self._file if given.row is row)

    def _by_default(self, row: Row) -> Iterator[Given]:
        if row.default:
            lifted = row.lifted and self._unlimited
            yield Given(row, f"--{row.name}", "none" if lifted else row.default)


def _named(field: str, size: int) -> str:
    return next(f"--{row.name} ({show_size(size)})" for row in ROWS if row.field == field)


def _read(given: Given) -> Any:
    row, source, text = given
    try:
        return row.kind.read(text)
    except ValueError as error:
        wrong = "is not valid" if row.secret else f"cannot be {text!r}"
        raise usage.UsageError(f"{source} {wrong}; allowed is {row.kind.allowed}. {error}".rstrip()) from None


def _read_config(path: Path) -> Iterator[Given]:
    """What the file of ``--config`` says; its keys are the names of options."""
    text = _read_text("--config", str(path))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise usage.UsageError(f"{path} is not valid TOML: {error}.") from None
    rows = {row.name: row for row in ROWS if row.name != "config"}
    for key, value in table.items():
        row = rows.get(key)
        if row is None:
            raise usage.UsageError(f"{path} has the key {key!r}; allowed are {', '.join(rows)}.")
        values = value if row.repeats and isinstance(value, list) else [value]
        if row.flag and isinstance(value, bool):
            values = ["yes" if value else "no"]
        for one in values:
            if isinstance(one, bool) or not isinstance(one, str | int | float):
                kinds = "a string, a number or a list of them" if row.repeats else "a string or a number"
                raise usage.UsageError(f"{path}: {key} has to be {kinds}; allowed is {row.kind.allowed}.")
            yield Given(row, f"{path}: {key}", str(one))


def _read_text(source: str, file: str) -> str:
    try:
        return Path(file).read_text("utf-8").strip()
    except UnicodeError:
        raise usage.UsageError(f"{source} names {file!r}, which is not UTF-8 text.") from None
    except (OSError, ValueError) as error:
        raise usage.UsageError(f"{source} names {file!r}, which cannot be read: {error}.") from None


def _option(row: Row) -> Callable[..., None]:
    def take(self: Options, text: str) -> None:
        self._command_line.append(Given(row, f"--{row.name}", text))

    def take_flag(self: Options) -> None:
        take(self, "yes")

    option = take_flag if row.flag else take
    option.__doc__ = row.doc
    return option


# usage.Options finds its options by methods of these names, and their help in the docstrings.
for _row in ROWS:
    setattr(Options, "opt_" + _row.name.replace("-", "_"), _option(_row))
