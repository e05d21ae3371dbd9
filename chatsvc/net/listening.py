"""Listening sockets: made by one process, served by it or by others, their certificates read anew on demand.

What is done with the connections is the factory's matter (``chatsvc/net/server.py``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

log = Logger()

#: Connections that may wait to be accepted; the system's limit, often 4096, may be lower. Twisted's 50 are
#: few when all clients come back at once: who finds no room tries again after a second, then two, then four.
BACKLOG = 16384
#: Connections that a TCP socket accepts in one turn of the reactor. Twisted takes more and more, and then the
#: next turn has to read what all of them have sent: a TLS handshake each, while everybody else waits.
ACCEPTS = 16
#: Seconds for which nobody is accepted when the process may open no more files.
REST = 1.0
#: When a peer is asked whether it is still there: after so many seconds of silence, again after so many, and
#: it is gone if so many times nothing has come back (docs/protocol.md section 2). Systems know these names.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 3}


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

    def accept(self, accept: bool) -> None:
        """Accept connections, or leave them where the system keeps who waits to be."""
        if self._port is not None:
            (self._port.startReading if accept else self._port.stopReading)()

    @property
    def is_plain_outside(self) -> bool:
        """Whether other machines can connect without TLS, and not only a proxy that names its clients."""
        host = getattr(self._port.getHost(), "host", None)
        if host is None or isinstance(self._port.factory, WrappingFactory):
            return False  # a UNIX socket; TLS, or what reads a proxy's header
        return not ip_address(host.partition("%")[0]).is_loopback

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
            _notice_the_dead(self._port.socket)

    def _not_reloaded(self, failure: Failure) -> None:
        log.error(
            "{endpoint} goes on with the certificate that it has, as the new one cannot be used: {why}",
            endpoint=self.endpoint,
            why=failure.getErrorMessage(),
        )


def warn_of_plain_text(listeners: Iterable[Listener]) -> None:
    """Say in the log where other machines can connect without TLS, if anywhere."""
    if plain := [listener.where for listener in listeners if listener.is_plain_outside]:
        log.warn(
            "Other machines can connect to {where} without TLS: whoever is on the way reads passwords and "
            "messages. Listen with ssl: (docs/operations.md), or on 127.0.0.1 behind a proxy that does TLS.",
            where=" and ".join(plain),
        )


def _notice_the_dead(listening: socket.socket) -> None:
    """Have the system ask peers that are silent; what is accepted inherits that from its listening socket.

    Whether it asks at all is set for each connection (``connection.py``), as not all systems pass that on.
    """
    if listening.family != socket.AF_UNIX:
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
    """A TCP socket that accepts a few connections at a time, and for a while none if no file can be opened.

    Twisted would accept them in the place of a file that it has in reserve, close them, and open that file
    again. Here a thread may take that place meanwhile; then the reactor would turn in a circle, for good.
    """

    _reads = _rests = _full = False

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Accept what waits."""
        full, self._full = self._full, not _can_open()
        if not self._full:
            self.numberAccepts = min(self.numberAccepts, ACCEPTS)
            super().doRead()  # type: ignore[no-untyped-call]
            return
        if not full:
            log.warn(
                "The process may open no more files, so who connects has to wait: raise the limit of open "
                "files (LimitNOFILE, nofile, ulimit -n), or lower --max-connections."
            )
        self._rests = True
        super().stopReading()  # type: ignore[no-untyped-call]
        self.reactor.callLater(REST, self._go_on)

    def startReading(self) -> None:  # noqa: N802 - Twisted's name
        """Accept connections, after the rest if there is one."""
        self._reads = True
        if not self._rests:
            super().startReading()  # type: ignore[no-untyped-call]

    def stopReading(self) -> None:  # noqa: N802 - Twisted's name
        """Accept none."""
        self._reads = False
        super().stopReading()  # type: ignore[no-untyped-call]

    def _go_on(self) -> None:
        self._rests = False
        if self._reads:
            super().startReading()  # type: ignore[no-untyped-call]


def _can_open() -> bool:
    """Whether the process may open a file; then Twisted has its reserve, for what comes in the same turn."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    reserve: Any = tcp._reservedFD  # noqa: SLF001 - there is no other way to it
    reserve.reserve()  # Twisted itself does not do it again
    return True


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
