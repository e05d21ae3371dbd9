"""What `bench.fill` has filled looks as if servers had: to a server, to an operator, and key for key.

How fast anything is with such a store is not tested, it is measured (``docs/performance.md``).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from bench.fill import Plan, Refused, Store, fill, main
from chatsvc.store.append import entry_parts
from chatsvc.store.url import StoreUrl
from tests.admin import Admin
from tests.raw import in_base64
from tests.service import Service, Valkey, wait_for

PLAN = Plan(
    users=5,
    messages=40,
    to_last=7,
    days=2,
    characters=30,
    names="u",
    password="a secret",
    bcrypt_cost=4,
)
#: All messages, and those of the second of the two days.
MESSAGES, MARKED = 47, 23


def address(path: Any) -> StoreUrl:
    return StoreUrl(kind="unix", path=str(path))


@pytest.fixture
def empty(valkey: Callable[..., Valkey]) -> Valkey:
    return valkey().start()


@pytest.fixture
def store(empty: Valkey) -> Iterator[Store]:
    """A filled store, to be asked."""
    with Store(address(empty.socket_path)) as opened:
        fill(PLAN, opened, int(time.time() * 1000))
        yield opened


def run(*options: str) -> Result:
    return CliRunner().invoke(main, options)


# -- its form --------------------------------------------------------------------------------------


#: What differs from one key or entry to the other: names, contents, digests, numbers.
_PARTICULAR = re.compile(rb'(?<=\{n:)[^}]+|(?<="content":")[^"]*|[0-9a-f]{32}|\d+')


class Form(NamedTuple):
    """What can be said of a key without its owner's particulars."""

    kind: bytes
    expires: bool
    #: The fields of a hash, or the entries of a stream.
    inside: frozenset[bytes]


def form(store: Store, key: bytes) -> Form:
    inside: list[bytes] = []
    kind = store.ask("TYPE", key)
    if kind == b"hash":
        inside = store.ask("HKEYS", key)
    elif kind == b"stream":
        inside = [b" ".join(fields) for _, fields in store.ask("XRANGE", key, "-", "+")]
    general = frozenset(_PARTICULAR.sub(b"*", one) for one in inside)
    return Form(kind, store.ask("TTL", key) > 0, general)


def forms(store: Store) -> dict[bytes, set[Form]]:
    """The forms of all keys, by what the keys have in common."""
    found: dict[bytes, set[Form]] = {}
    for key in store.ask("KEYS", "*"):
        found.setdefault(_PARTICULAR.sub(b"*", key), set()).add(form(store, key))
    return found


def test_what_is_written_has_the_form_of_what_a_server_writes(store: Store, service: Any) -> None:
    server: Service = service().start()
    alice, bob = server.connect(), server.connect()
    users = alice.register(in_base64("alice")), bob.register(in_base64("bob"))
    for one, other in ((alice, users[1]), (bob, users[0])):
        assert one.ask("ADDCONTACT", {"userid": other}).ok
        one.answer()  # FETCHCONTACT, which the released client expects
        one.say(other, in_base64("Hello"))
    for one in (alice, bob):
        [message] = one.fetch()
        one.send("ACKFETCH", {"timestamp": message["timestamp"]})
    with Store(address(server.directory / "data" / "store" / "store.sock")) as servers:
        wait_for(lambda: len(servers.ask("KEYS", "*:cursors")) == 2, "both devices have acknowledged")
        written = forms(servers)
    assert written.pop(b"{u:*}:online")  # it expires by itself
    assert forms(store) == written


def test_all_that_the_operator_has_checked_is_true(store: Store, empty: Valkey, tmp_path: Any) -> None:
    admin = Admin("--redis", f"unix://{empty.socket_path}", "--data-dir", str(tmp_path / "data"))
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    assert admin.records("check") == []
    assert store.ask("GET", "chatsvc:users") == b"5"


# -- what servers make of it -----------------------------------------------------------------------


def test_each_message_is_in_two_mailboxes_and_the_last_day_is_marked(store: Store) -> None:
    mailboxes = [store.ask("XRANGE", f"{{u:{user}}}:mail", "-", "+") for user in range(1, 6)]
    names = [re.findall(rb'"md5encoded":"(\w+)"', fields[1])[0] for mail in mailboxes for _, fields in mail]
    # The last user, in turn, is also who sends to the last user: that is one mailbox.
    assert len(set(names)) == MESSAGES
    assert len(names) == 2 * MESSAGES - 1
    for user, mail in enumerate(mailboxes, 1):
        assert store.ask("GET", f"{{u:{user}}}:last") == mail[-1][0]
    assert len(mailboxes[-1]) == max(map(len, mailboxes)) > MESSAGES // 3
    assert len(store.ask("KEYS", "*:repeat:*")) == MARKED


def test_a_filled_user_logs_in_fetches_and_receives(store: Store, empty: Valkey, service: Any) -> None:
    server: Service = service("--redis", f"unix://{empty.socket_path}").start()
    old = server.connect("seed", token=5)  # names come to it as they are stored
    assert old.ask("STATE").body == {"userid": 5, "username": in_base64("u000004"), "avatar": None}
    assert old.fetch() == []
    new = server.connect()
    assert new.login("u000004", PLAN.password) == 5
    history = new.fetch()
    assert len(history) == store.ask("XLEN", "{u:5}:mail")
    assert [len(message["content"]) for message in history] == [40] * len(history)
    contacts = new.ask("FETCHCONTACT").body
    assert [user["userid"] for user in contacts["contacts"]] == [1, 2, 3, 4]

    sender = server.connect(token=1)
    sender.user = 1
    said = sender.say(5, in_base64("Hello"))
    assert old.push() == new.push() == said
    registered = server.user()
    assert registered.user == 6


def test_a_message_of_the_last_day_is_known_again(store: Store, empty: Valkey, service: Any) -> None:
    server: Service = service("--redis", f"unix://{empty.socket_path}").start()
    newest = store.ask("XREVRANGE", "{u:5}:mail", "+", "-", "COUNT", 1)
    [(_, fields)] = newest
    message = json.loads(entry_parts(fields[1])[2])
    assert server.connect(token=message["userid"]).ask("SENDMSG", message).ok
    assert store.ask("XREVRANGE", "{u:5}:mail", "+", "-", "COUNT", 1) == newest


# -- the command -----------------------------------------------------------------------------------


def test_it_is_on_the_disk_at_the_end(empty: Valkey) -> None:
    done = run("--redis", f"unix://{empty.socket_path}", "--users", "30", "--messages", "2000")
    assert done.exit_code == 0, done.output
    assert "| message | 2,000 | " in done.output
    with Store(address(empty.socket_path)) as before:
        size = before.ask("DBSIZE")
    empty.end()
    with Store(address(empty.start().socket_path)) as after:
        assert after.ask("DBSIZE") == size > 30


def test_a_store_that_holds_something_is_left_as_it_is(empty: Valkey) -> None:
    empty.ask("SET something valuable")
    done = run("--redis", f"unix://{empty.socket_path}", "--users", "1", "--messages", "1")
    assert done.exit_code == 1
    assert "The store is not empty, and was left as it is" in done.output
    assert empty.ask("DBSIZE").startswith(b":1\r\n")


def test_a_store_that_takes_no_more_ends_it(empty: Valkey) -> None:
    empty.ask("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 3mb")
    done = run("--redis", f"redis://127.0.0.1:{empty.port}", "--users", "5000", "--messages", "0")
    assert done.exit_code == 1
    assert "The store refused a command: OOM" in done.output
    assert b"appendonly\r\n$3\r\nyes" in empty.ask("CONFIG GET appendonly")


@pytest.mark.parametrize(
    ("url", "status", "why"),
    [
        ("unix:///nowhere/store.sock", 1, "cannot be reached: No such file or directory."),
        ("cluster://127.0.0.1", 1, "Only a store at a redis:// or unix:// address can be filled."),
        ("nowhere", 2, "--redis"),
    ],
)
def test_what_is_no_store_to_fill_is_named(url: str, status: int, why: str) -> None:
    done = run("--redis", url, "--users", "1", "--messages", "1")
    assert done.exit_code == status
    assert why in done.output


def test_one_user_writes_to_herself(empty: Valkey) -> None:
    with Store(address(empty.socket_path)) as store:
        fill(PLAN._replace(users=1, messages=3, to_last=0), store, 1_700_000_000_000)
        assert store.ask("XLEN", "{u:1}:mail") == 3
        with pytest.raises(Refused):
            fill(PLAN, store, 1_700_000_000_000)
