"""Telling systemd how the service fares, by the protocol of ``sd_notify(3)``; elsewhere nobody is told.

When to tell what is decided in ``chatsvc/tap.py``.
"""

from __future__ import annotations

import os
import socket

from twisted.logger import Logger

log = Logger()


def notify(*lines: str) -> None:
    """Send assignments such as ``READY=1`` in one message; a failure is logged, for service goes on."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name that is no file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warn("systemd cannot be told {lines}: {error}", lines=lines, error=error)
