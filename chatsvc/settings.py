"""What an operator can set: the settings of a node, and one table of the options that make them.

Where their values come from, and in which order, is in ``chatsvc/options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from twisted.internet.endpoints import serverFromString

from chatsvc.store.url import StoreUrl, parse
from chatsvc.wire.limits import GIB, JSON_CEILING, KIB, MIB, PAYLOAD_CEILING, Limits

DAY = 24 * 60 * 60
#: A REGISTER with the longest name and password, every character escaped, still fits.
JSON_FLOOR = 16 * KIB
#: Below 4 bcrypt has no meaning. Each step doubles the time: 12 takes a quarter of a second, 16 four,
#: which is as long as a client should ever wait for an answer.
BCRYPT_COSTS = (4, 16)

_UNITS = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}
_SIZE = re.compile(r"([0-9]{1,15}) ?([kmg]ib)?", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]{1,15}")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_PORT_OF_ENDPOINT = re.compile(r"(?:tcp6?|ssl):(?:port=)?(-?[0-9]+)(?::|$)")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one node was told: every value checked, every default filled in (``docs/architecture.md``)."""

    #: Twisted endpoint strings, at least one.
    listen: tuple[str, ...]
    #: Absolute, as twistd may change its working directory later.
    data_dir: Path
    #: None: the node runs its own store under `data_dir`.
    redis: StoreUrl | None
    durability: Literal["always", "everysec"]
    #: Replicas that must have what is written before it is answered.
    replica_acks: int
    bcrypt_cost: int
    #: Server processes on this machine.
    workers: int
    #: An endpoint string for `/healthz`, `/readyz` and `/metrics`; None: there is none.
    http: str | None
    #: A file with settings, which a reload reads again; None: there is none.
    config: Path | None
    limits: Limits


def encode(settings: Settings) -> bytes:
    """The settings for another process, as JSON in one line; a password may be in it."""
    return msgspec.json.encode(settings, enc_hook=str)


def decode(data: bytes) -> Settings:
    """What `encode` gave."""
    return msgspec.json.decode(data, type=Settings, dec_hook=lambda kind, text: kind(text))


class Kind(NamedTuple):
    """A kind of value: what is allowed, in words that follow "allowed is", and how it is read.

    `read` raises `ValueError`, with a sentence if there is more to say than what is allowed.
    """

    allowed: str
    read: Callable[[str], Any]


class Row(NamedTuple):
    """One option: ``--name`` on the command line, ``CHATSVC_NAME`` in the environment."""

    name: str
    #: The field of `Settings` or `Limits` that it fills.
    field: str
    kind: Kind
    meaning: str
    #: As one would write it on the command line; empty for none.
    default: str = ""
    #: May be given several times, or as several words in a variable; so may other rows of that field.
    repeats: bool = False
    #: Must not show in messages.
    secret: bool = False

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "CHATSVC_" + self.name.upper().replace("-", "_")

    @property
    def doc(self) -> str:
        """What ``--help`` says about it."""
        return f"{self.meaning} Allowed: {self.kind.allowed}. Default: {self.default or 'none'}."


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


def _read_port(text: str) -> str:
    return f"tcp:{_within(0, int(_matched(_WHOLE, text)[0]), 65535)}"


def _read_endpoint(text: str) -> str:
    from twisted.internet import reactor  # here, not above: to import it is to install it

    port = _PORT_OF_ENDPOINT.match(text)
    if port is not None and not 0 <= int(port[1]) <= 65535:
        raise ValueError("A port is a whole number from 0 to 65535.")
    try:
        serverFromString(reactor, text)  # type: ignore[no-untyped-call]
    except Exception as error:  # the parsers of endpoints are plugins and raise what they like
        raise ValueError(f"Twisted says: {type(error).__name__}: {error}") from error
    return text


def _read_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text).absolute()


def _limit(name: str, field: str, kind: Kind, meaning: str) -> Row:
    default = getattr(Limits(), field)
    shown = show_size(default) if isinstance(default, int) else f"{default:g}"
    return Row(name, field, kind, meaning, shown)


#: Every option; what the limits mean is in ``docs/protocol.md`` section 2.
ROWS = (
    Row(
        "listen",
        "listen",
        Kind(
            "a Twisted endpoint such as tcp:8080, tcp:8080:interface=127.0.0.1 or unix:/path", _read_endpoint
        ),
        "Where to accept clients, in plain or by TLS (ssl:, tls:); may be given several times.",
        default="tcp:8080",
        repeats=True,
    ),
    Row(
        "port",
        "listen",
        Kind("a whole number from 0 to 65535; 0 takes any free port", _read_port),
        "A TCP port to accept clients on, on all IPv4 addresses: short for --listen tcp:PORT.",
        repeats=True,
    ),
    Row(
        "data-dir",
        "data_dir",
        Kind("a path; a relative one starts in the working directory", _read_path),
        "The directory for attachments and for the server's own store; made if it is not there.",
        default="chatsvc-data",
    ),
    Row(
        "redis",
        "redis",
        Kind("a redis://, rediss:// (TLS), unix://, sentinel:// or cluster:// address", parse),
        "The Redis or Valkey server to keep everything in, instead of one that this server runs itself; "
        "with sentinel:// the primary that sentinels name, with cluster:// a cluster. "
        "With a password in it, better set by CHATSVC_REDIS_FILE: everybody on a machine sees command lines.",
        secret=True,
    ),
    Row(
        "durability",
        "durability",
        choice("always", "everysec"),
        "When the server's own store writes to disk: before each answer, or every second, which may lose "
        "the last second. A store that --redis names has its own setting.",
        default="always",
    ),
    Row(
        "replica-acks",
        "replica_acks",
        whole(0, 10),
        "How many replicas of a store that --redis names must have what is written before it is answered.",
        default="0",
    ),
    Row(
        "workers",
        "workers",
        whole(1, 64),
        "How many server processes share the work on this machine, all on the same ports and one store.",
        default="1",
    ),
    Row(
        "http",
        "http",
        Kind("a Twisted endpoint such as tcp:9090:interface=127.0.0.1", _read_endpoint),
        "Where to serve /healthz, /readyz and /metrics, for monitoring; not for the public.",
    ),
    Row(
        "config",
        "config",
        Kind("the path of a TOML file", _read_path),
        "A file that holds settings: its keys are the names of these options without the dashes in front. "
        "What stands on the command line or in the environment goes first. On SIGHUP it is read again, and "
        "the limits in it are used.",
    ),
    Row(
        "bcrypt-cost",
        "bcrypt_cost",
        whole(*BCRYPT_COSTS),
        "How costly a password is to hash and to guess; each step doubles it. Under 10 is for tests only.",
        default="12",
    ),
    _limit("max-json", "json", size(JSON_FLOOR, JSON_CEILING), "Largest JSON part of a request."),
    _limit("max-payload", "payload", size(0, PAYLOAD_CEILING), "Largest attachment; 0 for none at all."),
    _limit("max-avatar", "avatar", size(0, JSON_CEILING), "Largest avatar."),
    _limit(
        "max-answer-bytes",
        "answer_bytes",
        size(KIB, JSON_CEILING),
        "Largest answer that lists messages, if it has more than one; the rest comes in further answers.",
    ),
    _limit("max-answer-messages", "answer_messages", whole(1, 100_000), "Most messages in one answer."),
    _limit(
        "max-unfinished",
        "unfinished",
        size(JSON_FLOOR, 1024 * GIB),
        "Memory for requests that have not arrived whole, all connections together; at least "
        "--max-unfinished-unbound.",
    ),
    _limit(
        "max-unfinished-unbound",
        "unfinished_unbound",
        size(JSON_FLOOR, 1024 * GIB),
        "The part of --max-unfinished that connections without a login may take; at least --max-json.",
    ),
    _limit(
        "frame-timeout",
        "frame_timeout",
        seconds(0.1, DAY),
        "How long a request may pause half-way before its connection is closed.",
    ),
    _limit(
        "unbound-idle",
        "unbound_idle",
        seconds(0.1, 30 * DAY),
        "How long a connection without a login may be idle before it is closed.",
    ),
    _limit(
        "unbound-per-address",
        "unbound_per_address",
        whole(1, 1_000_000),
        "Most connections without a login from one address; over it the longest idle is closed. "
        "Raise it behind a proxy that hides addresses.",
    ),
    _limit(
        "read-ahead",
        "read_ahead",
        whole(1, 10_000),
        "Most requests of one connection that wait for their answers; then reading pauses.",
    ),
    _limit(
        "send-buffer",
        "send_buffer",
        size(4 * KIB, GIB),
        "Most bytes queued to a client that does not read; its further messages wait in the store.",
    ),
    _limit(
        "send-timeout",
        "send_timeout",
        seconds(0.1, DAY),
        "How long a client may read nothing of what is queued to it before it is cut off.",
    ),
)
#: Pairs of fields of which the first cannot be over the second: a frame that did not fit could never end.
ORDERED = (("json", "unfinished_unbound"), ("unfinished_unbound", "unfinished"))
