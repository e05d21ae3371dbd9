"""Section 4 of the protocol from outside: device tokens, and whose a connection is.

What binds and unbinds a device is tried in ``test_protocol_bindings.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.raw import Answer, Raw, in_base64, unique
from tests.service import Service

TOKEN_MAX = 2**53 - 1
#: Tokens that no server issues.
UNKNOWN_TOKENS = [0, -1, -(2**53), 2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30]


def receive_token(raw: Raw) -> int:
    """The token in the TOKEN frame that comes next."""
    found = raw.receive()
    assert found._replace(body=None) == Answer("TOKEN", "OK", None, None), found
    assert set(found.body) == {"tokenid"}
    token = found.body["tokenid"]
    assert type(token) is int
    assert 1 <= token <= TOKEN_MAX
    return token


def ask_without_token_frame(raw: Raw, request: str, body: Any = None, **envelope: Any) -> Answer:
    """The answer to a request, which must be the next frame."""
    raw.send(request, body, **envelope)
    found = raw.receive()
    assert found.response == request, found
    return found


def test_a_first_request_without_token_gets_one_before_its_answer(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    raw.send("STATE")
    receive_token(raw)
    assert raw.receive() == Answer("STATE", "ERR", "User not logged in", None)


@pytest.mark.parametrize("value", [*UNKNOWN_TOKENS, 1, TOKEN_MAX])
def test_an_unknown_token_is_replaced_by_a_new_one(server: Service, value: int) -> None:
    raw = server.connect()
    raw.send("LOGOUT", tokenid=value)
    assert receive_token(raw) != value
    assert raw.receive() == Answer("LOGOUT", "OK", None, None)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        ("REGISTER", {"username": "", "passwd": "x"}),
        ("LOGIN", {"username": "nobody", "passwd": "x"}),
        ("PROFILE", {"userid": 1}),
        ("REGISTER", None),
        ("FETCHMSG", None),
        ("NOSUCH", None),
    ],
)
def test_a_token_comes_before_an_err_too(server: Service, request_: str, body: Any) -> None:
    raw = server.connect()
    raw.send(request_, body)
    receive_token(raw)
    assert raw.receive().response == ("UNKNOWN" if request_ == "NOSUCH" else request_)


def test_only_a_token_comes_for_a_request_that_is_not_answered(server: Service) -> None:
    raw = server.connect()
    raw.send("ACKFETCH", {"timestamp": 1})
    receive_token(raw)
    raw.send("STATE")
    assert raw.receive().response == "STATE"


def test_a_token_comes_once_for_many_requests_at_once(server: Service) -> None:
    raw = server.connect()
    raw.socket.sendall(raw.frame({"request": "STATE"}) * 20)
    receive_token(raw)
    assert [raw.receive().response for _ in range(20)] == ["STATE"] * 20


def test_a_connection_keeps_its_device_whatever_unknown_token_follows(server: Service, dialect: str) -> None:
    raw = server.connect(dialect)
    raw.send("REGISTER", {"username": unique(), "passwd": "secret"})
    token = receive_token(raw)
    user = raw.receive().body["userid"]
    for value in [None, *UNKNOWN_TOKENS, token, None]:
        assert ask_without_token_frame(raw, "STATE", tokenid=value).body["userid"] == user, value


def test_a_known_token_is_not_told_again(server: Service, dialect: str) -> None:
    first = server.user()
    raw = server.connect(dialect, first.token)
    assert ask_without_token_frame(raw, "STATE").body["userid"] == first.user


def test_the_token_of_an_unbound_device_is_known(server: Service) -> None:
    first = server.connect()
    assert not first.ask("STATE").ok
    first.close()
    second = server.connect(token=first.token)
    assert not ask_without_token_frame(second, "STATE").ok
    second.register(unique())
    third = server.connect(token=first.token)
    assert ask_without_token_frame(third, "STATE").body["userid"] == second.user


def test_a_connection_that_began_with_a_known_token_needs_none_later(server: Service) -> None:
    first = server.user()
    raw = server.connect(token=first.token)
    assert raw.ask("STATE").ok
    for value in [None, *UNKNOWN_TOKENS]:
        assert ask_without_token_frame(raw, "STATE", tokenid=value).body["userid"] == first.user, value


def test_a_connection_belongs_to_the_device_of_its_latest_request(server: Service) -> None:
    alice, bob, nobody = server.user(), server.user(), server.connect()
    nobody.ask("STATE")
    raw = server.connect()
    raw.send("STATE")
    own = receive_token(raw)
    assert not raw.receive().ok
    for token, user in (
        (alice.token, alice.user),
        (None, alice.user),
        (bob.token, bob.user),
        (0, bob.user),
        (nobody.token, None),
        (None, None),
        (alice.token, alice.user),
        (own, None),
        (bob.token, bob.user),
    ):
        state = ask_without_token_frame(raw, "STATE", tokenid=token)
        assert (state.body or {}).get("userid") == user
    assert alice.ask("STATE").body["userid"] == alice.user
    assert not server.again(nobody).ask("STATE").ok


def test_requests_of_two_devices_on_one_connection_are_each_that_device_s(server: Service) -> None:
    alice, bob = server.user(), server.user()
    raw = server.connect()
    frames = [
        raw.frame({"request": "STATE", "tokenid": token}) for token in (alice.token, bob.token, None) * 10
    ]
    raw.socket.sendall(b"".join(frames))
    found = [raw.receive().body["userid"] for _ in frames]
    assert found == [alice.user, bob.user, bob.user] * 10


def test_tokens_cannot_be_guessed_from_others(server: Service) -> None:
    tokens = []
    for _ in range(40):
        raw = server.connect()
        raw.send("LOGOUT")
        tokens.append(receive_token(raw))
    assert len(set(tokens)) == 40
    # Each of these is off by chance once in 2^40 times.
    assert max(tokens) > TOKEN_MAX // 2
    assert min(tokens) < TOKEN_MAX // 2
    assert tokens != sorted(tokens)
    assert len({token % 1024 for token in tokens}) > 10


def hears(raw: Raw, content: str) -> bool:
    """Whether the next push has this content."""
    return bool(raw.push()["content"] == content)


def heard_nothing(raw: Raw) -> bool:
    """Whether no push comes before the answer to a request."""
    raw.ask("STATE")
    return not raw.pushes


def test_every_connection_of_a_device_that_has_made_a_request_gets_its_pushes(
    server: Service, dialect: str
) -> None:
    sender, first = server.user(), server.user()
    others = [server.again(first, dialect) for _ in range(3)]
    content = in_base64(unique())
    sender.say(first.user or 0, content)
    for raw in (first, *others):
        assert hears(raw, content)


def test_a_connection_that_has_made_no_request_gets_no_push(server: Service) -> None:
    sender, first = server.user(), server.user()
    quiet = server.connect(token=first.token)
    content = in_base64(unique())
    sender.say(first.user or 0, content)
    assert hears(first, content)
    assert heard_nothing(quiet)


def test_no_connection_of_the_sending_device_gets_its_push(server: Service) -> None:
    sender, target = server.user(), server.user()
    same, other = server.again(sender), server.device(sender)
    content = in_base64(unique())
    sender.say(target.user or 0, content)
    assert hears(target, content)
    assert hears(other, content)
    assert heard_nothing(same)


def test_pushes_follow_a_connection_to_its_latest_device(server: Service) -> None:
    sender, alice, bob = server.user(), server.user(), server.user()
    raw = server.again(alice)
    assert raw.ask("STATE", tokenid=bob.token).body["userid"] == bob.user
    to_alice, to_bob = in_base64(unique()), in_base64(unique())
    sender.say(alice.user or 0, to_alice)
    assert hears(alice, to_alice)
    sender.say(bob.user or 0, to_bob)
    assert hears(bob, to_bob)
    assert hears(raw, to_bob)
    raw.token = bob.token
    assert heard_nothing(raw)


def test_a_closed_connection_takes_nothing_from_the_others(server: Service) -> None:
    sender, first = server.user(), server.user()
    closed, reset = server.again(first), server.again(first)
    closed.close()
    reset.reset()
    content = in_base64(unique())
    sender.say(first.user or 0, content)
    assert hears(first, content)
    assert first.ask("STATE").body["userid"] == first.user


def test_tokens_and_bindings_survive_a_stop_and_a_kill(service: Callable[..., Service]) -> None:
    server = service().start()
    bound, unbound, left = server.user(), server.connect(), server.user()
    unbound.ask("STATE")
    left.ask("LOGOUT")
    tokens = {raw.token: raw.user for raw in (bound, unbound)} | {left.token: None}

    def end_in_order() -> None:
        server.stop()

    for end in (end_in_order, server.kill):
        end()
        server.hang_up()
        server.start()
        for token, user in tokens.items():
            state = ask_without_token_frame(server.connect(token=token), "STATE")
            assert (state.body or {}).get("userid") == user
