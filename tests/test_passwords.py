"""Passwords against the real bcrypt at its lowest cost: what is accepted, what is queued, how it stops.

Work is counted, never timed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import bcrypt
import pytest
import pytest_twisted
from twisted.python.failure import Failure

from chatsvc.passwords import Busy, Passwords, Turn, _secret
from tests.waiting import DEADLINE, reactor, until, within

COST = 4


class Gate:
    """Takes the place of bcrypt: says that it was entered, and keeps the thread until it is opened."""

    def __init__(self) -> None:
        self.entered = 0
        self.opened = threading.Event()

    def __call__(self, password: bytes, salt: bytes) -> bytes:
        self.entered += 1
        assert self.opened.wait(DEADLINE)
        return salt


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    subject = Passwords(COST, 2, 64, reactor)
    subject.start()
    yield subject
    subject.stop()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(bcrypt, "hashpw", gate)
    return gate


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("secret", "Secret", id="plain"),
        pytest.param("a" * 72 + "b", "a" * 72 + "c", id="differs in byte 73"),
        pytest.param("a" * 1024, "a" * 1023, id="longest"),
        pytest.param("a", "a\0a", id="longer by a NUL"),
        pytest.param("\0a", "\0b", id="differs after a NUL"),
        pytest.param("пароль 密码 🔑", "пароль 密码 🔒", id="unicode"),
        pytest.param("é", "e\u0301", id="another spelling of the same character"),
        pytest.param("x", "", id="empty"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_the_same_password_matches(passwords: Passwords, right: str, wrong: str) -> None:
    stored = await within(passwords.hash(right))
    assert await within(passwords.verify(right, stored)) is True
    assert await within(passwords.verify(wrong, stored)) is False
    other = await within(passwords.hash(wrong))
    assert await within(passwords.verify(wrong, other)) is True
    assert await within(passwords.verify(right, other)) is False


@pytest_twisted.ensureDeferred
async def test_a_hash_is_salted_and_has_the_configured_cost(passwords: Passwords) -> None:
    first = await within(passwords.hash("secret"))
    second = await within(passwords.hash("secret"))
    assert first != second
    assert first.startswith(b"$2b$04$")


@pytest_twisted.ensureDeferred
async def test_what_an_earlier_version_stored_still_matches(passwords: Passwords) -> None:
    stored = b"$2b$04$eb5hDIli96HEOKwsXEPDzeTAFkNqbjkpIGRzceE2BqudPij.Uexja"
    assert await within(passwords.verify("пароль", stored)) is True
    assert await within(passwords.verify("Пароль", stored)) is False


@pytest_twisted.ensureDeferred
async def test_an_unknown_user_costs_the_same_work(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await within(passwords.hash("secret"))
    checked: list[tuple[int, bytes, int]] = []
    checkpw = bcrypt.checkpw

    def counted(secret: bytes, expected: bytes) -> bool:
        checked.append((len(secret), expected[:7], len(expected)))
        return checkpw(secret, expected)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    assert await within(passwords.verify("wrong", stored)) is False
    assert await within(passwords.verify("wrong", None)) is False
    known, unknown = checked
    assert known == unknown


@pytest_twisted.ensureDeferred
async def test_an_unknown_user_is_never_let_in(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: True)
    assert await within(passwords.verify("lucky", None)) is False


@pytest_twisted.ensureDeferred
async def test_a_stored_value_that_is_no_hash_is_an_error(passwords: Passwords) -> None:
    with pytest.raises(ValueError, match="salt"):
        await within(passwords.verify("secret", b"plain text"))


@pytest.mark.parametrize("cost", [3, 32])
def test_a_cost_that_bcrypt_does_not_know_is_refused_at_once(cost: int) -> None:
    with pytest.raises(ValueError, match="rounds"):
        Passwords(cost, 1, 1, reactor)


@pytest_twisted.ensureDeferred
async def test_over_the_queue_it_is_busy_until_there_is_room(gate: Gate) -> None:
    passwords = Passwords(COST, 1, 3, reactor)
    passwords.start()
    try:
        admitted = [within(passwords.hash("secret")) for _ in range(3)]
        with pytest.raises(Busy, match="At most 3 passwords"):
            await within(passwords.hash("secret"))
        with pytest.raises(Busy, match="At most 3 passwords"):
            await within(passwords.verify("secret", None))
        gate.opened.set()
        for call in admitted:
            assert await call
        assert await within(passwords.hash("secret"))
        assert gate.entered == 4
    finally:
        gate.opened.set()
        passwords.stop()


class Order:
    """Takes the place of bcrypt: keeps the threads until told, and notes in which order passwords came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[bytes] = []
        self._may_end = threading.Semaphore(0)
        self._names = {_secret(name): name for name in ("a", "b", "c")}
        monkeypatch.setattr(bcrypt, "hashpw", self)

    def __call__(self, password: bytes, salt: bytes) -> bytes:
        self.came.append(self._names[password].encode())
        assert self._may_end.acquire(timeout=DEADLINE)
        return salt

    def end(self, count: int) -> None:
        """Let so many end."""
        self._may_end.release(count)


@pytest_twisted.ensureDeferred
async def test_an_address_has_so_many_at_a_time_and_others_pass_it(monkeypatch: pytest.MonkeyPatch) -> None:
    order, passwords = Order(monkeypatch), Passwords(COST, 3, 64, reactor)
    passwords.start()
    try:
        crowd = [within(passwords.hash("a", Turn("192.0.2.1", 2))) for _ in range(4)]
        await until(lambda: len(order.came) == 2)
        assert (passwords.running, passwords.waiting) == (2, 2)
        other = within(passwords.hash("b", Turn("192.0.2.2", 2)))
        await until(lambda: order.came == [b"a", b"a", b"b"])
        order.end(5)
        for call in (*crowd, other):
            assert await call
        await until(lambda: (passwords.running, passwords.waiting) == (0, 0))
    finally:
        order.end(9)
        passwords.stop()


@pytest_twisted.ensureDeferred
async def test_the_turns_go_round_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    order, passwords = Order(monkeypatch), Passwords(COST, 1, 64, reactor)
    passwords.start()
    try:
        wanted = (("a", "192.0.2.1"),) * 4 + (("b", "192.0.2.2"),) * 2 + (("c", "192.0.2.3"),)
        calls = [within(passwords.hash(name, Turn(address, 2))) for name, address in wanted]
        order.end(len(calls))
        for call in calls:
            assert await call
        assert b"".join(order.came) == b"aabcaba"
    finally:
        order.end(9)
        passwords.stop()


@pytest.mark.parametrize("turn", [Turn("", 1), Turn("192.0.2.1", None)], ids=["no address", "no limit"])
@pytest_twisted.ensureDeferred
async def test_without_an_address_or_a_limit_all_threads_may_work(
    monkeypatch: pytest.MonkeyPatch, turn: Turn
) -> None:
    order, passwords = Order(monkeypatch), Passwords(COST, 2, 64, reactor)
    passwords.start()
    try:
        calls = [within(passwords.hash("a", turn)) for _ in range(2)]
        await until(lambda: len(order.came) == 2)
        order.end(2)
        for call in calls:
            assert await call
    finally:
        order.end(9)
        passwords.stop()


@pytest_twisted.ensureDeferred
async def test_a_failed_call_makes_room_too() -> None:
    passwords = Passwords(COST, 1, 1, reactor)
    passwords.start()
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match="salt"):
                await within(passwords.verify("secret", b"plain text"))
    finally:
        passwords.stop()


@pytest.mark.parametrize("threads", [2, None])
@pytest_twisted.ensureDeferred
async def test_it_computes_in_threads_and_leaves_the_reactor_a_core(
    monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    both = threading.Barrier(2, timeout=DEADLINE)  # breaks unless two threads are there at once

    def meet(password: bytes, salt: bytes) -> bytes:
        both.wait()
        return salt

    monkeypatch.setattr(bcrypt, "hashpw", meet)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    passwords = Passwords(COST, threads, 64, reactor)
    passwords.start()
    try:
        for call in [within(passwords.hash("secret")) for _ in range(2)]:
            assert await call
    finally:
        passwords.stop()


@pytest_twisted.ensureDeferred
async def test_stop_tells_everyone_who_waits_and_computes_nothing_more(gate: Gate) -> None:
    passwords = Passwords(COST, 1, 64, reactor)
    passwords.start()
    heard: list[bool] = []

    def told(failure: Failure) -> None:
        assert isinstance(failure.value, Busy)
        heard.append(gate.opened.is_set())
        if len(heard) == 4:
            gate.opened.set()  # only now may the running one end: stop must not wait for it first

    for _ in range(4):
        within(passwords.hash("secret")).addErrback(told)
    passwords.stop()
    assert heard == [False] * 4
    assert gate.entered <= 1
    with pytest.raises(Busy, match="shutting down"):
        await within(passwords.hash("secret"))
    passwords.stop()


def test_stop_without_start_tells_everyone_too() -> None:
    passwords = Passwords(COST, None, 64, reactor)
    call = within(passwords.hash("secret"))
    passwords.stop()
    heard: list[Failure] = []
    call.addErrback(heard.append)
    assert [failure.type for failure in heard] == [Busy]
