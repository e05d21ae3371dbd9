"""The page for those who do not see it, or not well: no rule of axe is broken, in light and in dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.person import Person
from tests.browser.test_conversation import meet
from tests.service import Service

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")


def complaints(person: Person) -> list[str]:
    """What axe says is wrong with what is shown."""
    found = axe.Axe().run(person.page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


def test_axe_has_nothing_to_say(page_server: Service, people: Callable[..., Person]) -> None:
    alice = people(page_server)
    bob = people(page_server, color_scheme="dark", width=390, height=720)
    assert complaints(alice) == []
    assert complaints(bob) == []
    alices, bobs = meet(alice, bob)
    alice.write(bobs, "Hello, see https://chat.example/")
    bob.sees("Hello")
    bob.write(alices, "Hello")
    alice.sees("Hello, see")
    bob.attach({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"notes"})
    alice.sees("notes.txt")
    assert complaints(alice) == []
    assert complaints(bob) == []
    bob.box(alices).press_sequentially("H")
    alice.entry(bobs).get_by_text("writes…").wait_for()
    alice.page.get_by_role("button", name="More").click()
    alice.page.get_by_role("button", name="Block").wait_for()
    assert complaints(alice) == []
    alice.page.get_by_role("button", name="Block").click()
    alice.page.get_by_role("alertdialog").wait_for()
    assert complaints(alice) == []
    alice.page.keyboard.press("Escape")
    bob.page.get_by_role("button", name="Back").click()
    alice.write(bobs, "One more")
    bob.entry(alices).get_by_text("1 unread").wait_for()
    assert complaints(bob) == []
    for person in (alice, bob):
        person.page.get_by_role("button", name="Profile").click()
        assert complaints(person) == []
        person.page.keyboard.press("Escape")
    alice.page.get_by_role("searchbox").first.fill("nobody at all")
    alice.page.keyboard.press("Enter")
    alice.page.get_by_text("User not found").wait_for()
    assert complaints(alice) == []
