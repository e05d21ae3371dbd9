"""The codes of invites: how one is made, read as people type it, and told from the name before it.

Which codes are good is known to the store.
"""

from __future__ import annotations

import re
import secrets

from chatsvc.wire.text import decoded, encoded

#: Crockford's: no letter that looks like a digit, and no U.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MEANT = str.maketrans("OIL", "011")
#: Characters of a code, of five bits each: 80 bits, which nobody guesses.
_LENGTH = 16
_GROUP = 4
_CODE = re.compile(f"[{_ALPHABET}]{{{_LENGTH}}}")
#: Longer is no code, however it is written.
_LONGEST = 64


def make() -> str:
    """A new code, in groups that are easy to type."""
    groups = (_LENGTH // _GROUP) * [""]
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in groups)


def normal(code: str) -> str | None:
    """A code as it is compared: capitals or not, O for 0, without the dashes; None if it cannot be one."""
    if len(code) > _LONGEST:
        return None
    plain = re.sub("[- ]", "", code).upper().translate(_MEANT)
    return plain if _CODE.fullmatch(plain) else None


def split(name: str) -> tuple[str, str | None]:
    """A username and the code that was typed behind it, after a space; None if there is none.

    That is decided in the name's decoded form, and the name comes back in the form in which it was.
    """
    plain = decoded(name)
    account, _, code = (name if plain is None else plain).rpartition(" ")
    if normal(code) is None:
        return name, None
    account = account.rstrip(" ")
    return (account if plain is None else encoded(account)), code
