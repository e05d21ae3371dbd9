"""The two kinds of trouble that a peer may hear of; everything else is our bug and stays in the log."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that gets an ERR answer; the connection lives on.

    The message is a sentence for a person and goes out as ``info``.
    """

    @property
    def info(self) -> str:
        """What the ERR answer says."""
        return str(self.args[0])


class Violation(Exception):  # noqa: N818 - the field's word, see docs/protocol.md section 2
    """A stream that breaks the framing: one UNKNOWN/ERR answer, then the connection is closed."""


NOT_LOGGED_IN = "User not logged in"
USER_NOT_FOUND = "User not found"
NOT_TAKEN = "This user does not take messages from you"
FILE_NOT_FOUND = "File not found"
NAME_TAKEN = "Username already exists"
BAD_CREDENTIALS = "Invalid username or password"
WRONG_PASSWORD = "Wrong password"  # nosec B105 # noqa: S105 - a sentence, not a secret
STORAGE_UNAVAILABLE = "Storage unavailable, try again"
STORAGE_FULL = "Storage full"
QUOTA_EXCEEDED = "Quota exceeded"
REGISTRATION_CLOSED = "This server makes no accounts by itself; ask its operator for one"
NEEDS_INVITE = "A new account needs an invite here: type its code behind the username, after a space"
WRONG_INVITE = "This invite is wrong, used up or expired; ask for another one"
TOO_MANY_REQUESTS = "Too many requests"
SERVER_BUSY = "Server busy, try again"
INTERNAL = "Internal server error"
