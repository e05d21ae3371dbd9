"""The command line of `chatsvc`: its options and the commands that it has.

What the commands do is in the modules beside this.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from chatsvc import __version__
from chatsvc.cli.accounts import login, logout, passwd, profile, register, whoami
from chatsvc.cli.chat import chat
from chatsvc.cli.messages import get, history, send, tail
from chatsvc.cli.people import add, block, contacts, remove, search, unblock

#: What the shells ask for completions with; click's way of naming it.
_COMPLETE = "_CHATSVC_COMPLETE"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--profile",
    "profile_name",
    default="default",
    show_default=True,
    envvar="CHATSVC_PROFILE",
    help="Which of your accounts: each profile is a device with a login of its own. Or CHATSVC_PROFILE.",
)
@click.option(
    "--server",
    envvar="CHATSVC_SERVER",
    help="host:port, or tls:host:port for an encrypted connection; remembered from the login on. "
    "Default: 127.0.0.1:8080. Or CHATSVC_SERVER.",
)
@click.version_option(__version__, prog_name="chatsvc")
def main(**_: object) -> None:
    """Chat from a terminal or a script.

    USER is a name, or an id; a name of digits is written name:123.

    \b
    Exit status:  0  done
                  1  refused by the server, or failed
                  2  wrong usage
                  3  the server was not reached, or did not answer in time
                  4  nobody is logged in on this profile
    """


for _command in (
    register, login, logout, whoami, passwd, profile, contacts, add, remove, block, unblock, search,
    send, tail, history, get, chat,
):  # fmt: skip
    main.add_command(_command)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete these commands.

    \b
    bash:  chatsvc completion bash > ~/.local/share/bash-completion/completions/chatsvc
    zsh:   chatsvc completion zsh > a directory of $fpath, as _chatsvc
    fish:  chatsvc completion fish > ~/.config/fish/completions/chatsvc.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "chatsvc", _COMPLETE).source())
