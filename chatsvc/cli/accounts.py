"""The commands about one's own account: making it, logging in and out, name, picture and password."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
from msgspec import UNSET, UnsetType

from chatsvc.cli.output import json_option, person, say
from chatsvc.cli.session import Failed, Session, run
from chatsvc.wire.schema import UserInfo

T = TypeVar("T")

password_option = click.option(
    "--password-file",
    type=click.File("rb"),
    help="A file whose first line is the password; - is standard input. Or CHATSVC_PASSWORD; else it asks.",
)


def go(work: Callable[[Session], Coroutine[Any, Any, T]], **needs: bool) -> T:
    """What `work` gives, for the profile and the server of this command line; `needs` are those of `run`."""
    given = click.get_current_context().find_root().params
    return run(given["profile_name"], given["server"], work, **needs)


def password_from(file: BinaryIO | None, variable: str, question: str, *, twice: bool = False) -> str:
    """A password from where there is one: a file, a variable, a terminal. Raises `click.UsageError`."""
    if file is not None:
        return file.readline().rstrip(b"\r\n").decode()
    if given := os.environ.get(variable):
        return given
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"There is no terminal to ask for a password; give it by a file or {variable}."
        )
    return str(click.prompt(question, hide_input=True, confirmation_prompt=twice, err=True))


@click.command()
@click.argument("name")
@click.option("--invite", help="The code of an invite, where the server wants one.")
@password_option
@json_option
def register(name: str, invite: str | None, password_file: BinaryIO | None, as_json: bool) -> None:
    """Make an account called NAME, and log in as it."""
    password = password_from(password_file, "CHATSVC_PASSWORD", "Password", twice=True)

    async def work(session: Session) -> UserInfo:
        await session.open(logged_in=False)
        user = await session.client.register(name, password, invite)
        session.remember()
        return user

    user = go(work, enters=True)
    say(person(user), f"You are {user.username}, user {user.userid}.", as_json=as_json)


@click.command()
@click.argument("name")
@password_option
@json_option
def login(name: str, password_file: BinaryIO | None, as_json: bool) -> None:
    """Log this profile in as NAME."""
    password = password_from(password_file, "CHATSVC_PASSWORD", "Password")

    async def work(session: Session) -> UserInfo:
        await session.open(logged_in=False)
        user = await session.client.login(name, password)
        session.remember()
        return user

    user = go(work, enters=True)
    say(person(user), f"You are {user.username}, user {user.userid}.", as_json=as_json)


@click.command()
@json_option
def logout(as_json: bool) -> None:
    """Log this profile out. The messages that it has fetched stay on this machine."""

    async def work(session: Session) -> None:
        await session.open(logged_in=False)
        await session.client.logout()
        session.remember()

    go(work)
    say({"userid": None, "username": None}, "Logged out.", as_json=as_json)


@click.command()
@json_option
def whoami(as_json: bool) -> None:
    """Say who is logged in on this profile."""

    async def work(session: Session) -> UserInfo:
        await session.open()
        return session.me

    user = go(work)
    say(person(user), f"{user.username}, user {user.userid}", as_json=as_json)


@click.command()
@password_option
@click.option(
    "--new-password-file", type=click.File("rb"), help="The same for the new one. Or CHATSVC_NEW_PASSWORD."
)
@json_option
def passwd(password_file: BinaryIO | None, new_password_file: BinaryIO | None, as_json: bool) -> None:
    """Change the password. All other devices are logged out."""
    old = password_from(password_file, "CHATSVC_PASSWORD", "Password until now")
    new = password_from(new_password_file, "CHATSVC_NEW_PASSWORD", "New password", twice=True)

    async def work(session: Session) -> UserInfo:
        await session.open()
        await session.client.modify_password(old, new)
        return session.me

    user = go(work)
    say(person(user), "The password is changed; all other devices are logged out.", as_json=as_json)


@click.command()
@click.option("--name", help="A new name.")
@click.option(
    "--avatar", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A picture in a file."
)
@click.option("--no-avatar", is_flag=True, help="No picture any more.")
@json_option
def profile(name: str | None, avatar: Path | None, no_avatar: bool, as_json: bool) -> None:
    """Show one's name and whether there is a picture, or change them."""
    if avatar is not None and no_avatar:
        raise click.UsageError("Either --avatar or --no-avatar.")
    try:
        read = None if avatar is None else base64.b64encode(avatar.read_bytes()).decode()
    except OSError as error:
        raise Failed(f"{avatar} cannot be read: {error.strerror}.") from None
    picture: str | UnsetType | None = UNSET if read is None and not no_avatar else read

    async def work(session: Session) -> UserInfo:
        await session.open()
        if name is None and picture is UNSET:
            return session.me
        user = await session.client.modify_profile(name, picture)
        session.remember()
        return user

    user = go(work)
    shown = f"a picture of {len(user.avatar)} characters" if user.avatar else "no picture"
    text = f"{user.username}, user {user.userid}, with {shown}"
    say(person(user) | {"avatar": user.avatar}, text, as_json=as_json)
