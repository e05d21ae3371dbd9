"""The command line of ``chatsvc-admin``: its options and the commands that it has.

What the commands do is in the modules beside this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from chatsvc import __version__
from chatsvc.admin.invites import invite
from chatsvc.admin.place import SHARED
from chatsvc.admin.upkeep import backup, check, collect, restore, stats, trim
from chatsvc.admin.users import devices, users


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for row in reversed(SHARED):
        named = click.option(f"--{row.name}", row.field, help=f"{row.doc} Or {row.variable}.")
        command = named(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_shared_options
@click.version_option(__version__, prog_name="chatsvc-admin")
def main(**_: Any) -> None:
    """Look after the users and the data of a chatsvc server, while it runs or not.

    The store and the files are found by the server's own options and variables. Exit status: 0 done, 1
    failed or problems found, 2 wrong usage.
    """


for _command in (users, devices, invite, stats, trim, collect, backup, restore, check):
    main.add_command(_command)
