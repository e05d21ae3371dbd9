"""Two nodes as they stand in production: on one store, and on one directory of files.

Which store that is, and what becomes of the three, is the test's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.service import Service

Make = Callable[..., Service]


def share(directory: Path, make: Make, url: str, *options: str) -> list[Service]:
    """Two nodes on the store at `url`, which share a directory of files under this one."""
    blobs = directory / "blobs"
    blobs.mkdir()
    made = [make("--redis", url, *options, name=name) for name in ("one", "two")]
    for node in made:
        data = node.directory / "data"
        data.mkdir(parents=True)
        (data / "blobs").symlink_to(blobs)
        node.spawn()
    for node in made:
        node.wait_until_ready()
    return made
