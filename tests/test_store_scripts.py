"""Lua scripts are constants: nothing that comes in at run time is ever part of one."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.service import ROOT


def scripts(tree: ast.AST) -> Iterator[ast.Call]:
    """All places where a script is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Script":
            yield node


def is_constant(source: ast.expr) -> bool:
    """Whether it is text, a constant's name, or several of them one after the other."""
    if isinstance(source, ast.BinOp):
        return isinstance(source.op, ast.Add) and is_constant(source.left) and is_constant(source.right)
    return isinstance(source, ast.Constant) or (isinstance(source, ast.Name) and source.id.isupper())


def test_no_script_is_made_of_what_comes_in() -> None:
    found = 0
    for path in (ROOT / "chatsvc").rglob("*.py"):
        tree = ast.parse(path.read_text())
        made = list(scripts(tree))
        at_the_top = [call for line in tree.body if isinstance(line, ast.Assign) for call in scripts(line)]
        assert made == at_the_top, path
        assert all(is_constant(part) for call in made for part in call.args), path
        found += len(made)
    assert found > 20


def test_scripts_alone_are_evaluated() -> None:
    evaluating = [path for path in (ROOT / "chatsvc").rglob("*.py") if '"EVAL"' in path.read_text()]
    assert [path.name for path in evaluating] == ["link.py"]
