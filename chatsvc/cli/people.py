"""The commands about other people: contacts, who is kept away, and finding somebody.

Other people's messages are in ``messages``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click
from click.shell_completion import CompletionItem

from chatsvc.cli.accounts import go
from chatsvc.cli.archive import Archive
from chatsvc.cli.output import json_option, person, say
from chatsvc.cli.profiles import Profile, Unusable
from chatsvc.cli.session import Session
from chatsvc.client import Client
from chatsvc.wire.schema import Contacts, UserInfo

#: What the lists of contacts are called, and what they mean.
_RELATIONS = {
    "contacts": "",
    "pending": "  (you asked, and wait for an answer)",
    "requesting": "  (has asked you; accept with: chatsvc add {id})",
    "blocked": "  (cannot write to you; lift that with: chatsvc unblock {id})",
}


def _names(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The names that this profile has heard of, for a shell that completes."""
    try:
        archive = Archive(Profile(context.find_root().params.get("profile_name") or "default").data)
    except Unusable:
        return []
    names = archive.names()
    archive.close()
    return [CompletionItem(name) for name in names if name.startswith(typed)]


user_argument = click.argument("user", shell_complete=_names)


@click.command()
@json_option
def contacts(as_json: bool) -> None:
    """List contacts, who asked whom to be one, and who is blocked."""

    async def work(session: Session) -> Contacts:
        await session.open()
        return await session.contacts()

    found = go(work, extras=True)
    for relation, hint in _RELATIONS.items():
        for user in getattr(found, relation) or ():
            text = f"{user.userid:6}  {user.username}{hint.format(id=user.userid)}"
            say(person(user) | {"relation": relation}, text, as_json=as_json)


@click.command()
@user_argument
@json_option
def add(user: str, as_json: bool) -> None:
    """Ask USER to be a contact, or accept that USER asked."""

    async def work(session: Session) -> tuple[UserInfo, bool]:
        await session.open()
        found = await session.find(user)
        await session.client.add_contact(found.userid)
        contacts = (await session.contacts()).contacts
        return found, found.userid in {contact.userid for contact in contacts}

    found, accepted = go(work)
    done = "You and {} are contacts now." if accepted else "{} is asked to be a contact."
    relation = {"relation": "contacts" if accepted else "pending"}
    say(person(found) | relation, done.format(found.username), as_json=as_json)


@click.command()
@user_argument
@json_option
def remove(user: str, as_json: bool) -> None:
    """Have USER no longer as a contact, or withdraw or decline what was asked. Messages stay."""
    _relate(user, Client.remove_contact, "{} is no contact any more.", as_json=as_json)


@click.command()
@user_argument
@json_option
def block(user: str, as_json: bool) -> None:
    """Remove USER and take no more messages from there."""
    _relate(user, Client.block_contact, "{} cannot write to you any more.", as_json=as_json)


@click.command()
@user_argument
@json_option
def unblock(user: str, as_json: bool) -> None:
    """Take messages from USER again, who is no contact by that."""
    _relate(user, Client.unblock_contact, "{} can write to you again.", as_json=as_json)


def _relate(user: str, change: Callable[[Client, int], Awaitable[None]], done: str, *, as_json: bool) -> None:
    """Change the relation with somebody, and say that it is `done`."""

    async def work(session: Session) -> UserInfo:
        await session.open()
        found = await session.find(user)
        await change(session.client, found.userid)
        return found

    found = go(work, extras=True)
    say(person(found), done.format(found.username), as_json=as_json)


@click.command()
@user_argument
@json_option
def search(user: str, as_json: bool) -> None:
    """Find somebody by exact name, or by id."""

    async def work(session: Session) -> UserInfo:
        await session.open()
        return await session.find(user)

    found = go(work)
    say(person(found), f"{found.userid:6}  {found.username}", as_json=as_json)
