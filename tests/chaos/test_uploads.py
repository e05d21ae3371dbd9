"""Files that are being sent while a node dies, and while another one starts.

What an upload leaves that its client breaks off, or whose MD5 is wrong, is in `tests/test_protocol_files.py`.
"""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.control import control
from tests.chaos.load import LONG, SEED
from tests.chaos.oracle import Message, Violated
from tests.chaos.report import Tally
from tests.chaos.story import Story
from tests.raw import Raw
from tests.service import Service, wait_for

pytestmark = pytest.mark.chaos

KIB = 1024
SIZE = 2048 * KIB
#: How much of a file has been sent when its node is killed; the whole of it at last.
PARTS = [*range(256 * KIB, SIZE, 256 * KIB), SIZE - 1, SIZE] if LONG else [512 * KIB, SIZE]


class Upload:
    """A message that is sent with the first part of its file, and perhaps with the rest later."""

    def __init__(self, story: Story, node: Service, sent: int) -> None:
        self.file = random.Random(SEED + sent).randbytes(SIZE)
        self.message: Message = story.message(self.file)
        self.client = Raw(node.address, "seed", story.alice.token)
        value = {"request": "SENDMSG", "body": self.message, "tokenid": story.alice.token}
        whole = self.client.frame(value, self.file)
        sent += len(whole) - SIZE
        self.client.socket.sendall(whole[:sent])
        self._rest = whole[sent:]

    def finish(self, story: Story) -> None:
        """Send the rest; fails if that is not answered OK."""
        self.client.socket.sendall(self._rest)
        answer = self.client.answer()
        story.hear(self.message, answer)
        if not answer.ok:
            raise Violated([f"O6: a file that another node was being sent is gone: {answer.info}"])


@control("late-file", always=True)
def test_a_node_is_killed_while_it_gets_a_file(nodes: list[Service], tmp_path: Path, tally: Tally) -> None:
    one, two = nodes
    two.kill()
    two.start()  # at the port that it has by now: after that, what it leaves is named
    story = Story(one, tally)
    for sent in PARTS:
        upload = Upload(story, two, sent)
        if sent == SIZE:
            upload.finish(story)
        else:
            wait_for(lambda: unfinished(tmp_path), "the file is on its way")
        upload.client.close()
        tally.faults.append("node killed while it gets a file")
        two.kill()
        story.check(one)  # whoever was answered OK is not without the file
        two.start()
        assert not unfinished(tmp_path)
        again = story.send(two, upload.message, upload.file)
        assert again is not None
        assert again.ok
        story.check(two)


@control("foreign-temporaries", always=True)
def test_a_node_starts_while_the_others_get_files(nodes: list[Service], tmp_path: Path, tally: Tally) -> None:
    one, two = nodes
    story = Story(one, tally)
    upload = Upload(story, one, SIZE // 2)
    with closing(upload.client):
        wait_for(lambda: unfinished(tmp_path), "the file is on its way")
        tally.faults.append("node killed")
        two.kill()
        two.start()
        upload.finish(story)
    story.check(two)


def unfinished(directory: Path) -> list[Path]:
    """The files that nodes are being sent."""
    return list((directory / "blobs" / "tmp").iterdir())
