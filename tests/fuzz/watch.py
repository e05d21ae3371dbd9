"""A server that is being attacked, and what must hold of it the whole time and afterwards.

How it is attacked is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatsvc.wire.limits import MIB
from tests.raw import DEADLINE, Raw, unique
from tests.service import Service, wait_for

#: What memory may have grown by in the end, in bytes.
GROWTH = 20 * MIB
#: Descriptors that may have come to stay: connections to the store, files of logs.
SPARE = 4
#: What a log may not have, whatever peers do. A refusal is no failure.
FAULTS = ("Traceback", "#critical]", "Unhandled")


class Watch:
    """A pair of good clients beside the attack, the log, the memory and the descriptors of the process.

    To be made before the attack; `finish` says afterwards whether all is as it was.
    """

    def __init__(self, server: Service, deadline: float = DEADLINE) -> None:
        """`deadline` is how long, in seconds, a good client may wait, and what is over may still be there."""
        self.server = server
        self.deadline = deadline
        self._planted: set[str] = set()
        assert server.process is not None
        self._files = Path(f"/proc/{server.process.pid}/fd")
        self._pair = [self._member(dialect) for dialect in ("released", "network")]
        self._said = 0
        #: How long each message of the pair took, in seconds.
        self.delays: list[float] = []
        for _ in range(10):
            self.served()
        self._memory, self._descriptors, self._log_start = server.memory, self.descriptors, len(server.log())

    def _member(self, dialect: str) -> Raw:
        member = Raw(self.server.address, dialect)
        name = unique("bystander")
        member.register(name, self.plant(name))
        assert member.ask("FETCHMSG").ok
        self.plant(str(member.token))
        return member

    def plant(self, secret: str) -> str:
        """From now on, this may not be in the log; gives it back."""
        self._planted.add(secret)
        return secret

    @property
    def descriptors(self) -> int:
        """How many the process has open."""
        return sum(1 for _ in self._files.iterdir())

    @property
    def grown(self) -> int:
        """Bytes by which the process is larger than before the attack."""
        return self.server.memory - self._memory

    def served(self) -> None:
        """A message goes from one good client to the other, who gets it."""
        self._said += 1
        sender, reader = self._pair if self._said % 2 else self._pair[::-1]
        began = time.monotonic()
        message = sender.message(reader.user or 0, self.plant(unique("said")), md5encoded=unique("name"))
        sender.send("SENDMSG", message)
        assert sender.answer(self.deadline).ok
        while reader.push(self.deadline)["md5encoded"] != message["md5encoded"]:
            pass  # attackers may write to anybody
        self.delays.append(time.monotonic() - began)

    def alive(self) -> None:
        """The process that was there at first is there."""
        assert self.server.process is not None
        assert self.server.process.poll() is None, f"the server is gone:\n{self.server.log()[-4000:]}"

    def finish(self) -> None:
        """All is as it was before, but for the time."""
        self.alive()
        self.served()
        most = self._descriptors + SPARE
        wait_for(lambda: self.descriptors <= most, f"at most {most} descriptors are open", self.deadline)
        assert self.grown < GROWTH, f"memory has grown by {self.grown / MIB:.1f} MiB"
        log = self.server.log()[self._log_start :]
        for fault in FAULTS:
            assert fault not in log, log[max(0, log.index(fault) - 500) :][:4000]
        assert not [secret for secret in self._planted if secret in log]

    def close(self) -> None:
        """The pair goes."""
        for member in self._pair:
            member.close()


@contextmanager
def watched(server: Service, deadline: float = DEADLINE) -> Iterator[Watch]:
    """Watch a server during an attack; fails if it is not afterwards what it was before."""
    watch = Watch(server, deadline)
    try:
        yield watch
        watch.finish()
    finally:
        watch.close()
