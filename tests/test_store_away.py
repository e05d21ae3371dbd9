"""While the store is frozen, gone or full: what clients are told, how soon, and that nothing is half done."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from chatsvc.chat.calls import TABLE
from chatsvc.net import server as _fills_the_table  # noqa: F401
from tests.raw import Raw, unique
from tests.service import Service, Valkey, wait_for

Make = Callable[..., Service]
MakeStore = Callable[..., Valkey]

UNAVAILABLE = "Storage unavailable, try again"
FULL = "Storage full"
#: Seconds within which a request is answered, and within which all works again.
ANSWERED, BACK = 5.0, 2.0
DATA = b"some bytes of a file"
FILE = {"contenttype": "file", "filemd5": hashlib.md5(DATA).hexdigest()}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def user_of(client: Raw) -> int:
    """Whose connection this is."""
    assert client.user is not None
    return client.user


class Asked(NamedTuple):
    """A request that would be answered OK, on a connection and by a user of its own."""

    kind: str
    client: Raw
    body: Any
    payload: bytes = b""


def one_of_each(server: Service) -> list[Asked]:
    """A request of every type that is answered; no two of them touch."""
    friend = server.user()
    bodies = {
        "STATE": None,
        "LOGOUT": None,
        "PROFILE": {"userid": friend.user},
        "MODIFYPROFILE": {"username": unique("renamed"), "avatar": "new"},
        "MODIFYPASSWD": {"passwd": "secret", "newPasswd": "new"},
        "FETCHMSG": None,
        "FINDFILE": {"filemd5": FILE["filemd5"]},
        "FETCHFILE": {"msgmd5": "with a file"},
        "SEARCHUSR": {"username": friend.name},
        "ADDCONTACT": {"userid": friend.user},
        "FETCHCONTACT": None,
        "TYPING": {"userid": friend.user},
        "MARK": {"userid": friend.user, "mark": "read", "timestamp": 1, "md5encoded": "m"},
        "REMOVECONTACT": {"userid": friend.user},
        "BLOCKCONTACT": {"userid": friend.user},
        "UNBLOCKCONTACT": {"userid": friend.user},
    }
    asked = [Asked(kind, server.user("seed"), body) for kind, body in bodies.items()]
    for one in asked:
        if feature := TABLE[one.kind].feature:
            one.client.ask_features(feature)
        one.client.say(user_of(one.client), payload=DATA, md5encoded="with a file", **FILE)
    for payload, file in ((b"", {}), (DATA, FILE)):
        client = server.user("seed")
        asked.append(Asked("SENDMSG", client, client.message(user_of(friend), unique(), **file), payload))
    for kind, name in (("LOGIN", server.user().name), ("REGISTER", unique())):
        client = server.connect("seed")
        assert client.ask("LOGOUT").ok
        asked.append(Asked(kind, client, {"username": name, "passwd": "secret"}))
    assert {one.kind for one in asked} == set(TABLE) - {"ACKFETCH"}
    return asked


def all_refused(asked: list[Asked]) -> None:
    """Each is answered in time that the store cannot be used."""
    began = time.monotonic()
    for kind, client, body, payload in asked:
        client.send(kind, body, payload)
    for kind, client, body, _ in asked:
        answer = client.receive(max(began + ANSWERED - time.monotonic(), 0.01))
        named = {"md5encoded": body["md5encoded"]} if kind == "SENDMSG" else None
        assert answer == (kind, "ERR", UNAVAILABLE, named, b"")


def all_accepted(asked: list[Asked], deadline: float) -> None:
    """Each is answered OK when it is tried again, the first of them soon."""
    end = time.monotonic() + deadline
    for kind, client, body, payload in asked:
        while not (answer := client.ask(kind, body, payload)).ok and answer.info == UNAVAILABLE:
            assert time.monotonic() < end
        assert answer.ok, answer
        assert time.monotonic() < end or client is not asked[0].client


def nothing_was_done(server: Service, asked: list[Asked]) -> None:
    """None of the requests had an effect."""
    for kind, client, body, _ in asked:
        if kind in ("LOGIN", "REGISTER"):
            assert client.ask("STATE").info == "User not logged in"
        else:
            assert client.ask("STATE").body == {
                "userid": client.user,
                "username": client.name,
                "avatar": None,
            }
        if kind == "REGISTER":
            assert client.ask("LOGIN", body).info == "Invalid username or password"
        elif kind == "MODIFYPASSWD":
            server.device(client)
        elif kind == "ADDCONTACT":
            assert client.ask("FETCHCONTACT").body == {"contacts": [], "pending": [], "requesting": []}
        elif kind == "SENDMSG":
            assert server.device(client).fetch() == []


def test_while_it_is_frozen_all_is_refused_in_time_and_nothing_is_done_later(service: Make) -> None:
    server = service().start()
    asked = one_of_each(server)
    new = server.connect("seed")
    known = server.connect("seed", asked[0].client.token)
    first = [Asked("STATE", new, None), Asked("STATE", known, None)]
    with frozen(server.store_pid):
        all_refused([*asked, *first])
        all_refused([*asked, *first])  # by now its connections are given up
    all_accepted([Asked("STATE", known, None)], BACK)
    nothing_was_done(server, asked)
    all_accepted(asked, BACK)
    assert new.ask("STATE").info == "User not logged in"
    assert new.token is not None
    for client, body in ((one.client, one.body) for one in asked if one.kind == "SENDMSG"):
        assert client.ask("SENDMSG", body).ok
        assert [found["content"] for found in server.device(client, "seed").fetch()] == [body["content"]]
    assert "Traceback" not in server.log()


def test_a_released_client_is_told_both_answers_of_addcontact_in_time(service: Make) -> None:
    server = service().start()
    client, friend = server.user(), server.user()
    with frozen(server.store_pid):
        began = time.monotonic()
        client.send("ADDCONTACT", {"userid": friend.user})
        for kind in ("ADDCONTACT", "FETCHCONTACT"):
            answer = client.receive(max(began + ANSWERED - time.monotonic(), 0.01))
            assert answer == (kind, "ERR", UNAVAILABLE, None, b"")


def test_many_requests_sent_at_once_are_all_answered_in_time(service: Make) -> None:
    server = service().start()
    client = server.user()
    with frozen(server.store_pid):
        began = time.monotonic()
        for at in range(30):
            client.send(("STATE", "FETCHMSG", "FETCHCONTACT")[at % 3])
        for _ in range(30):
            assert client.receive(max(began + ANSWERED - time.monotonic(), 0.01)).info == UNAVAILABLE
    all_accepted([Asked("STATE", client, None)], BACK)


def test_a_short_pause_is_waited_for(service: Make) -> None:
    server = service().start()
    asked = one_of_each(server)
    with frozen(server.store_pid):
        for kind, client, body, payload in asked:
            client.send(kind, body, payload)
        assert all(one.client.silent(0.01) for one in asked)
    for one in asked:
        assert one.client.answer(BACK).ok, one


def test_a_store_of_the_operators_may_go_and_come_back(valkey: MakeStore, service: Make) -> None:
    store = valkey().start()
    server = service("--redis", f"unix://{store.socket_path}").start()
    alice, bob = server.user(), server.user()
    reader = server.device(bob)
    reader.fetch()
    old = alice.say(user_of(bob))
    assert reader.push() == bob.push() == old
    reader.send("ACKFETCH", {"timestamp": old["timestamp"]})
    reader.ask("STATE")
    for _ in range(2):
        asked = one_of_each(server)
        read = alice.say(user_of(bob))
        assert reader.push() == bob.push() == read
        assert reader.fetch() == [read]
        store.end()
        reader.send("ACKFETCH", {"timestamp": read["timestamp"]})
        all_refused(asked)
        all_refused(asked)
        store.start()
        all_accepted(asked, BACK)
        said = alice.say(user_of(bob))
        assert reader.push(BACK) == bob.push(BACK) == said
        assert reader.fetch() == [said], "an ACKFETCH while the store was away has no effect"
        reader.send("ACKFETCH", {"timestamp": said["timestamp"]})
        reader.ask("STATE")
    assert "Traceback" not in server.log()


def test_a_server_whose_store_is_frozen_can_be_stopped(valkey: MakeStore, service: Make) -> None:
    store = valkey().start()
    server = service("--redis", f"unix://{store.socket_path}").start()
    client = server.user()
    said = client.say(user_of(client))
    reader = server.device(client)
    assert reader.fetch() == [said]
    reader.send("ACKFETCH", {"timestamp": said["timestamp"]})
    reader.ask("STATE")
    assert store.process is not None
    with frozen(store.process.pid):
        client.send("SENDMSG", client.message(user_of(client), md5encoded="unanswered"))
        reader.send("ACKFETCH", {"timestamp": 0})
        began = time.monotonic()
        assert server.stop() in (0, -signal.SIGTERM)
        assert time.monotonic() - began < 15
        assert client.answer().info == UNAVAILABLE
        assert client.closed()
    assert "Traceback" not in server.log(), server.log()


def test_a_full_store_refuses_what_is_new_and_gives_what_it_has(valkey: MakeStore, service: Make) -> None:
    store = valkey().start()
    server = service("--redis", f"unix://{store.socket_path}").start()
    alice, bob = server.user(), server.user()
    away, reader = server.device(bob), server.device(bob)
    reader.fetch()
    reader.send("ACKFETCH", {"timestamp": 0})  # from now on it acknowledges in this way
    said = alice.say(user_of(bob), payload=DATA, **FILE)
    assert reader.push() == said
    assert reader.fetch() == [said]
    assert store.ask("CONFIG SET maxmemory 1").startswith(b"+OK")
    message = alice.message(user_of(bob), md5encoded=unique())
    answer = alice.ask("SENDMSG", message)
    assert (answer.status, answer.info, answer.body) == ("ERR", FULL, {"md5encoded": message["md5encoded"]})
    assert alice.ask("ADDCONTACT", {"userid": bob.user}).info == FULL
    assert alice.answer().ok  # the FETCHCONTACT that a released client is sent
    assert server.connect().ask("REGISTER", {"username": unique(), "passwd": "secret"}).info == FULL
    for client in (bob, away, server.connect(token=away.token)):
        assert client.ask("STATE").body["userid"] == bob.user
        assert client.fetch() == [said]
        assert client.ask("FETCHFILE", {"msgmd5": said["md5encoded"]}).payload == DATA
    reader.send("ACKFETCH", {"timestamp": said["timestamp"]})
    assert reader.fetch() == []
    assert store.ask("CONFIG SET maxmemory 0").startswith(b"+OK")
    assert alice.ask("SENDMSG", message).ok
    assert [bob.push()["md5encoded"] for _ in range(2)] == [said["md5encoded"], message["md5encoded"]]
    other = service("--redis", f"unix://{store.socket_path}", name="other").start()
    again = other.connect(token=reader.token)
    wait_for(lambda: len(again.fetch()) == 1, "the cursor is saved once there is room")
    assert "Traceback" not in server.log()
