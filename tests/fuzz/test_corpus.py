"""Seeds and findings of the fuzzer, tried in every run; and bugs planted on the ground floor, all found.

Where these inputs come from is said in ``guided``; what must hold of them, in ``harness``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatsvc.wire import schema, text
from chatsvc.wire.frames import FrameReader, Head
from tests.fuzz import harness
from tests.fuzz.guided import CORPUS
from tests.fuzz.harness import TARGETS

INPUTS = sorted(CORPUS.glob("*/*"))


def test_each_target_has_inputs_and_each_input_a_target() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_that_once_mattered_breaks_nothing(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


class ForgetsHalfAHeader(FrameReader):
    """Takes the end of a piece for the end of a frame, where that would be none."""

    def receive(self, data: bytes) -> None:
        if 0 < self.buffered < 4:
            self._take(self.buffered)
        super().receive(data)


class DiesOfNoise(FrameReader):
    """Lets an error out that nobody has declared."""

    def next_head(self) -> Head | None:
        if self.buffered >= 3 and self._buffer[self._offset : self._offset + 3] == b"GET":
            raise ValueError("HTTP is not spoken here")
        return super().next_head()


class TakesWhatIsTooLong(FrameReader):
    """Gives a JSON part that is over the limit."""

    def _refuse_length(self, json_length: int, payload_length: int) -> Head | None:
        self._offset += 12
        self.payload_left = payload_length
        return Head(self._take(json_length), payload_length)


def recurses(data: bytes) -> schema.Request:
    """Does not catch what the parser raises of deep nesting."""
    return msgspec.json.decode(data, type=schema.Request)


def forgets_padding(plain: str) -> str:
    """Takes all ASCII for base64."""
    return plain if plain.isascii() else text.encoded(plain)


BUGS: dict[str, tuple[Any, str, Any]] = {
    "a reader that forgets half a header": (harness, "FrameReader", ForgetsHalfAHeader),
    "a reader that dies of noise": (harness, "FrameReader", DiesOfNoise),
    "a reader without a limit": (harness, "FrameReader", TakesWhatIsTooLong),
    "a parser that dies of recursion": (schema, "decode_request", recurses),
    "answers in UTF-8": (schema, "encode", msgspec.json.encode),
    "names that the released client dies of": (text, "for_released", forgets_padding),
}


@pytest.mark.parametrize(("where", "name", "bug"), BUGS.values(), ids=BUGS)
def test_the_corpus_finds_a_planted_bug(
    where: Any, name: str, bug: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, bug)
    broken = []
    for path in INPUTS:
        try:
            TARGETS[path.parent.name](path.read_bytes())
        except Exception:  # any will do: a fuzzer stops at all
            broken.append(path.name)
    assert broken
