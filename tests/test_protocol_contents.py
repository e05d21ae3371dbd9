"""Contents of any kind and length, in each dialect, by push and by fetch (`docs/protocol.md` section 5)."""

from __future__ import annotations

import base64
import json
import select
import time
from typing import Any

import pytest

from tests.service import Service

#: Contents, and what a `released` client must get of them.
CONTENTS = {
    "": "",
    "Ym9i": "Ym9i",
    "YQ==": "YQ==",
    "4pyTIMOgIGxhIG1vZGU=": "4pyTIMOgIGxhIG1vZGU=",
    "bob!": "Ym9iIQ==",
    "YQ": "WVE=",
    "YQ=": "WVE9",
    "YR==": "WVI9PQ==",
    "YQ==\n": "WVE9PQo=",
    "Ym9iYm9i YQ==": "WW05aVltOWkgWVE9PQ==",
    "/w==": "L3c9PQ==",
    "_-8=": "Xy04PQ==",
    "====": "PT09PQ==",
    "✓": "4pyT",
    "naïve\x00\x1b\u2028\U0001f600": "bmHDr3ZlABvigKjwn5iA",
}


def contents(messages: list[Any]) -> list[str]:
    return [message["content"] for message in messages]


def wrapped(content: str) -> str:
    """What a `released` client must get of a content that is not base64."""
    return base64.b64encode(content.encode()).decode()


def test_contents_reach_each_dialect_as_its_readers_need_them(server: Service, dialect: str) -> None:
    reader, bob = server.user(dialect), server.user("seed")
    assert reader.user is not None
    for index, content in enumerate(CONTENTS):
        sender = bob if index % 2 else server.again(bob, "released")  # how it was sent plays no part
        sender.say(reader.user, content)
    expected = list(CONTENTS.values() if dialect == "released" else CONTENTS)
    assert contents([reader.push() for _ in expected]) == expected
    assert contents(reader.fetch()) == expected


@pytest.mark.parametrize("size", [32 * 1024 - 1, 32 * 1024, 32 * 1024 + 4, 1_500_000, 6_000_000])
def test_long_contents_reach_each_dialect_by_push_and_by_fetch(
    server: Service, dialect: str, size: int
) -> None:
    reader, sender = server.user(dialect), server.user()
    assert reader.user is not None
    content = "QUJD" * (size // 4) + "!" * (size % 4)  # base64 only where the size is a multiple of 4
    sender.say(reader.user, content)
    sender.say(reader.user, "YWZ0ZXI=")
    expected = [content, "YWZ0ZXI="]
    if dialect == "released" and size % 4:
        seen = reader.push(), reader.push()
        assert seen[0]["content"] == wrapped(content)
        assert contents(reader.fetch()) == [wrapped(content), "YWZ0ZXI="]
    else:
        assert contents([reader.push(), reader.push()]) == expected
        assert contents(reader.fetch()) == expected


@pytest.mark.parametrize("text", ["é" * 40_000, "\U0001f600" * 20_000, '"\\\x00' * 15_000, "%b%s{}" * 9_000])
def test_long_contents_of_any_characters_come_back_exactly(server: Service, dialect: str, text: str) -> None:
    reader, sender = server.user(dialect), server.user("seed")
    assert reader.user is not None
    sender.say(reader.user, text)
    expected = wrapped(text) if dialect == "released" else text
    assert reader.push()["content"] == expected
    assert contents(reader.fetch()) == [expected]


@pytest.mark.parametrize("text", ["é" * 7_000_000, "é\U0001f600a" * 1_500_000])
def test_one_long_text_does_not_keep_the_others_waiting(server: Service, text: str) -> None:
    reader, sender, other = server.user("seed"), server.user("seed"), server.user("seed")
    assert reader.user is not None
    body = sender.message(reader.user, text)
    value = {"request": "SENDMSG", "body": body, "tokenid": sender.token}
    sender.socket.sendall(sender.frame(json.dumps(value, ensure_ascii=False).encode()))
    slowest = 0.0
    while not select.select([sender.socket], [], [], 0)[0]:
        began = time.monotonic()
        assert other.ask("STATE").ok
        slowest = max(slowest, time.monotonic() - began)
    assert sender.answer().ok
    assert slowest < 5
    assert reader.push()["content"] == text
