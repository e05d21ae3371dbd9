"""Somebody guesses: tokens, by the time of a LOGIN who has an account, and more passwords than are hashed.

These are the long forms, which need thousands of tries. Where each limit begins and ends is in
``tests/test_guard.py``.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from statistics import median

import pytest

from tests.chaos.control import control
from tests.chaos.load import LONG
from tests.chaos.oracle import Violated
from tests.chaos.pair import Make
from tests.chaos.report import Tally
from tests.guarding import PROXIED, through_proxy
from tests.raw import Raw, unique
from tests.service import Service, Valkey

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not LONG, reason="It needs thousands of tries: make chaos has the time."),
]

#: Each costs 4 ms to hash: so long that what else a LOGIN does is little beside it.
COST = ("--bcrypt-cost", "6")
LOGINS = 2000
#: One right server in a hundred looks by chance as if it told: so it must do that in each of these.
ROUNDS = 3
GUESSES = 20_000
#: Seconds for which passwords are sent as fast as they are answered.
FLOOD = 10


def server_of(store: Valkey, make: Make, *options: str) -> Service:
    return make("--redis", f"unix://{store.socket_path}", *options).start()


@control("quick-nobody")
def test_the_time_of_a_login_does_not_tell_who_exists(store: Valkey, buggy: Make, tally: Tally) -> None:
    server = server_of(store, buggy, *COST)
    tally.seed = secrets.randbelow(2**32)
    user, client = server.user(), server.connect()
    found = []
    for number in range(ROUNDS):
        known, unknown = logins(client, user.name, random.Random(tally.seed + number))
        found.append(f"medians {median(known):.6f} s and {median(unknown):.6f} s")
        if not tells(known, unknown):
            return
    raise Violated(found)


def logins(client: Raw, name: str, chance: random.Random) -> tuple[list[float], list[float]]:
    """How long LOGINs took, with wrong passwords, of a user and of nobody, in random order."""
    times: tuple[list[float], list[float]] = [], []
    order = [0, 1] * (LOGINS // 2)
    chance.shuffle(order)
    for which in order:
        credentials = {"username": (name, unique())[which], "passwd": secrets.token_hex(8)}
        began = time.perf_counter()
        assert client.ask("LOGIN", credentials).info == "Invalid username or password"
        times[which].append(time.perf_counter() - began)
    return times


def tells(known: list[float], unknown: list[float]) -> bool:
    """Whether the times differ: by the test of Mann and Whitney, or by the medians."""
    difference = abs(median(known) - median(unknown)) / median(known)
    return mann_whitney(known, unknown) <= 0.01 or difference >= 0.02


def mann_whitney(one: list[float], other: list[float]) -> float:
    """How likely it is that two samples of one kind differ at least so much (two-sided, normal for many)."""
    ranked = sorted(other)
    u = sum(bisect_left(ranked, x) + bisect_right(ranked, x) for x in one) / 2
    n, m = len(one), len(other)
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(u - n * m / 2) / deviation / math.sqrt(2))


@control("free-guesses")
def test_whoever_guesses_tokens_makes_few_devices(store: Valkey, buggy: Make, tally: Tally) -> None:
    server = server_of(store, buggy, "--token-rate", "60,20/min")
    began, infos = time.monotonic(), Counter[str]()
    before = len(store.ask("KEYS {d:*}").split(b"{d:"))
    while infos.total() < GUESSES:
        with Raw(server.address, "seed") as client:
            for _ in range(9):  # the ninth ends the connection
                client.send("STATE", tokenid=secrets.randbelow(2**53))
            for _ in range(9):
                answer = client.answer()
                infos[answer.info or "" if answer.response == "STATE" else answer.response] += 1
    made = len(store.ask("KEYS {d:*}").split(b"{d:")) - before
    tally.faults += ["token guessed"] * infos.total()
    if made > 60 + 20 * math.ceil((time.monotonic() - began) / 60):
        raise Violated([f"{made} devices of {infos}"])
    assert infos["UNKNOWN"] == infos.total() // 9


@control("one-line")
def test_a_flood_of_passwords_does_not_keep_others_out(store: Valkey, buggy: Make, tally: Tally) -> None:
    """Each of the flood is told something; who chats, and who logs in from elsewhere, is served before it."""
    server = server_of(store, buggy, *COST, *PROXIED, "--bcrypt-threads", "1", "--passwords-per-address", "2")
    alice, over = server.user(), threading.Event()
    infos: list[str | None] = []
    floods: list[float] = []
    chats: list[float] = []
    entries: list[float] = []

    def flood() -> None:
        with through_proxy(server, "203.0.113.7") as client:
            while not over.is_set():
                credentials = {"username": unique(), "passwd": "guess"}
                began = time.perf_counter()
                infos.append(client.ask("LOGIN", credentials).info)
                floods.append(time.perf_counter() - began)

    threads = [threading.Thread(target=flood) for _ in range(60)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + FLOOD
        while time.monotonic() < end:
            began = time.perf_counter()
            alice.say(alice.user or 0)
            chats.append(time.perf_counter() - began)
            with through_proxy(server, f"198.51.100.{len(entries) % 250}") as other:
                began = time.perf_counter()
                other.login(alice.name)
                entries.append(time.perf_counter() - began)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    tally.faults += ["password guessed"] * len(infos)
    assert set(infos) <= {"Invalid username or password", "Server busy, try again"}
    for what, times in (("chats", chats), ("logs in", entries)):
        if median(times) > median(floods) / 4:
            waits = f"who {what} waits {median(times):.3f} s"
            raise Violated([f"{waits}, beside a flood that waits {median(floods):.3f} s"])
