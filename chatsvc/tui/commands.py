"""What the slash commands do: asking the backend, and having the application show what comes of it.

Which commands there are, and what words they take, is known to ``slash``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatsvc.cli.archive import Stored
from chatsvc.tui.backend import Backend

if TYPE_CHECKING:
    from chatsvc.tui.app import ChatApp


class Commands:
    """A method for each command, of its name; what fails raises what `Backend` does."""

    def __init__(self, app: ChatApp, backend: Backend) -> None:
        self._app = app
        self._backend = backend

    async def run(self, command: str, words: tuple[str, ...]) -> None:
        """Carry out what `slash.read` has understood."""
        await getattr(self, f"_{command}")(*words)

    async def _help(self) -> None:
        self._app.action_help()

    async def _quit(self) -> None:
        self._app.exit()

    async def _open(self, who: str) -> None:
        await self._app.open(await self._backend.find(who))

    async def _add(self, who: str) -> None:
        await self._relate(self._backend.add, who)

    async def _remove(self, who: str) -> None:
        await self._relate(self._backend.remove, who)

    async def _block(self, who: str) -> None:
        await self._relate(self._backend.block, who)

    async def _unblock(self, who: str) -> None:
        await self._relate(self._backend.unblock, who)

    async def _relate(self, change: Callable[[int], Awaitable[None]], who: str) -> None:
        await change((await self._backend.find(who)).userid)
        await self._app.look()

    async def _file(self, path: str) -> None:
        await self._give(self._backend.send_file(self._here(), Path(path).expanduser(), self._app.moved))

    async def _image(self, path: str) -> None:
        await self._give(self._backend.send_image(self._here(), Path(path).expanduser()))

    async def _give(self, sending: Awaitable[Stored]) -> None:
        await self._app.show_message(await sending)

    async def _get(self, prefix: str, path: str = "") -> None:
        to = await self._backend.get(prefix, Path(path).expanduser() if path else None, self._app.moved)
        self._app.say(f"It is in {to.absolute()}.")

    async def _retry(self) -> None:
        self._app.retry()

    async def _find(self, text: str) -> None:
        if not self._app.scroll_to(text):
            self._app.say("That was not written here.")

    def _here(self) -> int:
        if self._app.other is None:
            raise ValueError("Open a conversation first: /open NAME")
        return self._app.other
