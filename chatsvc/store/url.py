"""The address of a Redis-protocol server, from the text that an operator writes to its parts.

Nothing is connected here, and no message or log form made here holds a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
#: The index of a database travels as a signed 32-bit number.
DATABASE_MAX = 2**31 - 1

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLACE = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[^:]*))?")
_DIGITS = re.compile(r"[0-9]{1,10}")
#: What sentinels accept as the name of a service.
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")


class StoreUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where a store listens and how to log in there (``docs/architecture.md``).

    A ``tcp`` address has `host` and `port`, a ``unix`` one has `path`. A ``sentinel`` address has the
    `hosts` of sentinels and the `service` whose primary they name, a ``cluster`` one has the `hosts` of
    some of its nodes. `tls` means TLS with the server's certificate verified. None for `username` or
    `password` means that none was given.
    """

    kind: Literal["tcp", "unix", "sentinel", "cluster"]
    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""
    #: Hosts and ports, at least one where the kind has them.
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    username: str | None = None
    password: str | None = None
    db: int = 0

    @property
    def safe(self) -> str:
        """The address for logs and messages: as it was written, with ``***`` for the password."""
        user = quote(self.username or "", safe="")
        login = f"{user}{':***' if self.password is not None else ''}"
        at = f"{login}@" if login else ""
        hosts = ",".join(show_place(host, port) for host, port in self.hosts)
        match self.kind:
            case "unix":
                return f"unix://{at}{quote(self.path)}?db={self.db}"
            case "sentinel":
                return f"sentinel://{at}{hosts}/{self.service}/{self.db}"
            case "cluster":
                return f"cluster://{at}{hosts}"
        return f"{'rediss' if self.tls else 'redis'}://{at}{show_place(self.host, self.port)}/{self.db}"

    def __repr__(self) -> str:
        return f"StoreUrl({self.safe!r})"


def show_place(host: str, port: int) -> str:
    """A host and a port as addresses and messages have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Scheme(NamedTuple):
    """A row of `SCHEMES`: how the text after ``scheme://`` is written and read."""

    form: str
    read: Callable[[str], dict[str, Any]]
    fixed: dict[str, Any]


def parse(text: str) -> StoreUrl:
    """The parts of `text`; the forms are those of `SCHEMES`.

    User, password and path are percent-decoded. Raises `ValueError` with sentences that say what is
    wrong and what is allowed; they never quote `text`, as a part of a password may stand anywhere in it.
    """
    name, separator, rest = text.partition("://")
    scheme = SCHEMES.get(name.lower()) if separator else None
    if scheme is None:
        forms = ", ".join(row.form for row in SCHEMES.values())
        raise ValueError(f"The address of a store has one of these forms: {forms}.")
    try:
        parts = scheme.read(rest)
    except _Wrong as wrong:
        raise ValueError(f"{wrong} The form is {scheme.form}.") from None
    return StoreUrl(**scheme.fixed, **parts)


class _Wrong(Exception):  # noqa: N818 - a sentence on its way to `parse`
    pass


def _read_tcp(rest: str) -> dict[str, Any]:
    login, place, database = _split(rest)
    host, port = _read_place(place, DEFAULT_PORT)
    return {"host": host, "port": port, "db": _read_database(database), **login}


def _read_sentinel(rest: str) -> dict[str, Any]:
    login, places, path = _split(rest)
    service, _, database = path.partition("/")
    if not _SERVICE.fullmatch(service):
        raise _Wrong(
            "After the sentinels the name has to stand by which they know the store, "
            "of letters, digits, '.', '-' and '_'."
        )
    return {
        "hosts": _read_places(places, SENTINEL_PORT),
        "service": service,
        "db": _read_database(database),
        **login,
    }


def _read_cluster(rest: str) -> dict[str, Any]:
    login, places, database = _split(rest)
    if database:
        raise _Wrong("A cluster has no databases: nothing may stand after its hosts.")
    return {"hosts": _read_places(places, DEFAULT_PORT), **login}


def _split(rest: str) -> tuple[dict[str, Any], str, str]:
    """User and password, the text of the host or hosts, and what stands after it."""
    if "?" in rest or "#" in rest:
        raise _Wrong("A '?' or '#' is only allowed percent-encoded, in the user or the password.")
    authority, _, path = rest.partition("/")
    if "@" in path:
        raise _Wrong("A '/' in the user or the password has to be percent-encoded, as %2F.")
    login, _, places = authority.rpartition("@")
    return _read_login(login), places, path


def _read_places(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    return tuple(_read_place(place, default_port) for place in text.split(","))


def _read_place(text: str, default_port: int) -> tuple[str, int]:
    matched = _PLACE.fullmatch(text)
    if matched is None or (matched["v6"] and not _is_ipv6(matched["v6"])):
        raise _Wrong(
            "The host has to be a name or an IPv4 address, of letters, digits, '.', '-' and '_', "
            "or an IPv6 address in brackets."
        )
    port = matched["port"]
    return (
        matched["v6"] or matched["host"],
        _number(port, "port", 1, 65535) if port is not None else default_port,
    )


def _read_database(text: str) -> int:
    return _number(text, "database", 0, DATABASE_MAX) if text else 0


def _read_unix(rest: str) -> dict[str, Any]:
    authority, slash, tail = rest.partition("/")
    login, at, beyond = authority.rpartition("@")
    if not slash or beyond or (authority and not at):
        raise _Wrong(
            "The path has to be absolute: only a user and a password, ended by '@', may stand before its '/'."
        )
    path, mark, query = tail.partition("?")
    key, _, database = query.partition("=")
    if mark and key != "db":
        raise _Wrong("After '?' only db=N is allowed; a '?' in the path has to be percent-encoded, as %3F.")
    decoded = _decode(f"/{path}", "path")
    if decoded.endswith("/") or "\0" in decoded:
        raise _Wrong("The path has to be that of a socket: it cannot end in '/' or hold a zero byte.")
    return {
        "path": decoded,
        "db": _number(database, "database", 0, DATABASE_MAX) if mark else 0,
        **_read_login(login),
    }


def _read_login(login: str) -> dict[str, Any]:
    if "@" in login:
        raise _Wrong("An '@' in the user or the password has to be percent-encoded, as %40.")
    user, _, password = login.partition(":")
    return {
        "username": _decode(user, "user") or None,
        "password": _decode(password, "password") or None,
    }


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _decode(text: str, what: str) -> str:
    if _BROKEN_ESCAPE.search(text):
        raise _Wrong(f"A '%' in the {what} has to be written %25, or be followed by two hexadecimal digits.")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise _Wrong(f"The percent-encoded bytes of the {what} have to be UTF-8.") from None


def _number(text: str, what: str, least: int, most: int) -> int:
    if not (_DIGITS.fullmatch(text) and least <= int(text) <= most):
        raise _Wrong(f"The {what} has to be a whole number from {least} to {most}.")
    return int(text)


_TCP_FORM = "[[user][:password]@]host[:port][/db]"
_HOSTS_FORM = "[[user][:password]@]host[:port][,host[:port]...]"
#: The rows that `parse` knows: another way to reach a store is another row.
SCHEMES = {
    "redis": Scheme(f"redis://{_TCP_FORM}", _read_tcp, {"kind": "tcp"}),
    "rediss": Scheme(f"rediss://{_TCP_FORM}", _read_tcp, {"kind": "tcp", "tls": True}),
    "unix": Scheme("unix://[[user][:password]@]/path/to/socket[?db=N]", _read_unix, {"kind": "unix"}),
    "sentinel": Scheme(f"sentinel://{_HOSTS_FORM}/name[/db]", _read_sentinel, {"kind": "sentinel"}),
    "cluster": Scheme(f"cluster://{_HOSTS_FORM}", _read_cluster, {"kind": "cluster"}),
}
