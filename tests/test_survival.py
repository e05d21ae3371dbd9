"""What a server and its store hold outlives both of them, in whatever order they end."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.raw import Raw, unique
from tests.service import Service, Valkey, wait_for

Make = Callable[..., Service]

#: Within this many seconds an acknowledgement is in effect (docs/protocol.md section 5).
EFFECT = 1.0
UNAVAILABLE = "Storage unavailable, try again"


def persist(client: Raw, request: str, body: Any = None) -> Any:
    """The body of an OK, from a store that may be away at first."""
    end = time.monotonic() + 20
    while not (answer := client.ask(request, body)).ok:
        assert (answer.info, time.monotonic() < end) == (UNAVAILABLE, True), answer
    return answer.body


def user_of(client: Raw) -> int:
    """Whose connection this is."""
    assert client.user is not None
    return client.user


class World:
    """Some people, what they did, and what of it must be found at any later time."""

    def __init__(self, server: Service) -> None:
        self.server = server
        self.alice, self.bob, self.carol = (server.user("seed") for _ in range(3))
        #: Devices of Bob's that acknowledge by ACKFETCH, and by closing; and one that logged out.
        self.explicit, self.implicit, self.left = (server.device(self.bob, "seed") for _ in range(3))
        assert self.left.ask("LOGOUT").ok
        self.mailbox: list[dict[str, Any]] = []  # Bob's
        self.acknowledged = 0
        self.files: dict[str, bytes] = {}
        self.avatar: str | None = None

    def go_on(self) -> None:
        """Everybody does something of every kind."""
        alice, bob = self.again(self.alice), self.again(self.bob)
        data = os.urandom(50_000)
        file = {"contenttype": "file", "filemd5": hashlib.md5(data).hexdigest()}
        sent = bob.say(user_of(alice), "a file", data, **file)
        self.files[sent["md5encoded"]] = data
        self.mailbox.append(sent)
        self.mailbox.append(alice.say(user_of(bob), "x" * 100_000))
        self.mailbox.append(bob.say(user_of(bob), "a note"))
        assert bob.ask("ADDCONTACT", {"userid": self.alice.user}).ok
        assert bob.ask("ADDCONTACT", {"userid": self.carol.user}).ok
        assert alice.ask("ADDCONTACT", {"userid": self.bob.user}).ok
        self.avatar, self.bob.name = unique("avatar"), unique("bob")
        assert bob.ask("MODIFYPROFILE", {"username": self.bob.name, "avatar": self.avatar}).ok
        for old, new in (("secret", "other"), ("other", "secret")):
            assert bob.ask("MODIFYPASSWD", {"passwd": old, "newPasswd": new}).ok
        for device in (self.explicit, self.implicit):
            self.server.connect("seed", device.token).login(self.bob.name)

    def acknowledge(self) -> None:
        """Two devices acknowledge all that there is, each in its way; then something more comes."""
        for device in (self.explicit, self.implicit):
            client = self.again(device)
            client.fetch()
            if device is self.explicit:
                client.send("ACKFETCH", {"timestamp": self.mailbox[-1]["timestamp"]})
                assert client.ask("STATE").ok
            client.close()
        self.acknowledged = len(self.mailbox)
        time.sleep(EFFECT)
        self.mailbox.append(self.again(self.alice).say(user_of(self.bob), "after the acknowledgement"))

    def again(self, device: Raw) -> Raw:
        """A connection of the same device, which must still be bound to the same user."""
        found = self.server.connect("seed", device.token)
        assert persist(found, "STATE")["userid"] == device.user
        assert found.token == device.token
        found.user, found.name = device.user, device.name
        return found

    def check(self) -> None:
        """All that was answered OK is there, once and in order; nothing else is."""
        alice, bob = self.again(self.alice), self.again(self.bob)
        left = self.server.connect("seed", self.left.token)
        assert (left.ask("STATE").info, left.token) == ("User not logged in", self.left.token)

        me = {"userid": self.bob.user, "username": self.bob.name, "avatar": self.avatar}
        assert alice.ask("PROFILE", {"userid": self.bob.user}).body == me
        assert alice.ask("SEARCHUSR", {"username": self.bob.name}).body == me
        relations = bob.ask("FETCHCONTACT").body
        found = {kind: [user["userid"] for user in users] for kind, users in relations.items()}
        assert found == {"contacts": [self.alice.user], "pending": [self.carol.user], "requesting": []}

        repeat = next(message for message in self.mailbox if message["userid"] == self.alice.user)
        assert alice.ask("SENDMSG", repeat).ok
        shared = [message for message in self.mailbox if message["content"] != "a note"]
        assert self.server.device(self.bob, "seed").fetch() == self.mailbox
        assert self.server.device(self.alice, "seed").fetch() == shared
        for device in (self.explicit, self.implicit):
            client = self.again(device)
            assert client.fetch() == self.mailbox[self.acknowledged :]
            client.reset()  # which acknowledges nothing
        for name, data in self.files.items():
            for client in (alice, bob):
                assert client.ask("FETCHFILE", {"msgmd5": name}).payload == data
                assert client.ask("FINDFILE", {"filemd5": hashlib.md5(data).hexdigest()}).ok
        assert user_of(self.server.user("seed")) > user_of(self.carol)
        self.server.hang_up()


def kill_both(server: Service) -> None:
    server.kill()
    server.kill_store()


def kill_the_store_then_the_server(server: Service) -> None:
    server.kill_store()
    server.kill()


def kill_the_store_then_stop(server: Service) -> None:
    server.kill_store()
    server.stop()


def test_all_is_kept_however_the_parts_end(service: Make) -> None:
    server = service().start()
    world = World(server)
    ways: list[Callable[[Service], object]] = [
        Service.stop,
        Service.kill,
        Service.kill_store,
        kill_both,
        kill_the_store_then_the_server,
        kill_the_store_then_stop,
    ]
    for end in ways:
        world.go_on()
        world.acknowledge()
        end(server)
        if end is not Service.kill_store:
            server.start()
        world.check()
        # The server, and exactly one store.
        assert len(server.processes()) == 2, f"after {end.__name__}"


def test_an_orderly_stop_keeps_what_was_acknowledged_just_before(service: Make) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    devices = [server.device(bob) for _ in range(20)]
    said = [alice.say(user_of(bob)) for _ in range(3)]
    for device in devices:
        device.fetch()
    for device in devices:
        device.send("ACKFETCH", {"timestamp": said[-1]["timestamp"]})
        device.send("STATE")
    for device in devices:
        device.answer()
    assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log()
    server.start()
    assert [server.connect(token=device.token).fetch() for device in devices] == [[]] * len(devices)


def test_a_running_server_gets_over_the_end_of_its_store(service: Make) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    devices = [bob, server.device(bob), server.device(alice)]
    for device in devices:
        device.fetch()
    for _ in range(4):
        before = alice.say(user_of(bob))
        server.kill_store()
        after = alice.message(user_of(bob), md5encoded=unique())
        persist(alice, "SENDMSG", after)
        for device in devices:
            assert [device.push()["md5encoded"] for _ in range(2)] == [
                before["md5encoded"],
                after["md5encoded"],
            ]
    assert "Traceback" not in server.log()
    assert all(device.silent(0.1) for device in devices)


def test_what_was_published_while_a_node_did_not_hear_is_caught_up(
    valkey: Callable[..., Valkey], service: Make
) -> None:
    store = valkey().start()
    one, two = (
        service("--redis", f"unix://{store.socket_path}", name=name).start() for name in ("one", "two")
    )
    alice = one.user()
    bob = two.user()
    own = two.connect()
    own.login(alice.name)
    devices = [bob, own, two.again(bob)]
    for device in devices:
        device.fetch()
    for _ in range(10):
        # Both nodes hear again in some fifty milliseconds; what is sent now is published to nobody.
        assert store.ask("CLIENT KILL TYPE pubsub").startswith(b":2\r\n")
        said = [alice.say(user_of(bob)) for _ in range(3)]
        for device in devices:
            assert [device.push() for _ in said] == said
        wait_for(lambda: store.ask("CLIENT LIST TYPE pubsub").count(b"id=") == 2, "both nodes hear again")
    assert all(device.silent(0.1) for device in devices)


def test_an_acknowledgement_waits_for_the_store_and_nothing_else_does(
    valkey: Callable[..., Valkey], service: Make
) -> None:
    store = valkey().start()
    server = service("--redis", f"unix://{store.socket_path}").start()
    alice, bob = server.user(), server.user()
    bob.fetch()
    said = [alice.say(user_of(bob), timestamp=timestamp) for timestamp in (3, 2, 1)]
    assert [bob.push() for _ in said] == said
    store.end()
    for timestamp in (3, 2):  # by the first one the device says how it acknowledges from now on
        bob.send("ACKFETCH", {"timestamp": timestamp})
    assert bob.ask("STATE").info == UNAVAILABLE
    store.start()
    persist(bob, "STATE")
    wait_for(lambda: bob.fetch() == said[2:], "it is taken")
    wait_for(lambda: store.ask(f"HLEN {{u:{bob.user}}}:cursors").startswith(b":1"), "it is saved")
    server.kill()
    server.start()
    again = server.connect(token=bob.token)
    for _ in range(2):  # which would acknowledge, if it knew no better
        assert again.fetch() == said[2:]
