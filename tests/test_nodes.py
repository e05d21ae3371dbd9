"""Two nodes on one store: what is done to a binding through one of them holds at once at the other.

The same on a store in memory, with what can go wrong: `tests/test_chat_nodes.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.raw import Raw
from tests.service import Service, Valkey, wait_for

#: Seconds within which what one node does must hold at the other.
AT_ONCE = 1.0


class Nodes(NamedTuple):
    """Two nodes, and their store."""

    one: Service
    two: Service
    store: Valkey


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The nodes behind the `nodes` fixture."""
    directory = tmp_path_factory.mktemp("nodes")
    store = Valkey(directory / "store")
    try:
        options = ("--redis", f"unix://{store.start().socket_path}")
        one, two = (Service(directory / name, *options) for name in ("one", "two"))
        with one.running(), two.running():
            yield Nodes(one, two, store)
    finally:
        store.end()


@pytest.fixture
def nodes(running: Nodes) -> Iterator[Nodes]:
    """The same for all tests, with users of each test's own."""
    yield running
    running.one.hang_up()
    running.two.hang_up()


def user_of(client: Raw) -> int:
    """Whose connection this is."""
    assert client.user is not None
    return client.user


def idle(node: Service, token: int | None = None) -> Raw:
    """A connection that has asked once, of a device that nobody is logged in on."""
    client = node.connect(token=token)
    assert client.ask("STATE").info == "User not logged in"
    return client


def connection_of(node: Service, device: Raw) -> Raw:
    """A further connection of a device, which has fetched."""
    client = node.again(device)
    client.fetch()
    return client


def gets_one(client: Raw, sender: Raw) -> bool:
    """Whether a message that the sender writes now to the client's user is pushed to the client."""
    said = sender.say(user_of(client))
    while client.pushes or not client.silent(0.1):
        if client.push() == said:
            return True
    return False


def gets(client: Raw, sender: Raw) -> bool:
    """The same, waited for in time."""
    end = time.monotonic() + AT_ONCE
    while time.monotonic() < end:
        if gets_one(client, sender):
            return True
    return False


def test_a_login_at_one_node_reaches_idle_connections_at_the_other(nodes: Nodes) -> None:
    alice, bob = nodes.one.user(), nodes.one.user()
    waiting = idle(nodes.two)
    also = idle(nodes.two, waiting.token)
    for user in (alice, bob, alice):
        login = nodes.one.connect(token=waiting.token)
        waiting.user = login.login(user.name)
        assert gets(waiting, bob if user is alice else alice)
        assert also.push()["targetid"] == user.user
        assert also.silent(0.1)


def test_a_logout_at_one_node_ends_pushes_and_requests_at_the_other(nodes: Nodes) -> None:
    alice, bob = nodes.one.user(), nodes.one.user()
    there = connection_of(nodes.two, bob)
    assert gets(there, alice)
    assert bob.ask("LOGOUT").ok
    assert not gets_one(there, alice)
    for kind, body in (("STATE", None), ("FETCHMSG", None), ("SENDMSG", there.message(user_of(alice)))):
        assert there.ask(kind, body).info == "User not logged in"
    there.login(bob.name)
    assert gets(bob, alice)


def test_a_new_password_at_one_node_logs_out_the_devices_at_both(nodes: Nodes) -> None:
    alice, bob = nodes.one.user(), nodes.one.user()
    others = [nodes.one.device(bob), nodes.two.device(bob), nodes.two.device(bob)]
    same = connection_of(nodes.two, bob)
    before = alice.say(user_of(bob))
    assert bob.ask("MODIFYPASSWD", {"passwd": "secret", "newPasswd": "another"}).ok
    for other in others:
        assert other.push() == before  # and nothing after it
        assert not gets_one(other, alice)
        assert other.ask("STATE").info == "User not logged in"
    assert gets(same, alice)
    assert not idle(nodes.two).ask("LOGIN", {"username": bob.name, "passwd": "secret"}).ok


def test_a_logout_that_a_node_could_not_hear_of_ends_the_binding_there_too(nodes: Nodes) -> None:
    alice, bob = nodes.one.user(), nodes.one.user()
    there = connection_of(nodes.two, bob)
    for _ in range(5):
        assert gets(there, alice)
        # The nodes hear again in some fifty milliseconds; what is told now is told to nobody.
        assert nodes.store.ask("CLIENT KILL TYPE pubsub").startswith(b":2\r\n")
        assert bob.ask("LOGOUT").ok
        wait_for(
            lambda: nodes.store.ask("CLIENT LIST TYPE pubsub").count(b"id=") == 2, "both nodes hear again"
        )
        wait_for(lambda: not gets_one(there, alice), "nothing is pushed there any more", AT_ONCE)
        bob.login(bob.name)


def test_one_message_sent_through_both_nodes_is_stored_once(nodes: Nodes) -> None:
    alice, bob = nodes.one.user(), nodes.one.user()
    there = connection_of(nodes.two, bob)
    senders = [node.device(alice) for node in (nodes.one, nodes.two) for _ in range(3)]
    message = alice.message(user_of(bob))
    for sender in senders * 10:
        sender.send("SENDMSG", message)
    assert all(sender.answer().ok for sender in senders * 10)
    for reader in (bob, there):
        assert reader.push()["md5encoded"] == message["md5encoded"]
        assert reader.silent(0.1)


def test_two_nodes_and_two_connections_tell_one_story(nodes: Nodes) -> None:
    alice, bob = nodes.one.user("seed"), nodes.two.user("seed")
    readers = [connection_of(node, bob) for node in (nodes.one, nodes.two)]
    said = []
    for _ in range(20):
        said.append(alice.say(user_of(bob)))
        said.append(bob.say(user_of(alice)))
    foreign = [message for message in said if message["userid"] == alice.user]
    assert [[reader.push() for _ in foreign] for reader in readers] == [foreign, foreign]
    assert all(reader.silent(0.1) for reader in readers)


def test_features_reach_over_nodes(nodes: Nodes) -> None:
    alice, bob = nodes.one.user("seed"), nodes.two.user("seed")
    for raw, other in ((alice, bob), (bob, alice)):
        raw.ask_features("contacts", "marks", "presence", "typing")
        assert raw.ask("ADDCONTACT", {"userid": other.user}).ok
    assert alice.hint("FORWARDCONTACT") == {"userid": bob.user, "relation": "contact"}
    assert alice.hint("FORWARDPRESENCE")["users"][0] == {"userid": bob.user, "online": True, "lastseen": None}
    assert bob.ask("TYPING", {"userid": alice.user}).ok
    assert alice.hint("FORWARDTYPING") == {"userid": bob.user, "typing": True}
    mark = {"userid": alice.user, "mark": "read", "timestamp": 1, "md5encoded": "m"}
    assert bob.ask("MARK", mark).ok
    assert alice.hint("FORWARDMARK")["marks"] == [mark | {"userid": bob.user, "targetid": alice.user}]
    bob.close()
    assert not alice.hint("FORWARDPRESENCE")["users"][0]["online"]
    nodes.one.device(bob, "seed")
    assert alice.hint("FORWARDPRESENCE")["users"][0]["online"]
