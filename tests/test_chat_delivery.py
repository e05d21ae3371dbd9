"""What counts as delivered and as acknowledged, against models that say it in another way."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.chat import delivery as subject
from chatsvc.chat.delivery import ANSWERS_KEPT, RECENT_KEPT, Deliveries, Delivery, Ledger

USER = 1
places = st.integers(0, 12)

# What was delivered to a device.


def test_all_up_to_the_cursor_counts_as_delivered() -> None:
    delivery = Delivery(USER, 7)
    assert (delivery.cursor, delivery.delivered) == (7, 7)


def test_what_follows_on_what_was_delivered_counts() -> None:
    delivery = Delivery(USER, 5)
    delivery.add(5, 6, None)
    delivery.add(6, 9, 1000)
    assert (delivery.cursor, delivery.delivered) == (5, 9)


def test_what_comes_after_a_gap_does_not_count() -> None:
    delivery = Delivery(USER, 5)
    delivery.add(6, 9, 1000)
    assert delivery.delivered == 5
    assert delivery.answer_end(1000) is None


def test_what_was_delivered_stays_delivered() -> None:
    delivery = Delivery(USER, 0)
    delivery.add(0, 9, None)
    delivery.add(0, 4, 1000)
    assert delivery.delivered == 9
    assert delivery.answer_end(1000) == 4


@given(st.integers(0, 5), st.lists(st.tuples(places, places).filter(lambda part: part[0] <= part[1])))
def test_delivered_is_the_end_of_what_has_no_gap(cursor: int, parts: list[tuple[int, int]]) -> None:
    delivery, seen = Delivery(USER, cursor), set(range(1, cursor + 1))
    for start, end in parts:
        delivery.add(start, end, None)
        if seen.issuperset(range(1, start + 1)):
            seen |= set(range(start + 1, end + 1))
        assert delivery.delivered == len(seen)
        assert delivery.cursor == cursor


def test_a_cursor_that_another_node_moved_is_taken_over() -> None:
    delivery = Delivery(USER, 2)
    delivery.add(2, 4, 1000)
    delivery.moved(3)
    assert (delivery.cursor, delivery.delivered) == (3, 4)
    delivery.moved(8)
    assert (delivery.cursor, delivery.delivered) == (8, 8)
    assert delivery.answer_end(1000) is None
    delivery.moved(1)
    assert (delivery.cursor, delivery.delivered) == (8, 8)


def test_acknowledging_moves_the_cursor_forward_only() -> None:
    delivery = Delivery(USER, 0)
    delivery.add(0, 9, None)
    for end, cursor in ((4, 4), (2, 4), (9, 9)):
        delivery.acknowledge(end)
        assert delivery.cursor == cursor


# FETCHMSG answers, as ACKFETCH finds them.


def test_of_answers_with_one_timestamp_the_oldest_is_meant() -> None:
    delivery = Delivery(USER, 0)
    for end, newest in ((3, 1000), (5, 2000), (7, 1000)):
        delivery.add(0, end, newest)
    assert delivery.answer_end(1000) == 3
    assert delivery.answer_end(2000) == 5
    assert delivery.answer_end(1500) is None
    delivery.acknowledge(3)
    assert delivery.answer_end(1000) == 7


def test_an_answer_given_twice_is_acknowledged_once() -> None:
    delivery = Delivery(USER, 0)
    for _ in range(2):
        delivery.add(0, 3, 1000)
    delivery.acknowledge(3)
    assert delivery.answer_end(1000) is None


def test_an_acknowledged_answer_is_not_meant_behind_a_longer_one() -> None:
    delivery = Delivery(USER, 0)
    for end, newest in ((9, 2000), (5, 1000), (12, 1000)):
        delivery.add(0, end, newest)
    delivery.acknowledge(5)
    assert delivery.answer_end(1000) == 12


def test_pushes_and_empty_answers_are_no_answers_to_acknowledge() -> None:
    delivery = Delivery(USER, 0)
    delivery.add(0, 3, None)
    assert delivery.answer_end(0) is None


def test_the_oldest_answers_are_forgotten_when_there_are_too_many() -> None:
    delivery = Delivery(USER, 0)
    for place in range(ANSWERS_KEPT + 1):
        delivery.add(place, place + 1, place)
    assert delivery.answer_end(0) is None
    assert delivery.answer_end(1) == 2
    assert delivery.answer_end(ANSWERS_KEPT) == ANSWERS_KEPT + 1


# What a node knows of all devices.


def test_what_was_delivered_is_known_by_device_and_user() -> None:
    deliveries = Deliveries()
    begun = deliveries.begin("device", 1, 5)
    assert (begun.user_id, begun.cursor) == (1, 5)
    assert deliveries.find("device", 1) is begun
    assert deliveries.find("device", 2) is None
    assert deliveries.find("another", 1) is None
    again = deliveries.begin("device", 1, 3)
    assert deliveries.find("device", 1) is again is not begun
    assert again.cursor == 3


def test_a_node_forgets_the_oldest_of_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "DELIVERIES_KEPT", 3)
    deliveries = Deliveries()
    for user_id in range(1, 5):
        deliveries.begin("device", user_id, 0)
    assert [deliveries.find("device", user_id) is not None for user_id in range(1, 5)] == [False, *[True] * 3]


# What one connection wrote out.


def test_nothing_is_delivered_before_it_is_written_out() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    ledger.give(100, delivery, 0, 1)
    ledger.give(200, delivery, 1, 2)
    for written, delivered in ((99, 0), (100, 1), (199, 1), (500, 2)):
        ledger.written(written, 0.0)
        assert delivery.delivered == delivered
        assert ledger.reached_peer(500).get(delivery, 0) == delivered


def test_what_does_not_count_for_the_device_does_not_count_for_the_connection() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    ledger.give(100, delivery, 1, 2)
    ledger.written(100, 0.0)
    assert (delivery.delivered, ledger.reached_peer(100)) == (0, {})


def test_connections_of_one_device_fill_each_others_gaps() -> None:
    one, two, delivery = Ledger(), Ledger(), Delivery(USER, 0)
    two.give(50, delivery, 1, 2)
    one.give(100, delivery, 0, 1)
    one.written(100, 0.0)
    two.written(50, 0.0)
    assert delivery.delivered == 2
    assert (one.reached_peer(100), two.reached_peer(50)) == ({delivery: 1}, {delivery: 2})


def test_an_answer_of_a_fetch_is_noted_once_it_is_written_out() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    ledger.give(100, delivery, 0, 1, newest=1000)
    assert delivery.answer_end(1000) is None
    ledger.written(100, 0.0)
    assert delivery.answer_end(1000) == 1


def last_answer(ledger: Ledger) -> tuple[float | None, dict[Delivery, int]]:
    """When it was written out, and what was delivered by then."""
    return ledger.answered_at, ledger.answered


def test_an_answer_is_done_when_its_last_byte_is_written_out() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    assert last_answer(ledger) == (None, {})
    ledger.give(80, delivery, 0, 1)
    ledger.answer(100)
    ledger.give(150, delivery, 1, 2)  # a push behind it, which may be unread when the next request comes
    ledger.written(99, 5.0)
    assert last_answer(ledger) == (None, {})
    ledger.written(150, 6.0)
    assert last_answer(ledger) == (6.0, {delivery: 1})
    assert delivery.delivered == 2
    ledger.answer(200)
    assert ledger.answered_at is None
    ledger.written(200, 7.0)
    assert last_answer(ledger) == (7.0, {delivery: 2})


def test_an_earlier_answer_does_not_stand_for_the_last_one() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    ledger.answer(100)
    ledger.give(150, delivery, 0, 1)
    ledger.answer(200)
    ledger.written(150, 5.0)
    assert ledger.answered_at is None


def test_another_binding_leaves_what_the_first_one_delivered() -> None:
    ledger, first, second = Ledger(), Delivery(1, 0), Delivery(2, 0)
    ledger.give(100, first, 0, 7)
    ledger.answer(100)
    ledger.give(200, second, 0, 3)
    ledger.written(200, 5.0)
    assert ledger.answered == {first: 7}
    assert ledger.reached_peer(200) == {first: 7, second: 3}


def test_another_device_starts_anew() -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    ledger.give(100, delivery, 0, 1)
    ledger.answer(100)
    ledger.written(100, 5.0)
    ledger.give(200, delivery, 1, 2)
    ledger.answer(200)
    ledger.reset()
    ledger.written(200, 6.0)
    assert (ledger.answered_at, ledger.answered, ledger.reached_peer(200)) == (None, {}, {})
    assert delivery.delivered == 1


@pytest.mark.parametrize("together", [1, 7, 100 * RECENT_KEPT])
def test_of_much_under_way_it_is_known_less_exactly_how_far_it_came(together: int) -> None:
    ledger, delivery, total = Ledger(), Delivery(USER, 0), 100 * RECENT_KEPT
    for place in range(total):
        ledger.give(place + 1, delivery, place, place + 1)
        if (place + 1) % together == 0:
            ledger.written(place + 1, 0.0)
    ledger.written(total, 0.0)
    known = [ledger.reached_peer(offset).get(delivery, 0) for offset in range(total + 1)]
    assert all(end <= offset for offset, end in enumerate(known))
    assert RECENT_KEPT / 2 <= len(set(known) - {0}) <= RECENT_KEPT
    assert known[total - 2 * RECENT_KEPT] > total - 6 * RECENT_KEPT
    assert known[total] == total


class Given(NamedTuple):
    """A step of the model: `size` bytes are queued, which deliver the next `entries`."""

    size: int
    entries: int
    ends_answer: bool


class Wrote(NamedTuple):
    """Another: so many more bytes are written out."""

    size: int


steps = st.lists(
    st.builds(Given, st.integers(0, 3), st.integers(0, 2), st.booleans())
    | st.builds(Wrote, st.integers(0, 4))
)


@given(steps)
def test_a_ledger_agrees_with_one_that_forgets_nothing(trace: list[Given | Wrote]) -> None:
    ledger, delivery = Ledger(), Delivery(USER, 0)
    offset = written = place = 0
    ends: list[tuple[int, int]] = []  # (offset, what is delivered by then)
    last: tuple[int, int] | None = None
    answered_at = None
    for now, step in enumerate(trace):
        if isinstance(step, Given):
            offset += step.size
            if step.entries:
                ledger.give(offset, delivery, place, place + step.entries)
                place += step.entries
                ends.append((offset, place))
            if step.ends_answer:
                ledger.answer(offset)
                last, answered_at = (offset, place), None
        else:
            written = min(offset, written + step.size)
            ledger.written(written, float(now))
            if last is not None and answered_at is None and last[0] <= written:
                answered_at = float(now)
            reached = [
                max((end for at, end in ends if at <= limit), default=0) for limit in range(written + 1)
            ]
            assert delivery.delivered == reached[-1]
            assert [ledger.reached_peer(limit).get(delivery, 0) for limit in range(written + 1)] == reached
        assert ledger.answered_at == answered_at
        if answered_at is not None and last is not None:
            assert ledger.answered.get(delivery, 0) == last[1]
