"""The kinds of values that options have: what is allowed, how it is read from text, and shown as text.

Which options there are is in ``chatsvc/settings.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.endpoints import serverFromString

from chatsvc.wire.limits import GIB, KIB, MIB, Rate

DAY = 24 * 60 * 60

_UNITS = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}
_SIZE = re.compile(r"([0-9]{1,15}) ?([kmg]ib)?", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]{1,15}")
_RATE = re.compile(r"([0-9]{1,9}),([0-9]{1,9})/(s|min|h|day)")
_PERIODS = {"s": 1, "min": 60, "h": 3600, "day": DAY}
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE)
_PORT_OF_ENDPOINT = re.compile(r"(?:tcp6?|ssl):(?:port=)?(-?[0-9]+)(?::|$)")


class Kind(NamedTuple):
    """A kind of value: what is allowed, in words that follow "allowed is", and how it is read.

    `read` raises `ValueError`, with a sentence if there is more to say than what is allowed.
    """

    allowed: str
    read: Callable[[str], Any]


def whole(least: int, most: int) -> Kind:
    """A whole number."""
    return Kind(
        f"a whole number from {least} to {most}",
        lambda text: _within(least, int(_matched(_WHOLE, text)[0]), most),
    )


def size(least: int, most: int) -> Kind:
    """A number of bytes, with or without a unit."""

    def read(text: str) -> float:
        number, unit = _matched(_SIZE, text).groups("")
        return _within(least, int(number) * _UNITS[unit.lower()], most)

    return Kind(
        f"a number of bytes, or of KiB, MiB or GiB, from {show_size(least)} to {show_size(most)}", read
    )


def seconds(least: float, most: int) -> Kind:
    """A time in seconds."""
    return Kind(
        f"a time in seconds from {least:g} to {most}",
        lambda text: _within(least, float(_matched(_SECONDS, text)[0]), most),
    )


def choice(*words: str) -> Kind:
    """One word of several."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Kind(" or ".join(words), read)


def rate() -> Kind:
    """So many at once, and from then on so many in a time."""

    def read(text: str) -> Rate:
        burst, count, period = _matched(_RATE, text).groups()
        if not int(burst) or not int(count):
            raise ValueError("A rate of 0 would refuse everything for ever.")
        return Rate(int(burst), int(count) / _PERIODS[period])

    return Kind(
        "a rate such as 60,10/s: 60 at once, and 10 more each second (or min, h, day); or none for any", read
    )


def or_none(kind: Kind) -> Kind:
    """A value, or none."""
    allowed = kind.allowed if kind.allowed.endswith("none for any") else f"{kind.allowed}, or none"
    return Kind(allowed, lambda text: None if text == "none" else kind.read(text))


def show_rate(rate: Rate) -> str:
    """`rate` by the shortest period that has a whole number of it, in a form that an option reads."""
    for period, seconds in _PERIODS.items():
        count = rate.per_second * seconds
        if period == "day" or abs(count - round(count)) < 1e-6 * count:
            break
    return f"{rate.burst},{count:.0f}/{period}"


def show_size(size: int) -> str:
    """`size` in the largest unit that divides it, in a form that an option reads."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    matched = pattern.fullmatch(text)
    if matched is None:
        raise ValueError
    return matched


def _within(least: float, value: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError
    return value


def read_flag(text: str) -> bool:
    return {"yes": True, "no": False}[choice("yes", "no").read(text)]


def read_port(text: str) -> str:
    return f"tcp:{_within(0, int(_matched(_WHOLE, text)[0]), 65535)}"


def read_endpoint(text: str) -> str:
    from twisted.internet import reactor  # here, not above: to import it is to install it

    port = _PORT_OF_ENDPOINT.match(text)
    if port is not None and not 0 <= int(port[1]) <= 65535:
        raise ValueError("A port is a whole number from 0 to 65535.")
    try:
        serverFromString(reactor, text)  # type: ignore[no-untyped-call]
    except Exception as error:  # the parsers of endpoints are plugins and raise what they like
        raise ValueError(f"Twisted says: {type(error).__name__}: {error}") from error
    return text


def read_origin(text: str) -> str:
    return _matched(_ORIGIN, text)[0].lower()


def read_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text).absolute()
