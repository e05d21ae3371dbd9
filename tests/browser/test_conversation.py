"""Two people talk by the page, in two browsers: from making accounts to logging out, over a restart."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.browser.person import Person, page_of, png
from tests.raw import unique
from tests.service import Service

FILE = os.urandom(1 << 20) * 3


def meet(alice: Person, bob: Person) -> tuple[str, str]:
    """Make both of them contacts of each other; gives their names."""
    names = unique("alice"), unique("bob")
    alice.register(names[0])
    bob.register(names[1])
    alice.find(names[1])
    alice.box(names[1]).wait_for()
    bob.page.get_by_role("button", name="Accept").click()
    bob.box(names[0]).wait_for()
    return names


def test_a_conversation_over_a_restart(
    service: Callable[..., Service], people: Callable[..., Person], tmp_path: Path
) -> None:
    server = service("--web", "tcp:0:interface=127.0.0.1").start()
    alice, bob = people(server), people(server)
    alices, bobs = meet(alice, bob)

    alice.write(bobs, "Hello!\nTwo lines, and an address: https://chat.example/a?b.")
    link = bob.sees("Two lines").get_by_role("link")
    assert link.get_attribute("href") == "https://chat.example/a?b"
    alice.sees_stored("Two lines")
    bob.page.keyboard.press("Escape")
    alice.write(bobs, "Are you there?")
    bob.entry(alices).get_by_text("1 unread").wait_for()
    assert bob.page.title() == "(1) Chat"
    bob.page.get_by_role("searchbox").first.press("ArrowDown")  # no mouse
    bob.page.keyboard.press("Enter")
    bob.sees("Are you there?")
    bob.wait("document.title === 'Chat'")
    bob.box(alices).press_sequentially("Yes")
    bob.page.keyboard.press("Shift+Enter")
    bob.page.keyboard.type("\N{GRINNING FACE}")
    bob.page.keyboard.press("Enter")
    assert alice.sees("Yes").locator("p").inner_text() == "Yes\n\N{GRINNING FACE}"

    alice.attach({"name": "large.png", "mimeType": "image/png", "buffer": png(2000, 1000)})
    bob.page.get_by_role("img", name=f"Picture from {alices}").wait_for()
    bob.wait("document.querySelector('.picture img').naturalWidth === 1600")

    alice.attach({"name": "data \N{LATIN SMALL LETTER E WITH ACUTE}.bin", "mimeType": "", "buffer": FILE})
    bob.sees("data é.bin")
    assert downloaded(bob, tmp_path) == ("data é.bin", FILE)

    # The server goes, and comes again at the same place.
    address = page_of(server).rpartition(":")[2].strip("/")
    server.kill()
    server.options = ("--web", f"tcp:{address}:interface=127.0.0.1")
    for person, other in ((alice, bobs), (bob, alices)):
        person.page.get_by_text("No connection.").wait_for()
        person.write(other, "Written while nobody listened")
        assert person.sees("while nobody").get_attribute("data-state") == "waiting"
    alice.page.close()
    server.start()
    alice.page = alice.tab()  # it has kept what waits
    alice.open(bobs)
    for person in (alice, bob):
        stored = person.page.locator("article[data-state=stored]").filter(has_text="while nobody")
        stored.nth(1).wait_for()
        assert stored.count() == 2
    bob.write(alices, "I have them")
    alice.sees("I have them")

    # Logging out leaves nothing; logging in again brings all of it back from the server.
    alice.page.get_by_role("button", name="Profile").click()
    alice.page.get_by_role("button", name="Log out").click()
    alice.page.get_by_role("heading", name="Log in").wait_for()
    assert kept(alice) == 0
    alice.log_in(alices)
    alice.open(bobs)
    alice.sees("I have them")
    assert alice.page.get_by_role("article").count() == 8
    assert "Traceback" not in server.log(), server.log()


def downloaded(person: Person, directory: Path) -> tuple[str, bytes]:
    """The one file that is shown, as the browser would save it: its name, and what is in it."""
    with person.page.expect_download() as started:
        person.page.get_by_role("button", name="Download").click()
    path = directory / "saved"
    started.value.save_as(path)
    return started.value.suggested_filename, path.read_bytes()


def kept(person: Person) -> Any:
    """How many messages a browser keeps."""
    return person.page.evaluate(
        """() => new Promise((resolve) => {
            indexedDB.open("chatsvc").onsuccess = (event) => {
                const store = event.target.result.transaction("messages").objectStore("messages");
                store.count().onsuccess = (counted) => resolve(counted.target.result);
            };
        })"""
    )


def test_tabs_are_one_device_and_show_the_same(page_server: Service, people: Callable[..., Person]) -> None:
    alice, bob = people(page_server), people(page_server)
    second = alice.tab()
    alices, bobs = meet(alice, bob)
    second.get_by_role("heading", name="Chats").wait_for()
    second.get_by_role("list", name="Conversations").get_by_role("button", name=bobs).click()
    bob.write(alices, "To both")
    for tab in (alice.page, second):
        tab.get_by_role("article").filter(has_text="To both").wait_for()
    alice.write(bobs, "From one")
    second.locator("article[data-state=stored]").filter(has_text="From one").wait_for()
    second.reload()
    second.get_by_role("list", name="Conversations").get_by_role("button", name=bobs).click()
    second.get_by_role("article").filter(has_text="From one").wait_for()
    assert second.get_by_role("article").count() == 2
    alice.page.close()  # the other one leads now
    bob.write(alices, "To the one that is left")
    second.get_by_role("article").filter(has_text="one that is left").wait_for()
