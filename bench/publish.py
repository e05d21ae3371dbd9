"""Puts results where people read them: into README.md and docs/performance.md, JSON and chart beside it.

How they look there is known to ``report``.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.report import draw, table
from bench.results import Results
from bench.wire import Broken

#: What stands between these is replaced.
BEGIN, END = "<!-- bench -->\n", "<!-- end of bench -->\n"
_CHART = "performance.svg"


def publish(results: Results, root: Path) -> None:
    """Replace what was published; raises `Broken` where a document has no place for it."""
    docs = root / "docs"
    texts = [
        _filled(root / "README.md", summary(results, f"docs/{_CHART}", brief=True)),
        _filled(docs / "performance.md", summary(results, _CHART, brief=False)),
    ]
    for document, text in texts:
        document.write_text(text)
    results.save(docs / "performance.json")
    draw(results, docs / _CHART)


def summary(results: Results, chart: str, *, brief: bool) -> str:
    """Where and when it was measured, the chart and the table, in Markdown."""
    where = ", ".join(f"{name}: {value}" for name, value in results.machine.items())
    return (
        f"Measured by `make bench` at commit {results.commit}, {results.date}.\n\n"
        f"![What a message costs, as a chart]({chart})\n\n"
        f"{table(results, brief=brief)}\nThe machine: {where}.\n"
    )


def _filled(document: Path, text: str) -> tuple[Path, str]:
    parts = re.split(f"({BEGIN}|{END})", document.read_text())
    if parts[1::2] != [BEGIN, END]:
        raise Broken(f"{document.name} must have one {BEGIN.strip()} and one {END.strip()}, a line each.")
    parts[2] = text
    return document, "".join(parts)
