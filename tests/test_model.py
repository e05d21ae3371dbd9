"""A running server against the model of tests/model.py, in conversations that hypothesis makes up.

`CHATSVC_MODEL_EXAMPLES` is how many; by default few enough for each run of the tests, and always the same.
`make simulate` tries more of them, longer ones, and others each time.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model import Connection, Device, Inbox, User, World, for_reader
from tests.raw import Answer, Raw, unique
from tests.service import Service

#: Messages in one answer of FETCHMSG at most, so that many come in several.
IN_ONE_ANSWER = 3
USERS, DEVICES, CONNECTIONS = 3, 5, 2

EXAMPLES = os.environ.get("CHATSVC_MODEL_EXAMPLES")
PROFILE = settings(
    max_examples=int(EXAMPLES or 24),
    derandomize=EXAMPLES is None,
    stateful_step_count=50 if EXAMPLES else 40,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

PICK = st.integers(0, 11)
DIALECTS = st.sampled_from(["released", "seed", "network"])
#: Few, so that they come again, and in any order.
TIMES = st.none() | st.integers(1, 5)
NAMES = st.sampled_from("abcdefgh")
CONTENTS = st.sampled_from(["aGk=", "plain", "", "Gr\u00fc\u00dfe", "YQ", "x" * 40_000])


class Conversations(RuleBasedStateMachine):
    """A few users with a few devices each, who do what the protocol allows."""

    server: ClassVar[Service]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.raws: dict[Connection, Raw] = {}
        self.tokens: dict[Device, int] = {}
        self.users: list[User] = []

    @initialize()
    def meet(self) -> None:
        for at in range(USERS):
            with Raw(self.server.address) as raw:
                name = unique()
                self.users.append(User(raw.register(name), name, "secret"))
            self.world.users[self.users[at].id] = self.users[at]
        for at in range(DEVICES):
            device = Device()
            self.world.devices.append(device)
            self.login_on(self.connect(device, "seed"), self.users[at % USERS])

    # What they do.

    @rule(pick=PICK, dialect=DIALECTS)
    def open(self, pick: int, dialect: str) -> None:
        device = self.world.devices[pick % DEVICES]
        if len(device.connections) < CONNECTIONS:
            self.connect(device, dialect)

    @precondition(lambda self: self.raws)
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        connection = self.connection(pick)
        raw = self.raws.pop(connection)
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.closed()  # so the server has seen it
        raw.close()
        connection.close(cleanly=True)

    @precondition(lambda self: self.raws)
    @rule(pick=PICK)
    def cut(self, pick: int) -> None:
        connection = self.connection(pick)
        self.raws.pop(connection).reset()
        connection.close(cleanly=False)

    @precondition(lambda self: self.raws)
    @rule(pick=PICK)
    def state(self, pick: int) -> None:
        connection = self.connection(pick)
        answer = self.ask(connection, "STATE")
        connection.answered()
        user = connection.device.user
        assert answer.ok == (user is not None)
        if user is not None:
            name = for_reader(user.name, connection.dialect)
            assert answer.body == {"userid": user.id, "username": name, "avatar": None}

    @precondition(lambda self: self.raws)
    @rule(pick=PICK, who=PICK)
    def login(self, pick: int, who: int) -> None:
        self.login_on(self.connection(pick), self.users[who % USERS])

    @precondition(lambda self: self.raws)
    @rule(pick=PICK)
    def logout(self, pick: int) -> None:
        connection = self.connection(pick)
        assert self.ask(connection, "LOGOUT").ok
        connection.answered()
        connection.device.bind(None)

    @precondition(lambda self: self.bound())
    @rule(pick=PICK, password=st.sampled_from(["secret", "other"]))
    def change_password(self, pick: int, password: str) -> None:
        connection, user = self.bound_connection(pick)
        body = {"passwd": user.password, "newPasswd": password}
        assert self.ask(connection, "MODIFYPASSWD", body).ok
        connection.answered()
        user.password = password
        for device in self.world.devices:
            if device.user is user and device is not connection.device:
                device.bind(None)

    @precondition(lambda self: self.bound())
    @rule(pick=PICK, whom=PICK)
    def add_contact(self, pick: int, whom: int) -> None:
        connection, user = self.bound_connection(pick)
        other = self.users[whom % USERS]
        assert self.ask(connection, "ADDCONTACT", {"userid": other.id}).ok == (other is not user)
        if other is not user:
            user.added.add(other.id)
        if connection.dialect == "released":
            self.are_contacts(user, self.raws[connection].answer())
        connection.answered()

    @precondition(lambda self: self.bound())
    @rule(pick=PICK)
    def fetch_contacts(self, pick: int) -> None:
        connection, user = self.bound_connection(pick)
        self.are_contacts(user, self.ask(connection, "FETCHCONTACT"))
        connection.answered()

    @precondition(lambda self: self.bound())
    @rule(pick=PICK, whom=PICK, name=NAMES, timestamp=TIMES, content=CONTENTS)
    def send(self, pick: int, whom: int, name: str, timestamp: int | None, content: str) -> None:
        connection, user = self.bound_connection(pick)
        message = {
            "userid": user.id,
            "targetid": self.users[whom % USERS].id,
            "contenttype": "plaintext",
            "content": content,
            "timestamp": timestamp,
            "md5encoded": name,
            "filemd5": None,
        }
        body = {field: value for field, value in message.items() if value is not None}
        answer = self.ask(connection, "SENDMSG", body)
        assert (answer.ok, answer.body) == (True, {"md5encoded": name})
        connection.answered()
        if timestamp is None:
            message["timestamp"] = self.newest(user)["timestamp"]
        if not self.world.send(connection.device, message, timed=timestamp is not None):
            return
        for listener in self.world.listeners(connection.device, message):
            inbox = listener.device.inbox
            place = len(inbox.user.mailbox) - 1
            assert self.raws[listener].push() == self.read(listener, inbox, place)
            listener.deliver(place, place + 1)

    @precondition(lambda self: self.bound())
    @rule(pick=PICK, limit=st.none() | st.integers(1, 5))
    def fetch(self, pick: int, limit: int | None) -> None:
        self.fetch_on(self.bound_connection(pick)[0], limit)

    @precondition(lambda self: self.bound())
    @rule(pick=PICK, which=PICK, beside=st.sampled_from([0, 0, 0, -1, 1]))
    def acknowledge(self, pick: int, which: int, beside: int) -> None:
        connection, user = self.bound_connection(pick)
        times = [0, *sorted({entry.timestamp for entry in user.mailbox})]
        timestamp = times[which % len(times)] + beside
        connection.device.explicit = True
        connection.asks()
        self.raws[connection].send("ACKFETCH", {"timestamp": timestamp})
        connection.device.inbox.acknowledge_time(timestamp)
        self.ask(connection, "STATE")  # its answer says that the acknowledgement was taken
        connection.answered()

    def teardown(self) -> None:
        try:
            if self.users:
                self.check()
        finally:
            for raw in self.raws.values():
                raw.close()

    def check(self) -> None:
        """Nothing was pushed that should not be; every mailbox and cursor is as it should be."""
        for connection in self.raws:
            self.ask(connection, "STATE")
            connection.answered()
        for user in self.users:
            with Raw(self.server.address, "seed") as raw:
                raw.login(user.name, user.password)
                assert raw.fetch() == [entry.message for entry in user.mailbox]
        for device in self.world.devices:
            if device.user is not None:
                self.fetch_on(self.connect(device, "seed"), None)

    # How they do it.

    def connection(self, pick: int) -> Connection:
        """One of those that are open."""
        return list(self.raws)[pick % len(self.raws)]

    def bound(self) -> list[Connection]:
        """Those of devices that are bound."""
        return [connection for connection in self.raws if connection.device.user is not None]

    def bound_connection(self, pick: int) -> tuple[Connection, User]:
        """One of them, and its user."""
        found = self.bound()
        connection = found[pick % len(found)]
        assert connection.device.user is not None
        return connection, connection.device.user

    def connect(self, device: Device, dialect: str) -> Connection:
        """A connection that has made no request yet, unless it is the first of its device."""
        connection = Connection(device, dialect, time.monotonic)
        raw = self.raws[connection] = Raw(self.server.address, dialect, self.tokens.get(device))
        if device not in self.tokens:
            assert not self.ask(connection, "STATE").ok
            connection.answered()
            assert raw.token is not None
            self.tokens[device] = raw.token
        return connection

    def ask(self, connection: Connection, kind: str, body: Any = None) -> Answer:
        """The answer to a request; no push that was not expected has come before it."""
        connection.asks()
        raw = self.raws[connection]
        answer = raw.ask(kind, body)
        assert raw.pushes == []
        assert raw.token == self.tokens.get(connection.device, raw.token)
        connection.was_asked(kind)
        return answer

    def login_on(self, connection: Connection, user: User) -> None:
        """Bind a device."""
        assert self.ask(connection, "LOGIN", {"username": user.name, "passwd": user.password}).ok
        connection.answered()
        connection.device.bind(user)

    def newest(self, user: User) -> dict[str, Any]:
        """The newest message in a mailbox, seen from a device of no importance."""
        with Raw(self.server.address, "seed") as raw:
            raw.login(user.name, user.password)
            found: dict[str, Any] = raw.fetch()[-1]
        return found

    def are_contacts(self, user: User, answer: Answer) -> None:
        """The answer to FETCHCONTACT is right."""
        found = {kind: {one["userid"] for one in people} for kind, people in answer.body.items()}
        assert found == self.world.relations(user)

    def read(self, connection: Connection, inbox: Inbox, place: int) -> dict[str, Any]:
        """A message as this connection gets it."""
        message = inbox.user.mailbox[place].message
        return message | {"content": for_reader(message["content"], connection.dialect)}

    def fetch_on(self, connection: Connection, limit: int | None) -> None:
        """FETCHMSG: the answers are right, and were delivered."""
        connection.asks()
        raw, inbox = self.raws[connection], connection.device.inbox
        raw.send("FETCHMSG", None if limit is None else {"limit": limit})
        answers = [raw.answer()]
        while answers[-1].body["more"] and limit is None:
            answers.append(raw.answer())
        assert raw.pushes == []
        connection.was_asked("FETCHMSG")
        connection.fetched = True
        parts = [answer.body["messages"][::-1] for answer in answers]
        if limit is None:
            connection.limit_end = None
        start = self.fitting_start(
            connection, [one for part in parts for one in part], limit, more=answers[-1].body["more"]
        )
        for answer, part in zip(answers, parts, strict=True):
            assert len(part) <= min(IN_ONE_ANSWER, limit or IN_ONE_ANSWER)
            assert part or len(parts) == 1
            places = inbox.foreign(start)[: len(part)]
            end = places[-1] + 1 if answer.body["more"] else len(inbox.user.mailbox)
            newest = inbox.user.mailbox[places[-1]].timestamp if part else None
            connection.deliver(start, end, newest)
            start = end
        if limit is not None:
            connection.limit_end = start
        connection.answered()

    def fitting_start(
        self, connection: Connection, found: list[Any], limit: int | None, *, more: bool
    ) -> int:
        """Where these messages start in the mailbox; the cursor is only where that is possible."""
        inbox, starts = connection.device.inbox, {}
        for cursor in inbox.cursors:
            start = max(cursor, connection.limit_end or 0)
            places = inbox.foreign(start)
            count = len(places) if limit is None else len(found)
            rest = len(places) > count
            wanted = [self.read(connection, inbox, place) for place in places[:count]]
            if wanted == found and rest == more and (found or not places):
                starts[cursor] = start
        assert starts, (inbox.cursors, connection.limit_end, found)
        inbox.cursors = set(starts)
        return starts[min(starts)]


def test_a_server_does_what_the_model_does(service: Callable[..., Service]) -> None:
    class Machine(Conversations):
        server = service("--max-answer-messages", str(IN_ONE_ANSWER)).start()

    run_state_machine_as_test(Machine, settings=PROFILE)
    assert "Traceback" not in Machine.server.log()
