"""Somebody speaks the protocol by hand and means harm: names, texts, pictures and files do none."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from tests.browser.person import Person
from tests.browser.test_conversation import downloaded
from tests.raw import in_base64, unique
from tests.service import Service

HTML = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>'
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>window.harmed=1</script></svg>'
TEXTS = [
    HTML,
    "javascript:window.harmed=1 and https://safe.example/<script>",
    f"{OVERRIDE}txet desrever{OVERRIDE}",
    "w" * 5000,
    "\N{COMBINING ACUTE ACCENT}" * 500,
    "__proto__",
    "",
]


def test_a_hostile_user_harms_nobody(
    page_server: Service, people: Callable[..., Person], tmp_path: Path
) -> None:
    victim = people(page_server, width=390, height=720)
    name = unique("victim")
    victim.register(name)
    with page_server.connect() as enemy:
        enemies = f"{OVERRIDE}{HTML}{unique()}"
        enemy.register(in_base64(enemies))
        target = enemy.ask("SEARCHUSR", {"username": in_base64(name)}).body["userid"]
        avatar = b64encode(SVG).decode()
        assert enemy.ask("MODIFYPROFILE", {"avatar": avatar}).ok
        assert enemy.ask("ADDCONTACT", {"userid": target}).ok
        assert enemy.answer().response == "FETCHCONTACT"
        for text in TEXTS:
            enemy.say(target, in_base64(text))
        for picture in (avatar, "no base64", b64encode(HTML.encode()).decode()):
            enemy.say(target, in_base64(picture), contenttype="image")
        file_name = f"../../{OVERRIDE}gpj.<b>evil.exe"
        digest = hashlib.md5(SVG).hexdigest()
        enemy.say(target, in_base64(file_name), payload=SVG, contenttype="file", filemd5=digest)
        victim.page.get_by_role("list", name="Conversations").get_by_role("button").click()
        victim.page.get_by_role("button", name="Download").wait_for()

    assert victim.page.get_by_role("article").count() == len(TEXTS) + 4
    assert victim.page.get_by_text(HTML, exact=True).count() == 1
    assert [link.get_attribute("href") for link in victim.page.get_by_role("link").all()] == [
        "https://safe.example/"
    ]
    assert victim.page.get_by_text("A picture that this browser cannot show.").count() == 3
    heading = victim.page.locator(".chat-title").get_by_role("heading")
    heading.filter(has_text=HTML).wait_for()  # as text
    assert heading.inner_text() == enemies.replace(OVERRIDE, "")
    saved, data = downloaded(victim, tmp_path)
    assert (saved, data) == ("gpj._b_evil.exe", SVG)
    assert victim.page.evaluate("[window.harmed, document.scripts.length, document.images.length]") == [
        None,
        1,
        0,
    ]
    boxes = "[document.documentElement, ...document.querySelectorAll('.messages, .bubble')]"
    assert max(victim.page.evaluate(f"{boxes}.map((box) => box.scrollWidth)")) <= 390
