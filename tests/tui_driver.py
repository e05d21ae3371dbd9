"""The terminal client on a real server, in a process of its own: Textual's pilot types what a test says.

`python -m tests.tui_driver PROFILE` reads lines to type and writes after each what is on the screen, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from chatsvc.cli.session import Session, run
from chatsvc.tui.app import ChatApp
from chatsvc.tui.backend import SessionBackend
from chatsvc.tui.widgets import Conversation
from tests.command import DEADLINE
from tests.tui_world import people, said, type_line


async def drive(session: Session) -> None:
    """Type what comes, until nothing more will."""
    app = ChatApp(SessionBackend(session), session.server)
    async with app.run_test(size=(80, 24)) as pilot:
        loop = asyncio.get_running_loop()
        signal.alarm(0)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            signal.alarm(DEADLINE)
            if text := json.loads(line):
                await type_line(pilot, text)
            await pilot.pause()
            shown = app.query_one(Conversation).said
            messages = [(line.own, line.message.kind, line.message.content) for line in shown]
            print(json.dumps({"people": people(app), "said": said(app), "messages": messages}), flush=True)
            signal.alarm(0)


def main() -> None:
    """Be that client, until standard input ends; whoever waits for it does not wait for ever."""
    signal.alarm(DEADLINE)
    loop = asyncio.new_event_loop()
    asyncioreactor.install(loop)  # type: ignore[no-untyped-call]

    async def work(session: Session) -> None:
        await Deferred.fromFuture(loop.create_task(drive(session)))

    run(sys.argv[1], None, work, enters=True, receives=True)


if __name__ == "__main__":
    main()
