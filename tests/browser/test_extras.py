"""What contacts see of each other beside messages: who is there, writes, has read; and how that ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.browser.person import Person
from tests.browser.test_conversation import meet
from tests.browser.test_hostile import HTML, OVERRIDE
from tests.browser.test_settings import hashed
from tests.raw import in_base64, unique
from tests.service import Service


def head(person: Person) -> Any:
    """What stands over the conversation that is shown."""
    return person.page.locator(".chat-title")


def mark(person: Person, text: str, name: str) -> Any:
    """The mark of one of this person's messages, once it says so."""
    found = person.sees(text).get_by_title(name, exact=True)
    found.wait_for()
    return found


def look_away(person: Person, away: bool) -> None:
    """Have the page think that it is in the background, or is not any more."""
    person.page.evaluate(
        """(away) => {
            Object.defineProperty(document, "hidden", { value: away, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        away,
    )


def test_contacts_see_who_is_there_writes_has_got_and_read(
    page_server: Service, people: Callable[..., Person]
) -> None:
    alice, bob = people(page_server), people(page_server)
    alices, bobs = meet(alice, bob)
    for person, other in ((alice, bobs), (bob, alices)):
        head(person).get_by_text("online").wait_for()
        person.entry(other).get_by_text("online").wait_for()

    alice.box(bobs).press_sequentially("Hi")
    head(bob).get_by_text("writes…").wait_for()
    bob.entry(alices).get_by_text("writes…").wait_for()
    alice.box(bobs).fill("")
    head(bob).get_by_text("online").wait_for()

    alice.write(bobs, "To somebody who looks")
    mark(alice, "somebody who looks", "Read")
    look_away(bob, True)
    alice.write(bobs, "To somebody who does not")
    mark(alice, "somebody who does not", "Delivered")
    bob.wait("document.title === '(1) Chat'")
    look_away(bob, False)
    mark(alice, "somebody who does not", "Read")
    assert alice.page.get_by_title("Delivered").count() == 0

    # What another device has read is unread no more.
    look_away(bob, True)
    with page_server.connect() as phone:
        phone.login(in_base64(bobs), hashed("a secret"))
        phone.ask_features("marks")
        alice.write(bobs, "Read on the phone")
        bob.wait("document.title === '(1) Chat'")
        message = phone.ask("FETCHMSG").body["messages"][0]
        named = {"timestamp": message["timestamp"], "md5encoded": message["md5encoded"]}
        assert phone.ask("MARK", {"userid": message["userid"], "mark": "read", **named}).ok
        bob.wait("document.title === 'Chat'")
    mark(alice, "Read on the phone", "Read")
    look_away(bob, False)

    bob.page.get_by_role("button", name="Profile").click()
    bob.page.get_by_label("Tell others when I have read").uncheck()
    bob.page.keyboard.press("Escape")
    alice.write(bobs, "Read in secret")
    bob.sees("in secret")
    mark(alice, "in secret", "Delivered")  # which is not told of a message beside that it was read

    bob.page.goto("about:blank")
    head(alice).get_by_text("last seen").wait_for()
    alice.page.reload()
    alice.open(bobs)
    mark(alice, "in secret", "Delivered")
    assert alice.page.get_by_title("Read", exact=True).count() == 3


def choose(person: Person, action: str) -> Any:
    """Choose from the menu of the conversation, by the keyboard; gives the question that comes."""
    person.page.get_by_role("button", name="More").press("Enter")
    person.page.get_by_role("button", name=action).press("Enter")
    return person.page.get_by_role("alertdialog")


def test_contacts_are_declined_removed_blocked_and_unblocked(
    page_server: Service, people: Callable[..., Person]
) -> None:
    alice, bob = people(page_server), people(page_server)
    alices, bobs = f"{HTML[:40]}{OVERRIDE}{unique()}", unique("bob")
    alice.register(alices)
    alices = alices.replace(OVERRIDE, "")
    bob.register(bobs)
    look_away(bob, True)
    alice.find(bobs)
    bob.wait("document.title === '(1) Chat'")
    look_away(bob, False)
    bob.wait("document.title === 'Chat'")
    bob.page.get_by_role("button", name="Decline").click()
    head(alice).get_by_role("button", name="Add").click()
    bob.page.get_by_role("button", name="Accept").click()
    alice.write(bobs, "Hello")
    bob.sees("Hello")

    question = choose(alice, "Remove from contacts")
    question.get_by_role("heading", name=f"Remove {bobs}?").wait_for()
    alice.page.keyboard.press("Enter")  # which is to let it be
    question.wait_for(state="detached")
    choose(alice, "Remove from contacts").get_by_role("button", name="Remove").press("Enter")
    head(alice).get_by_text("Not in your contacts").wait_for()
    head(bob).get_by_text("Not in your contacts").wait_for()

    question = choose(bob, "Block")
    assert question.get_by_role("heading").inner_text() == f"Block {alices}?"
    question.get_by_role("button", name="Block").press("Enter")
    bob.page.get_by_text("Choose a conversation").wait_for()
    bob.entry(alices).wait_for(state="detached")
    alice.write(bobs, "Are you there?")
    alice.sees("Not sent. This user does not take messages from you")
    bob.page.get_by_role("button", name="Profile").click()
    bob.page.get_by_role("button", name=f"Unblock {alices}").click()
    bob.page.get_by_text("You have blocked nobody.").wait_for()
    bob.page.keyboard.press("Escape")
    alice.page.get_by_role("button", name="Try again").click()
    bob.entry(alices).get_by_text("1 unread").wait_for()
    assert bob.page.evaluate("[window.harmed, document.images.length]") == [None, 0]


def test_nothing_of_this_is_shown_where_the_server_has_it_not(
    page_server: Service, people: Callable[..., Person]
) -> None:
    alice = people(page_server)
    alice.page.evaluate(
        """() => {
            const send = WebSocket.prototype.send;
            WebSocket.prototype.send = function (data) {
                const at = String.fromCharCode(...data).indexOf("features");
                if (at >= 0) data[at] = 88;  // an older server does not know the word
                send.call(this, data);
            };
        }"""
    )
    alices, bobs = unique("alice"), unique("bob")
    alice.register(alices)
    with page_server.connect("seed") as bob:
        bob.register(in_base64(bobs))
        bob.ask_features("contacts", "marks")
        target = bob.ask("SEARCHUSR", {"username": in_base64(alices)}).body["userid"]
        assert bob.ask("ADDCONTACT", {"userid": target}).ok
        alice.find(bobs)
        alice.box(bobs).wait_for()
        assert bob.hint("FORWARDCONTACT")["relation"] == "contact"
        alice.write(bobs, "Hello")
        alice.sees_stored("Hello")
        message = bob.fetch()[0]
        named = {"timestamp": message["timestamp"], "md5encoded": message["md5encoded"]}
        assert bob.ask("MARK", {"userid": target, "mark": "read", **named}).ok
        bob.say(target, in_base64("Hi yourself"))
        alice.sees("Hi yourself")
        mark(alice, "Hello", "Sent")
    assert head(alice).get_by_role("heading").inner_text() == bobs
    assert head(alice).locator("small").count() == 0
    assert alice.page.get_by_role("button", name="More").count() == 0
    alice.page.get_by_role("button", name="Profile").click()
    alice.page.get_by_label("Dark").wait_for()
    assert alice.page.get_by_role("heading", name="Privacy").count() == 0
