"""`chatsvc-admin` about users and devices, beside a running server whose clients feel it."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from chatsvc.admin.users import as_released
from tests.admin import Admin, of
from tests.raw import Raw, in_base64, unique
from tests.service import Service


@pytest.fixture
def admin(server: Service, request: pytest.FixtureRequest) -> Admin:
    """The command for the running server."""
    return of(server.directory / "data", measured=request.config.pluginmanager.hasplugin("_cov"))


def login(server: Service, name: str, password: str = "secret", dialect: str = "seed") -> str | None:
    """Why somebody cannot log in; None if he can."""
    return server.connect(dialect).ask("LOGIN", {"username": name, "passwd": password}).info


def is_out(client: Raw) -> bool:
    """Whether a connection's device is logged out."""
    return client.ask("STATE").info == "User not logged in"


def test_a_user_is_made_listed_and_shown(server: Service, admin: Admin) -> None:
    name = unique()
    made = admin.record("users", "create", name, "--password-stdin", stdin="a secret\n")
    assert made == {"id": made["id"], "name": name}
    assert login(server, name, "a secret") is None
    listed = {user["id"]: user for user in admin.records("users", "list")}
    assert listed[made["id"]] == made | {"disabled": False}
    assert list(listed) == sorted(listed)
    shown = admin.record("users", "show", str(made["id"]))
    assert shown == admin.record("users", "show", name)
    assert (shown["devices"], shown["messages"], shown["newest_message"]) == (1, 0, None)
    assert name in admin.run("users", "list").stdout
    assert "Username already exists." in admin.refused("users", "create", name, "--generate")


def test_names_of_the_released_client_are_given_in_plain(server: Service, admin: Admin) -> None:
    name = unique()
    client = server.connect("released")
    user_id = client.register(in_base64(name))
    shown = admin.record("users", "show", name)
    assert (shown["id"], shown["name"], shown["name_as_sent"]) == (user_id, name, in_base64(name))
    assert shown["online"] == 1


def test_a_name_of_digits_is_told_from_an_id(server: Service, admin: Admin) -> None:
    name = "1" + str(secrets.randbelow(10**17)).zfill(17)
    made = admin.record("users", "create", name, "--generate")
    assert "There is no user" in admin.refused("users", "show", name)
    assert admin.record("users", "show", f"name:{name}")["id"] == made["id"]


def test_a_password_for_the_released_client_is_what_that_sends(server: Service, admin: Admin) -> None:
    name = unique()
    made = admin.record("users", "create", name, "--generate", "--for-released-client")
    sent = hashlib.md5(made["password"].encode()).hexdigest()
    assert login(server, in_base64(name), sent, "released") is None
    assert login(server, name, made["password"]) == "Invalid username or password"
    assert as_released("Passwört") == hashlib.md5("Passwört".encode("latin-1")).hexdigest()


def test_a_disabled_user_is_out_everywhere_and_answered_as_one_with_a_wrong_password(
    server: Service, admin: Admin
) -> None:
    user, other = server.user(), server.user()
    second = server.device(user)
    assert not is_out(second)
    assert admin.record("users", "disable", user.name, "--yes")["devices_logged_out"] == 2
    assert is_out(user)
    assert is_out(second)
    assert login(server, user.name) == login(server, user.name, "wrong") == "Invalid username or password"
    assert admin.record("users", "show", user.name)["disabled"]
    assert other.ask("PROFILE", {"userid": user.user}).ok  # nothing is lost
    other.say(user.user or 0)
    admin.record("users", "enable", user.name)
    user.login(user.name)
    assert len(user.fetch()) == 1


def test_a_new_password_logs_all_devices_out(server: Service, admin: Admin) -> None:
    user = server.user()
    done = admin.record("users", "set-password", str(user.user), "--generate")
    assert done["devices_logged_out"] == 1
    assert is_out(user)
    assert login(server, user.name) == "Invalid username or password"
    assert login(server, user.name, done["password"]) is None


def test_a_deleted_user_is_gone_but_what_was_written_stays(server: Service, admin: Admin) -> None:
    user, friend = server.user(), server.user()
    gone = user.user or 0
    for one, two in ((user, friend), (friend, user)):
        assert one.ask("ADDCONTACT", {"userid": two.user}).ok
        one.answer()
    user.say(friend.user or 0, "Z29vZGJ5ZQ==")
    assert admin.record("users", "delete", user.name, "--yes") == {"id": gone}
    assert is_out(user)
    assert friend.ask("FETCHCONTACT").body == {"contacts": [], "pending": [], "requesting": []}
    assert friend.ask("PROFILE", {"userid": gone}).info == "User not found"
    assert friend.ask("SENDMSG", friend.message(gone)).info == "User not found"
    assert [message["content"] for message in friend.fetch()] == ["Z29vZGJ5ZQ=="]
    assert "There is no user" in admin.refused("users", "delete", str(gone), "--yes")
    again = server.connect()
    assert again.register(user.name) > gone  # the name is free, the id is not given again
    assert again.fetch() == []


def test_one_device_is_revoked_or_all(server: Service, admin: Admin) -> None:
    user = server.user()
    second, third = server.device(user), server.device(user)
    listed = admin.records("devices", "list", user.name)
    assert len(listed) == 3
    assert all(device["online"] and device["first_seen"] for device in listed)
    token = hashlib.sha256(str(second.token).encode()).hexdigest()
    assert admin.record("devices", "revoke", user.name, token[:8], "--yes") == {"devices_logged_out": 1}
    assert [is_out(client) for client in (user, second, third)] == [False, True, False]
    assert "has no device" in admin.refused("devices", "revoke", user.name, token[:8], "--yes")
    assert "give more of the id" in admin.refused("devices", "revoke", user.name, "", "--yes")
    assert admin.record("devices", "revoke", user.name, "--all", "--yes") == {"devices_logged_out": 2}
    assert is_out(user)
    assert admin.records("devices", "list", user.name) == []
    admin.refused("devices", "revoke", user.name, status=2)


@pytest.mark.parametrize(
    "words",
    [
        ["users", "delete", "1"],
        ["users", "disable", "1"],
        ["devices", "revoke", "1", "--all"],
        ["trim", "--keep", "1"],
        ["collect"],
    ],
)
def test_what_is_not_confirmed_is_not_done(admin: Admin, words: list[str]) -> None:
    assert "with --yes it is done without asking" in admin.refused(*words, status=2)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["users", "create", "x" * 257, "--generate"], "A username has 1 to 256 characters"),
        (["users", "create", "someone"], "use --password-stdin or --generate"),
        (["users", "create", "someone", "--generate", "--password-stdin"], "Only one of"),
        (["users", "show", "nobody at all"], "There is no user nobody at all."),
        (["users", "show", "9" * 30], "There is no user 999"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(admin: Admin, words: list[str], why: str) -> None:
    done = admin.run(*words)
    assert why in done.stderr
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_an_empty_password_is_refused(admin: Admin) -> None:
    done = admin.run("users", "create", unique(), "--password-stdin", stdin="\n")
    assert done.returncode == 1
    assert "A password has 1 to 1024 characters" in done.stderr


def test_at_a_terminal_it_asks(server: Service, admin: Admin) -> None:
    name = unique()
    asked = ("Password:", "a secret"), ("Repeat for confirmation:", "a secret")
    shown, status = admin.at_a_terminal(["users", "create", name], *asked)
    assert (status, "a secret" in shown) == (0, False), shown
    assert login(server, name, "a secret") is None
    shown, status = admin.at_a_terminal(["users", "delete", name], ("for good? [y/N]:", "n"))
    assert (status, "Aborted!" in shown) == (1, True), shown
    assert admin.record("users", "show", name)["name"] == name
    shown, status = admin.at_a_terminal(["users", "delete", name], ("for good? [y/N]:", "y"))
    assert (status, "is deleted" in shown) == (0, True), shown
    shown, status = admin.at_a_terminal(["check"])
    assert (status, "Checking  [" in shown) == (0, True), shown


def test_stats_count(server: Service, admin: Admin) -> None:
    before = admin.record("stats")
    user = server.user()
    user.say(user.user or 0)
    after = admin.record("stats")
    more = {name: after[name] - before[name] for name in ("users", "devices", "mailboxes", "messages")}
    assert more == {"users": 1, "devices": 1, "mailboxes": 1, "messages": 1}
    assert after["online"] >= 1
    assert after["store_version"].startswith("Valkey ")
    assert after["store_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["--redis", "nonsense"], 2, "--redis is not valid"),
        (["--redis", "unix:///nowhere/at/all.sock"], 1, "cannot be used"),
        (["--data-dir", "nowhere/at/all"], 1, "There is no store in"),
        (["--bcrypt-cost", "99"], 2, "allowed is a whole number"),
    ],
)
def test_a_store_that_is_not_there(options: list[str], status: int, why: str) -> None:
    assert why in Admin(*options).refused("users", "list", status=status)


def test_options_come_from_the_servers_variables(
    server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, Any] = {"CHATSVC_DATA_DIR": server.directory / "data", "CHATSVC_LISTEN": "nonsense"}
    for name, value in named.items():
        monkeypatch.setenv(name, str(value))
    assert json.loads(Admin().run("stats", "--json").stdout)["users"] >= 0
    address = tmp_path / "address"
    address.write_text("unix:///nowhere/at/all.sock")
    monkeypatch.setenv("CHATSVC_REDIS_FILE", str(address))
    assert "cannot be used" in Admin().refused("users", "list")
