"""Somebody in front of the page: what they do there by its labels, and what they see.

It does by labels and keys what a person does, so what it can do, a screen reader can find too.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

from tests.service import Service

#: Milliseconds that anything may take.
PATIENCE = 30_000
#: What a browser says of a server that is down; everything else that it says is a fault of the page.
_EXPECTED = re.compile(r"WebSocket connection to 'ws://\S+' failed")


def page_of(server: Service) -> str:
    """The address of a server's page, as it says it."""
    found = re.search(r"Chat in a browser: (http://127\.0\.0\.1:\d+/)", server.log())
    assert found is not None, server.log()
    return found[1]


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """A picture, black all over or of these rows, each a zero byte and three bytes for a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 + 3 * width) * height if rows is None else rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class Person:
    """Somebody with a browser of their own, which keeps what the page keeps until they leave."""

    def __init__(self, browser: Any) -> None:
        self.address = ""
        self.faults: list[str] = []
        self.context = browser.new_context(reduced_motion="reduce")
        self.context.set_default_timeout(PATIENCE)
        self.context.on("weberror", lambda found: self.faults.append(str(found.error)))
        self.context.on("console", self._heard)
        self.context.on("dialog", self._asked)
        self.page = self.context.new_page()

    def come(self, address: str, width: int = 1100, height: int = 720, color_scheme: str = "light") -> None:
        """Open a page for the first time, in a window of this size in pixels."""
        self.address = address
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=color_scheme)
        self.page.goto(address)

    def leave(self) -> None:
        """Leave the page; nothing of it is kept."""
        self.page, *others = self.context.pages or [self.context.new_page()]
        for tab in others:
            tab.close()
        self.page.goto("about:blank")
        session = self.context.new_cdp_session(self.page)
        session.send(
            "Storage.clearDataForOrigin", {"origin": self.address.rstrip("/"), "storageTypes": "all"}
        )
        session.detach()

    def tab(self) -> Any:
        """One more tab on the page."""
        tab = self.context.new_page()
        tab.goto(self.address)
        return tab

    def _heard(self, said: Any) -> None:
        if said.type == "error" and not _EXPECTED.search(said.text):
            self.faults.append(said.text)

    def _asked(self, dialog: Any) -> None:
        """The page asks nothing in this way, so somebody else does."""
        self.faults.append(dialog.message)
        dialog.dismiss()

    def register(self, name: str, password: str = "a secret") -> None:
        """Make an account."""
        self.page.get_by_role("button", name="New here?").click()
        self.page.get_by_label("Name", exact=True).fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Create account", exact=True).click()
        self.page.get_by_role("heading", name="Chats").wait_for()

    def log_in(self, name: str, password: str = "a secret") -> None:
        """Log in, by the keyboard alone."""
        self.page.get_by_label("Name", exact=True).fill(name)
        self.page.keyboard.press("Tab")
        self.page.keyboard.type(password)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("heading", name="Chats").wait_for()

    def find(self, name: str) -> None:
        """Look for somebody, and ask to be a contact."""
        self.page.get_by_role("searchbox").first.fill(name)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Add", exact=True).click()

    def entry(self, name: str) -> Any:
        """What the list says of somebody."""
        return self.page.get_by_role("list", name="Conversations").get_by_role("button", name=name)

    def open(self, name: str) -> None:
        """Show the conversation with somebody."""
        self.entry(name).click()
        self.box(name).wait_for()

    def open_notes(self, name: str) -> None:
        """Show this person's conversation with themselves; `name` is theirs."""
        self.page.get_by_role("searchbox").first.fill(name)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Message", exact=True).click()

    def box(self, name: str) -> Any:
        """Where one writes to somebody."""
        return self.page.get_by_label(f"Message {name}", exact=True)

    def write(self, name: str, text: str) -> None:
        """Send a text to somebody whose conversation is shown."""
        self.box(name).fill(text)
        self.page.keyboard.press("Enter")

    def attach(self, *files: Any) -> None:
        """Send files, given as paths or as Playwright's dictionaries."""
        found = [str(file) if isinstance(file, Path) else file for file in files]
        self.page.locator("input[type=file]").set_input_files(found)

    def sees(self, text: str) -> Any:
        """Return once a message with this text is shown, and give it."""
        found = self.page.get_by_role("article").filter(has_text=text)
        found.wait_for()
        return found

    def sees_stored(self, text: str) -> None:
        """Return once a message of this person's is known to be stored."""
        self.page.locator("article[data-state=stored]").filter(has_text=text).wait_for()

    def wait(self, condition: str) -> None:
        """Return once an expression of JavaScript holds."""
        # A bare expression would be eval, which is not allowed; to look at each frame would be work.
        self.page.wait_for_function(f"() => {condition}", polling=50)
