"""The commands about messages: sending, watching, looking back, fetching files."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from twisted.internet.defer import Deferred

from chatsvc.cli import output
from chatsvc.cli.accounts import go
from chatsvc.cli.archive import Stored
from chatsvc.cli.fetching import fetch, pour, stored
from chatsvc.cli.output import bar, json_option, say
from chatsvc.cli.people import user_argument
from chatsvc.cli.session import Session
from chatsvc.wire.schema import Message

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


async def _show(session: Session, message: Stored, *, as_json: bool) -> None:
    sender, target = await session.name_of(message.sender), await session.name_of(message.target)
    say(output.record(message, sender, target), output.line(message, sender, target), as_json=as_json)


@click.command()
@user_argument
@click.argument("text", nargs=-1)
@click.option("--file", type=_FILE, help="Send this file.")
@click.option("--image", type=_FILE, help="Send this picture, to be seen in place.")
@json_option
def send(user: str, text: tuple[str, ...], file: Path | None, image: Path | None, as_json: bool) -> None:
    """Send TEXT, a file or a picture to USER; - as TEXT reads standard input.

    It has been stored when this ends with status 0. With status 3 it may have been or not.
    """
    if sum((bool(text), file is not None, image is not None)) != 1:
        raise click.UsageError("Give a text, or - for standard input, or --file, or --image: one of them.")
    words = sys.stdin.read().removesuffix("\n") if text == ("-",) else " ".join(text)

    async def work(session: Session) -> Message:
        await session.open()
        target = (await session.find(user)).userid
        if file is not None:
            with bar(f"Sending {file.name}") as move:
                message = await session.client.send_file(target, file, progress=move)
        elif image is not None:
            message = await session.client.send_image(target, image.read_bytes())
        else:
            message = await session.client.send_text(target, words)
        session.archive.add(session.me.userid, message)
        return message

    message = go(work)
    done = {"id": message.md5encoded, "to": message.targetid, "timestamp": message.timestamp}
    if as_json or sys.stderr.isatty():
        say(done, f"Stored as {message.md5encoded[: output.SHOWN_ID]}.", as_json=as_json)


@click.command()
@click.option("--once", is_flag=True, help="End when everything that is there now has been printed.")
@json_option
def tail(once: bool, as_json: bool) -> None:
    """Print messages as they come, to and from all devices, until Ctrl-C.

    First come those that this profile has not seen yet. Each is acknowledged after it is printed. Its sender
    sees then that it was delivered, and never that it was read.
    """

    async def work(session: Session) -> None:
        async def show(message: Message) -> None:
            await _show(session, stored(message), as_json=as_json)

        session.on_message = show
        await session.open()
        await session.client.caught_up(timeout=24 * 3600)
        if not once:
            await Deferred()  # until Ctrl-C

    go(work, receives=True)


@click.command()
@user_argument
@click.option(
    "--limit", "-n", type=click.IntRange(1), default=50, show_default=True, help="How many, at most."
)
@json_option
def history(user: str, limit: int, as_json: bool) -> None:
    """Print the last messages between USER and you.

    What this profile has not seen yet is fetched first; it begins with the first message that the server has.
    """

    async def work(session: Session) -> None:
        await session.open()
        await session.client.caught_up()
        other = (await session.find(user)).userid
        for message in session.archive.conversation(session.me.userid, other, limit):
            await _show(session, message, as_json=as_json)

    go(work, receives=True)


@click.command()
@click.argument("message")
@click.option(
    "--output", "-o", "path", type=click.Path(path_type=Path), help="Where to write it; - is standard output."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_option
def get(message: str, path: Path | None, force: bool, as_json: bool) -> None:
    """Fetch the file or the picture of MESSAGE, which is the beginning of its id."""

    async def work(session: Session) -> tuple[Path, int]:
        await session.open()
        found = session.message(message)
        with bar(f"Fetching {output.file_name(found)}") as move:
            if path == Path("-"):
                return path, await pour(session, found, sys.stdout.buffer, move)
            return await fetch(session, found, path, force=force, progress=move)

    to, size = go(work)
    if to != Path("-"):
        say({"path": str(to), "size": size}, f"{to}, {size} bytes", as_json=as_json)
