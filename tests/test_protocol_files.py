"""Messages with files, FINDFILE and FETCHFILE as `docs/protocol.md` sections 5 and 5.1 have them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.raw import Answer, Raw
from tests.service import Service, wait_for

EMPTY_MD5 = hashlib.md5(b"").hexdigest()
NOT_FOUND = "File not found"
#: The public pair of Wang and Yu: two blocks of one MD5, six bits apart.
TWIN_MD5 = "79054025255fb1a26e4bc422aef54eb4"
_TWIN = bytearray.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
)
TWINS = [bytes(_TWIN), bytes(b ^ 0x80 if i in (19, 45, 59, 83, 109, 123) else b for i, b in enumerate(_TWIN))]


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def send_file(sender: Raw, target: Raw, data: bytes, **fields: Any) -> dict[str, Any]:
    """Send a file as a payload; gives the message."""
    assert target.user is not None
    fields = {"contenttype": "file", "filemd5": md5(data)} | fields
    return sender.say(target.user, "Li4vLi4vbmFtZS50eHQ=", data, **fields)


def by_hash(sender: Raw, target: Raw, filemd5: str | None, **fields: Any) -> Answer:
    """Send a file without a payload."""
    assert target.user is not None
    fields = {"contenttype": "file", "filemd5": filemd5, "md5encoded": secrets.token_hex(16)} | fields
    return sender.ask("SENDMSG", sender.message(target.user, **fields))


def fetch_file(reader: Raw, message: dict[str, Any], **ranges: Any) -> Answer:
    return reader.ask("FETCHFILE", {"msgmd5": message["md5encoded"]} | ranges)


def has(user: Raw, filemd5: str) -> bool:
    """What FINDFILE says; there are two answers only."""
    found = user.ask("FINDFILE", {"filemd5": filemd5})
    yes, no = Answer("FINDFILE", "OK", None, None), Answer("FINDFILE", "ERR", NOT_FOUND, None)
    assert found in (yes, no)
    return found == yes


@pytest.mark.parametrize("size", [1, 3, 65_536, 262_144, 262_145, 3_000_001])
def test_a_file_comes_back_whole_in_each_dialect(server: Service, dialect: str, size: int) -> None:
    alice, bob = server.user(dialect), server.user()
    data = secrets.token_bytes(size)
    sent = send_file(alice, bob, data)
    assert bob.push() == sent
    for reader in (bob, alice, server.again(bob, "seed"), server.device(alice, "network")):
        found = fetch_file(reader, sent)
        assert found[:4] == ("FETCHFILE", "OK", None, {"filemd5": md5(data), "size": size})
        assert found.payload == data


def test_an_image_may_be_a_payload_or_stand_in_the_content(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    data = secrets.token_bytes(1000)
    as_file = send_file(alice, bob, data, contenttype="image")
    as_content = alice.say(bob.user, "cGljdHVyZQ==", contenttype="image")
    assert bob.fetch() == [as_file, as_content]
    assert fetch_file(bob, as_file).payload == data
    assert fetch_file(bob, as_content).info == NOT_FOUND


@pytest.mark.parametrize("contenttype", ["file", "image"])
@pytest.mark.parametrize(
    "filemd5", [None, "", "0", "g" * 32, "0" * 31, "0" * 33, "../" + "0" * 29, " " * 32, 7]
)
def test_a_payload_needs_an_md5_of_32_hexadecimal_digits(
    server: Service, contenttype: str, filemd5: Any
) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, contenttype=contenttype, filemd5=filemd5, md5encoded="digits")
    found = alice.ask("SENDMSG", message, b"x" * 100_000)
    assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "digits"})
    assert alice.ask("STATE").ok
    assert bob.fetch() == []


@pytest.mark.parametrize("filemd5", ["absent", None, "", "0" * 31, "é" * 32])
def test_a_file_without_a_payload_needs_its_md5_too(server: Service, filemd5: str | None) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, contenttype="file", filemd5=filemd5, md5encoded="no digits")
    if filemd5 == "absent":
        del message["filemd5"]
    found = alice.ask("SENDMSG", message)
    assert (found.status, found.body) == ("ERR", {"md5encoded": "no digits"})
    assert bob.fetch() == []


def test_the_case_of_an_md5_makes_no_difference(server: Service) -> None:
    alice, bob = server.user(), server.user()
    data = secrets.token_bytes(500)
    upper, lower = md5(data).upper(), md5(data)
    sent = send_file(alice, bob, data, filemd5=upper)
    (found,) = bob.fetch()
    assert found == sent
    assert fetch_file(bob, sent).payload == data
    assert has(bob, upper)
    assert has(bob, lower)
    assert by_hash(bob, alice, lower).ok
    assert by_hash(bob, alice, upper).ok


@pytest.mark.parametrize("contenttype", ["file", "image"])
def test_another_payload_than_announced_is_refused_and_leaves_nothing(
    service: Callable[..., Service], contenttype: str
) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    announced, sent = secrets.token_bytes(200_000), secrets.token_bytes(200_000)
    message = alice.message(
        bob.user, contenttype=contenttype, filemd5=md5(announced), md5encoded="other bytes"
    )
    found = alice.ask("SENDMSG", message, sent)
    assert (found.response, found.status, found.body) == ("SENDMSG", "ERR", {"md5encoded": "other bytes"})
    empty = alice.ask("SENDMSG", message | {"filemd5": EMPTY_MD5}, sent)
    assert (empty.status, empty.body) == ("ERR", {"md5encoded": "other bytes"})
    for user in (alice, bob):
        assert not has(user, md5(announced))
        assert not has(user, md5(sent))
        assert fetch_file(user, message).info == NOT_FOUND
    assert not by_hash(alice, bob, md5(sent)).ok
    assert not alice.ask("SENDMSG", message | {"targetid": 10**6, "filemd5": md5(sent)}, sent).ok
    assert not alice.ask("SENDMSG", message | {"userid": bob.user, "filemd5": md5(sent)}, sent).ok
    assert bob.fetch() == []
    assert files_under(server.directory / "data" / "blobs") == []
    assert alice.ask("SENDMSG", message, announced).ok
    assert fetch_file(bob, message).payload == announced
    assert len(files_under(server.directory / "data" / "blobs")) == 1


def files_under(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_file_is_stored_under_its_sha256_whatever_a_client_claims(service: Callable[..., Service]) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    data = secrets.token_bytes(100)
    for _ in range(2):
        send_file(alice, bob, data, filemd5=md5(data).upper())
        send_file(bob, alice, data, md5encoded=f"../{secrets.token_hex(4)}")
    assert [path.name for path in files_under(server.directory / "data" / "blobs")] == [
        hashlib.sha256(data).hexdigest()
    ]


def test_a_broken_off_upload_leaves_nothing(service: Callable[..., Service]) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    message = alice.message(bob.user, contenttype="file", filemd5=md5(b"x" * 900_000))
    value = {"request": "SENDMSG", "body": message, "tokenid": alice.token}
    blobs = server.directory / "data" / "blobs"
    for cut in (Raw.close, Raw.reset):
        sender = server.again(alice)
        sender.socket.sendall(sender.frame(value, b"x" * 500_000, payload_length=900_000))
        wait_for(lambda: files_under(blobs), "the upload is under way")
        cut(sender)
        wait_for(lambda: not files_under(blobs), "what was uploaded is gone")
    assert bob.fetch() == []
    assert not has(alice, md5(b"x" * 900_000))


def test_two_files_of_one_md5_stay_two(server: Service) -> None:
    alice, bob, carol = server.user(), server.user(), server.user()
    one = send_file(alice, bob, TWINS[0], filemd5=TWIN_MD5)
    two = send_file(carol, bob, TWINS[1], filemd5=TWIN_MD5)
    assert [fetch_file(bob, message).payload for message in (one, two)] == TWINS
    assert fetch_file(alice, one).payload == TWINS[0]
    assert fetch_file(carol, two).payload == TWINS[1]
    on = send_file(bob, alice, TWINS[1], filemd5=TWIN_MD5)
    assert fetch_file(alice, on).payload == TWINS[1]
    assert fetch_file(alice, one).payload == TWINS[0]


def test_a_hash_alone_buys_nobody_a_file(server: Service) -> None:
    alice, bob, carol = server.user(), server.user(), server.user()
    data = secrets.token_bytes(1000)
    sent = send_file(alice, bob, data)
    assert has(alice, md5(data))
    assert has(bob, md5(data))
    assert not has(carol, md5(data))
    assert not has(carol, md5(b"nobody has this"))
    for target in (carol, alice, bob):
        found = by_hash(carol, target, md5(data), md5encoded=sent["md5encoded"])
        assert (found.status, found.body) == ("ERR", {"md5encoded": sent["md5encoded"]})
    assert fetch_file(carol, sent) == ("FETCHFILE", "ERR", NOT_FOUND, None, b"")
    assert carol.fetch() == []


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_who_may_fetch_a_file_may_send_it_on_without_a_payload(server: Service, who: str) -> None:
    alice, bob, carol = server.user(), server.user(), server.user()
    data = secrets.token_bytes(1000)
    send_file(alice, bob, data)
    forwarder = alice if who == "sender" else bob
    assert by_hash(forwarder, carol, md5(data), md5encoded="sent on").ok
    (found,) = carol.fetch()
    assert (found["filemd5"], found["contenttype"]) == (md5(data), "file")
    assert fetch_file(carol, found).payload == data
    assert has(carol, md5(data))
    assert by_hash(carol, carol, md5(data)).ok  # and so on


def test_a_file_may_be_sent_on_right_behind_its_upload(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    for _ in range(5):
        data = secrets.token_bytes(50_000)
        names = [secrets.token_hex(8) for _ in range(3)]
        for index, name in enumerate(names):
            fields = {"contenttype": "file", "filemd5": md5(data), "md5encoded": name}
            alice.send("SENDMSG", alice.message(bob.user, **fields), b"" if index else data)
        assert [alice.answer()[1:4] for _ in names] == [("OK", None, {"md5encoded": name}) for name in names]
        assert [bob.push()["md5encoded"] for _ in names] == names


def test_the_empty_file_needs_no_payload_and_nothing_before_it(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user(dialect)
    assert not has(alice, EMPTY_MD5)
    sent = send_file(alice, bob, b"")
    assert bob.fetch() == [sent]
    for user in (alice, bob):
        assert has(user, EMPTY_MD5)
        found = fetch_file(user, sent)
        assert (found.body, found.payload) == ({"filemd5": EMPTY_MD5, "size": 0}, b"")
    assert fetch_file(bob, sent, offset=0, length=5).ok
    assert not fetch_file(bob, sent, offset=1).ok
    assert bob.ask("STATE").ok  # nothing stands between the frames


def test_a_repeat_of_a_file_stands_for_the_first_whatever_comes_with_it(server: Service) -> None:
    alice, bob = server.user(), server.user()
    first, other = secrets.token_bytes(1000), secrets.token_bytes(2000)
    sent = send_file(alice, bob, first)
    repeats = [
        (sent, first),
        (sent, b""),
        (sent, other),
        (sent | {"filemd5": md5(other)}, other),
        (sent | {"filemd5": md5(other)}, b""),
        (sent | {"filemd5": md5(other)}, first),
        (sent | {"contenttype": "image"}, other),
        (sent | {"contenttype": "plaintext", "filemd5": None}, b""),
    ]
    for message, payload in repeats:
        found = alice.ask("SENDMSG", message, payload)
        assert found == ("SENDMSG", "OK", None, {"md5encoded": sent["md5encoded"]}, b"")
    last = alice.say(sent["targetid"], "bGFzdA==")
    assert [bob.push(), bob.push()] == [sent, last]
    assert bob.fetch() == [sent, last]
    assert fetch_file(bob, sent).payload == fetch_file(alice, sent).payload == first
    assert not has(bob, md5(other))
    assert not by_hash(alice, bob, md5(other)).ok


def test_repeats_of_an_upload_at_the_same_moment_are_stored_once(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    data = secrets.token_bytes(100_000)
    message = alice.message(bob.user, contenttype="file", filemd5=md5(data))
    senders = [server.again(alice) for _ in range(5)]
    for sender in senders:
        sender.send("SENDMSG", message, data)
    assert all(sender.answer().ok for sender in senders)
    assert bob.fetch() == [message]
    assert fetch_file(bob, message).payload == data


# Fetching.


def test_only_the_two_users_of_a_message_can_fetch_its_file(server: Service) -> None:
    alice, bob, carol = server.user(), server.user(), server.user()
    one, two = secrets.token_bytes(100), secrets.token_bytes(100)
    to_bob = send_file(alice, bob, one, md5encoded="same name")
    refused = [fetch_file(carol, to_bob), fetch_file(carol, {"md5encoded": "no such name"})]
    assert refused == [("FETCHFILE", "ERR", NOT_FOUND, None, b"")] * 2
    send_file(carol, alice, two, md5encoded="same name")
    assert fetch_file(bob, to_bob).payload == one
    assert fetch_file(carol, to_bob).payload == two
    assert fetch_file(alice, to_bob).payload == two  # the newest in her mailbox
    send_file(bob, alice, one, md5encoded="same name")
    assert fetch_file(alice, to_bob).payload == one
    assert fetch_file(carol, to_bob).payload == two


def test_a_message_without_a_file_has_none_to_fetch(server: Service) -> None:
    alice, bob = server.user(), server.user()
    assert bob.user is not None
    text = alice.say(bob.user)
    for reader in (alice, bob):
        assert fetch_file(reader, text) == ("FETCHFILE", "ERR", NOT_FOUND, None, b"")


def test_a_range_is_cut_at_the_end_and_refused_past_it(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    data = secrets.token_bytes(300_000)
    sent = send_file(bob, alice, data)
    whole = {"filemd5": md5(data), "size": len(data)}
    cases: list[tuple[dict[str, Any], bytes]] = [
        ({"offset": 0}, data),
        ({"offset": None, "length": None}, data),
        ({"length": 10}, data[:10]),
        ({"length": 0}, b""),
        ({"offset": 299_999}, data[-1:]),
        ({"offset": 300_000}, b""),
        ({"offset": 300_000, "length": 5}, b""),
        ({"offset": 100, "length": 270_000}, data[100:270_100]),
        ({"offset": 100, "length": 300_000}, data[100:]),
        ({"offset": 5, "length": 2**63}, data[5:]),
    ]
    for ranges, expected in cases:
        found = fetch_file(alice, sent, **ranges)
        assert found[:4] == ("FETCHFILE", "OK", None, whole), ranges
        assert found.payload == expected, ranges
    wrongs: list[dict[str, Any]] = [
        {"offset": 300_001},
        {"offset": 2**70},
        {"offset": -1},
        {"length": -1},
        {"offset": "0"},
        {"length": 1.5},
        {"offset": 300_001, "length": 0},
    ]
    for wrong in wrongs:
        found = fetch_file(alice, sent, **wrong)
        assert (found.response, found.status, found.body, found.payload) == ("FETCHFILE", "ERR", None, b"")


@pytest.mark.parametrize("body", [None, {}, [], {"msgmd5": None}, {"msgmd5": 5}, {"filemd5": "0" * 32}])
def test_a_file_that_is_not_named_cannot_be_fetched(server: Service, body: Any) -> None:
    alice = server.user()
    found = alice.ask("FETCHFILE", body)
    assert (found.response, found.status) == ("FETCHFILE", "ERR")
    assert alice.ask("STATE").ok


@pytest.mark.parametrize(
    "filemd5", ["", "0" * 31, "../../../etc/passwd", "/etc/passwd", "\x00" * 32, "0" * 4096, "é" * 32]
)
def test_what_is_no_md5_is_no_file(server: Service, filemd5: str) -> None:
    alice, bob = server.user(), server.user()
    assert not has(alice, filemd5)
    assert not by_hash(alice, bob, filemd5).ok
    assert not fetch_file(alice, {"md5encoded": filemd5}).ok
    assert not alice.ask("FINDFILE", {"filemd5": None}).ok
    assert not alice.ask("FINDFILE", None).ok


def test_answers_behind_a_file_and_pushes_stand_between_frames(server: Service, dialect: str) -> None:
    alice, bob = server.user(dialect), server.user()
    assert alice.user is not None
    data = secrets.token_bytes(4_000_000)
    sent = send_file(bob, alice, data)
    for _ in range(3):
        alice.send("FETCHFILE", {"msgmd5": sent["md5encoded"]})
    alice.send("STATE")
    later = [bob.say(alice.user, str(index)) for index in range(20)]
    assert [alice.answer().payload == data for _ in range(3)] == [True] * 3
    assert alice.answer().response == "STATE"
    assert [alice.push()["md5encoded"] for _ in range(21)] == [m["md5encoded"] for m in (sent, *later)]


def test_files_and_repeats_outlive_the_server(service: Callable[..., Service]) -> None:
    server = service().start()
    alice, bob = server.user(), server.user()
    data = secrets.token_bytes(100_000)
    sent = send_file(alice, bob, data)
    server.hang_up()
    server.kill()
    server.start()
    again = server.again(bob)
    assert fetch_file(again, sent).payload == data
    assert has(again, md5(data))
    for payload in (data, b"", b"other"):
        assert server.again(alice).ask("SENDMSG", sent, payload).ok
    assert again.fetch() == [sent]
