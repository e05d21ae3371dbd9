"""How the client library sends, finds and fetches files, on connections of their own.

That uploads and downloads wait for who is slower is in ``test_client_connection.py``.
"""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path

import pytest

from chatsvc.client import RequestRefused
from chatsvc.wire import errors
from chatsvc.wire.schema import FileInfo, Message, MessageName
from chatsvc.wire.text import encoded
from tests.client_world import FIXTURES, World, result_of
from tests.fake_server import BUFFER, Line, Reply, Seen

(world,) = FIXTURES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "photo é.jpg"
    path.write_bytes(random.Random(2).randbytes(5 * BUFFER + 3))
    return path


def test_a_file_goes_on_a_connection_of_its_own(world: World, file: Path) -> None:
    data, progress, uploads = file.read_bytes(), [], []

    def sendmsg(line: Line, request: Seen) -> Reply:
        uploads.append(line.payload)
        assert len(world.server.lines) == 2
        return Reply(MessageName(request.body["md5encoded"]))

    world.server.script["SENDMSG"] = sendmsg
    sent = world.do(world.client.send_file(2, file, progress=lambda *at: progress.append(at)))
    assert uploads == [data]
    assert sent.filemd5 == hashlib.md5(data).hexdigest()
    assert sent.content == "photo é.jpg"
    assert world.server.bodies("SENDMSG")[0]["content"] == encoded("photo é.jpg")
    assert progress[-1] == (len(data), len(data))
    assert len(world.server.lines) == 1


def test_an_empty_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    sent = world.do(world.client.send_file(2, tmp_path / "empty"))
    assert sent.filemd5 == "d41d8cd98f00b204e9800998ecf8427e"


def test_a_file_is_sent_again_from_its_start(world: World, file: Path) -> None:
    uploads: list[bytes] = []

    def sendmsg(line: Line, request: Seen) -> Reply | None:
        uploads.append(line.payload)
        if len(uploads) == 1:
            line.transport.abortConnection()
            return None
        return Reply(MessageName(request.body["md5encoded"]))

    world.server.script["SENDMSG"] = sendmsg
    outcome = result_of(world.client.send_file(2, file))
    world.clock.advance(0)
    world.clock.advance(0.5)
    assert isinstance(outcome[0], Message)
    assert uploads == [file.read_bytes()] * 2
    first, second = world.server.bodies("SENDMSG")
    assert first == second


def test_a_file_that_is_refused_early_is_not_sent_to_its_end(world: World, file: Path) -> None:
    def refuse(line: Line, request: Seen) -> None:
        if request.kind == "SENDMSG":
            line.say("SENDMSG", Reply(MessageName("x"), "A file may have at most 3 bytes."))

    world.server.on_begin = refuse
    with pytest.raises(RequestRefused, match="at most 3"):
        world.do(world.client.send_file(2, file))
    world.clock.advance(5)
    assert len(world.server.lines) == 1


def test_a_file_that_is_not_there(world: World, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        world.do(world.client.send_file(2, tmp_path / "none"))


def test_fetching_a_range_of_a_file(world: World, file: Path) -> None:
    data = file.read_bytes()

    def fetchfile(line: Line, request: Seen) -> Reply:
        body = request.body
        start = body["offset"] or 0
        part = data[start:] if body["length"] is None else data[start : start + body["length"]]
        return Reply(FileInfo("0" * 32, len(data)), payload=part)

    world.server.script["FETCHFILE"] = fetchfile
    whole, part, progress = io.BytesIO(), io.BytesIO(), []
    assert world.do(world.client.fetch_file("name", whole)).size == len(data)
    world.do(
        world.client.fetch_file("name", part, offset=10, length=100, progress=lambda *at: progress.append(at))
    )
    assert whole.getvalue() == data
    assert part.getvalue() == data[10:110]
    assert progress == [(100, 100)]
    assert world.server.bodies("FETCHFILE")[1] == {"msgmd5": "name", "offset": 10, "length": 100}
    world.server.script["FETCHFILE"] = lambda _line, _seen: Reply(info=errors.FILE_NOT_FOUND)
    with pytest.raises(RequestRefused, match=errors.FILE_NOT_FOUND):
        world.do(world.client.fetch_file("name", io.BytesIO()))
    assert len(world.server.lines) == 1


def test_finding_a_file(world: World) -> None:
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply()
    assert world.do(world.client.find_file("0" * 32)) is True
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply(info=errors.FILE_NOT_FOUND)
    assert world.do(world.client.find_file("0" * 32)) is False
    world.server.script["FINDFILE"] = lambda _line, _seen: Reply(info="A filemd5 has 32 digits.")
    with pytest.raises(RequestRefused):
        world.do(world.client.find_file("0"))
