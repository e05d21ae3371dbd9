"""The chat page over HTTP: its files, which are all in memory, and the door to its WebSocket.

What the page does is in ``chatsvc/web/`` (``docs/web.md``); what comes through the door, in
``chatsvc/net/websocket.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from twisted.web.http_headers import Headers
from twisted.web.websocket import WebSocketResource

from chatsvc.net.pages import PageChannel, PageRequest, PageSite, Reply, sentence
from chatsvc.net.server import Server
from chatsvc.net.websocket import Sockets

#: Where the WebSocket is.
SOCKET_PATH = b"/ws"
#: The headers of a handshake but for its key, of 16 bytes (RFC 6455 section 4.1).
_UPGRADE = {
    "host": ["chat"],
    "connection": ["upgrade"],
    "upgrade": ["websocket"],
    "sec-websocket-version": ["13"],
}
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
#: Nothing but what this server sends may run, be shown or be asked, and no other page may hold this one.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # Kept, but asked about at each use: the page and the server are of one version.
    "cache-control": "no-cache",
}


class File(NamedTuple):
    """One of the page's files."""

    body: bytes
    content_type: str
    etag: str


def page_files() -> dict[bytes, File]:
    """All files of the page by their paths; what is not here does not exist, whatever a client asks for."""
    found = {}
    for entry in resources.files("chatsvc").joinpath("web").iterdir():
        content_type = _TYPES.get(entry.name.rpartition(".")[2])
        if content_type is not None:
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[f"/{entry.name}".encode()] = File(body, content_type, etag)
    found[b"/"] = found.pop(b"/index.html")
    return found


class _Request(PageRequest):
    """One request for a file of the page, or for the WebSocket."""

    def process(self) -> None:
        site: WebSite = self.channel.factory
        file = site.files.get(self.path)
        if self.path == SOCKET_PATH:
            self._open_socket(site)
        elif file is None:
            self._answer(sentence(HTTPStatus.NOT_FOUND, "There is no such page. The chat is at /."))
        elif self.method not in (b"GET", b"HEAD"):
            why = "This page is for GET and HEAD only."
            self._answer(sentence(HTTPStatus.METHOD_NOT_ALLOWED, why, allow="GET, HEAD"))
        elif file.etag in (self.getHeader("if-none-match") or ""):
            self._answer(Reply(HTTPStatus.NOT_MODIFIED, b"", file.content_type, {"etag": file.etag}))
        else:
            self._answer(Reply(HTTPStatus.OK, file.body, file.content_type, {"etag": file.etag}))

    def _open_socket(self, site: WebSite) -> None:
        refusal = self._refusal(site.origins)
        if refusal is not None:
            self._answer(refusal)
            return
        self.channel.leave()
        # What was checked, and nothing else: wsproto may stumble over the rest, and needs none of it.
        self.requestHeaders = Headers(
            {**_UPGRADE, "sec-websocket-key": [str(self.getHeader("sec-websocket-key"))]}
        )
        site.door.render_GET(self)  # type: ignore[arg-type]  # it needs no more than this request has
        self.channel.requests.clear()  # the WebSocket may live for days

    def _refusal(self, origins: Collection[str]) -> Reply | None:
        """Why there is no WebSocket for this request; None if there is."""
        origin, host = self.getHeader("origin"), self.getHeader("host")
        if not self._is_handshake():
            why = "This is for WebSockets, version 13 (RFC 6455)."
            return sentence(HTTPStatus.UPGRADE_REQUIRED, why, upgrade="websocket", sec_websocket_version="13")
        if origin is not None and origin.lower() not in origins and not _same_host(origin, str(host)):
            why = f"Pages of {origin} may not chat here. Whoever runs this server can allow it: --web-origin."
            return sentence(HTTPStatus.FORBIDDEN, why)
        return None

    def _is_handshake(self) -> bool:
        told = {name: str(self.getHeader(name)).lower() for name in _UPGRADE}
        return (
            self.method == b"GET"
            and told["upgrade"] == "websocket"
            and "upgrade" in told["connection"].replace(" ", "").split(",")
            and told["sec-websocket-version"] == "13"
            and _KEY.fullmatch(str(self.getHeader("sec-websocket-key"))) is not None
        )

    def _answer(self, reply: Reply) -> None:
        self.answer(reply._replace(headers=_HEADERS | dict(reply.headers)))


def _same_host(origin: str, host: str) -> bool:
    """Whether `origin` is a page of the host that was asked; a proxy may have taken the TLS away."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


class _Channel(PageChannel):
    """One connection, for some requests or for one WebSocket."""

    requestFactory = _Request


class WebSite(PageSite):
    """The chat page and its WebSocket at ``/ws``, which carries connections of `server` (``docs/web.md``).

    Pages of the same host may open that, those of `origins` (``https://example.org``), and programs.
    """

    protocol = _Channel
    # A page has some twenty files, and a phone may be slow to get them.
    connection_time = 60.0
    connections = 256
    persistent = True

    def __init__(self, server: Server, reactor: Any, origins: Collection[str] = ()) -> None:
        super().__init__(reactor)
        self.files: Mapping[bytes, File] = page_files()
        self.origins = frozenset(origins)
        self._sockets = Sockets(server)
        self.door = WebSocketResource(self._sockets)  # type: ignore[arg-type]  # its request is ours

    def start(self) -> None:
        """Begin to look after the WebSockets."""
        self._sockets.start()

    def stop(self) -> None:
        """Cut the connections that are for files; the server ends those that are WebSockets."""
        self._sockets.stop()
        for channel in list(self._channels):
            channel.transport.abortConnection()
