"""Waiting until replicas have what was written: a link whose scripts are done only then (``--replica-acks``).

How a link is kept up lives in ``link``; what this protects against, and what it does not, in
``docs/high-availability.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import txredisapi
from twisted.logger import Logger

from chatsvc.store import keys
from chatsvc.store.errors import Redirected, TryAgain, Unwritable
from chatsvc.store.link import Link
from chatsvc.store.protocol import Arg, StoreProtocol, pack
from chatsvc.store.script import Script
from chatsvc.tasks import Pending, gather, spawn
from chatsvc.wire.errors import Refusal

log = Logger()

#: How long the replicas may take, in seconds. What is written while others are waited for has to wait for
#: them, too, and then for its own replicas: twice this is within the time that a request has left.
ACK_WAIT = 1.5
#: After how long they are asked again, in milliseconds. A replica that is asked while a write arrives
#: answers before it is on disk, and would say so unasked a second later only.
ASK_AGAIN = 20
#: For how long the mark lives that is written before replicas are asked, in milliseconds: to be written is
#: all that it is for, and a key that were there on both sides would keep a cluster from moving its slot.
MARK_LIFE = 1


class ReplicatedLink(Link):
    """A link on which everything lasting that is written is with enough replicas before it is done.

    What only reads, or need not last, goes through a second connection: on the first one it would wait
    for replicas that have nothing to do with it.
    """

    def __init__(self, *args: Any, replicas: int, aside: Link, **options: Any) -> None:
        """`replicas` are enough; `aside` is the second connection, with the same scripts."""
        super().__init__(*args, **options)
        self._replicas = replicas
        self._aside = aside
        # Both are of the connection that is there now.
        self._acks = _Acks(self._confirm)
        self._enough: tuple[int, ...] = ()  # disks, if they count, and replicas
        self._missing = False

    def start(self) -> None:
        """As `Link.start`, both."""
        super().start()
        self._aside.start()

    async def stop(self) -> None:
        """As `Link.stop`, both."""
        await gather((super().stop(), self._aside.stop()))

    @property
    def up(self) -> bool:
        """As `Link.up`, both."""
        return super().up and self._aside.up

    async def ready(self, wait: float) -> None:
        """As `Link.ready`, both."""
        await gather((super().ready(wait), self._aside.ready(wait)))

    async def call(self, *args: Arg, asking: bool = False, expires: float | None = None) -> Any:
        """As `Link.call`."""
        return await self._aside.call(*args, asking=asking, expires=expires)

    async def script(
        self,
        script: Script,
        key: bytes,
        *args: Arg,
        also: tuple[bytes, ...] = (),
        asking: bool = False,
        expires: float | None = None,
    ) -> Any:
        """As `Link.script`. Raises `Unwritable` if too few replicas have it in time: it may last or not."""
        way = super().script if script.lasting else self._aside.script
        return await way(script, key, *args, also=also, asking=asking, expires=expires)

    async def _prepare(self, connection: StoreProtocol) -> StoreProtocol:
        await super()._prepare(connection)
        # WAITAOF also waits for disks, the primary's among them.
        has_file = await self._has_file(connection)
        self._enough = (1, self._replicas) if has_file else (self._replicas,)
        self._acks = _Acks(partial(self._confirm, connection))
        return connection

    async def _has_file(self, connection: StoreProtocol) -> bool:
        """Whether the store can tell what is in its append-only file and in those of its replicas."""
        try:
            await connection.ask(pack((b"WAITAOF", 1, 0, 1)), self._reactor.seconds())
        except txredisapi.ResponseError as error:
            if str(error).startswith("NOPERM"):
                raise  # to wait for less than the operator thinks would be worse than not to start
            return False
        return True

    async def _execute(
        self,
        connection: StoreProtocol,
        script: Script,
        command: bytes,
        keys: tuple[bytes | int, ...],
        asking: bool,
        expires: float,
    ) -> Any:
        record = keys[1]
        assert isinstance(record, bytes)
        # Sent together: what is asked after the script is asked about all that it wrote.
        reply, _ = await gather(
            (self._reply(connection, command, asking), self._acks.of_all_so_far(record, asking, expires))
        )
        return reply

    async def _confirm(self, connection: StoreProtocol, record: bytes, asking: bool, until: float) -> None:
        """Return when enough replicas have all that was written before, whoever wrote it.

        The store counts what *this connection* wrote, and a script that finds its work done writes nothing:
        another connection may have done it and been lost before replicas had it. Hence the mark.
        """
        mark = pack((b"SET", keys.mark(record), b"", b"PX", MARK_LIFE))
        until = min(until, self._reactor.seconds() + ACK_WAIT)
        try:
            await self._reply(connection, mark, asking)
            while (found := await self._ask_replicas(connection)) is not None:
                if self._reactor.seconds() >= until:
                    self._tell(missing=True, found=found)
                    raise Unwritable
        except Redirected as error:
            raise TryAgain from error  # it is about the mark, which is nowhere yet, not about the record
        except Refusal as error:  # a full store, say: a script that takes things away has run all the same
            raise Unwritable from error
        except RuntimeError as error:
            connection.cut("it does not wait for replicas as it did")  # a setting was changed: look anew
            raise Unwritable from error
        self._tell(missing=False)

    async def _ask_replicas(self, connection: StoreProtocol) -> list[int] | None:
        """None if there are enough, or else how many there are."""
        command = b"WAITAOF" if len(self._enough) == 2 else b"WAIT"
        found = await self._reply(connection, pack((command, *self._enough, ASK_AGAIN)), False)
        have = found if isinstance(found, list) else [found]
        return None if all(map(int.__ge__, have, self._enough)) else have

    def _tell(self, *, missing: bool, found: list[int] | None = None) -> None:
        """Say once, not at every message, that replicas are missing; the primary may be another by now."""
        if missing:
            self.look_soon()
        if missing != self._missing:
            self._missing = missing
            if missing:
                log.warn("Too few replicas have what is written: {found}", found=found, link=self._name)
            else:
                log.info("Enough replicas have what is written", link=self._name)


class _Acks:
    """One connection's questions to replicas, one at a time for all that was sent before."""

    def __init__(self, confirm: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """`confirm` takes a key of this store, whether another store is getting that, and until when."""
        self._confirm = confirm
        self._waiting: list[tuple[Pending[None], float]] = []
        self._record = b"", False
        self._asking = False

    async def of_all_so_far(self, record: bytes, asking: bool, until: float) -> None:
        """Return when what was sent so far is confirmed; raises what `confirm` raises."""
        waiter: Pending[None] = Pending()
        self._waiting.append((waiter, until))
        self._record = record, asking
        if not self._asking:
            self._asking = True
            spawn(self._ask(), "asking replicas")
        await waiter

    async def _ask(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                try:
                    await self._confirm(*self._record, min(until for _, until in group))
                except Exception as error:
                    for waiter, _ in group:
                        waiter.fail(error)
                else:
                    for waiter, _ in group:
                        waiter.succeed(None)
        finally:
            self._asking = False
