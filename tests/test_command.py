"""The command `chatsvc` against a real server: what it prints, for people and for scripts, and how it ends.

The library below it is tested in `tests/test_client_*.py`.
"""

from __future__ import annotations

import secrets
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.command import Command, command
from tests.raw import DEADLINE, in_base64
from tests.service import Service, wait_for

Make = Callable[..., Command]
__all__ = ["command"]


def names(prefix: str) -> tuple[str, str]:
    """Names that nobody else has on a server that tests share."""
    tag = secrets.token_hex(6)
    return f"{prefix} anna {tag}", f"{prefix} bob {tag}"


def test_two_people_chat_from_a_shell(command: Make, server: Service, tmp_path: Path) -> None:
    anna_name, bob_name = names("shell")
    anna = command("anna").enter("register", anna_name)
    bob = command("bob").enter("register", bob_name)
    assert "is asked" in anna.run("add", bob_name).stdout
    [asked] = bob.records("contacts")
    assert (asked["username"], asked["relation"]) == (anna_name, "requesting")
    [accepted] = bob.records("add", str(asked["userid"]))
    assert accepted == asked | {"relation": "contacts"}
    assert [one["relation"] for one in anna.records("contacts")] == ["contacts"]

    anna.run("send", bob_name, "hello", "there")
    anna.run("send", bob_name, "-", stdin="two\nlines\n")
    (tmp_path / "a file.bin").write_bytes(bytes(range(256)))
    [sent] = anna.records("send", bob_name, "--file", "a file.bin")
    (tmp_path / "tiny.png").write_bytes(b"a picture")
    anna.run("send", bob_name, "--image", "tiny.png")
    got = bob.records("tail", "--once")
    assert [(one["type"], one["content"]) for one in got[:3]] == [
        ("plaintext", "hello there"), ("plaintext", "two\nlines"), ("file", "a file.bin"),
    ]  # fmt: skip
    assert {one["from"]["username"] for one in got} == {anna_name}
    assert got[2]["id"] == sent["id"]
    assert bob.records("tail", "--once") == []
    assert bob.records("history", anna_name) == got == anna.records("history", bob_name)
    assert [one["content"] for one in bob.records("history", anna_name, "-n", "1")] == [got[3]["content"]]

    [fetched] = bob.records("get", sent["id"][:8], "-o", "copy.bin")
    assert fetched == {"path": "copy.bin", "size": 256}
    assert (tmp_path / "copy.bin").read_bytes() == bytes(range(256))
    assert "is there already" in bob.run("get", sent["id"][:8], "-o", "copy.bin", status=1).stderr
    bob.run("get", got[3]["id"], "-o", "picture")
    assert (tmp_path / "picture").read_bytes() == b"a picture"
    assert [path.name for path in tmp_path.glob(".*.part")] == []


def test_a_script_can_rely_on_the_status_and_on_where_things_are(
    command: Make, server: Service, tmp_path: Path
) -> None:
    name, _ = names("script")
    anna = command()
    assert (
        "chatsvc login NAME"
        in anna.run("--server", "{}:{}".format(*server.address), "whoami", status=4).stderr
    )
    anna.enter("register", name)
    [me] = anna.records("whoami")
    assert me["username"] == name
    for path in (*tmp_path.glob("state/chatsvc/default/*"), *tmp_path.glob("share/chatsvc/default/*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "User not found" in anna.run("send", "nobody at all", "hello", status=1).stderr
    assert "one of them" in anna.run("send", name, status=2).stderr
    assert "belongs to the server" in anna.run("--server", "127.0.0.1:1", "whoami", status=1).stderr
    assert "No message here" in anna.run("get", "ffff", status=1).stderr
    anna.run("logout")
    anna.run("send", name, "hello", status=4)
    anna.environment["CHATSVC_PASSWORD"] = "another"
    assert "Invalid username or password" in anna.run("login", name, status=1).stderr
    assert "no terminal" in anna.run("passwd", status=2).stderr


def test_the_name_the_picture_and_the_password_can_be_changed(
    command: Make, server: Service, tmp_path: Path
) -> None:
    name, other = names("profile")
    anna = command().enter("register", name)
    (tmp_path / "me.png").write_bytes(b"me")
    [changed] = anna.records("profile", "--name", other, "--avatar", "me.png")
    assert (changed["username"], changed["avatar"]) == (other, "bWU=")
    assert anna.records("profile", "--no-avatar")[0]["avatar"] is None
    second = command("second").enter("login", other)
    anna.environment["CHATSVC_NEW_PASSWORD"] = "a new one"
    anna.run("passwd")
    second.run("whoami", status=4)
    (tmp_path / "password").write_text("a new one\n")
    second.run("login", other, "--password-file", "password")
    second.run("whoami")


def test_what_comes_is_printed_at_once_and_harmlessly_until_it_is_interrupted(
    command: Make, server: Service, tmp_path: Path
) -> None:
    name, _ = names("tail")
    bob = command().enter("register", name)
    [me] = bob.records("whoami")
    anna = server.user()
    log = tmp_path / "log"
    with log.open("wb") as file:
        tail = subprocess.Popen(
            [sys.executable, *bob.words, "tail"],
            stdout=file, env=bob.environment,
            # Whoever runs the tests in the background ignores SIGINT, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        for text in ("first", "\x1b[2J\u202eevil\r", "last"):
            anna.ask("SENDMSG", anna.message(me["userid"], text))
            wait_for(lambda: text[-4:].rstrip() in log.read_text(), f"{text!r} is printed", DEADLINE)  # noqa: B023
        tail.send_signal(signal.SIGINT)
        assert tail.wait(DEADLINE) == 130
    finally:
        tail.kill()
        tail.wait(DEADLINE)
    shown = log.read_text()
    assert "\\u001b[2J\\u202eevil\\u000d" in shown
    assert not {"\x1b", "\u202e", "\r"} & set(shown)
    assert bob.records("tail", "--once") == []


def test_people_can_be_removed_and_kept_away(command: Make) -> None:
    anna_name, bob_name = names("away")
    anna = command("anna").enter("register", anna_name)
    bob = command("bob").enter("register", bob_name)
    [me] = bob.records("whoami")
    anna.run("add", bob_name)
    assert anna.records("remove", bob_name) == [me]
    assert bob.records("contacts") == []
    assert anna.records("block", bob_name) == [me]
    assert anna.records("contacts") == [me | {"relation": "blocked"}]
    assert f"chatsvc unblock {me['userid']}" in anna.run("contacts").stdout
    assert "does not take messages from you" in bob.run("send", anna_name, "hello", status=1).stderr
    assert anna.records("unblock", bob_name) == [me]
    bob.run("send", anna_name, "hello")
    assert "The server refused" in anna.run("block", anna_name, status=1).stderr


def test_senders_see_that_it_was_delivered_once_it_is_printed(command: Make, server: Service) -> None:
    name, _ = names("delivered")
    bob = command().enter("register", name)
    [me] = bob.records("whoami")
    anna = server.user()
    assert anna.ask("ADDCONTACT", {"userid": me["userid"]}).ok
    assert anna.answer().response == "FETCHCONTACT"
    bob.run("add", str(anna.user))
    anna.ask_features("marks")
    sent = [anna.say(me["userid"], in_base64(text)) for text in ("one", "two")]
    bob.run("contacts")
    assert [one["content"] for one in bob.records("tail", "--once")] == ["one", "two"]
    [mark] = anna.hint("FORWARDMARK")["marks"]
    assert (mark["mark"], mark["md5encoded"]) == ("delivered", sent[1]["md5encoded"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_it(shell: str, command: Make) -> None:
    assert "_CHATSVC_COMPLETE" in command().run("completion", shell).stdout


def test_it_completes_the_names_that_were_heard(command: Make, server: Service, tmp_path: Path) -> None:
    name, other = names("complete")
    anna = command("default").enter("register", name)
    command("other").enter("register", other)
    anna.run("search", other)
    anna.environment |= {
        "_CHATSVC_COMPLETE": "bash_complete", "COMP_WORDS": "chatsvc send compl", "COMP_CWORD": "2",
    }  # fmt: skip
    assert other in anna.run().stdout
