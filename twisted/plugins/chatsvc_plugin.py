"""The plugin by which ``twistd`` and ``twist`` know ``chatsvc``; it only names the module to load.

The options and the service are in ``chatsvc/tap.py``.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

chatsvc = ServiceMaker(  # type: ignore[no-untyped-call]
    "chatsvc", "chatsvc.tap", "A one-to-one chat server that loses nothing.", "chatsvc"
)
