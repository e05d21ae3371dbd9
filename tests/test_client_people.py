"""The client library's extras: what it asks for and when, what it tells of others, what it hears of them.

The server is one in memory (`tests.fake_server`). What has nothing to do with extras is tested beside this.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from chatsvc.client import Event, MarkOf, NotConnected, Presence, Relation, RequestRefused, State, Typing
from chatsvc.wire import errors
from chatsvc.wire.schema import Contacts, MarkList, PresenceList, UserInfo
from tests.client_world import World, error_of, result_of, texts
from tests.fake_server import BOB, Reply, Seen, message

ALL = ["contacts", "marks", "presence", "typing"]
ASKED = Seen("STATE", {"features": ALL}, 77)


class Talk(World):
    """A client that wants to hear of everything, and a server that has some of it."""

    def __init__(self, features: list[str] | None = ALL, **options: Any) -> None:
        self.heard: list[Event] = []
        super().__init__(**{"on_event": self.heard.append, **options})
        self.server.features = features

    def push(self, kind: str, body: object) -> None:
        self.line.say(kind, Reply(body))
        self.clock.advance(0)


@pytest.fixture
def talk() -> Any:
    made = Talk().start()
    yield made
    made.stop()


def test_it_asks_when_it_comes_back_and_when_somebody_logs_in(talk: Talk) -> None:
    assert talk.client.features == frozenset(ALL)
    assert talk.server.seen.count(ASKED) == 1
    talk.server.drop()
    talk.clock.advance(1)
    assert talk.server.seen.count(ASKED) == 2
    talk.do(talk.client.logout())
    talk.do(talk.client.login("me", "secret"))
    assert talk.server.seen.count(ASKED) == 3
    talk.do(talk.client.logout())
    talk.do(talk.client.register("me", "secret"))
    assert talk.server.seen.count(ASKED) == 4
    assert talk.client.features == frozenset(ALL)


def test_a_client_that_wants_to_hear_of_nothing_asks_for_nothing() -> None:
    world = Talk(on_event=None).start()
    world.do(world.client.login("me", "secret"))
    assert world.server.bodies("STATE") == [None]
    world.push("FORWARDTYPING", Typing(2))
    world.stop()


def test_a_login_stands_though_the_extras_were_refused(talk: Talk) -> None:
    talk.do(talk.client.logout())
    talk.server.script["STATE"] = lambda _line, _seen: Reply(info=errors.STORAGE_UNAVAILABLE)
    assert talk.do(talk.client.login("me", "secret")).username == "me"
    del talk.server.script["STATE"]
    talk.clock.advance(1)
    assert talk.state() is State.LOGGED_IN
    assert talk.server.seen[-3:-1] == [ASKED, Seen("ACKFETCH", talk.server.bodies("ACKFETCH")[0], 77)]


def test_what_others_do_is_heard_one_by_one(talk: Talk) -> None:
    events: list[Event] = [
        Presence(2, True, None), Presence(3, False, 1_700_000_000_000), Typing(2), Typing(2, False),
        MarkOf(2, 1, "delivered", 5, "name"), MarkOf(3, 1, "read", 6, "other"),
        Relation(3, "requesting"), Relation(None, None),
    ]  # fmt: skip
    talk.push("FORWARDPRESENCE", PresenceList(events[:2]))  # type: ignore[arg-type]
    talk.push("FORWARDTYPING", events[2])
    talk.push("FORWARDTYPING", events[3])
    talk.push("FORWARDMARK", MarkList(events[4:6]))  # type: ignore[arg-type]
    talk.push("FORWARDCONTACT", events[6])
    talk.push("FORWARDCONTACT", events[7])
    assert talk.heard == events
    talk.push("FORWARDSURPRISE", {"of": "a newer server"})
    talk.post(1)
    assert talk.shown == texts(1)
    assert talk.heard == events


def test_what_is_no_event_ends_the_connection(talk: Talk, no_unhandled_failure: list[LogEvent]) -> None:
    talk.push("FORWARDTYPING", {"userid": "two"})
    assert talk.state() is State.DISCONNECTED
    assert not no_unhandled_failure


@pytest.mark.parametrize("at_once", [True, False])
def test_a_program_that_fails_at_an_event_hears_the_next_one(
    at_once: bool, no_unhandled_failure: list[LogEvent]
) -> None:
    waits: list[Deferred[None]] = []

    async def later() -> None:
        waits.append(Deferred())
        await waits[-1]
        raise RuntimeError("too late")

    def fail(_: Event) -> Any:
        if at_once:
            raise RuntimeError("at once")
        return later()

    talk = Talk(on_event=fail).start()
    for who in (2, 3):
        talk.push("FORWARDTYPING", Typing(who))
    for wait in waits:
        wait.callback(None)
    assert [event["what"] for event in no_unhandled_failure] == ["Telling the program of an event"] * 2
    no_unhandled_failure.clear()
    assert talk.state() is State.LOGGED_IN
    talk.stop()


def test_what_this_one_does_is_told(talk: Talk) -> None:
    client = talk.client
    talk.do(client.typing(2))
    talk.do(client.typing(2, False))
    talk.do(client.mark(message(1), "delivered"))
    talk.do(client.mark(message(2), "read"))
    talk.do(client.remove_contact(2))
    talk.do(client.block_contact(3))
    talk.do(client.unblock_contact(4))
    told = [(seen.kind, seen.body) for seen in talk.server.seen[-7:]]
    assert told == [
        ("TYPING", {"userid": 2, "typing": True}),
        ("TYPING", {"userid": 2, "typing": False}),
        ("MARK", {"userid": 2, "mark": "delivered", "timestamp": 1001, "md5encoded": message(1).md5encoded}),
        ("MARK", {"userid": 2, "mark": "read", "timestamp": 1002, "md5encoded": message(2).md5encoded}),
        ("REMOVECONTACT", {"userid": 2}),
        ("BLOCKCONTACT", {"userid": 3}),
        ("UNBLOCKCONTACT", {"userid": 4}),
    ]


def test_blocked_people_are_among_the_contacts(talk: Talk) -> None:
    talk.server.script["FETCHCONTACT"] = lambda _line, _seen: Reply(Contacts([], [], [], [BOB]))
    assert talk.do(talk.client.contacts()) == Contacts([], [], [], [UserInfo(2, "bob", None)])


@pytest.mark.parametrize("features", [None, ["presence"]])
def test_a_server_without_them_is_not_bothered(features: list[str] | None) -> None:
    talk = Talk(features).start()
    client = talk.client
    assert client.features == frozenset(features or ())
    before = len(talk.server.seen)
    talk.do(client.typing(2))
    talk.do(client.mark(message(1), "read"))
    for change in (client.remove_contact, client.block_contact, client.unblock_contact):
        with pytest.raises(RequestRefused, match="cannot be removed or blocked on this server"):
            talk.do(change(2))
    assert len(talk.server.seen) == before
    talk.stop()


def test_without_a_connection_they_fail_as_all_does(talk: Talk) -> None:
    talk.server.up = False
    talk.server.drop()
    for work in (talk.client.typing(2), talk.client.mark(message(1), "read"), talk.client.block_contact(2)):
        assert isinstance(error_of(result_of(work)), NotConnected)
