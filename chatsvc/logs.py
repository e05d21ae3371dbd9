"""Logs as JSON, an object a line: for machines that read them, and between a worker and its parent.

Where logs go is up to ``twistd`` and ``twist``; nothing is installed here.
"""

from __future__ import annotations

import sys
from typing import TextIO, cast

from twisted.logger import ILogObserver, LogEvent, eventAsText, jsonFileLogObserver
from zope.interface import directlyProvides


def json() -> ILogObserver:
    """What ``twistd -n --logger=chatsvc.logs.json`` asks for: lines on the standard output."""
    return json_lines(sys.stdout)


def json_lines(stream: TextIO) -> ILogObserver:
    """Writes events to `stream`, each with all its fields and, as ``log_text``, what a person would read."""
    write = jsonFileLogObserver(stream, recordSeparator="")

    def observe(event: LogEvent) -> None:
        write({**event, "log_text": eventAsText(event, includeTimestamp=False, includeSystem=False)})

    directlyProvides(observe, ILogObserver)
    return cast(ILogObserver, observe)
