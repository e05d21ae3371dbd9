"""How many bytes of files each user has sent: counted with the message that needs them, once for each file.

What a message needs on the disk, and how much one user may send, is said by who sends it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from chatsvc.store import keys
from chatsvc.store.script import Route

#: The field with the sum of all others.
TOTAL = b"bytes"
#: Fields that one call reads.
_PAGE = 500

#: Counts what a message brings to the disk; false, and nothing is counted, if that is too much. A file that
#: the user could fetch already is not counted, nor is a content that the user has sent before. A repeat is
#: never too much: nothing is stored of it, but what differs from the first one lies on the disk too.
LUA_COUNT = """
local function count(user, brought, is_repeat)
  local sent, files = user .. ':sent', user .. ':files'
  local quota, more, new = string.match(brought, '^%d*'), 0, {}
  for digest, file, size in string.gmatch(brought, ' (%x+)=(%x+:(%d+))') do
    local known
    if #digest == 32 then
      known = redis.call('HGET', files, 'f' .. digest) == file
    else
      known = redis.call('HEXISTS', sent, digest) == 1
    end
    if not known and size ~= '0' then
      more = more + size
      new[#new + 1] = {digest, size}
    end
  end
  if more == 0 then return true end
  local total = tonumber(redis.call('HGET', sent, 'bytes') or 0) + more
  if quota ~= '' and not is_repeat and total > tonumber(quota) then return false end
  for _, each in ipairs(new) do redis.call('HINCRBY', sent, each[1], each[2]) end
  redis.call('HINCRBY', sent, 'bytes', more)
  return true
end
"""
#: Gives back what was counted for fields of the index of files and of contents that a mailbox needs no more.
LUA_GIVE_BACK = """
local function give_back(sent, field)
  local digest = string.match(field, '^[fc](%x+)$')
  local size = digest and redis.call('HGET', sent, digest)
  if size then
    redis.call('HDEL', sent, digest)
    redis.call('HINCRBY', sent, 'bytes', -size)
  end
end
"""


class Brought(NamedTuple):
    """A blob that a message needs on the disk."""

    #: What it is counted under: a file's MD5, as the index of files has it, or a content's SHA-256.
    digest: str
    sha256: str
    size: int


def as_argument(quota: int | None, brought: tuple[Brought, ...]) -> bytes:
    """What a message brings, and how many bytes its sender may send in all, as the scripts take it."""
    if not brought:
        return b""
    blobs = (f" {blob.digest}={blob.sha256}:{blob.size}" for blob in brought)
    return ("" if quota is None else str(quota)).encode() + "".join(blobs).encode()


def field_of_content(sha256: str) -> str:
    """What a content is called beside the fields of the index of files."""
    return "c" + sha256


def is_content(field: str) -> bool:
    """Whether a field is `field_of_content`."""
    return field.startswith("c")


class Sent:
    """What each user's files add up to. Appending a message counts them, trimming gives them back."""

    def __init__(self, link: Route) -> None:
        self._link = link

    async def total(self, user_id: int) -> int:
        """Bytes of all files that count for a user."""
        return int(await self._link.call(b"HGET", keys.part(user_id, b"sent"), TOTAL) or 0)

    async def sizes(self, user_id: int) -> AsyncIterator[dict[str, int]]:
        """The sizes that a user's total is made of, by digest, a page at a time."""
        cursor = b"0"
        while True:
            cursor, found = await self._link.call(
                b"HSCAN", keys.part(user_id, b"sent"), cursor, b"COUNT", _PAGE
            )
            pairs = zip(found[::2], found[1::2], strict=True)
            yield {digest.decode(): int(size) for digest, size in pairs if digest != TOTAL}
            if cursor == b"0":
                return
