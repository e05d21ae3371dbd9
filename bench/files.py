"""The workload of large files: how fast they go, the memory they take, and how others fare meanwhile.

Messages without files are in ``chatting`` and ``mail``.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

from bench.chatting import pair_load
from bench.people import Person, register
from bench.processes import Usage, peak, reset_peak
from bench.run import CHATSVC, GROWTH, MIB, SERVER_CPU, Run, Sheet
from bench.servers import Server, bound, chat_service, server_of
from bench.talks import Load
from bench.wire import Broken, Line
from chatsvc.wire.frames import RELEASED

#: Bytes of which a file is made over and over; no multiple of a page or a buffer, so that a mix-up shows.
_BLOCK = 1_000_003
#: Messages a second beside the files, and for how many seconds at a time they are sent.
_PACE = 100
_SECONDS = 2
#: The subjects that files are compared with.
_DIGESTS = "MD5 and then SHA-256 of it"
_SENDFILE = "a bare sendfile of it"


class Content:
    """A new file, and the seconds that its two digests take."""

    def __init__(self, blocks: int) -> None:
        self.block = os.urandom(_BLOCK)
        self.blocks = blocks
        self.size = blocks * _BLOCK
        self.name = secrets.token_hex(16)
        md5, sha256 = hashlib.md5(), hashlib.sha256()
        began = time.perf_counter()
        for digest in (md5, sha256):
            for _ in range(blocks):
                digest.update(self.block)
        self.hashing = time.perf_counter() - began
        self.md5 = md5.hexdigest()
        self.sha256 = sha256.hexdigest()


def files(run: Run) -> None:
    """A large file, sent and fetched; and then again, while others write to each other."""
    scale = run.scale
    upload_sheet, download_sheet = run.sheet("upload", _DIGESTS), run.sheet("download", _SENDFILE)
    with chat_service(*run.options) as service:
        server = server_of(service)
        [person] = register(server.address, 1)
        for _ in run.repetitions():
            content = Content(scale.file_blocks)
            _note_speed(upload_sheet, _DIGESTS, content, content.hashing)
            for sheet, transfer in ((upload_sheet, upload), (download_sheet, download)):
                _measure(sheet, server, content, partial(transfer, person, content))
            blob = next(service.directory.rglob(content.sha256))
            with bound("sendfile", str(blob)) as bare, closing(Line(bare.address)) as line:
                began = time.perf_counter()
                receive(line, content)
                _note_speed(download_sheet, _SENDFILE, content, time.perf_counter() - began)
        with pair_load(run, server) as load:
            _chat_beside(run, load, person, Content(scale.file_blocks))


def upload(person: Person, content: Content) -> None:
    """Send a file to oneself, and wait until it is stored."""
    message = {
        "userid": person.user,
        "targetid": person.user,
        "contenttype": "file",
        "content": "YmVuY2g=",
        "timestamp": int(time.time() * 1000),
        "md5encoded": content.name,
        "filemd5": content.md5,
    }
    person.line.send("SENDMSG", message, content.size)
    for _ in range(content.blocks):
        person.line.socket.sendall(content.block)
    person.line.answer()


def download(person: Person, content: Content) -> None:
    """Fetch a file, and compare it to its last byte."""
    person.line.send("FETCHFILE", {"msgmd5": content.name})
    json_length, payload_length = RELEASED.header.unpack(_exactly(person.line, RELEASED.header.size))
    said = _exactly(person.line, json_length)
    if payload_length != content.size:
        raise Broken(f"The file was not sent: {said.decode()}")
    receive(person.line, content)


def receive(line: Line, content: Content) -> None:
    """Read the bytes of a file; raises `Broken` if they are others."""
    buffer = bytearray(_BLOCK)
    for _ in range(content.blocks):
        line.socket.recv_into(buffer, _BLOCK, socket.MSG_WAITALL)
        if buffer != content.block:
            raise Broken("Other bytes came than were sent.")


def _exactly(line: Line, size: int) -> bytes:
    return line.socket.recv(size, socket.MSG_WAITALL)


def _measure(sheet: Sheet, server: Server, content: Content, transfer: Callable[[], None]) -> None:
    memory, usage, began = reset_peak(server.pids[0]), Usage.of(server.pids), time.perf_counter()
    transfer()
    _note_speed(sheet, CHATSVC, content, time.perf_counter() - began)
    spent = Usage.of(server.pids).since(usage)
    sheet.note(CHATSVC, SERVER_CPU, "s/GiB", spent.server / content.size * 1024 * MIB)
    sheet.note(CHATSVC, GROWTH, "MiB", (peak(server.pids[0]) - memory) / MIB)


def _note_speed(sheet: Sheet, subject: str, content: Content, seconds: float) -> None:
    sheet.note(subject, "speed", "MiB/s", content.size / MIB / seconds)


def _chat_beside(run: Run, load: Load, person: Person, content: Content) -> None:
    """Messages at a pace, with nothing else going on and then while a file comes and goes."""
    idle, busy = "chatsvc, no files", "chatsvc, files up and down"
    sheet = run.sheet(f"pairs, {_PACE} messages/s, beside files", idle)

    def some() -> list[float]:
        return load.paced(_PACE * _SECONDS, _PACE).latencies

    def both_ways() -> None:
        upload(person, content)
        download(person, content)

    latencies = {idle: [latency for _ in run.repetitions() for latency in some()], busy: []}
    with ThreadPoolExecutor(1) as thread:
        transfer = thread.submit(both_ways)
        while not transfer.done():
            latencies[busy] += some()
        transfer.result()
    for subject, found in latencies.items():
        sheet.latencies(subject, found)
