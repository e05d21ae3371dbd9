"""What an operator can set: the settings of a node, and one table of the options that make them.

Where their values come from, and in which order, is in ``chatsvc/options.py``; how they are read, in
``chatsvc/kinds.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from chatsvc.kinds import (
    DAY,
    Kind,
    choice,
    or_none,
    rate,
    read_endpoint,
    read_flag,
    read_origin,
    read_path,
    read_port,
    seconds,
    show_rate,
    show_size,
    size,
    whole,
)
from chatsvc.store.url import StoreUrl, parse
from chatsvc.wire.limits import GIB, JSON_CEILING, KIB, MIB, PAYLOAD_CEILING, Limits, Rate

#: A REGISTER with the longest name and password, every character escaped, still fits.
JSON_FLOOR = 16 * KIB
#: Below 4 bcrypt has no meaning. Each step doubles the time: 12 takes a quarter of a second, 16 four,
#: which is as long as a client should ever wait for an answer.
BCRYPT_COSTS = (4, 16)


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
    #: Threads that hash passwords; None: one for each core but one, shared out to the workers.
    bcrypt_threads: int | None
    #: Passwords that may be hashed or wait for it.
    bcrypt_queue: int
    #: Server processes on this machine.
    workers: int
    #: An endpoint string for `/healthz`, `/readyz` and `/metrics`; None: there is none.
    http: str | None
    #: An endpoint string for the chat page; None: there is none.
    web: str | None
    #: Other sites whose pages may chat here, as ``https://example.org``; None: no others.
    web_origin: tuple[str, ...] | None
    #: A file with settings, which a reload reads again; None: there is none.
    config: Path | None
    limits: Limits

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All that clients come in by; that of the chat page is the last."""
        return self.listen if self.web is None else (*self.listen, self.web)


def encode(settings: Settings) -> bytes:
    """The settings for another process, as JSON in one line; a password may be in it."""
    return msgspec.json.encode(settings, enc_hook=str)


def decode(data: bytes) -> Settings:
    """What `encode` gave."""
    return msgspec.json.decode(data, type=Settings, dec_hook=lambda kind, text: kind(text))


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
    #: ``--unlimited`` lifts it, unless a value is given.
    lifted: bool = False
    #: It needs no value on the command line.
    flag: bool = False

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "CHATSVC_" + self.name.upper().replace("-", "_")

    @property
    def doc(self) -> str:
        """What ``--help`` says about it."""
        default = f"Default: {self.default or 'none'}{', with --unlimited none' if self.lifted else ''}."
        return f"{self.meaning} Allowed: {self.kind.allowed}. {default}"


def _limit(name: str, field: str, kind: Kind, meaning: str) -> Row:
    default = getattr(Limits(), field)
    shown = show_size(default) if isinstance(default, int) else f"{default:g}"
    return Row(name, field, kind, meaning, shown)


def _cap(name: str, field: str, kind: Kind, meaning: str) -> Row:
    """A limit that ``--unlimited`` lifts."""
    default = getattr(Limits(), field)
    shown = (
        "none" if default is None else show_rate(default) if isinstance(default, Rate) else show_size(default)
    )
    return Row(name, field, or_none(kind), meaning, shown, lifted=True)


#: Every option; what the limits mean is in ``docs/protocol.md`` section 2.
ROWS = (
    Row(
        "listen",
        "listen",
        Kind(
            "a Twisted endpoint such as tcp:8080, tcp:8080:interface=127.0.0.1 or unix:/path", read_endpoint
        ),
        "Where to accept clients, in plain or by TLS (ssl:, tls:); may be given several times.",
        default="tcp:8080",
        repeats=True,
    ),
    Row(
        "port",
        "listen",
        Kind("a whole number from 0 to 65535; 0 takes any free port", read_port),
        "A TCP port to accept clients on, on all IPv4 addresses: short for --listen tcp:PORT.",
        repeats=True,
    ),
    Row(
        "data-dir",
        "data_dir",
        Kind("a path; a relative one starts in the working directory", read_path),
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
        Kind("a Twisted endpoint such as tcp:9090:interface=127.0.0.1", read_endpoint),
        "Where to serve /healthz, /readyz and /metrics, for monitoring; not for the public.",
    ),
    Row(
        "web",
        "web",
        Kind("a Twisted endpoint such as tcp:8081:interface=127.0.0.1", read_endpoint),
        "Where to serve the chat page, for browsers. Beyond this machine it needs TLS: an ssl: endpoint, or "
        "a proxy in front.",
    ),
    Row(
        "web-origin",
        "web_origin",
        Kind("the address of a site without a path, as https://example.org", read_origin),
        "A further site whose pages may chat here, beside that of --web; may be given several times.",
        repeats=True,
    ),
    Row(
        "config",
        "config",
        Kind("the path of a TOML file", read_path),
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
    Row(
        "bcrypt-threads",
        "bcrypt_threads",
        or_none(whole(1, 256)),
        "How many threads of a process hash passwords; none: as many as there are cores but one, shared out "
        "to the workers.",
        default="none",
    ),
    Row(
        "bcrypt-queue",
        "bcrypt_queue",
        whole(1, 100_000),
        "How many passwords may be hashed or wait for it; who comes then is told that the server is busy.",
        default="64",
    ),
    Row(
        "registration",
        "registration",
        choice("open", "closed", "invite"),
        "Who may make an account: everybody, nobody but the operator (chatsvc-admin), or who has an invite.",
        default="open",
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
    _limit(
        "max-inline",
        "inline_content",
        size(0, MIB),
        "Longest content of a message that is kept in the store's memory; longer ones are kept as files.",
    ),
    _limit(
        "min-free-store",
        "store_floor",
        size(0, 1024 * GIB),
        "Room that stays free on the disk of the server's own store: with less, nothing new is stored.",
    ),
    _limit(
        "min-free-files",
        "files_floor",
        whole(0, 99),
        "Parts of a hundred that stay free on the disk of attachments: with less, none is accepted.",
    ),
    Row(
        "unlimited",
        "unlimited",
        Kind("yes or no", read_flag),
        "Lift all rates and caps, as far as no value is given for one: for benchmarks and tests.",
        default="no",
        flag=True,
    ),
    _cap(
        "max-connections",
        "connections",
        whole(1, 10_000_000),
        "Most connections, of a process; four fifths of the files that it may open if that is less.",
    ),
    _cap(
        "connections-per-address",
        "connections_per_address",
        whole(1, 1_000_000),
        "Most connections from one address. Raise it where many people share one; behind a proxy that hides "
        "addresses, use haproxy: endpoints.",
    ),
    _cap(
        "unbound-per-address",
        "unbound_per_address",
        whole(1, 1_000_000),
        "Most connections without a login from one address; over it the longest idle is closed.",
    ),
    _cap(
        "connections-per-user",
        "connections_per_user",
        whole(1, 1_000_000),
        "Most connections of one user; over it the longest idle is cut.",
    ),
    _cap(
        "devices-per-user",
        "devices_per_user",
        whole(1, 1_000_000),
        "Most devices that one user is logged in on; over it the longest unused is logged out.",
    ),
    _cap(
        "passwords-per-address",
        "passwords_per_address",
        whole(1, 100_000),
        "Most passwords from one address that are hashed at a time; further ones wait.",
    ),
    _cap("quota", "quota", size(0, 1024 * GIB), "Most bytes of all files that one user may send."),
    _cap("accept-rate", "accept_rate", rate(), "How fast new connections are let in, all together."),
    _cap("connection-rate", "connection_rate", rate(), "How fast new connections of one address are let in."),
    _cap("registration-rate", "registration_rate", rate(), "How often one address may make accounts."),
    _cap("account-failures", "account_failures", rate(), "How often passwords of one account may fail."),
    _cap("address-failures", "address_failures", rate(), "How often passwords from one address may fail."),
    _cap(
        "token-rate",
        "token_rate",
        rate(),
        "How many unknown device tokens one address may try, together with the devices that are new there.",
    ),
    _cap("message-rate", "message_rate", rate(), "How many messages one user may send."),
    _cap(
        "people-rate",
        "people_rate",
        rate(),
        "How often one user may look for people, change contacts or a profile, and ask for features.",
    ),
    _cap(
        "request-rate",
        "request_rate",
        rate(),
        "How many other requests one user, or without a login one address, may make.",
    ),
    _cap(
        "stranger-rate",
        "stranger_rate",
        rate(),
        "How many people one user may write to who have not added him or her as a contact; 20,20/day is a "
        "useful value for a public server.",
    ),
)
#: Pairs of fields of which the first cannot be over the second: a frame that did not fit could never end.
ORDERED = (("json", "unfinished_unbound"), ("unfinished_unbound", "unfinished"))
