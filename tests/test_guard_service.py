"""Limits and invites at a server that runs: by the address that a proxy tells, with the operator's command.

What each limit does is in ``test_guard.py`` and ``test_guard_accounts.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.admin import Admin, of
from tests.guarding import PROXIED, through_proxy
from tests.raw import in_base64, unique
from tests.service import Service, wait_for

LIMITS = ("--token-rate", "4,1/day", "--registration-rate", "2,1/day", "--message-rate", "2,1/day")


def test_each_address_has_limits_of_its_own(service: Callable[..., Service]) -> None:
    with service(*PROXIED, "--http", "tcp:0:interface=127.0.0.1", *LIMITS).running() as server:
        here = [through_proxy(server, "203.0.113.7") for _ in range(5)]
        for client in here[:2]:
            client.register(unique())
        credentials = {"username": unique(), "passwd": "secret"}
        refused = here[2].ask("REGISTER", credentials)
        assert refused.info == "Too many requests"
        assert here[3].ask("STATE").info == "User not logged in"
        assert here[4].ask("STATE").info == "Too many requests"
        with through_proxy(server, "203.0.113.8") as there:
            assert there.ask("REGISTER", credentials).ok
        alice, bob = here[:2]
        answers = [alice.ask("SENDMSG", alice.message(bob.user or 0, md5encoded=f"{n}")) for n in range(3)]
        assert [answer.info for answer in answers] == [None, None, "Too many requests"]
        assert answers[2].body == {"md5encoded": "2"}
        assert bob.ask("SENDMSG", bob.message(bob.user or 0)).ok
        status, page = server.http("/metrics")
        assert status == 200
        figures = dict(re.findall(r'chatsvc_requests_refused_total\{limit="(\w+)"\} (\S+)', page))
        assert {name: value for name, value in figures.items() if value != "0.0"} == dict.fromkeys(
            ("token_rate", "registration_rate", "message_rate"), "1.0"
        )
        told = "Refused: registration rate, from the address '203.0.113.7', user None"
        wait_for(lambda: told in server.log(), "the refusal is logged")
        for client in here:
            client.close()


@pytest.fixture
def inviting(service: Callable[..., Service]) -> Service:
    """A server that wants invites."""
    return service("--registration", "invite").start()


def test_an_invite_from_the_operator_makes_an_account(inviting: Service) -> None:
    admin: Admin = of(inviting.directory / "data")
    shown = admin.run("invite", "create", "--uses", "2", "--days", "3").stdout
    made = re.fullmatch(r"(\S{19})  \(id (\w{8}), good for 2 accounts within 3 days\)\n", shown)
    assert made is not None, shown
    name, code, invite = unique(), made[1], made[2]
    released = inviting.connect("released")
    refused = released.ask("REGISTER", {"username": in_base64(name), "passwd": "secret"})
    assert refused.info is not None
    assert "type its code behind the username, after a space" in refused.info
    answer = released.ask("REGISTER", {"username": in_base64(f"{name} {code}"), "passwd": "secret"})
    assert answer.body["username"] == in_base64(name)
    [listed] = admin.records("invite", "list")
    assert (listed["id"][:8], listed["uses_left"]) == (invite, 1)
    assert inviting.connect("seed").login(name) == answer.body["userid"]
    assert admin.record("invite", "revoke", invite, "--yes") == {"id": listed["id"]}
    late = inviting.connect("seed").ask("REGISTER", {"username": unique(), "passwd": "x", "invite": code})
    assert late.info == "This invite is wrong, used up or expired; ask for another one"
    assert f"There are 0 invites whose id begins with '{invite}'" in admin.refused(
        "invite", "revoke", invite, "--yes"
    )
