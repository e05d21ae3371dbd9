"""Listening sockets: made by one process, served by it or by others, their certificates read anew on demand.

What is done with the connections is the factory's matter (``chatsvc/net/server.py``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

log = Logger()

#: Connections that may wait to be accepted; the system's limit, often 4096, may be lower. Twisted's 50 are
#: few when all clients come back at once: who finds no room tries again after a second, then two, then four.
BACKLOG = 16384
#: Connections that a TCP socket accepts in one turn of the reactor. Twisted takes more and more, and then the
#: next turn has to read what all of them have sent: a TLS handshake each, while everybody else waits.
ACCEPTS = 16


class CannotListen(Exception):  # noqa: N818 - a sentence for the operator
    """An endpoint cannot be opened; the message says why."""


class Listener:
    """One endpoint, named by an endpoint string of Twisted's (``docs/architecture.md``).

    With an `inherited` descriptor nothing is bound: that is its socket, which another process has made.
    """

    def __init__(self, reactor: Any, endpoint: str, inherited: int | None = None) -> None:
        self.endpoint = endpoint
        self._reactor = reactor
        self._inherited = inherited
        self._factory: Any
        self._opener: _Opener
        self._port: Any = None

    async def open(self, factory: Any) -> None:
        """Accept connections for `factory`. Raises `CannotListen`."""
        await self._listen(factory, _Opener(self._reactor, self._inherited))

    async def hold(self) -> None:
        """Bind, but accept nobody: that is left to processes that inherit `descriptor`.

        Raises `CannotListen`, also for an endpoint whose socket cannot be shared.
        """
        nobody = Factory()
        nobody.noisy = False
        opener = _Opener(self._reactor, None, holds=True)
        await self._listen(nobody, opener)
        if opener.port is None:
            await self.close()
            raise CannotListen(
                f"{self.endpoint} cannot be shared by several workers; use --workers 1 with it."
            )

    @property
    def where(self) -> str:
        """The address that it listens on."""
        address = self._port.getHost()
        return f"{address.host}:{address.port}" if hasattr(address, "port") else str(address)

    @property
    def descriptor(self) -> int:
        """The open socket."""
        number: int = self._port.fileno()
        return number

    def reload(self) -> None:
        """Read certificates again, for connections to come; if they cannot be used, the old ones stay."""
        if self._opener.port is None:
            return  # it has no certificates: nothing was bound by us
        try:
            endpoint = serverFromString(self._opener, self.endpoint)  # type: ignore[no-untyped-call]
            endpoint.listen(self._factory).addErrback(self._not_reloaded)
        except Exception:  # the parsers of endpoints are plugins and raise what they like
            self._not_reloaded(Failure())  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Accept nobody any more."""
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()

    async def _listen(self, factory: Any, opener: _Opener) -> None:
        self._factory, self._opener = factory, opener
        try:
            endpoint = serverFromString(opener, self.endpoint)  # type: ignore[no-untyped-call]
            self._port = await endpoint.listen(factory)
        except CannotListenError as error:
            raise CannotListen(
                f"Cannot listen on {self.endpoint}: {error.socketError}. Is another server there already?"
            ) from None
        except Exception as error:  # the parsers of endpoints are plugins and raise what they like
            raise CannotListen(f"Cannot listen on {self.endpoint}: {str(error).rstrip('.')}.") from None
        if hasattr(self._port, "socket"):
            self._port.socket.listen(BACKLOG)

    def _not_reloaded(self, failure: Failure) -> None:
        log.error(
            "{endpoint} goes on with the certificate that it has, as the new one cannot be used: {why}",
            endpoint=self.endpoint,
            why=failure.getErrorMessage(),
        )


class _Opener:
    """A reactor to an endpoint that wants to listen: it binds, adopts what was inherited, or, once a port is
    open, gives that port the endpoint's new factory, in which new certificates are."""

    def __init__(self, reactor: Any, inherited: int | None, *, holds: bool = False) -> None:
        self._reactor = reactor
        self._inherited = inherited
        self._holds = holds
        self.port: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """As `IReactorTCP`."""
        return self._open(factory, lambda: _started(_Port(port, factory, backlog, interface, self._reactor)))

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        """As `IReactorSSL`."""
        contextFactory.getContext()  # or only the first client would find out what OpenSSL has against it
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory), backlog, interface)

    def listenUNIX(
        self,
        address: str,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> Any:
        """As `IReactorUNIX`."""
        return self._open(factory, lambda: self._reactor.listenUNIX(address, factory, backlog, mode, wantPID))

    def _open(self, factory: Any, bind: Callable[[], Any]) -> Any:
        if self.port is not None:
            factory.doStart()
            old, self.port.factory = self.port.factory, factory
            old.doStop()
        elif self._inherited is not None:
            self.port = _adopt(self._reactor, self._inherited, factory)
        else:
            self.port = bind()
            if self._holds:
                self.port.stopReading()
                # To shut the socket down would end it in all processes; Twisted has no other switch for that.
                self.port._shouldShutdown = False  # noqa: SLF001
        return self.port


def _adopt(reactor: Any, descriptor: int, factory: Any) -> Any:
    with socket.socket(fileno=descriptor) as inherited:
        inherited.setblocking(False)
        if inherited.family == socket.AF_UNIX:
            return _started(_BorrowedUnixPort(inherited.dup(), factory, reactor))
        adopt: Any = _Port._fromListeningDescriptor  # noqa: SLF001 - what the reactor's adoptStreamPort calls
        return _started(adopt(reactor, descriptor, inherited.family, factory))


def _started(port: Any) -> Any:
    port.startListening()
    return port


class _Port(tcp.Port):
    """A TCP socket that accepts a few connections at a time."""

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Accept what waits."""
        self.numberAccepts = min(self.numberAccepts, ACCEPTS)
        super().doRead()  # type: ignore[no-untyped-call]


class _BorrowedUnixPort(unix.Port):
    """A UNIX socket whose file is another process's: its mode is not changed here, nor is it removed.

    The port that Twisted makes of a descriptor does both, and shuts the socket down for all who share it.
    """

    _shouldShutdown = False

    def __init__(self, listening: socket.socket, factory: Any, reactor: Any) -> None:
        super().__init__(listening.getsockname(), factory, reactor=reactor)
        self._listening = listening

    def startListening(self) -> None:
        """Accept; it is bound, and listens."""
        self.factory.doStart()  # type: ignore[union-attr]
        self.socket = self._listening
        self.fileno = self._listening.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """Close this process's descriptor of it."""
        tcp.Port.connectionLost(self, reason)  # type: ignore[no-untyped-call]
