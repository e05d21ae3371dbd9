"""Answers that are more than one body: a file, and the parts of a long list of messages.

Handlers give them; how they are sent is in ``requests`` beside this.
"""

from __future__ import annotations

from typing import NamedTuple

from chatsvc.blobs import Download
from chatsvc.chat.delivery import Delivery
from chatsvc.wire import schema


class FileAnswer(NamedTuple):
    """An answer with a payload."""

    body: schema.FileInfo
    download: Download


class Part(NamedTuple):
    """One of several answers to a FETCHMSG: it delivers what lies between two positions."""

    body: bytes
    delivery: Delivery
    start: int
    end: int
    #: The timestamp of its first message, in ms; None if it has none.
    newest: int | None
