"""Store addresses: every form read, every wrong one refused in words that hold no password."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.store.url import SCHEMES, StoreUrl, parse

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://store", StoreUrl(kind="tcp", host="store", port=6379, db=0)),
        ("redis://store/", StoreUrl(kind="tcp", host="store")),
        ("REDIS://store", StoreUrl(kind="tcp", host="store")),
        ("redis://my_store.example:6380/3", StoreUrl(kind="tcp", host="my_store.example", port=6380, db=3)),
        ("redis://127.0.0.1:1", StoreUrl(kind="tcp", host="127.0.0.1", port=1)),
        ("redis://[::1]", StoreUrl(kind="tcp", host="::1")),
        ("redis://[2001:db8::7]:65535/1", StoreUrl(kind="tcp", host="2001:db8::7", port=65535, db=1)),
        ("rediss://store", StoreUrl(kind="tcp", host="store", tls=True)),
        ("redis://:p@store", StoreUrl(kind="tcp", host="store", password="p")),
        ("redis://u@store", StoreUrl(kind="tcp", host="store", username="u")),
        ("redis://u:p@[::1]:7", StoreUrl(kind="tcp", host="::1", port=7, username="u", password="p")),
        ("redis://:@store", StoreUrl(kind="tcp", host="store")),
        ("redis://@store", StoreUrl(kind="tcp", host="store")),
        ("redis://:a:b@store", StoreUrl(kind="tcp", host="store", password="a:b")),
        (
            "redis://a%40b:p%2F%3A%25%C3%A9@store",
            StoreUrl(kind="tcp", host="store", username="a@b", password="p/:%é"),
        ),
        ("unix:///run/store.sock", StoreUrl(kind="unix", path="/run/store.sock")),
        ("unix:///run/store.sock?db=2", StoreUrl(kind="unix", path="/run/store.sock", db=2)),
        ("unix:///run/odd%3Fname@x", StoreUrl(kind="unix", path="/run/odd?name@x")),
        (
            "unix://u:p@/run/store.sock?db=15",
            StoreUrl(kind="unix", path="/run/store.sock", username="u", password="p", db=15),
        ),
        ("sentinel://one/main", StoreUrl(kind="sentinel", hosts=(("one", 26379),), service="main")),
        ("sentinel://one/main/", StoreUrl(kind="sentinel", hosts=(("one", 26379),), service="main")),
        (
            "sentinel://u:p%2C,q@one:1,[::1],10.0.0.3:3/my-store_1.a/4",
            StoreUrl(
                kind="sentinel",
                hosts=(("one", 1), ("::1", 26379), ("10.0.0.3", 3)),
                service="my-store_1.a",
                username="u",
                password="p,,q",
                db=4,
            ),
        ),
        ("cluster://one", StoreUrl(kind="cluster", hosts=(("one", 6379),))),
        (
            "cluster://:p@one:1,[::1]:2,three/",
            StoreUrl(kind="cluster", hosts=(("one", 1), ("::1", 2), ("three", 6379)), password="p"),
        ),
    ],
)
def test_every_form_is_read(text: str, expected: StoreUrl) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "one of these forms"),
        (f"{SECRET}@store:6379", "one of these forms"),
        (f"http://:{SECRET}@store", "one of these forms"),
        (f"{SECRET}://store", "one of these forms"),
        (f"redis:/:{SECRET}@store", "one of these forms"),
        ("redis://", "The host"),
        (f"redis://:{SECRET}@", "The host"),
        (f"redis://:{SECRET}@store name", "The host"),
        (f"redis://:{SECRET}@store\n", "The host"),
        (f"redis://:{SECRET}@::1:6379", "in brackets"),
        (f"redis://:{SECRET}@[::1", "in brackets"),
        (f"redis://:{SECRET}@[1.2.3.4]", "in brackets"),
        (f"redis://:{SECRET}@[::g]", "in brackets"),
        (f"redis://:{SECRET}@[::1]6379", "in brackets"),
        (f"redis://:{SECRET}@store:", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store:0", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store:65536", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store:{'9' * 5000}", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store:+1", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store:٣", "port has to be a whole number from 1 to 65535"),
        (f"redis://user:{SECRET}", "port has to be a whole number from 1 to 65535"),
        (f"redis://:{SECRET}@store/one", "database has to be a whole number from 0"),
        (f"redis://:{SECRET}@store/-1", "database has to be a whole number from 0"),
        (f"redis://:{SECRET}@store/2147483648", "database has to be a whole number from 0"),
        (f"redis://:{SECRET}@store/0/1", "database has to be a whole number from 0"),
        (f"redis://:{SECRET}@store?db=1", "'?'"),
        (f"redis://:{SECRET}#x@store", "'#'"),
        (f"redis://:1/{SECRET}@store", "'/' in the user or the password"),
        (f"redis://:x@{SECRET}@store", "'@' in the user or the password"),
        (f"redis://:{SECRET}%zz@store", "'%' in the password"),
        (f"redis://:{SECRET}%@store", "'%' in the password"),
        (f"redis://%1:{SECRET}@store", "'%' in the user"),
        (f"redis://:{SECRET}%FF@store", "bytes of the password have to be UTF-8"),
        (f"redis://:{SECRET}\udcff@store", "bytes of the password have to be UTF-8"),
        ("unix://", "path has to be absolute"),
        (f"unix://:{SECRET}@", "path has to be absolute"),
        (f"unix://:{SECRET}@run/store.sock", "path has to be absolute"),
        (f"unix://:{SECRET}/run/store.sock", "path has to be absolute"),
        (f"unix://:{SECRET}@/", "path has to be that of a socket"),
        (f"unix://:{SECRET}@/run/", "path has to be that of a socket"),
        (f"unix://:{SECRET}@/run/%00", "path has to be that of a socket"),
        (f"unix://:{SECRET}@/run/%GG", "'%' in the path"),
        (f"unix://:{SECRET}@/s?", "only db=N"),
        (f"unix://:{SECRET}@/s?database=1", "only db=N"),
        (f"unix://:{SECRET}@/s?db=", "database has to be a whole number from 0"),
        (f"unix://:{SECRET}@/s?db=1&db=2", "database has to be a whole number from 0"),
        (f"unix://x@:{SECRET}@/s", "'@' in the user or the password"),
        (f"sentinel://:{SECRET}@", "the name has to stand"),
        (f"sentinel://:{SECRET}@one,two", "the name has to stand"),
        (f"sentinel://:{SECRET}@one/a%20b", "the name has to stand"),
        (f"sentinel://:{SECRET}@/main", "The host"),
        (f"sentinel://:{SECRET}@one,/main", "The host"),
        (f"sentinel://:{SECRET}@one, two/main", "The host"),
        (f"sentinel://:{SECRET}@one:0,two/main", "port has to be a whole number from 1 to 65535"),
        (f"sentinel://:{SECRET}@one/main/x", "database has to be a whole number from 0"),
        (f"sentinel://:{SECRET}@one/main/1/2", "database has to be a whole number from 0"),
        (f"sentinel://:{SECRET}@one/main?x", "'?'"),
        (f"sentinel://:1/{SECRET}@one/main", "'/' in the user or the password"),
        (f"sentinel://one,x@:{SECRET}@two/main", "'@' in the user or the password"),
        (f"cluster://:{SECRET}@", "The host"),
        (f"cluster://:{SECRET}@one,,two", "The host"),
        (f"cluster://:{SECRET}@one,two:x", "port has to be a whole number from 1 to 65535"),
        (f"cluster://:{SECRET}@one,two/0", "no databases"),
    ],
)
def test_a_wrong_address_is_refused_without_its_password(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"form") as refused:
        parse(text)
    message = str(refused.value)
    assert named in message
    assert any(row.form in message for row in SCHEMES.values())
    assert SECRET not in message


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("redis://store", "redis://store:6379/0"),
        ("rediss://store:1/2", "rediss://store:1/2"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        (f"redis://:{SECRET}@store", "redis://:***@store:6379/0"),
        (f"rediss://u%0A:{SECRET}@store", "rediss://u%0A:***@store:6379/0"),
        (f"unix://u:{SECRET}@/run/a%20b?db=1", "unix://u:***@/run/a%20b?db=1"),
        ("unix:///run/s", "unix:///run/s?db=0"),
        (f"sentinel://u:{SECRET}@one,[::1]:2/main", "sentinel://u:***@one:26379,[::1]:2/main/0"),
        (f"cluster://:{SECRET}@one,[::1]:2", "cluster://:***@one:6379,[::1]:2"),
    ],
)
def test_the_safe_form_and_the_repr_hide_the_password(text: str, safe: str) -> None:
    url = parse(text)
    assert url.safe == safe
    assert safe in repr(url)
    assert SECRET not in f"{url} {url!r} {[url]} {url.safe}"


@given(
    scheme=st.sampled_from([f"{name}://" for name in SCHEMES]),
    user=st.text(st.characters(exclude_categories=["Cs"])),
    password=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_user_and_password_travel_percent_encoded(scheme: str, user: str, password: str) -> None:
    place = {"unix://": "/run/s", "sentinel://": "one,two/main"}.get(scheme, "store")
    url = parse(f"{scheme}{quote(user, safe='')}:{quote(password, safe='')}@{place}")
    assert (url.username or "", url.password or "") == (user, password)


@given(
    text=st.text() | st.text("ab:1,/[]@"),
    scheme=st.sampled_from(["", "redis://:p@", *(f"{name}://" for name in SCHEMES)]),
)
def test_any_text_is_read_or_refused_and_what_is_read_has_a_safe_form(scheme: str, text: str) -> None:
    try:
        url = parse(scheme + text)
    except ValueError:
        return
    assert url.safe.isascii()
    assert url.safe.isprintable()
    if url.password is None:
        assert parse(url.safe) == url
