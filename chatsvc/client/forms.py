"""How a program's strings become the wire's and back: names, contents, passwords, message names.

What travels in which request is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from msgspec.structs import replace

from chatsvc.wire import text
from chatsvc.wire.schema import Contacts, Message, UserInfo

_PARTS = Struct("<III")
_LOW = 0xFFFFFFFF


def _digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _shown(wire: str) -> str:
    plain = text.decoded(wire)
    return wire if plain is None else plain


def _hashed(password: str) -> str:
    # The released client hashes the low eight bits of each UTF-16 unit; whoever registered there must
    # be able to log in here.
    return _digest(password.encode("utf-16-le", "surrogatepass")[::2])


class Form(NamedTuple):
    """One way to write a program's strings on the wire."""

    #: A name or a content, as it is sent.
    write: Callable[[str], str]
    #: A name or a content, as the program gets it.
    read: Callable[[str], str]
    #: A password, as it is sent.
    password: Callable[[str], str]

    def user(self, wire: UserInfo) -> UserInfo:
        """`wire` with its name as the program gets it."""
        return UserInfo(wire.userid, self.read(wire.username), wire.avatar)

    def message(self, wire: Message) -> Message:
        """`wire` with its content as the program gets it."""
        return replace(wire, content=self.read(wire.content))

    def contacts(self, wire: Contacts) -> Contacts:
        """`wire` with its names as the program gets them."""

        def named(users: list[UserInfo]) -> list[UserInfo]:
            return [self.user(user) for user in users]

        return Contacts(
            named(wire.contacts),
            named(wire.pending),
            named(wire.requesting),
            None if wire.blocked is None else named(wire.blocked),
        )


#: As the released client does: base64 of UTF-8, passwords as an MD5. What is not canonical base64 is
#: shown as it is (``docs/protocol.md`` section 5).
PLAIN = Form(text.encoded, _shown, _hashed)
#: The program's strings, to the letter.
RAW = Form(str, str, str)


def message_name(content: str, sender: int, receiver: int, timestamp: int) -> str:
    """The ``md5encoded`` that the released client gives a message (``docs/protocol.md`` section 5.1).

    `content` is what the program wrote, `timestamp` in ms. It covers the low 32 bits of the numbers.
    """
    return _digest(content.encode() + _PARTS.pack(sender & _LOW, receiver & _LOW, timestamp & _LOW))
