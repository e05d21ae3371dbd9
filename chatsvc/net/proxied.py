"""Connections through a proxy that says whom it speaks for (the PROXY protocol): what Twisted hides of them.

The header itself is read by Twisted (``haproxy:`` endpoints).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import alsoProvides


def unwrap(transport: Any, protocol: Any) -> tuple[Any, ProtocolWrapper | None]:
    """The socket under `transport`, and the proxy's wrapper around it, if there is one.

    The wrapper passes bytes through, but no half-close, and it does not tell how far writing has come. What
    has reached the client is not known even so: it is the proxy whose system has acknowledged it.
    """
    is_proxy = isinstance(transport, ProtocolWrapper) and not isinstance(transport, TLSMemoryBIOProtocol)
    if not is_proxy or not isinstance(transport.transport, FileDescriptor):
        return transport, None
    transport.readConnectionLost = protocol.readConnectionLost
    transport.writeConnectionLost = protocol.writeConnectionLost
    alsoProvides(transport, IHalfCloseableProtocol)
    return transport.transport, transport
