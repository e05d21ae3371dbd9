"""`chatsvc-admin` about all data: what it does beside a running server, and that nothing is lost by it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin import Admin, of
from tests.cluster import Cluster
from tests.raw import Raw
from tests.service import Service, wait_for

Services = Callable[..., Service]
FILE = b"the bytes of a file"
MD5 = hashlib.md5(FILE).hexdigest()
LONG = "TG9uZw==" * 10_000


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.pluginmanager.hasplugin("_cov"))


@pytest.fixture
def running(service: Services) -> Service:
    """A server of the test's own."""
    return service().start()


@pytest.fixture
def admin(running: Service, measured: bool) -> Admin:
    """The command for it."""
    return of(running.directory / "data", measured=measured)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where a backup is to be."""
    return tmp_path / "backup.tar"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three primaries."""
    stores = Cluster(tmp_path / "cluster")
    try:
        yield stores.start()
    finally:
        stores.stop()


@pytest.fixture(params=["one server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty store of either kind."""
    if request.param == "cluster":
        return str(request.getfixturevalue("cluster").url)
    return f"redis://127.0.0.1:{request.getfixturevalue('valkey')().start().port}/3"


def send_file(client: Raw, target: int, payload: bytes = FILE) -> str | None:
    """Send the file, or without a payload refer to it; gives why that is refused."""
    message = client.message(target, "", contenttype="file", filemd5=MD5, md5encoded=os.urandom(16).hex())
    return client.ask("SENDMSG", message, payload).info


def blobs_of(service: Service) -> list[Path]:
    """All files of a server."""
    found = (service.directory / "data" / "blobs").glob("??/??/*")
    return sorted(found)


def age(service: Service, days: float = 30) -> None:
    """Let all files have been used long ago."""
    for path in blobs_of(service):
        long_ago = path.stat().st_mtime - days * 86400
        os.utime(path, (long_ago, long_ago))


def tell_store(service: Service, *words: str) -> bytes:
    """A command to the server's own store, behind its back."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(service.directory / "data" / "store" / "store.sock"))
        client.sendall(" ".join([*words, "\r\nQUIT\r\n"]).encode())
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


class Traffic:
    """Two users who write to each other from a thread until told to stop."""

    def __init__(self, service: Service) -> None:
        self.alice, self.bob = service.user("seed"), service.user("seed")
        self.sent: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.sent.append(self.alice.say(self.bob.user or 0, str(len(self.sent)))["content"])

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def history(service: Service, name: str, dialect: str = "seed") -> list[Any]:
    """All messages of a user, as a new device gets them."""
    device = service.connect(dialect)
    device.login(name)
    return device.fetch()


def test_a_backup_made_under_traffic_shows_one_moment(
    running: Service, admin: Admin, archive: Path, service: Services, measured: bool
) -> None:
    with Traffic(running) as traffic:
        alice, bob = traffic.alice, traffic.bob
        wait_for(lambda: len(traffic.sent) > 20, "there is traffic")
        before = len(traffic.sent)
        made = admin.record("backup", str(archive))
    after = len(traffic.sent)
    token, names = alice.token, (alice.name, bob.name)
    running.stop()
    restored = service(name="restored")
    again = of(restored.directory / "data", measured=measured)
    assert again.record("restore", str(archive), "--yes")["messages"] == made["messages"]
    restored.start()
    histories = [[message["content"] for message in history(restored, name)] for name in names]
    assert histories[0] == histories[1] == traffic.sent[: len(histories[0])]
    assert before <= len(histories[0]) <= after
    assert made["messages"] == 2 * len(histories[0])
    assert restored.connect("seed", token).ask("STATE").body["username"] == names[0]
    assert again.run("check").returncode == 0


def test_a_backup_goes_from_one_kind_of_store_to_another_and_back(
    running: Service,
    admin: Admin,
    archive: Path,
    service: Services,
    url: str,
    measured: bool,
    tmp_path: Path,
) -> None:
    alice, bob = running.user(), running.user()
    assert alice.ask("ADDCONTACT", {"userid": bob.user}).ok
    alice.answer()
    alice.say(bob.user or 0, LONG)
    assert send_file(alice, bob.user or 0) is None
    [name] = [message["md5encoded"] for message in bob.fetch() if message["contenttype"] == "file"]
    admin.record("backup", str(archive))
    running.stop()
    beside = of(tmp_path / "beside", "--redis", url, measured=measured)
    beside.record("restore", str(archive), "--yes")
    server = service("--redis", url, "--data-dir", str(tmp_path / "beside"), name="with-redis")
    server.start()
    history(server, alice.name)
    second = tmp_path / "second.tar"
    beside.record("backup", str(second))
    server.stop()
    back = service(name="back")
    of(back.directory / "data", measured=measured).record("restore", str(second), "--yes")
    back.start()
    device = back.connect("seed")
    device.login(bob.name)
    assert [message["content"] for message in device.fetch()] == [LONG, ""]
    assert device.ask("FETCHFILE", {"msgmd5": name}).payload == FILE
    assert [user["userid"] for user in device.ask("FETCHCONTACT").body["requesting"]] == [alice.user]
    assert send_file(device, alice.user or 0, b"") is None


def test_a_backup_is_restored_into_an_empty_store_alone_and_whole(
    running: Service, admin: Admin, archive: Path, tmp_path: Path, measured: bool
) -> None:
    user = running.user()
    send_file(user, user.user or 0)
    admin.record("backup", str(archive))
    assert "The store is not empty" in admin.refused("restore", str(archive), "--yes")
    data = bytearray(archive.read_bytes())
    data[data.index(FILE)] ^= 1
    archive.write_bytes(data)
    new = of(tmp_path / "new", measured=measured)
    assert "is damaged" in new.refused("restore", str(archive), "--yes")
    assert not (tmp_path / "new" / "blobs").exists()
    assert new.record("stats")["users"] == 0


def test_a_damaged_file_is_told_and_left_out(running: Service, admin: Admin, archive: Path) -> None:
    user = running.user()
    send_file(user, user.user or 0)
    [blob] = blobs_of(running)
    blob.write_bytes(b"damaged")
    [made] = admin.records("backup", str(archive), status=1)
    assert (made["files"], made["damaged_files"]) == (0, [blob.name])


def test_trimming_is_felt_by_nobody_who_has_read(running: Service, admin: Admin) -> None:
    alice, bob = running.user("seed"), running.user("seed")
    bob.fetch()
    away = running.device(bob, "seed")
    away.close()
    for number in range(5):
        alice.say(bob.user or 0, str(number))
    pushed = [bob.push()["content"] for _ in range(5)]
    assert admin.record("trim", "--keep", "2", bob.name, "--yes") == {"messages": 3, "file_entries": 0}
    alice.say(bob.user or 0, "5")
    assert [*pushed, bob.push()["content"]] == list("012345")  # pushing goes on behind what is gone
    away = running.again(away, "seed")
    assert [message["content"] for message in away.fetch()] == list("345")
    away.send("ACKFETCH", {"timestamp": 2**50})
    assert len(history(running, alice.name)) == 6  # the sender's copies are the sender's
    assert admin.record("trim", "--older-than", "1h", "--yes")["messages"] == 0
    assert admin.record("trim", "--older-than", "0s", bob.name, "--yes")["messages"] == 3
    assert away.fetch() == []
    alice.say(bob.user or 0, "6")
    assert away.push()["content"] == "6"
    assert admin.run("check").returncode == 0


def test_a_connection_that_is_behind_gets_what_is_left(running: Service, admin: Admin) -> None:
    alice, bob = running.user("seed"), running.user("seed")
    bob.fetch()
    long = "x" * 40_000  # lies in a file, so that pushing reads the mailbox
    for _ in range(60):
        alice.say(bob.user or 0, long)
    alice.say(bob.user or 0, "the end")
    admin.record("trim", "--keep", "1", bob.name, "--yes")
    while bob.push()["content"] != "the end":
        pass
    alice.say(bob.user or 0, "and on")
    assert bob.push()["content"] == "and on"


def test_collecting_takes_what_no_message_has_and_servers_go_on(running: Service, admin: Admin) -> None:
    alice, bob = running.user("seed"), running.user("seed")
    assert send_file(alice, bob.user or 0) is None
    alice.say(bob.user or 0, LONG)
    age(running)
    assert admin.record("collect", "--yes")["files"] == 0
    admin.record("trim", "--keep", "0", alice.name, "--yes")
    assert admin.record("collect", "--yes")["files"] == 0  # the other one has them still
    assert send_file(alice, bob.user or 0, b"") == "File not found"
    admin.record("trim", "--keep", "0", bob.name, "--yes")
    assert admin.record("collect", "--dry-run")["files"] == 2
    assert send_file(alice, bob.user or 0) is None  # used again, and young for that
    assert admin.record("collect", "--yes")["files"] == 1
    assert [blob.read_bytes() for blob in blobs_of(running)] == [FILE]
    assert send_file(bob, alice.user or 0, b"") is None
    assert admin.run("check").returncode == 0
    assert "600s at least" in admin.refused("collect", "--older-than", "1s", "--yes", status=2)


def test_a_file_that_has_vanished_is_uploaded_again(running: Service) -> None:
    user = running.user("seed")
    assert send_file(user, user.user or 0) is None
    [blob] = blobs_of(running)
    blob.unlink()
    assert send_file(user, user.user or 0, b"") == "File not found"
    assert send_file(user, user.user or 0) is None
    assert send_file(user, user.user or 0, b"") is None


def test_check_finds_what_is_wrong(running: Service, admin: Admin) -> None:
    alice, bob = running.user("seed"), running.user("seed")
    assert send_file(alice, bob.user or 0) is None
    alice.say(bob.user or 0, LONG)
    one, two = alice.user, bob.user
    assert admin.records("check") == []
    assert admin.record("users", "show", str(one))["sent_bytes"] == len(FILE) + len(f'"{LONG}"')
    content = hashlib.sha256(f'"{LONG}"'.encode()).hexdigest()
    for path in blobs_of(running):
        if path.stat().st_size == len(FILE):
            path.write_bytes(FILE.upper())
        else:
            path.unlink()
    for words in (
        ("SADD", f"{{u:{one}}}:out", str(two)),
        ("SET", f"{{u:{two}}}:last", "1-1"),
        ("HSET", f"{{u:{one}}}:cursors", "somebody", "99999999999999-0"),
        ("SET", "{n:ghost}", str(one)),
        ("DEL", f"{{n:{bob.name}}}"),
        ("SADD", "{u:777}:in", str(one)),
        ("SADD", f"{{u:{one}}}:devices", "expired"),
        ("SET", "chatsvc:restoring", "something"),
        ("HINCRBY", f"{{u:{one}}}:sent", "bytes", "1000000"),
    ):
        assert not tell_store(running, *words).startswith(b"-")
    found = admin.records("check", status=1)
    assert [finding["what"] for finding in found if finding["kind"] == "leftover"] == [
        f"Device expired of user {one} has expired."
    ]
    problems = "\n".join(finding["what"] for finding in found if finding["kind"] == "problem")
    for what in (
        "A restore was cut short",
        f"User {one} has added user {two}, who does not know.",
        f"The mailbox of user {two} ends at ",
        f"Device somebody of user {one} has read to 99999999999999-0, beyond ",
        f"The name 'ghost' is kept for user {one}",
        f"User {two} is called {bob.name!r}, but that name is nobody's.",
        "Something is left of user 777",
        f"The content {content} of a message of user {one} is not there.",
        f"The file {hashlib.sha256(FILE).hexdigest()} is damaged",
        f"Of user {one}, ",
    ):
        assert what in problems
    [damaged] = [line for line in problems.splitlines() if "is damaged" in line]
    without = admin.records("check", "--no-hash", status=1)
    assert damaged not in [finding["what"] for finding in without]


@pytest.fixture
def locked(running: Service) -> Iterator[None]:
    """Another command is at work on the same directory."""
    with (running.directory / "data" / "upkeep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("locked")
def test_one_command_works_on_all_data_at_a_time(admin: Admin, archive: Path) -> None:
    for words in (
        ["check"],
        ["backup", str(archive)],
        ["trim", "--keep", "1", "--yes"],
        ["collect", "--yes"],
    ):
        assert "Another chatsvc-admin is at work" in admin.refused(*words)
    assert admin.record("stats")["users"] == 0


def test_a_store_that_nobody_runs_is_started_for_the_command(running: Service, admin: Admin) -> None:
    user = running.user("seed")
    running.stop()
    done = admin.run("users", "show", user.name)
    assert done.returncode == 0
    assert "its store is started for this command" in done.stderr
    assert running.processes() == []
    running.start()
    assert running.connect("seed", user.token).ask("STATE").ok


def test_a_long_path_is_no_obstacle(service: Services, measured: bool) -> None:
    running = service(name="x" * 120).start()
    data = running.directory / "data"
    assert of(data, measured=measured).record("stats")["users"] == 0
    running.stop()
    assert of(data, measured=measured).record("stats")["users"] == 0


def test_files_that_are_elsewhere_are_not_missed(running: Service, admin: Admin, archive: Path) -> None:
    shutil.rmtree(running.directory / "data" / "blobs")
    for words in (["check"], ["backup", str(archive)], ["collect", "--yes"]):
        assert "There are no files in" in admin.refused(*words)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files somebody else's")
def test_who_is_not_the_owner_leaves_no_files_behind(running: Service, admin: Admin, archive: Path) -> None:
    data = running.directory / "data"
    os.chown(data, 12345, -1)
    assert "belongs to the user with the id 12345" in admin.refused("backup", str(archive))
    assert not (data / "upkeep.lock").exists()
    assert admin.record("stats")["users"] == 0  # through the server's socket, which root may use


def test_a_backup_of_a_cluster_has_each_message_on_both_sides(
    cluster: Cluster, service: Services, archive: Path, measured: bool
) -> None:
    server = service("--redis", cluster.url).start()
    admin = of(server.directory / "data", "--redis", cluster.url, measured=measured)
    with Traffic(server) as one, Traffic(server) as two, Traffic(server) as three:
        wait_for(lambda: min(len(each.sent) for each in (one, two, three)) > 20, "there is traffic")
        admin.record("backup", str(archive))
    server.stop()
    restored = service(name="restored")
    of(restored.directory / "data", measured=measured).record("restore", str(archive), "--yes")
    restored.start()
    for pair in (one, two, three):
        of_alice, of_bob = (
            [message["content"] for message in history(restored, user.name)]
            for user in (pair.alice, pair.bob)
        )
        assert of_alice == of_bob == pair.sent[: len(of_alice)]
        assert len(of_alice) > 20
