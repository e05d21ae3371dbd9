"""The table of requests: what a row follows from. What each row does is in ``test_chat_requests.py``."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from chatsvc.chat import calls
from chatsvc.chat.calls import Call
from chatsvc.tasks import Pending


@pytest.mark.parametrize(
    ("options", "direct"),
    [
        ({"checks_binding": True}, True),
        ({}, False),
        ({"checks_binding": True, "login": False}, False),
        ({"checks_binding": True, "answers": False}, False),
        ({"checks_binding": True, "followed_by": "STATE"}, False),
    ],
)
def test_only_a_handler_that_asks_all_itself_is_begun_without_a_question(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], direct: bool
) -> None:
    monkeypatch.setattr(calls, "TABLE", {})

    def plain(call: Call, body: Any) -> Pending[None]:
        return Pending()

    async def coroutine(call: Call, body: Any) -> None:
        pass

    calls.request("PLAIN", Raw, **options)(plain)
    calls.request("COROUTINE", Raw, **options)(coroutine)
    assert [row.direct for row in calls.TABLE.values()] == [direct, False]
