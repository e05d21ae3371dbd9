"""The third ring in small: the service starts, answers, stops, and starts again with all it had."""

from __future__ import annotations

from collections.abc import Callable

from tests.service import Service


def test_restart_keeps_everything(service: Callable[..., Service]) -> None:
    server = service().start()
    alice, bob = server.connect(), server.connect()
    alice.register("alice")
    alice.ask("SENDMSG", alice.message(bob.register("bob"), "aGVsbG8="))
    assert server.stop() != 1
    server.start()
    again = server.connect(token=bob.token)
    assert again.ask("STATE").body["userid"] == bob.user
    assert [message["content"] for message in again.fetch()] == ["aGVsbG8="]
