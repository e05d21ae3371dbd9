"""The commands about users and their devices."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Callable
from typing import Any

import click

from chatsvc.admin.output import confirm, json_option, say, say_all, shown, time_of, yes_option
from chatsvc.admin.place import Place, run
from chatsvc.store.accounts import USER_ID_MAX, Account
from chatsvc.store.devices import BoundDevice
from chatsvc.store.store import Store
from chatsvc.wire.text import check_name, check_password, name_key

#: Random bytes of a password that is made here.
_PASSWORD_BYTES = 12
_NO_DEVICE = "User {user} has no device whose id begins with {device!r}."


@click.group()
def users() -> None:
    """The people who have accounts.

    USER is an id, or a name; a name of digits is written name:123. Names may be given in their plain form,
    whatever client they were registered with.
    """


@click.group()
def devices() -> None:
    """The devices on which people are logged in."""


async def find(store: Store, user: str) -> Account:
    """The user whom an argument names. Raises `click.ClickException`."""
    if user.isascii() and user.isdigit():
        account = await store.accounts.account(int(user)) if len(user) < 20 else None
    else:
        named = await store.accounts.find(user.removeprefix("name:"))
        account = None if named is None else await store.accounts.account(named.id)
    if account is None:
        raise click.ClickException(f"There is no user {user}.")
    return account


def _brief(account: Account) -> dict[str, Any]:
    return {"id": account.id, "name": name_key(account.name), "disabled": account.disabled}


@users.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """All users, by id."""

    async def work(place: Place) -> None:
        async for page in place.store.accounts.pages():
            for account in page:
                mark = "  (disabled)" if account.disabled else ""
                say(_brief(account), f"{account.id:>8}  {name_key(account.name)}{mark}", as_json=as_json)

    run(work)


@users.command()
@click.argument("user")
@json_option
def show(user: str, as_json: bool) -> None:
    """One user: contacts, devices, mailbox, and how much of the quota is used."""

    async def work(place: Place) -> dict[str, Any]:
        store = place.store
        account = await find(store, user)
        relations = await store.contacts.of(account.id)
        ends = await store.upkeep.ends(account.id)
        bound = await store.devices.of(account.id)
        return {
            **_brief(account),
            "name_as_sent": account.name,
            "contacts": len(relations.contacts),
            "pending": len(relations.pending),
            "requesting": len(relations.requesting),
            "devices": len(bound),
            "online": await store.upkeep.online(account.id, await store.now()),
            "messages": ends.length,
            "sent_bytes": await store.sent.total(account.id),
            "newest_message": time_of(ends.newest >> 32),
        }

    say_all(run(work), as_json=as_json)


def _password_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--password-stdin", is_flag=True, help="Take the password from standard input's first line."
        ),
        click.option("--generate", is_flag=True, help="Make a random password, and print it."),
        click.option(
            "--for-released-client",
            is_flag=True,
            help="The user logs in with the released Flutter client, which sends the MD5 of the password.",
        ),
    ):
        command = option(command)
    return command


def as_released(password: str) -> str:
    """What the released client sends for a password: the MD5 of its UTF-16 code units' low bytes."""
    low_bytes = password.encode("utf-16-le", "surrogatepass")[::2]
    return hashlib.md5(low_bytes, usedforsecurity=False).hexdigest()


def _password(password_stdin: bool, generate: bool) -> str:
    """The new password, from where the options say. Raises `click.ClickException` if it is not allowed."""
    if password_stdin and generate:
        raise click.UsageError("Only one of --password-stdin and --generate is allowed.")
    if generate:
        return secrets.token_urlsafe(_PASSWORD_BYTES)
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise click.UsageError(
            "There is no terminal to ask for a password on; use --password-stdin or --generate."
        )
    wrong = check_password(password)
    if wrong is not None:
        raise click.ClickException(wrong)
    return password


def _made(account: dict[str, Any], password: str, done: str, *, generate: bool, as_json: bool) -> None:
    if generate:
        account["password"] = password
        done = f"{done} The password is {password}"
    say(account, done, as_json=as_json)


@users.command()
@click.argument("name")
@_password_options
@json_option
def create(name: str, password_stdin: bool, generate: bool, for_released_client: bool, as_json: bool) -> None:
    """A new user."""
    wrong = check_name(name)
    if wrong is not None:
        raise click.ClickException(wrong)
    password = _password(password_stdin, generate)
    sent = as_released(password) if for_released_client else password

    async def work(place: Place) -> int:
        hashed = await place.passwords.hash(sent)
        return (await place.store.accounts.create(name, hashed)).id

    user_id = run(work)
    record = {"id": user_id, "name": name_key(name)}
    done = f"User {name_key(name)} has the id {user_id}."
    _made(record, password, done, generate=generate, as_json=as_json)


@users.command("set-password")
@click.argument("user")
@_password_options
@json_option
def set_password(
    user: str, password_stdin: bool, generate: bool, for_released_client: bool, as_json: bool
) -> None:
    """Another password; the user is logged out on all devices."""
    password = _password(password_stdin, generate)
    sent = as_released(password) if for_released_client else password

    async def work(place: Place) -> dict[str, Any]:
        account = await find(place.store, user)
        hashed = await place.passwords.hash(sent)
        ended = await place.store.devices.set_password(account.id, hashed)
        return {"id": account.id, "name": name_key(account.name), "devices_logged_out": ended or 0}

    record = run(work)
    out = record["devices_logged_out"]
    done = f"The password of {record['name']} is set. Devices that were logged out: {out}."
    _made(record, password, done, generate=generate, as_json=as_json)


@users.command()
@click.argument("user")
@yes_option
@json_option
def disable(user: str, yes: bool, as_json: bool) -> None:
    """Log a user out everywhere, and let nobody log in as that user any more; nothing is lost."""
    confirm(f"Disable the user {user}, and log out all devices?", yes=yes)

    async def work(place: Place) -> dict[str, Any]:
        account = await find(place.store, user)
        ended = await place.store.devices.disable(account.id)
        return {"id": account.id, "name": name_key(account.name), "devices_logged_out": ended or 0}

    record = run(work)
    done = f"{record['name']} is disabled. Devices that were logged out: {record['devices_logged_out']}."
    say(record, done, as_json=as_json)


@users.command()
@click.argument("user")
@json_option
def enable(user: str, as_json: bool) -> None:
    """Let a disabled user log in again."""

    async def work(place: Place) -> Account:
        account = await find(place.store, user)
        await place.store.accounts.enable(account.id)
        return account

    account = run(work)
    name = name_key(account.name)
    say({"id": account.id, "name": name}, f"{name} may log in again.", as_json=as_json)


@users.command()
@click.argument("user")
@yes_option
@json_option
def delete(user: str, yes: bool, as_json: bool) -> None:
    """Remove a user with mailbox, contacts and devices; the name is free then.

    What the user wrote stays in the mailboxes of others, and the id is never given again. After a deletion
    that was cut short, do it again with the id.
    """
    confirm(f"Delete the user {user} with all messages, for good?", yes=yes)

    async def work(place: Place) -> int:
        store = place.store
        if user.isascii() and user.isdigit() and int(user) <= USER_ID_MAX:
            user_id, account = int(user), await store.accounts.account(int(user))
        else:
            account = await find(store, user)
            user_id = account.id
        if account is not None:
            await store.devices.disable(user_id)
            await store.accounts.delete(account)
        await store.contacts.forget(user_id)
        # The sets of contacts go last: as long as they are there, this can be done again.
        if not await store.upkeep.clear(user_id) and account is None:
            raise click.ClickException(f"There is no user {user}.")
        return user_id

    user_id = run(work)
    say({"id": user_id}, f"User {user_id} is deleted.", as_json=as_json)


@devices.command("list")
@click.argument("user")
@json_option
def list_devices(user: str, as_json: bool) -> None:
    """The devices on which a user is logged in."""

    async def work(place: Place) -> tuple[int, list[BoundDevice]]:
        account = await find(place.store, user)
        return await place.store.now(), await place.store.devices.of(account.id)

    now, found = run(work)
    for device in found:
        record = {
            "id": device.id,
            "online": device.online_until > now,
            "first_seen": None if device.created is None else time_of(device.created),
            "acknowledges": device.explicit,
            "acknowledged_to": device.cursor,
        }
        where = "online " if record["online"] else "offline"
        say(record, f"{device.id}  {where}  since {shown(record['first_seen'])}", as_json=as_json)


@devices.command()
@click.argument("user")
@click.argument("device", required=False)
@click.option("--all", "every", is_flag=True, help="All devices of the user.")
@yes_option
@json_option
def revoke(user: str, device: str | None, every: bool, yes: bool, as_json: bool) -> None:
    """Log a user out on a device, given by the beginning of its id, or on all."""
    if (device is None) is not every:
        raise click.UsageError("Name one DEVICE, or give --all.")
    confirm(f"Log {user} out on {'all devices' if every else f'the device {device}'}?", yes=yes)

    async def work(place: Place) -> int:
        store = place.store
        account = await find(store, user)
        if device is None:
            return await store.devices.shut_out(account.id) or 0
        found = [one.id for one in await store.devices.of(account.id) if one.id.startswith(device)]
        if not found:
            raise click.ClickException(_NO_DEVICE.format(user=user, device=device))
        if len(found) > 1:
            raise click.ClickException(
                f"{len(found)} devices of {user} have ids that begin with {device!r}; give more of the id."
            )
        await store.devices.unbind(found[0], account.id)
        return 1

    ended = run(work)
    say({"devices_logged_out": ended}, f"{user} is logged out on {ended} devices.", as_json=as_json)
