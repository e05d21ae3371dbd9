"""The commands about other people: contacts, and finding somebody."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from chatsvc.cli.accounts import go
from chatsvc.cli.archive import Archive
from chatsvc.cli.output import json_option, person, say
from chatsvc.cli.profiles import Profile, Unusable
from chatsvc.cli.session import Session
from chatsvc.wire.schema import Contacts, UserInfo

#: What the three lists of contacts are called, and what they mean.
_RELATIONS = {
    "contacts": "",
    "pending": "  (you asked, and wait for an answer)",
    "requesting": "  (has asked you; accept with: chatsvc add {id})",
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
    """List contacts, and who asked whom to be one."""

    async def work(session: Session) -> Contacts:
        await session.open()
        return await session.contacts()

    found = go(work)
    for relation, hint in _RELATIONS.items():
        for user in getattr(found, relation):
            text = f"{user.userid:6}  {user.username}{hint.format(id=user.userid)}"
            say(person(user) | {"relation": relation}, text, as_json=as_json)


@click.command()
@user_argument
@json_option
def add(user: str, as_json: bool) -> None:
    """Ask USER to be a contact, or accept that USER asked."""

    async def work(session: Session) -> UserInfo:
        await session.open()
        found = await session.find(user)
        await session.client.add_contact(found.userid)
        return found

    found = go(work)
    say(person(found), f"{found.username} is asked, or accepted.", as_json=as_json)


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
