"""What the commands print and ask: text for people or JSON for scripts, progress, and whether they may go on.

What there is to say is known to the commands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"([0-9]{1,6})([smhd])")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, an object a line, for scripts."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def read_age(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A length of time, as ``365d``, in seconds: for click to call for an option."""
    if value is None:
        return None
    matched = _AGE.fullmatch(value)
    if matched is None:
        raise click.BadParameter(
            f"{value!r} is no length of time; allowed is a whole number with s, m, h or d, as 365d.",
            param=param,
        )
    return int(matched[1]) * _UNITS[matched[2]]


def say(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print one record: the object itself for scripts, `text` for people."""
    click.echo(msgspec.json.encode(record).decode() if as_json else text)


def say_all(record: dict[str, Any], *, as_json: bool) -> None:
    """Print one record; for people, a line for each of its fields."""
    width = max(map(len, record))
    lines = (f"{name.replace('_', ' '):{width}}  {shown(value)}" for name, value in record.items())
    say(record, "\n".join(lines), as_json=as_json)


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def time_of(ms: int) -> str | None:
    """A time in ms since 1970 in ISO 8601, UTC; None for 0, which is never."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else None


def confirm(question: str, *, yes: bool) -> None:
    """Return if the operator says yes, and has a way to say it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "There is no terminal to ask on whether to go on; with --yes it is done without asking."
        )
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error, moved on by calls with how much was done."""
    bar = click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())
    with bar:
        yield bar.update
