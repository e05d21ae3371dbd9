"""The documents are true: their examples are played, their tables and links held against the code.

What the code does beyond what they say is tested elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import string
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

import chatsvc.net.server  # noqa: F401 - it fills the table of requests
from chatsvc.chat.calls import TABLE
from chatsvc.settings import ROWS
from chatsvc.store import accounts, append, contacts, devices, mail, signals, two_step
from chatsvc.wire import text
from chatsvc.wire.errors import Violation
from chatsvc.wire.frames import DIALECTS, FrameReader, frame
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import Response, decode_body, decode_request
from tests.raw import DEADLINE, Raw
from tests.service import ROOT, Service

#: What stands for something that the server gives out: a token, a user's id, its own time.
PLACEHOLDER = re.compile(rb"(?<=:)(450359962737\d{4}|7000\d|1700000009999)(?=[,}])")
_HEADER = re.compile(r"(released|seed|network) +([0-9a-f]{8}) ([0-9a-f]{8}|[0-9a-f]{16})")
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "s": 1, "min": 60}


def document(name: str) -> str:
    return (ROOT / name).read_text()


PROTOCOL, RELIABILITY = document("docs/protocol.md"), document("docs/reliability.md")
DEFAULTS, DEFENDED = "## The defaults, and why", "## What it defends, and against whom"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
SOURCES = [path for part in ("chatsvc", "tests") for path in (ROOT / part).rglob("*.py")]


def section(markdown: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or a higher one."""
    level = heading.split()[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", markdown, re.M | re.S)
    assert found is not None, heading
    return found[1]


def cells(markdown: str) -> list[list[str]]:
    """The rows of all tables, without their heads."""
    rows = re.findall(r"^\|(.*)\|$", markdown, re.M)
    split = [[cell.strip() for cell in row.split("|")] for row in rows]
    rules = [at for at, row in enumerate(split) if set(row[0]) == {"-"}]
    return [row for at, row in enumerate(split) if at not in rules and at + 1 not in rules]


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks in some language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", markdown, re.M | re.S)
    return [textwrap.dedent(block) for _, block in found]


# -- the examples of the protocol ------------------------------------------------------------------


class Shown(NamedTuple):
    """A frame of an example, or (without headers) the end of a connection."""

    who: str
    #: ">" for what is sent, "<" for what comes, "closed" for the end.
    way: str
    headers: dict[str, bytes]
    json: bytes
    payload: bytes


def read_shown(lines: str) -> Shown:
    first, *rest = lines.strip().split("\n")
    who, way = first.split()
    headers: dict[str, bytes] = {}
    parts: list[str] = []
    payload = b""
    for line in rest:
        if header := _HEADER.fullmatch(line):
            headers[header[1]] = bytes.fromhex(header[2] + header[3])
        elif line.startswith("payload "):
            payload = bytes.fromhex(line.removeprefix("payload"))
        else:
            assert line.startswith("  " if parts else "{"), line
            parts.append(line.removeprefix("  "))
    assert way in (">", "<", "closed"), lines
    assert bool(headers) == (way != "closed"), lines
    return Shown(who, way, headers, "".join(parts).encode(), payload)


def story(heading: str) -> list[Shown]:
    found = blocks(section(PROTOCOL, heading), "wire")
    return [read_shown(shown) for block in found for shown in block.split("\n\n")]


#: In each dialect; and with a dialect for each person.
CONVERSATION, MIXED = story("### A conversation"), story("### Two kinds of clients")
FEATURES = story("### With features")
PLAYS = [*((CONVERSATION, dialect) for dialect in DIALECTS), (MIXED, ""), (FEATURES, "")]
EACH_PLAY = pytest.mark.parametrize(("shown", "dialect"), PLAYS, ids=[*DIALECTS, "mixed", "features"])


def dialect_of(one: Shown, dialect: str) -> str:
    if dialect:
        return dialect
    (only,) = one.headers
    return only


def test_the_examples_have_what_a_reader_needs_in_every_dialect() -> None:
    framed = [one for one in CONVERSATION if one.way != "closed"]
    assert all(list(one.headers) == list(DIALECTS) for one in framed)
    sent = {json.loads(one.json)["request"] for one in framed if one.way == ">" and one.json}
    came = {json.loads(one.json)["response"] for one in framed if one.way == "<"}
    assert sent >= {"STATE", "REGISTER", "SENDMSG", "FETCHMSG", "ACKFETCH", "FETCHFILE"}
    assert came >= {"TOKEN", "STATE", "REGISTER", "SENDMSG", "FORWARDMSG", "FETCHMSG", "FETCHFILE", "UNKNOWN"}
    assert {one.way for one in framed if one.payload} == {">", "<"}
    extras = {json.loads(one.json)["response"] for one in FEATURES if one.way == "<"}
    assert extras >= {"FORWARDCONTACT", "FORWARDMARK", "FORWARDPRESENCE", "FORWARDTYPING"}
    assert {name for one in MIXED for name in one.headers} == {"released", "seed"}


@EACH_PLAY
def test_the_examples_are_what_the_codec_reads_and_writes(shown: list[Shown], dialect: str) -> None:
    readers: dict[str, FrameReader] = {}
    for one in shown:
        if one.way == "closed":
            continue
        name = dialect_of(one, dialect)
        reader = readers.setdefault(one.who, FrameReader(Limits()))
        if one.way == "<":
            msgspec.json.decode(one.json, type=Response)
        else:
            reader.receive(one.headers[name] + one.json + one.payload)
            if not one.json:
                with pytest.raises(Violation):
                    reader.next_head()
                continue
            assert reader.next_head() == (one.json, len(one.payload))
            assert reader.dialect is DIALECTS[name]
            assert reader.read_payload() == one.payload
            request = decode_request(one.json)
            decode_body(request.body, TABLE[request.request].shape)
        assert one.headers[name] + one.json == frame(DIALECTS[name], one.json, len(one.payload))


class Player:
    """One connection of an example; what is sent and read here is cut into frames by the codec."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self._reader = FrameReader(Limits(), DIALECTS[raw.dialect])

    def _more(self) -> None:
        data = self.raw.socket.recv(1 << 16)
        assert data, "The server has closed the connection."
        self._reader.receive(data)

    def receive(self) -> tuple[bytes, bytes]:
        """JSON and payload of the next frame."""
        while (head := self._reader.next_head()) is None:
            self._more()
        payload = self._reader.read_payload()
        while self._reader.payload_left:
            self._more()
            payload += self._reader.read_payload()
        assert head.json is not None
        return head.json, payload

    def is_closed(self) -> bool:
        """Whether the server closes without having sent anything more."""
        return not self._reader.buffered and self.raw.closed()

    def end(self) -> None:
        """See that nothing more came: what is sent is answered before the server closes."""
        with suppress(OSError):  # it may be closed already
            self.raw.socket.shutdown(socket.SHUT_WR)
        assert self.is_closed(), "More came than the example says."


def nobody_else(shown: list[Shown]) -> dict[bytes, bytes]:
    """For the names of an example others that nobody has, which are as long, in both of their forms."""
    names = re.findall(rb'"REGISTER","body":\{"username":"([^"]*)"', b"".join(one.json for one in shown))
    assert names
    found = {}
    for name in map(bytes.decode, names):
        plain = text.name_key(name)
        other = re.sub("[a-z]", lambda _: secrets.choice(string.ascii_lowercase), plain)
        found[text.encoded(plain).encode()] = text.encoded(other).encode()
        if name == plain:
            found[plain.encode()] = other.encode()
    return found


def values_in(came: bytes, written: bytes, values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What stands in a frame that came where the example has placeholders; all else is the same."""
    parts = PLACEHOLDER.split(written)
    pattern = [values.get(part, b"([0-9]+)") if at % 2 else re.escape(part) for at, part in enumerate(parts)]
    matched = re.fullmatch(b"".join(pattern), came)
    assert matched is not None, (came, written)
    return dict(zip((part for part in parts[1::2] if part not in values), matched.groups(), strict=True))


@EACH_PLAY
def test_the_examples_happen(server: Service, shown: list[Shown], dialect: str) -> None:
    players: dict[str, Player] = {}
    values: dict[bytes, bytes] = {}
    names = nobody_else(shown)
    for one in shown:
        if one.who not in players:
            players[one.who] = Player(server.connect(dialect_of(one, dialect)))
        player = players[one.who]
        written = one.json
        for name, other in names.items():
            written = written.replace(b'"%b"' % name, b'"%b"' % other)
        if one.way == "closed":
            assert player.is_closed()
        elif one.way == "<":
            came, payload = player.receive()
            values.update(values_in(came, written, values))
            assert payload == one.payload
        elif one.json:
            data = PLACEHOLDER.sub(lambda found: values[found[1]], written)
            player.raw.socket.sendall(player.raw.frame(data, one.payload))
        else:
            player.raw.socket.sendall(one.headers[player.raw.dialect])
    for player in players.values():
        player.end()


# -- the first program of the README ----------------------------------------------------------


def run_python(program: str) -> str:
    """What a program prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_first_program_of_the_readme_prints_what_it_says(service: Callable[..., Service]) -> None:
    readme = document("README.md")
    (program,) = blocks(readme, "python")
    says = re.search(r"It prints `(.+?)`", readme)
    assert says is not None
    assert program.count("8080") == 1
    assert run_python(program.replace("8080", str(service().start().port))) == f"{says[1]}\n"


# -- tables ----------------------------------------------------------------------------------------


def as_an_option(default: str) -> str:
    """A default of the README's table as one would write it on the command line."""
    found = re.fullmatch(r"(\d+) (KiB|MiB|GiB|s|min)( \N{MINUS SIGN} 1)?", default)
    return default if found is None else str(int(found[1]) * _UNITS[found[2]] - bool(found[3]))


def test_the_readme_has_every_option_with_its_default() -> None:
    told: dict[str, str] = {}
    for option, default, _ in cells(section(document("README.md"), "## Options")):
        names = re.findall(r"--([a-z-]+)", option)
        defaults = [default] if len(names) == 1 else default.split(", ")
        told |= dict(zip(names, (part.strip("`") for part in defaults), strict=True))
    assert told.keys() == {row.name for row in ROWS}
    for row in ROWS:
        if row.default:
            assert row.kind.read(as_an_option(told[row.name])) == row.kind.read(row.default), row.name
    assert f"tcp:{told['port']}" == told["listen"]


def test_each_limit_has_its_default_and_a_reason() -> None:
    told = {row[0].strip("`").removeprefix("--"): row[1:] for row in cells(section(RELIABILITY, DEFAULTS))}
    fields = {*Limits.__struct_fields__, "bcrypt_cost", "bcrypt_threads", "bcrypt_queue", "durability"}
    limits = {row.name: row for row in ROWS if row.field in fields or row.name == "unlimited"}
    assert told.keys() == limits.keys()
    assert {name: default.strip("`") for name, (default, _) in told.items()} == {
        name: row.default for name, row in limits.items()
    }
    assert all(reason for _, reason in told.values())


@pytest.mark.parametrize(
    ("name", "heading", "rows"),
    [("docs/reliability.md", "## The battery", 40), ("SECURITY.md", DEFENDED, 29)],
)
def test_each_fault_and_threat_names_its_test_or_says_that_it_has_none(
    name: str, heading: str, rows: int
) -> None:
    told = cells(section(document(name), heading))
    assert [row[0] for row in told] == [str(number) for number in range(1, rows + 1)]
    assert [row for row in told if not any("`tests/" in cell or cell == "not done" for cell in row)] == []


def test_the_table_of_the_store_has_every_key() -> None:
    makers = re.findall(r'b"([^"]*:[^"]*)"', document("chatsvc/store/keys.py"))
    sources = "".join(path.read_text() for path in (ROOT / "chatsvc").rglob("*.py"))
    parts = {*re.findall(r'keys\.part\([^()]+, b"(\w+)', sources), *re.findall(r"':(\w+):?'", sources)}
    made = {re.sub("%[bd]", "*", maker).removesuffix(":*") for maker in makers if "*" not in maker}
    modules = accounts, append, contacts, devices, mail, signals, two_step
    scripts = [script for module in modules for script in module.SCRIPTS]
    parts |= {part for script in scripts for part in script.parts}
    made |= {f"{{u:*}}:{part}" for part in parts}
    table = cells(section(document("docs/architecture.md"), "## The store"))
    told = re.findall("`([^`]+)`", " ".join(row[0] for row in table))
    assert {re.sub("[A-Z]+", "*", key).removesuffix(":*") for key in told} == made


def test_the_protocol_has_every_request_type_and_who_must_be_logged_in() -> None:
    first = [row[0] for row in cells(PROTOCOL)]
    told = [cell.partition(" *login*") for cell in first if re.fullmatch(r"[A-Z]+( \*login\*)?", cell)]
    assert sorted(kind for kind, _, _ in told) == sorted(TABLE)
    assert {kind for kind, login, _ in told if login} == {kind for kind, row in TABLE.items() if row.login}


# -- links -----------------------------------------------------------------------------------------


def anchors(markdown: str) -> set[str]:
    """What a link into a document may name."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    links = [(path, link) for path in DOCUMENTS for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
    for path, link in links:
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name) if name else path
            assert target.exists(), (path, link)
            assert not anchor or anchor in anchors(target.read_text()), (path, link)


def test_what_documents_and_code_refer_to_is_there() -> None:
    numbers = re.findall(r"^#+ (\d(?:\.\d)?)\.? ", PROTOCOL, re.M)
    for path in (*DOCUMENTS, *SOURCES):
        content = path.read_text()
        for name in re.findall(r"`((?:docs|chatsvc|tests|twisted)/[\w./-]*)`", content):
            assert (ROOT / name).exists(), (path, name)
        for number in re.findall(r"docs/protocol\.md`*\s+sections? (\d(?:\.\d)?)", content):
            assert number in numbers, (path, number)


# -- how to add a request type ---------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the server is made of, to be changed."""
    copy = tmp_path / "checkout"
    for part in ("chatsvc", "twisted"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    yield copy
    shutil.rmtree(copy)


def test_a_request_type_is_added_as_said(checkout: Path, service: Callable[..., Service]) -> None:
    steps = section(document("CONTRIBUTING.md"), "## How to add a request type")
    added = blocks(steps, "python")
    files = [re.findall(r"`(chatsvc/\w+/\w+\.py)`", step)[0] for step in steps.split("```python")[:-1]]
    assert files == ["chatsvc/wire/schema.py", "chatsvc/chat/people.py"]
    for name, code in zip(files, added, strict=True):
        with (checkout / name).open("a") as file:
            file.write(f"\n\n{code}")
    server = service(environment={"PYTHONPATH": str(checkout)}).start()
    assert server.connect().ask("ECHO", {"text": "Hello, me!"}).body == {"text": "Hello, me!"}
