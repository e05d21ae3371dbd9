"""The commands about invites, which people need for an account where ``--registration`` says so."""

from __future__ import annotations

import click

from chatsvc.admin.output import confirm, json_option, say, time_of, yes_option
from chatsvc.admin.place import Place, run
from chatsvc.store.invites import Invite
from chatsvc.wire.invites import make

_DAY = 24 * 3600
#: Characters of an id that are shown to people, and are enough to name it.
_SHOWN = 8


@click.group()
def invite() -> None:
    """Codes that let people make accounts, on a server with --registration invite."""


@invite.command()
@click.option(
    "--days", type=click.IntRange(1, 3650), default=7, show_default=True, help="How long it is good."
)
@click.option(
    "--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="For how many accounts."
)
@json_option
def create(days: int, uses: int, as_json: bool) -> None:
    """A new code. It is shown this once: the store has only its hash."""
    code = make()

    async def work(place: Place) -> str:
        return await place.store.invites.create(code, uses, days * _DAY)

    made = run(work)
    record = {"id": made, "code": code, "uses": uses, "days": days}
    accounts = "one account" if uses == 1 else f"{uses} accounts"
    say(
        record,
        f"{code}  (id {made[:_SHOWN]}, good for {accounts} within {days} days)",
        as_json=as_json,
    )


@invite.command("list")
@json_option
def list_invites(as_json: bool) -> None:
    """The invites that have not expired."""

    async def work(place: Place) -> None:
        async for page in place.store.invites.pages():
            for one in page:
                until = time_of(one.until)
                record = {"id": one.id, "uses_left": one.uses, "until": until}
                say(record, f"{one.id[:_SHOWN]}  {one.uses:>6} left, until {until}", as_json=as_json)

    run(work)


@invite.command()
@click.argument("beginning", metavar="ID")
@yes_option
@json_option
def revoke(beginning: str, yes: bool, as_json: bool) -> None:
    """Let an invite, given by the beginning of its id, make no more accounts."""
    confirm(f"Revoke the invite {beginning}?", yes=yes)

    async def work(place: Place) -> Invite:
        found = [
            one async for page in place.store.invites.pages() for one in page if one.id.startswith(beginning)
        ]
        if len(found) != 1:
            raise click.ClickException(
                f"There are {len(found)} invites whose id begins with {beginning!r}; name just one."
            )
        await place.store.invites.revoke(found[0].id)
        return found[0]

    gone = run(work)
    say({"id": gone.id}, f"The invite {gone.id[:_SHOWN]} is revoked.", as_json=as_json)
