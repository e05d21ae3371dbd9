"""The text rules of ``docs/protocol.md`` section 5: base64 forms, names that are one, characters, lengths.

What the requests do with them is not tested here.
"""

from __future__ import annotations

import base64
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.wire.text import check_name, check_password, decoded, encoded, for_released, name_key

CANONICAL = {
    "": "",
    "Ym9i": "bob",
    "YWw=": "al",
    "YQ==": "a",
    "AAAA": "\0\0\0",
    "77u/": "\ufeff",
    "Pz8/": "???",
    "Pj4+": ">>>",
    "w7w=": "\u00fc",
    "8J+YgA==": "\U0001f600",
    "Ym9iCg==": "bob\n",
}
NOT_CANONICAL = {
    "bob": "not a multiple of four",
    "bob!": "not a base64 character",
    "Ym9iYg": "no padding",
    "Ym9iYg=": "too little padding",
    "Ym9iYg===": "too much padding",
    "YR==": "bits beyond the last byte",
    "YWx=": "bits beyond the last byte",
    "Ym9i\n": "white space",
    "Ym9\n": "white space, of the right length",
    " Ym9": "white space, of the right length",
    "====": "nothing but padding",
    "A===": "half a byte",
    "YQ==YQ==": "padding inside",
    "Y=9i": "padding inside",
    "Pz8_": "the URL-safe alphabet",
    "Pj4-": "the URL-safe alphabet",
    "\uff39\uff4d\uff19\uff49": "full-width letters",
    "Ym9\u0131": "not ASCII",
    "Ym9\ud800": "half a character",
    "/w==": "not UTF-8",
    "wIA=": "not UTF-8: an overlong form",
    "7aCA": "not UTF-8: a surrogate",
    "9JCAgA==": "not UTF-8: beyond Unicode",
    "w7w": "not a multiple of four",
    "ww==": "not UTF-8: cut short",
}


@pytest.mark.parametrize(("text", "plain"), CANONICAL.items())
def test_canonical_base64_of_utf8_is_decoded(text: str, plain: str) -> None:
    assert decoded(text) == plain
    assert encoded(plain) == text
    assert name_key(text) == plain
    assert for_released(text) == text


@pytest.mark.parametrize("text", NOT_CANONICAL, ids=NOT_CANONICAL.values())
def test_anything_else_is_taken_as_it_is(text: str) -> None:
    assert decoded(text) is None
    assert name_key(text) == text


@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert encoded(text) == base64.b64encode(text.encode()).decode()
    assert decoded(encoded(text)) == text
    assert name_key(encoded(text)) == text


def by_the_book(text: str) -> str | None:
    """What `text` is base64 of, as the standard library sees it."""
    try:
        plain = base64.b64decode(text, validate=True).decode()
    except ValueError:
        return None
    return plain if base64.b64encode(plain.encode()).decode() == text else None


@given(
    st.text()
    | st.text("ABYZabmyz0189+/=", max_size=12)
    | st.binary().map(lambda data: base64.b64encode(data).decode())
)
def test_only_what_encoding_gives_is_canonical(text: str) -> None:
    assert decoded(text) == by_the_book(text)


@given(st.text())
def test_a_released_client_can_read_what_it_gets(text: str) -> None:
    sent = for_released(text)
    assert sent == for_released(sent)
    assert base64.b64decode(sent, validate=True).decode() in (text, decoded(text))
    assert name_key(sent) == name_key(text)


def test_names_are_one_in_their_decoded_form_and_in_no_other() -> None:
    assert name_key("bob") == name_key("Ym9i") == "bob"
    assert name_key("WW05aQ==") == "Ym9i"  # decoded once: this is the name of somebody else
    assert name_key("bob!") == name_key(for_released("bob!")) == "bob!"
    assert len({name_key(name) for name in ("bob", "Bob", "bob ", "b\u00f6b", "bo\u0308b")}) == 5


# -- what may be a name, and a password ------------------------------------------------------------


def test_control_characters_are_those_of_category_cc() -> None:
    controls = {chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) == "Cc"}
    assert max(controls) < "\u1000"
    for character in map(chr, range(0x1000)):
        assert (check_name(f"a{character}") is not None) == (character in controls)


@pytest.mark.parametrize("name", ["\0", "a\nb", "\x1b[2J", "a\x7f", "a\x85b", "\r\n"])
def test_control_characters_are_refused_in_both_forms(name: str) -> None:
    for form in (name, encoded(name)):
        problem = check_name(form)
        assert problem is not None
        assert problem.endswith(".")
        assert name not in problem
    assert check_name(encoded(encoded(name))) is None  # decoded once it is plain letters


@pytest.mark.parametrize("unit", ["a", "\u00fc", "\u4e2d", "\U0001f600", "\u0301"])
def test_lengths_count_code_points(unit: str) -> None:
    for check, most in ((check_name, 256), (check_password, 1024)):
        for allowed in (1, 2, most):
            assert check(unit * allowed) is None
        for length in (0, most + 1, 10 * most):
            problem = check(unit * length)
            assert problem is not None
            assert f"1 to {most} characters" in problem
            assert problem.endswith(f"has {length}.")


def test_the_length_of_a_name_is_that_of_the_form_it_came_in() -> None:
    assert check_name(encoded("x" * 192)) is None
    problem = check_name(encoded("x" * 193))
    assert problem is not None
    assert "256" in problem


def test_a_password_may_hold_anything_and_is_never_quoted() -> None:
    assert check_password("\0 \n\x7f\U0001f600") is None
    problem = check_password("hunter2" * 1000)
    assert problem is not None
    assert "hunter2" not in problem
