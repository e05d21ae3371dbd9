"""The released clients' own bytes, played against a running server: all that they read is there.

The bytes, and what those clients read of an answer, are in tests/vectors.py.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable

import pytest

from tests.raw import Answer, Raw, unique
from tests.service import Service
from tests.vectors import OWN, PDF, STORY, VECTORS, Vector, chokes_on, writes

Make = Callable[..., Service]


def readable(answer: Answer) -> Answer:
    """An answer or push that a released client gets over."""
    value = answer._asdict()
    del value["payload"]
    assert chokes_on(json.dumps(value).encode()) == [], answer
    return answer


class Client:
    """A released client: one connection for as long as it runs, others for one request each."""

    def __init__(self, server: Service, *, bytewise: bool) -> None:
        self.server = server
        self.bytewise = bytewise
        self.main = server.connect()
        self.token = self.me = self.peer = 0
        #: Pushed to the main connection.
        self.pushed: list[str] = []

    def play(self, vector: Vector) -> list[Answer]:
        """Send one request in the client's own pieces; gives its answers."""
        connection = self.server.connect() if vector.connection is OWN else self.main
        for piece in writes(vector, self.token, self.me, self.peer):
            for part in [piece[at : at + 1] for at in range(len(piece))] if self.bytewise else [piece]:
                connection.socket.sendall(part)
        answers: list[Answer] = []
        while len(answers) < len(vector.answers):
            answer = readable(connection.receive())
            if answer.response == "FORWARDMSG":
                self.pushed.append(answer.body["md5encoded"])
            else:
                answers.append(answer)
        assert [f"{answer.response} {answer.status}" for answer in answers] == vector.answers
        if connection is not self.main:
            connection.close()
        return answers


@pytest.mark.parametrize("bytewise", [False, True])
def test_a_day_of_two_released_clients(service: Make, bytewise: bool) -> None:
    server = service().start()
    clients = {who: Client(server, bytewise=bytewise) for who, _ in STORY}
    zoe, bob = clients["zoe"], clients["bob"]
    said: dict[str, list[Answer]] = {}
    for who, name in STORY:
        client = clients[who]
        found = said[f"{who} {name}"] = client.play(VECTORS[name])
        if found and found[0].response == "TOKEN":
            client.token = found[0].body["tokenid"]
        if found and found[-1].response == "REGISTER":
            client.me = found[-1].body["userid"]
            zoe.peer, bob.peer = bob.me, zoe.me
    sent = ["send_text", "send_image", "send_file", "send_empty_file"]
    names = [json.loads(VECTORS[name].wire[12:])["body"]["md5encoded"] for name in sent]
    (fetched,) = said["bob fetch_messages"]
    assert [message["md5encoded"] for message in fetched.body["messages"]] == names[::-1]
    assert [message["userid"] for message in fetched.body["messages"]] == [zoe.me] * 4
    assert fetched.body["messages"][-1]["content"] == "SMOrbGxvIHsiYm9iIn0g8J+Riwo="
    assert bob.pushed == names
    assert said["bob fetch_file"][0].payload == PDF
    (answer,) = said["zoe fetch_messages"]
    assert [b64decode(message["content"]) for message in answer.body["messages"]] == [b"hi zoe"]
    assert said["zoe next_start"][0].body["avatar"] is not None
    assert [user["userid"] for user in said["bob accept_contact"][1].body["contacts"]] == [zoe.me]
    assert b64decode(said["zoe search"][0].body["username"]) == b"bob"
    # She acknowledged her only message, logged out and in again: nothing is left.
    assert zoe.play(VECTORS["fetch_messages"])[0].body["messages"] == []
    assert "Traceback" not in server.log()


def from_a_plain_client(sender: Raw, target: int) -> None:
    """What people who use other clients may do to somebody."""
    assert sender.ask("ADDCONTACT", {"userid": target}).ok
    for content in ("", "plain", "Grüße 😀", "YQ", "/w==", "x" * 50_000):
        message = sender.message(target, content, md5encoded=unique())
        del message["timestamp"], message["filemd5"]
        assert sender.ask("SENDMSG", message).ok


def test_nobody_can_send_what_a_released_client_chokes_on(server: Service) -> None:
    zoe = server.connect()
    zoe.register("Wm/Dqw==" + unique())
    strangers = []
    for name in (unique("bob!"), unique("Zoë 😀"), "a"):
        strangers.append(server.connect("seed"))
        strangers[-1].register(f"{name} {unique()}")
        from_a_plain_client(strangers[-1], zoe.user or 0)
    pushes = [readable(zoe.receive()) for _ in range(18)]
    assert {push.response for push in pushes} == {"FORWARDMSG"}
    assert len(readable(zoe.ask("FETCHMSG")).body["messages"]) == 18
    contacts = readable(zoe.ask("FETCHCONTACT")).body
    assert [user["userid"] for user in contacts["requesting"]] == [one.user for one in strangers]
    for stranger in strangers:
        readable(zoe.ask("PROFILE", {"userid": stranger.user}))
        readable(zoe.ask("SEARCHUSR", {"userid": stranger.user}))
    assert readable(zoe.ask("SENDMSG", zoe.message(2**62))).body == {"md5encoded": "0" * 32}
