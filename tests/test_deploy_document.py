"""docs/operations.md is true: what it names exists, and it has an answer to every reason not to start.

The alarms and figures that it names are held to their files in test_deploy.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from chatsvc.admin.cli import main
from chatsvc.settings import ROWS
from tests.service import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
#: Options of other programs in its commands, and of the server that are no settings.
OTHERS = {
    *("build", "enable", "env-file", "init", "no-deps", "now", "profile", "read-only", "cap-drop", "tmpfs"),
    *("help", "home-dir", "logger", "only", "shell", "syslog", "system", "wait"),
    *("build-arg", "entrypoint", "memory", "no-build-isolation", "pids-limit", "require-hashes"),
    *("rm", "security-opt", "ulimit", "upgrade"),
}
#: Errors that end a start.
ERRORS = {"CannotStart", "CannotListen", "StoreError", "Unfit"}
MODULES = [path for path in (ROOT / "chatsvc").rglob("*.py") if "admin" not in path.parts]


def test_options_that_it_names_exist() -> None:
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", DOCUMENT))
    assert named <= {row.name for row in ROWS} | OTHERS


def test_files_that_it_names_exist() -> None:
    named = set(re.findall(r"(?<![/\w])deploy/[\w.-]+\w", DOCUMENT))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_admin_commands_that_it_names_exist() -> None:
    named = set(re.findall(r"chatsvc-admin (?:--data-dir \S+ )?([a-z]+)", DOCUMENT))
    assert named
    assert named <= set(main.commands)


def spoken(node: ast.expr) -> str:
    """A text, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(spoken(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def reasons() -> Iterator[str]:
    """All sentences with which a start ends."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                called = node.exc
                if isinstance(called.func, ast.Name) and called.func.id in ERRORS:
                    yield spoken(called.args[0])


def test_it_says_what_to_do_about_each_of_them() -> None:
    shown = [row.split("|")[1].strip() for row in DOCUMENT.splitlines() if row.startswith("| ")]
    found = set(reasons())
    assert found
    # What fills a gap in the one may be written out in the other.
    assert [
        reason
        for reason in sorted(found)
        if not any(_fits(reason, line) or _fits(line, reason) for line in shown)
    ] == []


def _fits(text: str, other: str) -> bool:
    return re.fullmatch(_pattern(text), other) is not None


def _pattern(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("…"))
