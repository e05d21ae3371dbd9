"""What files are called that the command fetches: what others wrote must not choose where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatsvc.cli.archive import Stored
from chatsvc.cli.output import file_name

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "../..",
    "/etc/passwd",
    "..\\..\\x",
    "a/../../b",
    ".bashrc",
    "\0",
    "\u202egpj.exe",
    "🙂" * 300,
]


def message(kind: Any, content: str, name: str) -> Stored:
    return Stored(1, 2, kind, content, 1, name, None)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["file", "image"])
def test_a_file_stays_where_it_is_put(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / file_name(message(kind, text, text))
    path.touch()
    assert list(tmp_path.iterdir()) == [path]
    assert not path.name.startswith(".")
    path.with_name(f".{path.name}.part").touch()


@given(TEXT, TEXT, st.sampled_from(["file", "image"]))
def test_any_message_has_a_name_for_its_file(content: str, name: str, kind: str) -> None:
    found = file_name(message(kind, content, name))
    assert found == Path(found).name
    assert 0 < len(found.encode()) <= 200
    assert "\0" not in found


def test_a_harmless_name_is_kept() -> None:
    assert file_name(message("file", "Zoë's holiday.pdf", "x")) == "Zoë's holiday.pdf"
    assert file_name(message("image", "aW1hZ2U=", "0123456789")) == "image-01234567"
