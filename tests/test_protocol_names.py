"""Section 5 of the protocol from outside: which names there are, and their two forms, plain and base64.

Accounts as such are tried in ``test_protocol_people.py``.
"""

from __future__ import annotations

import pytest

from tests.raw import Answer, Raw, in_base64, unique
from tests.service import Service

EMOJI = "\U0001f600"
PLAIN_DIALECTS = ["seed", "network"]


def padded(length: int, character: str = "x") -> str:
    """A name of this many code points that nobody has."""
    start = unique("n")
    return start + character * (length - len(start))


def shown_to(reader: Raw, user: int | None) -> str:
    """A user's name as a reader sees it."""
    return str(reader.ask("PROFILE", {"userid": user}).body["username"])


def taken(server: Service, name: str) -> bool:
    """Whether a name cannot be registered because somebody has it."""
    answer = server.connect().ask("REGISTER", {"username": name, "passwd": "secret"})
    assert answer.ok or answer.info == "Username already exists", answer
    return not answer.ok


# What is a name.


@pytest.mark.parametrize("request_", ["REGISTER", "MODIFYPROFILE"])
def test_names_of_1_to_256_code_points_are_names(server: Service, request_: str) -> None:
    single = unique()[-1]  # whoever has it, it is a name
    for name in (padded(256), padded(256, EMOJI), padded(256, "\u0301"), single):
        raw = server.connect("seed") if request_ == "REGISTER" else server.user("seed")
        answer = raw.ask(request_, {"username": name, "passwd": "secret"})
        if answer.ok:
            assert answer.body["username"] == raw.ask("STATE").body["username"] == name
        else:
            assert name == single
            assert answer.info == "Username already exists"


@pytest.mark.parametrize("request_", ["REGISTER", "MODIFYPROFILE"])
def test_other_lengths_are_none(server: Service, request_: str) -> None:
    raw = server.user("seed")
    before = raw.ask("STATE").body
    for name in ("", padded(257), padded(257, EMOJI), "x" * 100_000):
        answer = raw.ask(request_, {"username": name, "passwd": "secret"})
        assert answer.response == request_
        assert not answer.ok
        assert raw.ask("STATE").body == before


@pytest.mark.parametrize("request_", ["REGISTER", "MODIFYPROFILE"])
def test_control_characters_are_refused_in_both_forms(server: Service, dialect: str, request_: str) -> None:
    raw = server.user(dialect)
    before = raw.ask("STATE").body
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        for name in (f"{unique()}{chr(code)}x", in_base64(f"{unique()}{chr(code)}x"), in_base64(chr(code))):
            answer = raw.ask(request_, {"username": name, "passwd": "secret"})
            assert (answer.response, answer.status) == (request_, "ERR"), hex(code)
    assert raw.ask("STATE").body == before


def test_all_other_characters_come_back_as_sent(server: Service) -> None:
    raw, reader = server.user("seed"), server.user("network")
    for text in (
        " ",
        "\u00a0",
        "\u00ad",
        "\u200d",
        "\u2028\u2029",
        "\ufeff",
        "\ufffd\ufffe\uffff",
        "\U0010ffff",
    ):
        name = text + unique() + text
        assert raw.ask("MODIFYPROFILE", {"username": name}).body["username"] == name
        assert shown_to(reader, raw.user) == name
    for text in ("{}", "}:x{", "*?[a]", "'\"\\", "%s%d", "$1", "../..", "null", "\\ud800", "&amp;<b>"):
        name = text + unique()
        assert raw.ask("MODIFYPROFILE", {"username": name}).body["username"] == name
        assert reader.ask("SEARCHUSR", {"username": name}).body["userid"] == raw.user


def test_names_that_only_look_alike_are_different(server: Service) -> None:
    stem = unique()
    names = [
        stem + end for end in ("e\u0301", "\u00e9", "\u0435", "\u00c9", " ", "", "\u200b", "\ufb01", "fi")
    ]
    users = [server.connect("seed").register(name) for name in names]
    reader = server.user("seed")
    for name, user in zip(names, users, strict=True):
        assert reader.ask("SEARCHUSR", {"username": name}).body["userid"] == user


# The two forms.


@pytest.mark.parametrize("plain_first", [True, False])
def test_both_forms_of_a_name_are_one_name(server: Service, plain_first: bool) -> None:
    forms = [plain := unique("Zoë" + EMOJI), in_base64(plain)]
    first, second = forms if plain_first else reversed(forms)
    raw = server.connect("seed")
    raw.register(first)
    for dialect in ("released", *PLAIN_DIALECTS):
        other = server.connect(dialect)
        answer = other.ask("REGISTER", {"username": second, "passwd": "secret"})
        assert answer == Answer("REGISTER", "ERR", "Username already exists", None)
        for form in forms:
            assert other.login(form) == raw.user
            assert other.ask("SEARCHUSR", {"username": form}).body["userid"] == raw.user
        someone = server.user(dialect)
        assert not someone.ask("MODIFYPROFILE", {"username": second}).ok


def test_of_many_who_register_both_forms_exactly_one_gets_the_name(server: Service) -> None:
    name = unique()
    raws = [server.connect() for _ in range(8)]
    for raw in raws:
        raw.ask("STATE")
    for index, raw in enumerate(raws):
        form = name if index % 2 else in_base64(name)
        raw.send("REGISTER", {"username": form, "passwd": "secret"})
    assert sorted(raw.answer().status for raw in raws) == ["ERR"] * 7 + ["OK"]


def test_the_other_form_of_one_s_own_name_changes_nothing(server: Service, dialect: str) -> None:
    plain = unique()
    for first, second in ((plain, in_base64(plain)), (in_base64(plain + "2"), plain + "2")):
        raw, reader = server.connect(dialect), server.user("seed")
        raw.register(first)
        before = raw.ask("STATE").body
        assert raw.ask("MODIFYPROFILE", {"username": second}) == Answer("MODIFYPROFILE", "OK", None, before)
        assert raw.ask("MODIFYPROFILE", {"username": second, "avatar": "a"}).body == before | {"avatar": "a"}
        assert shown_to(reader, raw.user) == first


def test_a_long_name_s_form_for_the_released_client_works_for_it(server: Service) -> None:
    name = padded(256, EMOJI)
    server.connect("seed").register(name)
    raw = server.connect()
    user = raw.login(in_base64(name))
    shown = raw.ask("STATE").body
    assert shown["username"] == in_base64(name)
    assert raw.ask("SEARCHUSR", {"username": shown["username"]}).body["userid"] == user
    changed = raw.ask("MODIFYPROFILE", {"username": shown["username"], "avatar": "picture"})
    assert changed.body == shown | {"avatar": "picture"}
    assert taken(server, name)


def test_a_new_name_frees_both_forms_of_the_old_one(server: Service) -> None:
    raw = server.user()
    assert raw.ask("MODIFYPROFILE", {"username": in_base64(unique())}).ok
    assert not taken(server, in_base64(raw.name))
    assert taken(server, raw.name)


def test_base64_is_looked_through_once(server: Service) -> None:
    plain = unique()
    once, twice = in_base64(plain), in_base64(in_base64(plain))
    first, second = server.connect("seed"), server.connect("seed")
    first.register(plain)
    second.register(twice)
    for form, user in ((plain, first.user), (once, first.user), (twice, second.user)):
        assert first.ask("SEARCHUSR", {"username": form}).body["userid"] == user


def not_canonical() -> list[str]:
    """Names that some decoder would take for base64 of UTF-8."""
    plain = unique() + "ab"
    good = in_base64(plain)
    assert good.endswith("==")
    return [
        good[:-2],
        good[:-1],
        good + "=",
        good + "====",
        good[:-3] + chr(ord(good[-3]) + 1) + "==",  # bits that are thrown away
        good[:8] + " " + good[8:],
        in_base64(plain + "???>>>").replace("/", "_").replace("+", "-"),
        in_base64(plain + "x") + good,
        "\ufeff" + good,
    ]


def test_what_is_not_canonical_base64_is_plain(server: Service) -> None:
    reader = server.user()
    for name in not_canonical():
        raw = server.connect("seed")
        raw.register(name)
        assert raw.ask("STATE").body["username"] == name
        assert shown_to(reader, raw.user) == in_base64(name)


def test_base64_of_what_is_no_utf8_is_plain(server: Service) -> None:
    # "user", "test" and their like are base64, but not of UTF-8.
    name = "user" * 4 + unique()[-8:].replace("_", "x") + "/+v/"
    raw, reader = server.connect("seed"), server.user()
    raw.register(name)
    assert raw.ask("STATE").body["username"] == name
    assert shown_to(reader, raw.user) == in_base64(name)


# What the released client is shown.


@pytest.mark.parametrize("form", ["plain", "base64", "accents"])
def test_the_released_client_is_shown_base64_in_every_answer(server: Service, form: str) -> None:
    sent = {"plain": unique("bob!"), "base64": in_base64(unique()), "accents": unique("Zoë" + EMOJI)}[form]
    shown = sent if form == "base64" else in_base64(sent)
    raw = server.connect()
    user = {"userid": int(raw.ask("REGISTER", {"username": sent, "passwd": "p"}).body["userid"])}
    expected = user | {"username": shown, "avatar": None}
    other, accepted, wanted = server.user(), server.user(), server.user()
    for reader in (raw, other):
        for request, body in (
            ("PROFILE", user),
            ("SEARCHUSR", user),
            ("SEARCHUSR", {"username": sent}),
            ("SEARCHUSR", {"username": shown}),
        ):
            assert reader.ask(request, body).body == expected, request
    for request, body in (
        ("STATE", {}),
        ("MODIFYPROFILE", {}),
        ("MODIFYPROFILE", {"username": sent}),
        ("LOGIN", {"username": sent, "passwd": "p"}),
        ("LOGIN", {"username": shown, "passwd": "p"}),
    ):
        assert raw.ask(request, body).body == expected, request
    for adder, added in ((accepted, user), (raw, {"userid": accepted.user}), (other, user)):
        adder.ask("ADDCONTACT", added)
        assert adder.answer().response == "FETCHCONTACT"
    raw.ask("ADDCONTACT", {"userid": wanted.user})
    raw.answer()
    assert accepted.ask("FETCHCONTACT").body["contacts"] == [expected]
    assert other.ask("FETCHCONTACT").body["pending"] == [expected]
    assert wanted.ask("FETCHCONTACT").body["requesting"] == [expected]


@pytest.mark.parametrize("dialect", PLAIN_DIALECTS)
def test_others_are_shown_names_as_they_were_sent(server: Service, dialect: str) -> None:
    reader = server.user(dialect)
    for name in (unique("bob!"), in_base64(unique("bob!")), unique("Zoë" + EMOJI)):
        raw = server.connect()
        user = raw.register(name)
        assert shown_to(reader, user) == name
        assert reader.ask("SEARCHUSR", {"username": name}).body["username"] == name
        raw.ask("ADDCONTACT", {"userid": reader.user})
        assert reader.ask("FETCHCONTACT").body["requesting"][-1]["username"] == name


def test_avatars_are_never_changed(server: Service) -> None:
    raw = server.user()
    for avatar in ("not base64!", in_base64("picture"), "é", ""):
        assert raw.ask("MODIFYPROFILE", {"avatar": avatar}).body["avatar"] == avatar
        assert server.user("seed").ask("PROFILE", {"userid": raw.user}).body["avatar"] == avatar
