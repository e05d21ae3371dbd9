"""The client library: what a program needs to talk to a chat server (``docs/protocol.md``).

It stands on the ground floor beside the server and knows nothing of how the server is built.
"""

from chatsvc.client.client import Client, State
from chatsvc.client.connection import Connection, NotConnected, RequestRefused, TimedOut, Upload
from chatsvc.client.forms import PLAIN, RAW, Form
from chatsvc.client.people import Event
from chatsvc.wire.schema import MarkOf, Presence, Relation, Typing

__all__ = [
    "PLAIN",
    "RAW",
    "Client",
    "Connection",
    "Event",
    "Form",
    "MarkOf",
    "NotConnected",
    "Presence",
    "Relation",
    "RequestRefused",
    "State",
    "TimedOut",
    "Typing",
    "Upload",
]
