"""What the default limits leave room for: a family behind one address, and the released client at its worst.

They are played against a node in memory, on the test's clock, with the limits that a server has by itself.
"""

from __future__ import annotations

import hashlib

import pytest

from chatsvc.settings import ROWS
from chatsvc.wire.errors import NOT_LOGGED_IN, STORAGE_UNAVAILABLE
from chatsvc.wire.frames import RELEASED
from chatsvc.wire.limits import Limits
from tests.fakes import FakeClient, FakePayload, Frame
from tests.guarding import HERE, World

MINUTES = 5
#: Seconds after which the released client asks for contacts again.
POLL = 20
PHOTO = bytes(1000)
MD5 = hashlib.md5(PHOTO).hexdigest()


@pytest.fixture
def world() -> World:
    """A server as it is without options."""
    return World(**{row.field: getattr(Limits(), row.field) for row in ROWS if row.lifted})


class Phone:
    """The released client on one device, as `docs/protocol.md` section 6 describes it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.token: int | None = None
        self.main = self.connect()
        assert self.aside("STATE").info == NOT_LOGGED_IN
        self.user = 0

    def connect(self) -> FakeClient:
        made = self._world.node.client(RELEASED, self.token)
        made.session.address = HERE
        return made

    def aside(self, kind: str, body: object = None, payload: FakePayload | None = None) -> Frame:
        """Ask on a connection for this one request."""
        client = self.connect()
        answer = client.ask_all(kind, body, payload)[0]
        if self.token is None:
            self.token = self.main.token = client.token
        client.close()
        return answer

    def enter(self, kind: str, name: str) -> None:
        """REGISTER or LOGIN, and what comes after."""
        answer = self.main.ask(kind, {"username": name, "passwd": "secret"})
        assert answer.ok, answer
        self.user = self.main.user = answer.body["userid"]
        self.start()

    def start(self) -> None:
        """The program is started: several requests, at once."""
        assert self.aside("STATE").ok
        for kind in ("FETCHMSG", "FETCHCONTACT"):
            assert self.main.ask(kind).ok

    def photo(self, target: int) -> None:
        """Send a file, and fetch it."""
        fields = {"contenttype": "file", "filemd5": MD5, "md5encoded": "a photo"}
        message = self.main.message(target, **fields, timestamp=int(self._world.clock.seconds() * 1000))
        assert self.aside("SENDMSG", message, FakePayload(PHOTO)).ok
        assert self.aside("FETCHFILE", {"msgmd5": "a photo"}).ok


def test_a_family_moves_in_and_chats_for_minutes(world: World) -> None:
    names = [f"member {number}" for number in range(6)]
    homes = []
    for name in names:
        phone = Phone(world)
        phone.enter("REGISTER", name)
        others = [Phone(world) for _ in range(2)]
        for other in others:
            assert not other.main.ask("LOGIN", {"username": name, "passwd": "mistyped"}).ok
            other.enter("LOGIN", name)
        homes += [phone, *others]
        world.clock.advance(60)
    users = sorted({phone.user for phone in homes})
    for phone in homes:
        for user in users:
            if user != phone.user:
                assert phone.main.ask("SEARCHUSR", {"userid": user}).ok
                assert phone.aside("ADDCONTACT", {"userid": user}).ok
    for step in range(MINUTES * 60 // POLL):
        world.clock.advance(POLL)
        for number, phone in enumerate(homes):
            phone.main.answers()
            assert phone.main.ask("FETCHCONTACT").ok
            if (step + number) % 3 == 0:
                for _ in range(10):
                    phone.main.send(users[(number + step) % len(users)])
            if (step + number) % 9 == 0:
                phone.photo(users[0])
    assert not world.node.hub.stats.refused


def test_a_school_class_starts_for_the_first_time(world: World) -> None:
    phones = [Phone(world) for _ in range(30)]
    assert len({phone.token for phone in phones}) == 30
    assert not world.node.hub.stats.refused


def test_a_class_logs_in_at_once(world: World) -> None:
    phones = [Phone(world) for _ in range(30)]
    for number in range(30):
        world.node.user(f"pupil {number}")
    for number, phone in enumerate(phones):
        phone.enter("LOGIN", f"pupil {number}")
    assert not world.node.hub.stats.refused


def test_the_released_client_repeats_what_failed_until_it_works(world: World) -> None:
    phone = Phone(world)
    phone.enter("REGISTER", "carol")
    message = phone.main.message(phone.user, timestamp=1)
    for _ in range(200):
        world.clock.advance(0.2)
        world.store.gate.fail("append")
        assert phone.main.ask("SENDMSG", message).info == STORAGE_UNAVAILABLE
        phone.main.close()
        phone.main = phone.connect()
        phone.main.user = phone.user
        assert phone.main.ask("STATE").ok
    assert phone.main.ask("SENDMSG", message).ok
    assert len(phone.main.fetch()) == 0  # it is its own
    assert not world.node.hub.stats.refused


def test_a_client_that_does_not_notice_its_new_token_is_served(world: World) -> None:
    phone = Phone(world)
    phone.token = phone.main.token = 7  # it has expired, and the client looks at TOKEN at its start only
    phone.main = phone.connect()
    for _ in range(100):
        world.clock.advance(POLL)
        phone.main.token = 7
        assert phone.main.ask("STATE").info == NOT_LOGGED_IN
    assert not world.node.hub.stats.refused
