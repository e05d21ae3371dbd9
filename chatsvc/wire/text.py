"""The text rules of the protocol: base64 forms of names and contents, control characters.

The released client puts base64 of UTF-8 into every name and content and cannot read anything else;
``docs/protocol.md`` section 5 says how its world and that of plain clients meet.
"""

from __future__ import annotations

import binascii
import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NAME_LENGTH = 256
PASSWORD_LENGTH = 1024


def is_encoded(text: str) -> bool:
    """Whether `text` is canonical base64 of UTF-8."""
    raw = _raw(text)
    return raw is not None and (raw.isascii() or decoded(text) is not None)


def decoded(text: str) -> str | None:
    """The text behind canonical base64 of UTF-8, or None if `text` is not that."""
    raw = _raw(text)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _raw(text: str) -> bytes | None:
    """The bytes behind canonical base64."""
    if len(text) % 4 or not text.isascii():
        return None
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
        # Only in the last group can there be bits that stand for nothing, and are not zero.
        if binascii.b2a_base64(raw[(len(raw) - 1) // 3 * 3 :], newline=False) != text[-4:].encode():
            return None
    except ValueError:
        return None
    return raw


def encoded(text: str) -> str:
    """Base64 of UTF-8, as the released client writes it."""
    return binascii.b2a_base64(text.encode(), newline=False).decode()


def for_released(text: str) -> str:
    """`text` in the only form that the released client can read."""
    return text if is_encoded(text) else encoded(text)


def name_key(name: str) -> str:
    """The form in which names are compared: `Ym9i` and `bob` are one name."""
    plain = decoded(name)
    return name if plain is None else plain


def check_name(name: str) -> str | None:
    """What is wrong with a new username, as a sentence; None if nothing is."""
    if not 1 <= len(name) <= NAME_LENGTH:
        return f"A username has 1 to {NAME_LENGTH} characters, this one has {len(name)}."
    if _CONTROL.search(name) or _CONTROL.search(name_key(name)):
        return "A username has no control characters, neither as sent nor decoded from base64."
    return None


def check_password(password: str) -> str | None:
    """What is wrong with a new password, as a sentence; None if nothing is."""
    if not 1 <= len(password) <= PASSWORD_LENGTH:
        return f"A password has 1 to {PASSWORD_LENGTH} characters, this one has {len(password)}."
    return None
