"""What a test of the chat floor has in place of files, bcrypt and sockets, and a client that needs none.

The store is in `tests.fake_store`. No thread, and no time that a test does not move itself.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import wraps
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from twisted.internet.task import Clock

from chatsvc.blobs import BlobMissing, StoredBlob
from chatsvc.chat import files, messages, people, signals  # noqa: F401 - they fill the table of requests
from chatsvc.chat.calls import Call
from chatsvc.chat.hub import Hub
from chatsvc.chat.requests import Closing, begin, conclude, perform
from chatsvc.chat.session import Gone, Session
from chatsvc.passwords import ANYBODY, Turn
from chatsvc.store.errors import Unavailable
from chatsvc.tasks import Pending, run
from chatsvc.wire.frames import RELEASED, Dialect, FrameReader, Head
from chatsvc.wire.limits import Limits
from chatsvc.wire.schema import Response, encode
from tests.limits import unlimited

T = TypeVar("T")
#: Bytes of a file that a `FakeOutlet` takes at a time.
FILE_CHUNK = 4096


class Running(Generic[T]):
    """What is awaited, and its outcome."""

    def __init__(self, work: Awaitable[T]) -> None:
        self.outcome: list[T | Exception] = []
        run(self._await(work), self.outcome.append, self.outcome.append)

    @staticmethod
    async def _await(work: Awaitable[T]) -> T:
        return await work

    @property
    def done(self) -> bool:
        return bool(self.outcome)

    def result(self) -> T:
        assert self.done, "it still waits"
        if isinstance(self.outcome[0], Exception):
            raise self.outcome[0]
        return self.outcome[0]


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of what must not have to wait for anything."""
    return Running(work).result()


class Gate:
    """What a test does to the calls of a fake, by the method's name: fail them, or hold them."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._errors: defaultdict[str, list[Exception]] = defaultdict(list)
        self._held: dict[str, list[Pending[None]]] = {}

    def fail(self, name: str, error: Exception | None = None, times: int = 1) -> None:
        """Let the next calls of `name` ("any" for whichever comes) raise, by default `Unavailable`."""
        self._errors[name] += [error or Unavailable()] * times

    def forgive(self) -> None:
        """Let no more calls raise."""
        self._errors.clear()

    def hold(self, name: str) -> None:
        """Let calls of `name` wait before they do anything; of `name` + " reply", after they did it."""
        self._held[name] = []

    def release(self, name: str, *, last_first: bool = False) -> None:
        """Let go on what waits, and what comes."""
        held = self._held.pop(name)
        for waiting in reversed(held) if last_first else held:
            waiting.succeed(None)

    async def enter(self, name: str) -> None:
        self.calls[name] += 1
        for key in (name, "any"):
            if self._errors[key]:
                raise self._errors[key].pop(0)
        await self.wait(name)

    async def wait(self, name: str) -> None:
        if name in self._held:
            self._held[name].append(Pending())
            await self._held[name][-1]


def gated(fake: type[T]) -> type[T]:
    """Lead the coroutine methods of a fake through its `gate`."""

    def through_gate(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            await self.gate.enter(name)
            result = await method(self, *args, **kwargs)
            await self.gate.wait(f"{name} reply")
            return result

        return call

    for name, method in list(vars(fake).items()):
        if inspect.iscoroutinefunction(method):
            setattr(fake, name, through_gate(name, method))
    return fake


# Files and passwords.


@gated
class FakeBlobs:
    """The blob directory."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.kept: dict[str, bytes] = {}
        self.open_files = 0  # uploads and downloads that nobody has ended

    def upload(self) -> FakeUpload:
        return FakeUpload(self)

    async def put(self, data: bytes) -> StoredBlob:
        return self.keep(data)

    async def renew(self, sha256: str, size: int) -> bool:
        return len(self.kept.get(sha256, b"")) == size and sha256 in self.kept

    def keep(self, data: bytes) -> StoredBlob:
        sha256, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
        self.kept[sha256] = data
        return StoredBlob(sha256, md5, len(data))

    async def get(self, sha256: str) -> bytes:
        if sha256 not in self.kept:
            raise BlobMissing(sha256)
        return self.kept[sha256]

    async def open(self, sha256: str, offset: int, length: int) -> FakeDownload:
        if not 0 <= offset <= offset + length <= len(self.kept.get(sha256, b"")) or sha256 not in self.kept:
            raise BlobMissing(sha256)
        return FakeDownload(self, self.kept[sha256][offset : offset + length])


@gated
class FakeUpload:
    """A blob on its way in."""

    def __init__(self, blobs: FakeBlobs) -> None:
        self.gate = blobs.gate
        self._blobs: FakeBlobs | None = blobs
        self._data = b""
        blobs.open_files += 1

    async def write(self, data: bytes) -> None:
        self._data += data

    @property
    def md5(self) -> str:
        return hashlib.md5(self._data).hexdigest()

    async def finish(self) -> StoredBlob:
        assert self._blobs is not None
        return self._blobs.keep(self._data)

    async def abandon(self) -> None:
        if self._blobs is not None:
            self._blobs.open_files -= 1
        self._blobs = None


@gated
class FakeDownload:
    """A blob on its way out."""

    def __init__(self, blobs: FakeBlobs, data: bytes) -> None:
        self.gate = blobs.gate
        self.size = len(data)
        self._blobs: FakeBlobs | None = blobs
        self._data = data
        blobs.open_files += 1

    async def read(self, most: int) -> bytes:
        data, self._data = self._data[:most], self._data[most:]
        return data

    def close(self) -> None:
        if self._blobs is not None:
            self._blobs.open_files -= 1
        self._blobs = None


@gated
class FakePasswords:
    """bcrypt without the work."""

    def __init__(self) -> None:
        self.gate = Gate()

    async def hash(self, password: str, turn: Turn = ANYBODY) -> bytes:
        return hashlib.sha256(password.encode()).hexdigest().encode()

    async def verify(self, password: str, stored: bytes | None, turn: Turn = ANYBODY) -> bool:
        return stored == hashlib.sha256(password.encode()).hexdigest().encode()


# Connections.


class FakeOutlet:
    """The network floor's side of a session: what was sent is written out when the test says so."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.offset = self.written = 0
        self.sent = b""
        self.aborted = False
        self._lost = False
        self._waiting: list[tuple[int, Pending[None]]] = []

    def send(self, data: bytes) -> None:
        if not self._lost:
            self.sent += data
            self.offset += len(data)

    async def drained(self, below: int) -> None:
        if self._lost:
            raise Gone
        if self.offset - self.written > below:
            self._waiting.append((below, Pending()))
            await self._waiting[-1][1]

    async def send_file(self, file: Any) -> None:
        while data := await file.read(FILE_CHUNK):
            self.send(data)
            await self.drained(FILE_CHUNK)

    def abort(self) -> None:
        self.aborted = True

    def write_out(self, upto: int | None = None) -> None:
        self.written = self.offset if upto is None else upto
        waiting, self._waiting = self._waiting, []
        for below, pending in waiting:
            if self.offset - self.written <= below:
                pending.succeed(None)
            else:
                self._waiting.append((below, pending))

    def lose(self) -> None:
        self._lost = True
        waiting, self._waiting = self._waiting, []
        for _, pending in waiting:
            pending.fail(Gone())


class FakePayload:
    """The payload of a request: its parts as they come, and the length that its frame declares."""

    def __init__(self, *parts: bytes, length: int | None = None) -> None:
        self.left = list(parts)
        self.length = sum(map(len, parts)) if length is None else length
        self.gone = False

    async def read(self) -> bytes:
        if self.gone:
            raise Gone
        return self.left.pop(0) if self.left else b""


class Frame(NamedTuple):
    """One frame that a client was sent."""

    response: str
    ok: bool
    info: str | None
    body: Any
    payload: bytes


class Node:
    """One node of the service on fakes."""

    def __init__(self, clock: Clock, store: Any, **limits: Any) -> None:
        self.clock, self.store = clock, store
        self.blobs, self.passwords = FakeBlobs(), FakePasswords()
        make_hub: Any = Hub  # to a type checker a fake is not the real thing
        self.hub: Hub = make_hub(clock, store, self.blobs, self.passwords, unlimited(**limits))

    def client(self, dialect: Dialect = RELEASED, token: int | None = None) -> FakeClient:
        return FakeClient(self.hub, dialect, token)

    def user(self, name: str, dialect: Dialect = RELEASED) -> FakeClient:
        """A client that has registered, with the password "secret"."""
        client = self.client(dialect)
        client.user = client.ask("REGISTER", {"username": name, "passwd": "secret"}).body["userid"]
        return client


class FakeClient:
    """A connection as the network floor would serve it, one request at a time."""

    def __init__(self, hub: Hub, dialect: Dialect, token: int | None) -> None:
        self.outlet = FakeOutlet(dialect)
        self.session = Session(hub, self.outlet)
        self.token = token
        self.user = 0
        #: Whether the peer reads: what is sent is written out at the end of each request.
        self.reads = True
        self.closing = False
        self.pushes: list[Any] = []
        self.hints: list[tuple[str, Any]] = []  # pushes that are no messages
        self._hub = hub
        self._reader = FrameReader(Limits(), dialect)

    def start(
        self, kind: str, body: Any = None, payload: FakePayload | None = None, **more: Any
    ) -> Running[None]:
        """Begin a request; `more` is other fields of its envelope."""
        json = encode({"request": kind, "body": body, "tokenid": self.token} | more)
        return self.start_raw(Head(json, payload.length if payload else 0), payload)

    def start_raw(self, head: Head, payload: FakePayload | None = None) -> Running[None]:
        call = Call(self.session, head, self._hub.clock.seconds())
        call.payload = payload
        return Running(self._serve(call))

    async def _serve(self, call: Call) -> None:
        try:
            work = begin(call)
            if work is None:
                answer = await perform(call)
            else:
                with suppress(Exception):  # `conclude` says what becomes of it
                    await work
                answer = conclude(call, work)
        except Closing as closing:
            answer, self.closing = closing.answer, True
        self.outlet.send(answer)
        self.session.ledger.answer(self.outlet.offset)
        if self.reads:
            self.flush()

    def flush(self) -> None:
        """The peer has read all that was sent."""
        self.outlet.write_out()
        self.session.ledger.written(self.outlet.written, self._hub.clock.seconds())

    def ask(self, kind: str, body: Any = None, payload: FakePayload | None = None, **more: Any) -> Frame:
        """The answer of a request that has just one."""
        [answer] = self.ask_all(kind, body, payload, **more)
        return answer

    def ask_all(
        self, kind: str, body: Any = None, payload: FakePayload | None = None, **more: Any
    ) -> list[Frame]:
        """All answers of a request, which must not have to wait for anything but for us to read."""
        running = self.start(kind, body, payload, **more)
        while not running.done and self.outlet.offset > self.outlet.written:
            self.flush()
        running.result()
        return self.answers()

    def answers(self) -> list[Frame]:
        """What has come since the last look; tokens and pushes are put aside."""
        found = []
        for frame in self.frames():
            if frame.response == "TOKEN":
                self.token = frame.body["tokenid"]
            elif frame.response == "FORWARDMSG":
                self.pushes.append(frame.body)
            elif frame.response.startswith("FORWARD"):
                self.hints.append((frame.response, frame.body))
            else:
                found.append(frame)
        return found

    def frames(self) -> list[Frame]:
        """All that has come since the last look."""
        data, self.outlet.sent = self.outlet.sent, b""
        self._reader.receive(data)
        found = []
        while (head := self._reader.next_head()) is not None:
            assert head.json is not None
            read = msgspec.json.decode(head.json, type=Response)
            body = msgspec.json.decode(read.body)
            payload = b"".join(iter(self._reader.read_payload, b""))
            found.append(Frame(read.response, read.status == "OK", read.info, body, payload))
        return found

    def contents(self) -> list[str]:
        """The contents of the messages that were pushed since the last look."""
        found = self.answers()
        assert not found, found
        contents = [push["content"] for push in self.pushes]
        self.pushes.clear()
        return contents

    def fetch(self) -> list[str]:
        """The contents of all that FETCHMSG gives, oldest first."""
        return [m["content"] for part in self.ask_all("FETCHMSG") for m in reversed(part.body["messages"])]

    def message(self, target: int, content: str = "aGk=", **fields: Any) -> dict[str, Any]:
        """The body of a text message from this user, in the seed's form: each is a new message."""
        text = {"contenttype": "plaintext", "content": content, "md5encoded": "0" * 32}
        return {"userid": self.user, "targetid": target} | text | fields

    def send(self, target: int, content: str = "aGk=", **fields: Any) -> None:
        """Send a text message."""
        answer = self.ask("SENDMSG", self.message(target, content, **fields))
        assert answer.ok, answer

    def close(self) -> None:
        """The connection ends."""
        self.outlet.lose()
        self.session.close()
