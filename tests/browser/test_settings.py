"""What one does beside talking: the profile, scrolling up, searching, cancelling, on one page."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from typing import Any

from tests.browser.person import Person, png
from tests.raw import Raw, in_base64, unique
from tests.service import Service

MANY = 120


def hashed(password: str) -> str:
    """A password as the page sends it."""
    return hashlib.md5(password.encode()).hexdigest()


def test_a_profile_is_changed(page_server: Service, people: Callable[..., Person]) -> None:
    person = people(page_server)
    name, other_name = unique("old"), unique("new")
    person.register(name)
    person.page.get_by_role("button", name="Profile").click()
    dialog = person.page.get_by_role("dialog")
    picture = {"name": "me.png", "mimeType": "image/png", "buffer": png(600, 400)}
    dialog.locator("input[type=file]").set_input_files(picture)
    dialog.locator("img.avatar").wait_for()
    dialog.get_by_label("Name", exact=True).fill(other_name)
    dialog.get_by_role("button", name="Change name").click()
    dialog.get_by_text("Saved.").wait_for()
    dialog.get_by_label("Current password").fill("wrong")
    dialog.get_by_label("New password").fill("another secret")
    dialog.get_by_role("button", name="Change password").click()
    dialog.get_by_text("Wrong password").wait_for()
    dialog.get_by_label("Current password").fill("a secret")
    dialog.get_by_role("button", name="Change password").click()
    dialog.get_by_text("Your password is changed.").wait_for()
    dialog.get_by_label("Dark").check()
    assert person.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 20)"
    with page_server.connect() as other_device:
        other_device.login(in_base64(other_name), hashed("another secret"))
        me = other_device.ask("STATE").body
        assert me["username"] == in_base64(other_name)
        assert me["avatar"].startswith("/9j/")  # a JPEG
        # A new password elsewhere ends this login, and what it has kept.
        change = {"passwd": hashed("another secret"), "newPasswd": hashed("a third")}
        assert other_device.ask("MODIFYPASSWD", change).ok
    person.page.reload()
    person.page.get_by_text("You were logged out").wait_for()


def writes(who: Raw, target: int, count: int) -> None:
    """Many messages, one after the other."""
    for number in range(count):
        who.say(target, in_base64(f"Number {number}."))


def test_a_long_conversation_is_read_and_searched(
    page_server: Service, people: Callable[..., Person]
) -> None:
    person = people(page_server)
    name = unique("reader")
    person.register(name)
    with page_server.connect() as writer:
        writer.register(in_base64(unique("writer")))
        target: Any = writer.ask("SEARCHUSR", {"username": in_base64(name)}).body["userid"]
        writes(writer, target, MANY)
        person.page.get_by_text(f"{MANY} unread").wait_for()
        person.page.get_by_role("list", name="Conversations").get_by_role("button").click()
        person.sees(f"Number {MANY - 1}.")
        articles = person.page.get_by_role("article")
        assert articles.count() < MANY
        log = person.page.get_by_role("log")
        log.focus()
        while not person.page.get_by_text("This is the beginning").count():
            before = articles.count()
            person.page.keyboard.press("Home")
            more = f"document.querySelectorAll('article').length > {before}"
            person.wait(f"{more} || document.querySelector('.beginning') !== null")
        texts = [article.locator("p").inner_text() for article in (articles.nth(0), articles.nth(MANY - 1))]
        assert texts == ["Number 0.", f"Number {MANY - 1}."]
        writer.say(target, in_base64("At the end"))
        person.page.get_by_role("button", name="Go to the newest message").click()
        person.wait("document.querySelector('.to-end').hidden")
        person.page.get_by_role("button", name="Search in this conversation").click()
        person.page.get_by_label("Search in this conversation").last.fill("number 11")
        person.page.get_by_text("11 messages found").wait_for()
        person.page.keyboard.press("Escape")
        assert person.page.get_by_role("article").count() == MANY + 1


def test_what_cannot_be_sent_is_cancelled_removed_or_tried_again(
    service: Callable[..., Service], people: Callable[..., Person]
) -> None:
    server = service("--web", "tcp:0:interface=127.0.0.1", "--message-rate", "5,5/s").start()
    person = people(server)
    name = unique("sender")
    person.register(name)
    person.open_notes(name)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)  # so there is time to cancel
    failed = "document.querySelectorAll('article[data-state=failed]').length"
    for number in range(2):
        person.attach({"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"})
        person.page.get_by_role("progressbar").wait_for()
        person.page.get_by_role("button", name="Cancel").click()
        person.wait(f"{failed} === {number + 1}")
    assert person.page.get_by_text("Not sent. Cancelled.").count() == 2
    person.page.get_by_role("button", name="Remove").last.click()
    person.wait(f"{failed} === 1")
    server.process.send_signal(signal.SIGCONT)
    person.page.get_by_role("button", name="Try again").click()
    person.sees_stored("a.txt")
    assert person.page.get_by_role("article").count() == 1
    for event, target, holder in (
        ("DragEvent('drop'", ".chat", "dataTransfer"),
        ("ClipboardEvent('paste'", "textarea", "clipboardData"),
    ):
        person.page.evaluate(
            f"""() => {{
                const data = new DataTransfer();
                data.items.add(new File(["b"], "{holder}.txt"));
                const event = new {event}, {{ {holder}: data, bubbles: true, cancelable: true }});
                document.querySelector("{target}").dispatchEvent(event);
            }}"""
        )
        person.sees_stored(f"{holder}.txt")
    # Too fast for the server, which takes all of it in the end.
    for number in range(8):
        person.write("Notes to yourself", f"Number {number}.")
    for number in range(8):
        person.sees_stored(f"Number {number}.")
