"""Whether there is room for the files that a user sends: on the disk, and within what one user may send.

How full disks are is found out in ``chatsvc/disk.py``; what counts for a user, in ``chatsvc/store/sent.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatsvc.disk import Full
from chatsvc.wire import errors
from chatsvc.wire.errors import Refusal

if TYPE_CHECKING:
    from chatsvc.chat.hub import Hub


class Room:
    """The room for files, as one node sees it (``docs/architecture.md``)."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub  # asked at each use: limits may change
        #: Which disks are nearly full; who looks at them says so.
        self.full = Full()
        #: Bytes on their way to the disk, by user: nobody can send twice what is left by sending it at once.
        self._coming: dict[int, int] = {}

    @contextmanager
    def coming(self, user_id: int, size: int) -> Iterator[None]:
        """Meanwhile, that many bytes of a user's are on their way."""
        self._coming[user_id] = self._coming.get(user_id, 0) + size
        try:
            yield
        finally:
            left = self._coming.pop(user_id, 0) - size  # nothing, if of two the one without a byte ends last
            if left:
                self._coming[user_id] = left

    async def refusal(self, user_id: int, size: int, filemd5: str | None) -> Refusal | None:
        """Why a user cannot send so many bytes, which are `coming`; None if there is room.

        `filemd5` is given if they are those of one file: it does not count again if it is the user's already.
        """
        if not size:
            return None
        if self.full.files:
            return Refusal(errors.STORAGE_FULL)
        quota = self._hub.limits.quota
        if quota is None:
            return None
        store = self._hub.store
        if await store.sent.total(user_id) + self._coming[user_id] <= quota:
            return None
        known = None if filemd5 is None else await store.files.by_md5(user_id, filemd5)
        return None if known is not None and known.size == size else Refusal(errors.QUOTA_EXCEEDED)
