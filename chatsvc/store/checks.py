"""What an operator should know of a store's settings before trusting it with messages.

Nothing is changed here, and nothing of the data is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from chatsvc.store.errors import TryAgain, Unavailable
from chatsvc.store.link import Link

#: The first version of Redis with sharded channels. Valkey says which Redis it can stand for.
REDIS_MAJOR = 7

_SETTINGS = (b"appendonly", b"appendfsync", b"save", b"maxmemory-policy")


class Unfit(Exception):  # noqa: N818 - a sentence for the operator
    """This store can never work; the message says why and what is needed."""


async def warnings(primaries: Iterable[Link], *, replica_acks: int, failover: bool) -> list[str]:
    """What may lose messages that were answered OK, a sentence each (``docs/high-availability.md``).

    `failover` says that a replica may become the primary, `replica_acks` how many are waited for. Raises
    `Unfit`, and `Refusal` if a store cannot be asked. Of a store that tells nothing, nothing is said.
    """
    found: list[str] = []
    try:
        for link in primaries:
            info = await _info(link)
            _check_version(info)
            _check_kind(info, link)
            settings = await _settings(link, info)
            found += _of_disk(settings) + _of_memory(settings)
            found += _of_replicas(info, replica_acks, failover)
    except TryAgain as error:  # a node of a cluster went away meanwhile
        raise Unavailable from error
    return list(dict.fromkeys(found))


async def _info(link: Link) -> dict[str, str]:
    try:
        text = (await link.call(b"INFO")).decode(errors="replace")
    except RuntimeError:  # INFO is not allowed here
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _settings(link: Link, info: dict[str, str]) -> dict[str, str]:
    """The settings, or where they are not for us what INFO says about them."""
    try:
        found = [part.decode(errors="replace") for part in await link.call(b"CONFIG", b"GET", *_SETTINGS)]
    except RuntimeError:  # CONFIG is not allowed here
        told = {"maxmemory-policy": info.get("maxmemory_policy", "")}
        if "aof_enabled" in info:
            told["appendonly"] = "yes" if info["aof_enabled"] == "1" else "no"
        return told
    return dict(zip(found[::2], found[1::2], strict=True))


def _check_version(info: dict[str, str]) -> None:
    version = re.match(r"(\d+)\.", info.get("redis_version", ""))
    if version is not None and int(version[1]) < REDIS_MAJOR:
        raise Unfit(
            f"The store is Redis {info['redis_version']}, which has no sharded channels. "
            f"Redis {REDIS_MAJOR}.0 or later, or Valkey, is needed."
        )


def _check_kind(info: dict[str, str], link: Link) -> None:
    if info.get("cluster_enabled") == "1" and not link.routed:
        raise Unfit("The store is one node of a cluster. Name it as cluster://HOST:PORT instead.")


def _of_disk(settings: dict[str, str]) -> list[str]:
    if settings.get("appendonly") == "no":
        if settings.get("save") == "":
            return ["The store keeps nothing on disk: all is lost when it stops. Set appendonly to yes."]
        return [
            "The store has no append-only file, so whatever came after its last snapshot is lost when it is "
            "killed, also what was answered OK. Set appendonly to yes."
        ]
    match settings.get("appendfsync"):
        case "everysec":
            when = "every second only (appendfsync everysec): a second or two"
        case "no":
            when = "when the system likes (appendfsync no): half a minute"
        case _:
            return []
    return [
        f"The store writes to disk {when} of messages that were answered OK can be lost when it is killed. "
        "Set appendfsync to always."
    ]


def _of_memory(settings: dict[str, str]) -> list[str]:
    policy = settings.get("maxmemory-policy", "")
    if policy in ("", "noeviction"):
        return []
    return [
        f"The store throws data away when its memory is full (maxmemory-policy {policy}): logins, messages "
        "and accounts can vanish. Set maxmemory-policy to noeviction."
    ]


def _of_replicas(info: dict[str, str], replica_acks: int, failover: bool) -> list[str]:
    replicas = int(info.get("connected_slaves", replica_acks))
    if replicas < replica_acks:
        return [
            f"The store has {replicas} of the {replica_acks} replicas that --replica-acks asks for: nothing "
            "can be stored until there are enough."
        ]
    if failover and not replica_acks:
        return [
            "No replica is waited for, so a failover can lose messages that were answered OK. "
            "Set --replica-acks to 1 or more."
        ]
    return []
