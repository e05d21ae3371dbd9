"""Whatever was left out, failed or got lost: at last each client's picture of its contacts is right.

On stores in memory, two nodes and a still clock; `tests/test_chat_extras.py` has the single cases.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chatsvc.chat.extras import LOOK_INTERVAL
from chatsvc.wire.frames import SEED
from tests.fake_store import Scene
from tests.fakes import FakeClient, Node

NAMES = ("alice", "bob", "carol")
#: The lists of FETCHCONTACT, and what FORWARDCONTACT calls who is in them.
RELATIONS = {"contacts": "contact", "pending": "pending", "requesting": "requesting", "blocked": "blocked"}


class Picture:
    """What a client with all features knows, by its own requests and by what it is pushed."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.relations: dict[int, str] = {}
        self.online: dict[int, bool] = {}
        self.marks: dict[tuple[int, int], str] = {}
        self.held = False
        assert client.ask("STATE", {"features": ["contacts", "marks", "presence", "typing"]}).ok
        self.look()

    def look(self) -> None:
        """Ask who is what."""
        answer = self.client.ask("FETCHCONTACT")
        if answer.ok:
            self.relations = {
                user["userid"]: relation for part, relation in RELATIONS.items() for user in answer.body[part]
            }

    def change(self, kind: str, **body: Any) -> None:
        """Ask for a change; this device is not told of it."""
        if self.client.reads and self.client.ask(kind, body).ok:
            self.take()
            if kind == "MARK":
                self.marks[self.client.user, body["userid"]] = body["md5encoded"]
            else:
                self.look()

    def take(self) -> None:
        """Take in what was pushed."""
        assert self.client.answers() == []
        hints, self.client.hints = self.client.hints, []
        for kind, body in hints:
            if kind == "FORWARDPRESENCE":
                self.online |= {user["userid"]: user["online"] for user in body["users"]}
            elif kind == "FORWARDMARK":
                self.marks |= {(m["userid"], m["targetid"]): m["md5encoded"] for m in body["marks"]}
            elif kind == "FORWARDCONTACT":
                if body["userid"] is None:
                    self.look()
                else:
                    self.relations[body["userid"]] = body["relation"]


class World:
    """Three people with a client each, on two nodes; and devices without features that come and go."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.scene.elsewhere.hub.start()
        self.nodes: list[Node] = [self.scene.node, self.scene.elsewhere]
        carol = self.scene.elsewhere.user("carol", SEED)
        self.pictures = [Picture(client) for client in (self.scene.alice, self.scene.bob, carol)]
        for who, whom in permutations(range(3), 2):
            self.do("ADDCONTACT", who, whom, 1)
        self.others: list[tuple[int, FakeClient]] = []

    def do(self, step: str, who: int, whom: int, number: int) -> None:
        """One thing happens; what cannot happen now does not."""
        picture, other = self.pictures[who], self.pictures[whom].client.user
        client, node = picture.client, self.nodes[number % 2]
        match step:
            case "ADDCONTACT" | "REMOVECONTACT" | "BLOCKCONTACT" | "UNBLOCKCONTACT" if who != whom:
                picture.change(step, userid=other)
            case "MARK" if who != whom:
                picture.change(step, userid=other, mark="read", timestamp=number, md5encoded=f"m{number}")
            case "come" if not node.store.channels.deaf:
                node.store.gate.forgive()
                self.others.append((who, self.scene.login(NAMES[who], node)))
            case "go" if self.others:
                self.others.pop(number % len(self.others))[1].session.close()
            case "again" if not node.store.channels.deaf:
                client.session.close()
                node.store.gate.forgive()
                new = node.client(SEED, client.token)
                new.user = client.user
                self.pictures[who] = Picture(new)
            case "vanish" if self.others:  # its node dies, and presence expires
                user, gone = self.others.pop(number % len(self.others))
                device = gone.session.device
                if device is not None:
                    self.scene.store.data.online.discard((self.pictures[user].client.user, device.id))
            case "hold" if not picture.held:
                client.session.hold()
                picture.held = True
            case "release" if picture.held:
                client.session.release()
                picture.held = False
            case "sleep":
                client.reads = False
            case "read":
                client.reads = True
                client.flush()
            case "deaf":
                node.store.channels.deaf = True
            case "hear":
                node.store.channels.stand()
            case "fail":
                node.store.gate.fail("any", times=number)
            case "wait":
                self.scene.clock.advance(number)
        for each in self.pictures:
            if each.client.reads:
                each.client.flush()
                each.take()

    def settle(self) -> None:
        """All that was wrong is over."""
        for node in self.nodes:
            node.store.gate.forgive()
            node.store.channels.stand()
        for who in range(len(NAMES)):
            self.do("release", who, 0, 0)
            self.do("read", who, 0, 0)
        for _ in range(LOOK_INTERVAL + 2):
            self.do("wait", 0, 0, 1)


STEPS = (
    *("ADDCONTACT", "ADDCONTACT", "REMOVECONTACT", "BLOCKCONTACT", "UNBLOCKCONTACT", "MARK", "MARK"),
    *("come", "go", "again", "vanish", "hold", "release", "sleep", "read", "deaf", "hear", "fail", "wait"),
)
steps = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 2), st.integers(1, 4)),
    min_size=10,
    max_size=50,
)


@given(steps)
def test_at_last_each_picture_is_right(happens: list[tuple[str, int, int, int]]) -> None:
    world = World()
    for step in happens:
        world.do(*step)
    world.settle()
    data = world.scene.store.data
    for picture in world.pictures:
        known, user = dict(picture.relations), data.users[picture.client.user]
        picture.look()
        assert {one: relation for one, relation in known.items() if relation != "none"} == picture.relations
        contacts = user.out & user.into
        assert {one for one, online in picture.online.items() if online} == {
            contact for contact in contacts if data.is_online(contact)
        }
        for (other, _, side), mark in user.marks.items():
            pair = (other, picture.client.user) if side == "theirs" else (picture.client.user, other)
            assert b'"%b"' % picture.marks[pair].encode() in mark
