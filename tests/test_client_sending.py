"""How the client library sends texts and pictures: once, over lost answers and refusals that pass.

Files are in ``test_client_files.py``.
"""

from __future__ import annotations

import pytest

from chatsvc.client import NotConnected, RequestRefused, State, TimedOut, forms
from chatsvc.wire import errors
from chatsvc.wire.schema import Message
from chatsvc.wire.text import encoded
from tests.client_world import FIXTURES, World, error_of, result_of
from tests.fake_server import Reply

(world,) = FIXTURES


def test_a_text_is_sent_as_the_released_client_does(world: World) -> None:
    sent = world.do(world.client.send_text(2, "héllo"))
    stamp = 1_700_000_000_000
    assert world.server.bodies("SENDMSG") == [
        {
            "userid": 1,
            "targetid": 2,
            "contenttype": "plaintext",
            "content": encoded("héllo"),
            "timestamp": stamp,
            "md5encoded": forms.message_name("héllo", 1, 2, stamp),
            "filemd5": None,
        }
    ]
    assert sent.content == "héllo"


def test_a_picture_is_base64_twice(world: World) -> None:
    world.do(world.client.send_image(2, b"\x89PNG"))
    body = world.server.bodies("SENDMSG")[0]
    assert body["contenttype"] == "image"
    assert body["content"] == encoded("iVBORw==")


def test_equal_texts_of_one_millisecond_are_two_messages(world: World) -> None:
    world.do(world.client.send_text(2, "hi"))
    world.do(world.client.send_text(2, "hi"))
    first, second = world.server.bodies("SENDMSG")
    assert first["timestamp"] < second["timestamp"]
    assert first["md5encoded"] != second["md5encoded"]


def test_a_lost_answer_makes_a_repeat(world: World) -> None:
    world.server.script["SENDMSG"] = lambda line, _seen: line.transport.abortConnection()
    outcome, other = result_of(world.client.send_text(2, "one")), result_of(world.client.send_text(2, "two"))
    world.clock.advance(0)
    assert world.state() is State.DISCONNECTED
    del world.server.script["SENDMSG"]
    world.clock.advance(1)
    assert len(outcome) == len(other) == 1
    sent = world.server.bodies("SENDMSG")
    assert sent[-2:] == sent[:2] if len(sent) == 4 else sent[1:] == [sent[0], sent[2]]
    assert isinstance(outcome[0], Message)


@pytest.mark.parametrize("info", [errors.STORAGE_UNAVAILABLE, errors.SERVER_BUSY, errors.TOO_MANY_REQUESTS])
def test_a_refusal_that_passes_is_tried_again(world: World, info: str) -> None:
    world.server.script["SENDMSG"] = lambda _line, _seen: Reply(info=info)
    outcome = result_of(world.client.send_text(2, "one"))
    world.clock.advance(0)
    del world.server.script["SENDMSG"]
    world.clock.advance(0.5)
    first, second = world.server.bodies("SENDMSG")
    assert first == second
    assert isinstance(outcome[0], Message)


def test_a_refusal_is_final(world: World) -> None:
    world.server.script["SENDMSG"] = lambda _line, _seen: Reply(info=errors.USER_NOT_FOUND)
    with pytest.raises(RequestRefused, match=errors.USER_NOT_FOUND):
        world.do(world.client.send_text(99, "hi"))
    assert len(world.server.bodies("SENDMSG")) == 1


def test_sending_is_given_up_at_the_deadline(world: World) -> None:
    world.server.up = False
    world.server.drop()
    outcome = result_of(world.client.send_text(2, "one", timeout=20))
    world.server.script["SENDMSG"] = lambda _line, _seen: None
    for _ in range(201):
        world.clock.advance(0.1)
    assert isinstance(error_of(outcome), TimedOut)
    refused = result_of(world.client.profile(2))
    assert isinstance(error_of(refused), NotConnected)
    world.server.up = True
    world.clock.advance(100)
    assert not world.server.bodies("SENDMSG")
