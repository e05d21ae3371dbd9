"""The command ``chatsvc chat``: the terminal client, on a reactor that runs on asyncio's loop.

What it looks like is in ``chatsvc.tui``.
"""

from __future__ import annotations

import asyncio

import click

from chatsvc.cli.accounts import go
from chatsvc.cli.session import Failed, Session


@click.command()
def chat() -> None:
    """Chat on the whole terminal. /help says what can be typed there.

    This needs Textual: pip install 'chatsvc[tui]'
    """
    try:
        from chatsvc.tui.app import ChatApp
        from chatsvc.tui.backend import SessionBackend
    except ImportError as error:
        raise Failed(f"{error.name} is not installed. Install it with: pip install 'chatsvc[tui]'") from None
    from twisted.internet import asyncioreactor
    from twisted.internet.defer import Deferred

    loop = asyncio.new_event_loop()
    asyncioreactor.install(loop)  # type: ignore[no-untyped-call]  # Textual runs on it too

    async def work(session: Session) -> None:
        app = ChatApp(SessionBackend(session), session.server)
        await Deferred.fromFuture(loop.create_task(app.run_async()))

    go(work, enters=True, receives=True)
