"""Caps of connections over sockets; where exactly each begins is in ``test_network_doors.py``."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from tests.raw import Raw
from tests.service import Service, wait_for

Make = Callable[..., Service]
#: Runs a server that may open so many files.
FILES = 100
FEW_FILES = (
    "/usr/bin/env",
    "prlimit",
    f"--nofile={FILES}:{FILES}",
    str(Path(sys.executable).parent / "twistd"),
)


def test_one_too_many_of_an_address_hears_why_and_comes_in_when_there_is_room(
    service: Make, tmp_path: Path
) -> None:
    path = tmp_path / "chat.sock"
    options = ("--connections-per-address", "3", "--max-connections", "1000", "--listen", f"unix:{path}")
    server = service(*options, command=(*FEW_FILES, "-n", "--pidfile=")).start()
    assert f"room for {FILES * 8 // 10} connections of a process, not for the 1000 of" in server.log()
    users = [server.user() for _ in range(3)]
    refused = server.connect()
    answer = refused.receive()
    assert (answer.response, answer.status) == ("UNKNOWN", "ERR")
    assert "3 connections" in str(answer.info)
    wait_for(lambda: refused.is_reset, "it is reset")
    local = socket.socket(socket.AF_UNIX)
    local.connect(str(path))
    with Raw(server.address, through=local) as here:
        assert here.register("somebody on this machine")
    assert all(user.ask("STATE").ok for user in users)
    users[0].close()
    again = server.connect(token=users[0].token)

    def is_in() -> bool:
        nonlocal again
        try:
            return again.ask("STATE").response == "STATE"
        except OSError:  # the server has not seen the end of the other one yet
            again = server.connect(token=users[0].token)
            return False

    wait_for(is_in, "there is room")
    assert "3 connections, none of them idle" in server.log()


def test_who_comes_to_a_full_server_waits_until_somebody_goes(service: Make) -> None:
    server = service("--max-connections", "3").start()
    users = [server.user() for _ in range(3)]
    waiting = server.connect()
    waiting.send("STATE")
    assert users[1].say(users[0].user or 0)  # the server has had time for the one who waits
    assert waiting.silent()
    users[2].close()
    assert waiting.answer().info == "User not logged in"


def test_of_one_user_the_longest_idle_connection_and_the_longest_unused_device_go(service: Make) -> None:
    server = service("--connections-per-user", "2", "--devices-per-user", "2").start()
    phone = server.user()
    second = server.again(phone)
    assert phone.ask("STATE").ok
    third = server.again(phone)
    wait_for(lambda: second.is_reset, "the longest idle is cut")
    phone.close()
    assert third.ask("STATE").ok
    third.close()
    laptop = server.device(phone)
    tablet = server.device(phone)
    assert [one.ask("STATE").ok for one in (laptop, tablet)] == [True, True]
    tablet.close()
    assert server.connect(token=phone.token).ask("STATE").info == "User not logged in"
