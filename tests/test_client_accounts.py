"""The client library's accounts and people: logins and their tokens, profiles, contacts, written forms.

The server is one in memory (`tests.fake_server`).
"""

from __future__ import annotations

import hashlib

import pytest

from chatsvc.client import RAW, RequestRefused, State, forms
from chatsvc.tasks import deferred
from chatsvc.wire import errors
from chatsvc.wire.schema import Contacts, Token, UserInfo
from chatsvc.wire.text import encoded
from tests.client_world import FIXTURES, World, result_of, texts
from tests.fake_server import BOB, ME, Line, Reply, Seen

(world,) = FIXTURES


def test_message_names_are_those_of_the_released_client() -> None:
    assert forms.message_name("héllo", 7, 9, 1700000000123) == "8b1f4e5a04b1daec7202e3c485f417b5"


def test_passwords_are_hashed_as_the_released_client_does() -> None:
    assert forms.PLAIN.password("secret") == "5ebe2294ecd0e0f08eab7690d2a6ee69"
    assert forms.PLAIN.password("pé€") == hashlib.md5(b"\x70\xe9\xac").hexdigest()
    assert RAW.password("secret") == "secret"


@pytest.mark.parametrize(
    ("wire", "plain"), [("Ym9i", "bob"), ("bob!", "bob!"), ("Ym9", "Ym9"), ("", ""), ("gICA", "gICA")]
)
def test_what_is_no_canonical_base64_is_shown_as_it_is(wire: str, plain: str) -> None:
    assert forms.PLAIN.read(wire) == plain
    assert forms.RAW.read(wire) == wire


def test_an_account_is_made_with_an_invite_or_without() -> None:
    world = World(token=None)
    world.server.user = None
    world.start()
    world.server.script["REGISTER"] = world.server.login
    for invite in (None, "7H3K-9QX2-WM4D-R8VZ"):
        assert world.do(world.client.register("me", "secret", invite)).username == "me"
    sent = {"username": encoded("me"), "passwd": "5ebe2294ecd0e0f08eab7690d2a6ee69"}
    assert world.server.bodies("REGISTER") == [sent, sent | {"invite": "7H3K-9QX2-WM4D-R8VZ"}]


def test_a_new_device_logs_in_and_keeps_its_token() -> None:
    world = World(token=None)
    world.server.user = None
    world.start()
    assert world.state() is State.CONNECTED

    def login(line: Line, request: Seen) -> Reply:
        line.say("TOKEN", Reply(Token(42)))
        return world.server.login(line, request)

    world.server.script["LOGIN"] = login
    assert world.do(world.client.login("me", "secret")).username == "me"
    assert world.server.bodies("LOGIN") == [
        {"username": encoded("me"), "passwd": "5ebe2294ecd0e0f08eab7690d2a6ee69"}
    ]
    assert world.client.token == 42
    assert world.states == [State.CONNECTED, State.LOGGED_IN]
    world.server.drop()
    world.clock.advance(1)
    assert Seen("STATE", None, 42) in world.server.seen
    assert world.state() is State.LOGGED_IN
    world.stop()


def test_resuming_says_who_it_is(world: World) -> None:
    assert world.client.user == UserInfo(1, "me", None)
    assert world.do(world.client.resume()) == UserInfo(1, "me", None)
    world.do(world.client.logout())
    assert world.state() is State.CONNECTED
    assert world.do(world.client.resume()) is None
    world.post(1)
    assert not world.shown
    with pytest.raises(RequestRefused, match=errors.NOT_LOGGED_IN):
        world.client.compose(2, "hello")
    world.do(world.client.register("me", "secret"))
    assert world.state() is State.LOGGED_IN
    assert world.shown == texts(1)
    assert world.states == [State.LOGGED_IN, State.CONNECTED, State.LOGGED_IN]


def test_a_device_that_the_server_forgot_gets_a_new_token() -> None:
    world = World()
    world.server.user = None

    def state(line: Line, request: Seen) -> Reply:
        line.say("TOKEN", Reply(Token(78)))
        return world.server.state(line, request)

    world.server.script["STATE"] = state
    world.start()
    assert world.client.token == 78
    assert world.state() is State.CONNECTED
    world.stop()


def test_methods_run_without_a_deferred_too(world: World) -> None:
    world.server.script["PROFILE"] = lambda _line, _seen: Reply(BOB)
    outcome = result_of(deferred(world.client.profile(2)))
    world.clock.advance(0)
    assert outcome == [UserInfo(2, "bob", None)]


def test_a_store_that_is_away_does_not_log_anybody_out() -> None:
    world = World()
    world.server.script["STATE"] = lambda _line, _seen: Reply(info=errors.STORAGE_UNAVAILABLE)
    started = result_of(world.client.start())
    world.clock.advance(0)
    assert not started
    del world.server.script["STATE"]
    world.clock.advance(1)
    assert started == [None]
    assert world.states == [State.LOGGED_IN]
    world.stop()


def test_a_login_that_was_ended_elsewhere_is_noticed(world: World) -> None:
    world.server.script["PROFILE"] = lambda _line, _seen: Reply(info=errors.NOT_LOGGED_IN)
    with pytest.raises(RequestRefused):
        world.do(world.client.profile(2))
    assert world.client.user is None
    assert world.states[-1] is State.CONNECTED


def test_people(world: World) -> None:
    script = world.server.script
    script["PROFILE"] = script["SEARCHUSR"] = lambda _line, _seen: Reply(BOB)
    script["FETCHCONTACT"] = lambda _line, _seen: Reply(Contacts([BOB], [ME], [UserInfo(3, "raw!", "pic")]))

    def addcontact(line: Line, _seen: Seen) -> None:
        line.say("ADDCONTACT", Reply())
        line.say("FETCHCONTACT", Reply(Contacts([], [], [])))

    script["ADDCONTACT"] = addcontact
    script["MODIFYPROFILE"] = lambda _line, _seen: Reply(UserInfo(1, encoded("new"), None))
    script["MODIFYPASSWD"] = lambda _line, _seen: Reply()
    bob = UserInfo(2, "bob", None)
    assert world.do(world.client.profile(2)) == bob
    assert world.do(world.client.search(name="bob")) == bob
    assert world.do(world.client.search(userid=2)) == bob
    world.do(world.client.add_contact(2))
    assert world.do(world.client.contacts()) == Contacts(
        [bob], [UserInfo(1, "me", None)], [UserInfo(3, "raw!", "pic")]
    )
    assert world.do(world.client.modify_profile("new")).username == "new"
    world.do(world.client.modify_profile(avatar=None))
    world.do(world.client.modify_password("old", "new"))
    assert world.server.bodies("SEARCHUSR") == [
        {"username": encoded("bob"), "userid": None},
        {"username": None, "userid": 2},
    ]
    assert world.server.bodies("MODIFYPROFILE") == [
        {"username": encoded("new")},
        {"username": None, "avatar": None},
    ]
    assert world.client.user == UserInfo(1, "new", None)


def test_a_program_can_choose_the_bytes() -> None:
    world = World(form=RAW).start()
    world.do(world.client.login("me", "secret"))
    assert world.server.bodies("LOGIN") == [{"username": "me", "passwd": "secret"}]
    world.do(world.client.send_text(2, "hi"))
    assert world.server.bodies("SENDMSG")[0]["content"] == "hi"
    world.post(1)
    assert world.shown == [encoded("message 1")]
    world.stop()
