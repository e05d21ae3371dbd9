"""A bad network: a proxy that delays, splits and cuts what passes, and may lose its connections at any byte.

Which people connect through it is `tests/chaos/load.py`'s affair.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from time import sleep
from typing import Self

from tests.chaos.report import Tally

#: Bytes that pass at a time, at most, and how long each such part may be late, in seconds.
PART = 3000
DELAY = 0.01
#: After how many bytes a connection is lost, on average; those sent behind the loss are lost with it.
LIFE = 200_000
_RESET = struct.pack("ii", 1, 0)


class _Pair:
    """One connection: the client's end and the server's, and a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._ends = client, server
        self._lost = False
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target in ((client, server), (server, client)):
            Thread(target=self._pass, args=(source, target), daemon=True).start()

    def lose(self) -> None:
        """Reset both. To the server, an end in order would say that the client has received all there was."""
        self._lost = True
        for end in self._ends:
            with suppress(OSError):  # it is closed already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD)  # closing alone would not wake up who waits for it
            end.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            for data in self._proxy.parts(source):
                target.sendall(data)
            if not self._lost:
                target.shutdown(socket.SHUT_WR)
        except OSError:  # one of the two has gone, or is lost
            self.lose()


class Proxy:
    """A way to a server, on a port of its own. As long as it is `calm`, everything passes as it is."""

    def __init__(self, address: tuple[str, int], tally: Tally, seed: int) -> None:
        self._to = address
        self._tally = tally
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[_Pair] = []
        self.calm = True
        Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            pair.lose()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                self._pairs.append(_Pair(self, client, socket.create_connection(self._to)))
            except OSError:  # the client or the server has gone
                client.close()

    def parts(self, source: socket.socket) -> Iterator[bytes]:
        """What comes from one end, in the pieces and with the delays of this network, as far as it gets."""
        left = self._random.expovariate(1 / LIFE)
        while data := source.recv(PART if self.calm else self._random.randint(1, PART)):
            if not self.calm:
                sleep(self._random.random() * DELAY)
                left -= len(data)
            if left < 0:  # within a frame, as a rule
                self._tally.faults.append("connection lost by the network")
                yield data[: len(data) // 2]
                raise ConnectionResetError
            yield data
