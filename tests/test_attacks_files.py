"""What an attacker does with files, and with messages that are poison to their readers.

Each attack that another test plays already is named in `PLAYED`, and looked for there.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import stat
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.raw import in_base64, unique
from tests.service import Service
from tests.test_protocol_files import NOT_FOUND, TWIN_MD5, TWINS, by_hash, fetch_file, has, send_file

#: Attacks, and the tests that play them.
PLAYED = {
    "a hash that buys somebody else's file": "test_protocol_files.test_a_hash_alone_buys_nobody_a_file",
    "a file of others": "test_protocol_files.test_only_the_two_users_of_a_message_can_fetch_its_file",
    "a path as a hash": "test_protocol_files.test_what_is_no_md5_is_no_file",
    "a path as the name of a message": (
        "test_protocol_files.test_a_file_is_stored_under_its_sha256_whatever_a_client_claims"
    ),
    "another payload than announced": (
        "test_protocol_files.test_another_payload_than_announced_is_refused_and_leaves_nothing"
    ),
    "a twin of somebody's file": "test_protocol_files.test_two_files_of_one_md5_stay_two",
    "a payload, no login": "test_protocol_limits.test_no_payload_is_read_from_a_device_that_is_not_bound",
    "a link in the place of a blob": "test_blobs_download.test_a_link_in_the_place_of_a_blob_is_not_followed",
    "a link in the place of a directory": (
        "test_blobs_download.test_a_link_in_the_place_of_a_directory_is_not_followed_either"
    ),
    "bytes that change on the disk": (
        "test_blobs_download.test_contents_that_have_changed_on_the_disk_are_not_given_out"
    ),
    "files that others on the machine read": "test_blobs_upload.test_only_this_user_can_read_what_is_stored",
    "half a surrogate pair": "test_protocol_sending.test_half_a_surrogate_pair_is_refused",
    "times that no clock shows, numbers of 400 digits": (
        "test_protocol_sending.test_a_wrong_field_is_refused_and_the_message_named"
    ),
    "control characters in a name": "test_protocol_names.test_control_characters_are_refused_in_both_forms",
    "a resend with another file to get past the quota": (
        "test_store_contract_sent.test_what_comes_with_a_repeat_lies_on_the_disk_and_counts"
    ),
}


@pytest.mark.parametrize("attack", PLAYED)
def test_it_is_played_elsewhere(attack: str) -> None:
    module, test = PLAYED[attack].split(".")
    assert callable(getattr(import_module(f"tests.{module}"), test))


# Paths.

#: What looks like a digest to a careless eye, or leads somewhere.
NAMES = (
    "../canary",
    "/etc/passwd",
    "..\\canary",
    "0" * 31 + "/",
    "0" * 31 + "\0",
    "0" * 31 + "\n",
    "\u0660" * 32,  # digits, to Unicode
    "\uff10" * 32,
    "A" * 4096,
    "%2e%2e%2fcanary",
    "tmp",
    ".",
)


def test_no_name_leads_out_of_the_directory(service: Callable[..., Service]) -> None:
    server = service().start()
    blobs = server.directory / "data" / "blobs"
    (blobs.parent / "canary").write_bytes(b"a secret")
    alice, bob = server.user("seed"), server.user("seed")
    send_file(alice, bob, b"a file")
    before = files_of(server)
    for name in NAMES:
        assert not has(alice, name)
        assert fetch_file(alice, {"md5encoded": name}) == ("FETCHFILE", "ERR", NOT_FOUND, None, b"")
        refused = by_hash(alice, bob, name, md5encoded="a name")
        assert refused[1:4] == ("ERR", "A filemd5 has 32 hexadecimal digits.", {"md5encoded": "a name"})
        payload = alice.message(bob.user or 0, contenttype="file", filemd5=name)
        assert not alice.ask("SENDMSG", payload, b"a payload").ok
        if len(name) <= 1024:
            named = send_file(alice, bob, b"a file", md5encoded=name)
            assert fetch_file(bob, named).payload == b"a file"
    assert files_of(server) == before


def files_of(server: Service) -> dict[Path, bytes]:
    """All files in a server's directory but its store's and its log, with their contents."""
    paths = [path for path in server.directory.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths if path.suffix != ".log" and "store" not in path.parts}


def test_a_link_among_the_blobs_gives_nothing_away(service: Callable[..., Service]) -> None:
    server = service().start()
    blobs = server.directory / "data" / "blobs"
    alice, bob = server.user(), server.user()
    sent = send_file(alice, bob, b"a file")
    [blob] = [path for path in blobs.rglob("*") if path.is_file()]
    assert stat.S_IMODE(blob.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in blobs.rglob("*") if path.is_dir()} == {0o700}
    secret = server.directory / "secret"
    secret.write_bytes(b"secret")
    assert secret.stat().st_size == blob.stat().st_size
    blob.unlink()
    blob.symlink_to(secret)
    assert fetch_file(bob, sent).info == NOT_FOUND
    assert not has(bob, sent["filemd5"])
    assert by_hash(bob, alice, sent["filemd5"]).info == NOT_FOUND
    again = send_file(alice, bob, b"a file")  # it takes the link's place
    assert fetch_file(bob, again).payload == fetch_file(bob, sent).payload == b"a file"
    assert secret.read_bytes() == b"secret"


def test_of_twins_a_user_has_neither_by_hash_and_each_by_message(server: Service) -> None:
    alice, bob, carol = server.user(), server.user(), server.user()
    assert hashlib.sha256(TWINS[0]).digest() != hashlib.sha256(TWINS[1]).digest()
    one = send_file(alice, bob, TWINS[0], filemd5=TWIN_MD5)
    assert has(alice, TWIN_MD5)
    two = send_file(alice, bob, TWINS[1], filemd5=TWIN_MD5)
    for user in (alice, bob):
        assert not has(user, TWIN_MD5)  # so a client uploads it
        assert by_hash(user, carol, TWIN_MD5).info == NOT_FOUND
        assert [fetch_file(user, message).payload for message in (one, two)] == TWINS
    for twin in TWINS:
        assert fetch_file(carol, send_file(bob, carol, twin, filemd5=TWIN_MD5)).payload == twin


# Poison: what is stored must be readable by everybody, or nothing behind it is.

#: Contents and names of messages that are taken, each harmless only if it is escaped or kept apart.
POISON = (
    "\0",
    "\r\nm 0-0 1-1 \r\n",
    "\x1b[2J\x07\x7f\x85",
    "\u2028\u2029\ufeff\u202e",
    "\ud7ff\ue000\uffff\U0010ffff",
    '"content":""',
    '","content":"","timestamp":9e999,"x":"',
    '{"response":"FORWARDMSG"}',
    "\\u0000\\ud800",
    "c" + "0" * 64,
    "%b%s{}${}",
    "=" * 4,
    "////",
    "AAAA",
    '\'; EVAL "return 1" 0',
)
LATEST = 8_640_000_000_000_000
TIMES = (0, -1, LATEST, -LATEST, 2**31, 2**52)


def test_no_message_keeps_a_reader_from_the_others(server: Service) -> None:
    alice, bob = server.user("seed"), server.user("seed")
    readers = {dialect: server.device(bob, dialect) for dialect in ("released", "seed", "network")}
    for reader in readers.values():
        assert reader.fetch() == []
    sent: list[dict[str, Any]] = []
    for number, poison in enumerate(POISON):
        for content in (poison, poison * (33_000 // len(poison))):
            name = poison + unique()
            timestamp = TIMES[number % len(TIMES)]
            sent.append(alice.say(bob.user or 0, content, md5encoded=name, timestamp=timestamp))
    for reader in (*readers.values(), server.device(bob, "network")):
        found = reader.fetch()
        expected = [shown(message, reader.dialect) for message in sent]
        assert found == expected
    for reader in readers.values():
        assert [reader.push() for _ in sent] == [shown(message, reader.dialect) for message in sent]


def shown(message: dict[str, Any], dialect: str) -> dict[str, Any]:
    """A message as a reader of this dialect gets it: the released client needs base64 of UTF-8."""
    content = message["content"]
    if dialect != "released" or content == "AAAA" * (len(content) // 4):
        return message
    return message | {"content": in_base64(content)}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000, "1.0", "NaN", "Infinity", "1" + "0" * 30])
def test_numbers_that_readers_cannot_hold_are_never_stored(server: Service, number: str) -> None:
    alice, bob = server.user(), server.user()
    body = json.dumps(alice.message(bob.user or 0, timestamp=0, md5encoded=secrets.token_hex(16)))
    for field in ("timestamp", "targetid", "userid"):
        start = body.index(f'"{field}": ') + len(field) + 4
        end = body.index(",", start)
        poisoned = f"{body[:start]}{number}{body[end:]}"
        request = f'{{"request":"SENDMSG","tokenid":{alice.token},"body":{poisoned}}}'
        alice.socket.sendall(alice.frame(request.encode()))
        assert alice.answer().status == "ERR"
    assert bob.fetch() == alice.fetch() == []
    assert alice.ask("STATE").ok
