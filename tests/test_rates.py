"""Token buckets: what they let through, what they forget, and who is counted together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc import rates
from chatsvc.rates import Buckets, neighbourhood
from chatsvc.wire.limits import Rate

RATE = Rate(3, 0.5)


def test_a_bucket_is_full_at_first_and_fills_by_its_rate() -> None:
    buckets = Buckets()
    assert [buckets.take("a", RATE, 10.0) for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b", RATE, 10.0)
    assert not buckets.take("a", RATE, 11.9)
    assert buckets.take("a", RATE, 12.0)
    assert [buckets.take("a", RATE, 1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_refused_takes_nothing() -> None:
    buckets = Buckets()
    for at in range(3):
        assert buckets.take("a", RATE, 0.0), at
    for tenth in range(20):
        assert not buckets.take("a", RATE, tenth / 10)
    assert buckets.take("a", RATE, 2.0)


def test_without_a_rate_nothing_is_refused_or_kept() -> None:
    buckets = Buckets()
    assert all(buckets.take("a", None, 0.0) for _ in range(1000))
    assert buckets.wait("a", None, 0.0) == 0
    assert buckets.take("a", Rate(1, 1.0), 0.0)


def test_one_knows_how_long_to_wait() -> None:
    buckets = Buckets()
    assert buckets.wait("a", RATE, 0.0) == 0
    while buckets.take("a", RATE, 0.0):
        pass
    wait = buckets.wait("a", RATE, 0.5)
    assert wait == 1.5
    assert buckets.take("a", RATE, 0.5 + wait)


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets()
    while buckets.take("a", RATE, 0.0):
        pass
    buckets.give_back("a")
    buckets.give_back("of nobody")
    assert [buckets.take("a", RATE, 0.0) for _ in range(2)] == [True, False]


def test_a_rate_that_changes_is_used_at_once() -> None:
    buckets = Buckets()
    while buckets.take("a", RATE, 0.0):
        pass
    assert buckets.take("a", Rate(1, 100.0), 0.01)
    assert not buckets.take("a", Rate(1, 100.0), 0.01)


def test_the_longest_unused_is_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "KEPT", 2)
    buckets, one = Buckets(), Rate(1, 0.001)
    assert [buckets.take(key, one, 0.0) for key in "abca"] == [True, True, True, True]
    assert not buckets.take("c", one, 0.0)


@given(
    st.builds(Rate, st.integers(1, 20), st.floats(0.01, 50)),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 10)), max_size=200),
)
def test_no_more_gets_through_than_the_rate_says(rate: Rate, tries: list[tuple[str, float]]) -> None:
    buckets, now, through = Buckets(), 0.0, Counter[str]()
    for key, pause in tries:
        now += pause
        through[key] += buckets.take(key, rate, now)
        assert through[key] <= rate.burst + rate.per_second * now + 1e-6


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("", ""),
        ("somewhere", "somewhere"),
    ],
)
def test_addresses_are_counted_by_who_has_them(address: str, counted: str) -> None:
    assert neighbourhood(address) == counted
