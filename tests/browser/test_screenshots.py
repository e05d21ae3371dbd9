"""Pictures of the page for ``docs/images/``, made by ``make screenshots`` and in no other run of the tests.

They show a conversation of people who do not exist, on a server that has just been started.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.person import Person, png
from tests.raw import Raw, in_base64
from tests.service import Service

MINUTE = 60 * 1000
TALK = [
    ("Anna", "Did you see that the server runs on the old laptop now? \N{GRINNING FACE WITH SMILING EYES}"),
    ("me", "I did! It has been up for three weeks."),
    ("Anna", "And nobody had to install anything. My mother writes from her phone."),
    ("me", "Show her how to send pictures, she will love that:\nhttps://chat.example/help"),
    ("Anna", "picture"),
    ("Anna", "Too late \N{SMILING FACE WITH SUNGLASSES} This is from her walk this morning."),
    ("me", "Beautiful. Are we still on for Saturday?"),
]
OTHERS = {
    "Miguel": "\N{THUMBS UP SIGN}",
    "Dr. Okafor": "The results are in the attachment.",
    "داود": "شكرا جزيلا، إلى اللقاء",
    "Chloé": "À demain !",
}
VIEWS = {"desktop": (1180, 740), "phone": (390, 780)}


def hills(width: int = 900, height: int = 560) -> bytes:
    """A landscape: a sky, a sun, and two hills."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            u, v = x / width, y / height
            near = 0.78 + 0.1 * (u - 0.2) * (1 - u) * 4
            far = 0.62 - 0.35 * (u - 0.1) * (0.95 - u)
            if v > near:
                rows += bytes((46, 92, 74))
            elif v > far:
                rows += bytes((94, 142, 120))
            elif (u - 0.72) ** 2 * 2.6 + (v - 0.3) ** 2 < 0.006:
                rows += bytes((255, 236, 190))
            else:
                rows += bytes((int(250 - 60 * (1 - v)), int(205 + 20 * v), int(190 - 40 * v + 40)))
    return png(width, height, bytes(rows))


@pytest.mark.skipif(
    "SCREENSHOTS" not in os.environ, reason="make screenshots makes pictures for the documentation"
)
def test_screenshots(page_server: Service, people: Callable[..., Person]) -> None:
    directory = Path(os.environ["SCREENSHOTS"])
    directory.mkdir(parents=True, exist_ok=True)
    me = people(page_server)
    me.register("Robin")
    stage(page_server, me)
    for scheme in ("light", "dark"):
        for view, (width, height) in VIEWS.items():
            me.page.set_viewport_size({"width": width, "height": height})
            me.page.emulate_media(color_scheme=scheme)
            me.page.reload()
            me.entry("Anna").get_by_text("online").wait_for()
            me.page.get_by_role("button", name="Decline").first.wait_for()
            if view == "phone":
                me.page.screenshot(path=directory / f"list-{view}-{scheme}.png")
            me.open("Anna")
            me.page.get_by_role("img", name="Picture from Anna").wait_for()
            me.wait("document.querySelector('.picture img').complete")
            me.page.screenshot(path=directory / f"chat-{view}-{scheme}.png")


def stage(server: Service, me: Person) -> None:
    """Have other people talk to `me`."""
    start = int(time.time() * 1000) - 40 * MINUTE
    my_id = 0
    for number, (name, text) in enumerate(OTHERS.items()):
        with server.connect() as other:
            other.register(in_base64(name))
            my_id = other.ask("SEARCHUSR", {"username": in_base64("Robin")}).body["userid"]
            ask(other, my_id)
            other.say(my_id, in_base64(text), timestamp=start - (3 - number) * 25 * 60 * MINUTE)
            me.entry(name).wait_for()
    for name in ("Miguel", "Dr. Okafor"):
        me.open(name)
        me.page.get_by_role("button", name="Accept").last.click()
        me.page.get_by_role("article").wait_for()
    anna = server.connect()  # and stays: she is online
    anna.register(in_base64("Anna"))
    anna.ask_features("marks")
    anna.fetch()
    me.find("Anna")
    ask(anna, my_id)
    me.box("Anna").wait_for()
    for number, (who, text) in enumerate(TALK):
        if who == "me":
            me.write("Anna", text)
            me.sees_stored(text.partition("\n")[0])
            named = anna.fetch()[-1]
            mark = {"userid": my_id, "mark": "read" if number < len(TALK) - 1 else "delivered"}
            assert anna.ask("MARK", mark | {key: named[key] for key in ("timestamp", "md5encoded")}).ok
            continue
        kind = "image" if text == "picture" else "plaintext"
        content = in_base64(b64encode(hills()).decode() if text == "picture" else text)
        anna.say(my_id, content, contenttype=kind)
        me.page.get_by_role("article").nth(number).wait_for()


def ask(who: Raw, userid: int) -> None:
    """Ask somebody to be a contact."""
    assert who.ask("ADDCONTACT", {"userid": userid}).ok
    assert who.answer().response == "FETCHCONTACT"
