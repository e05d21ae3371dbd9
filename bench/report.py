"""How results are shown: as tables in Markdown, and as a chart.

What is in them is known to ``results``; where they are published is known to ``publish``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.results import Figure, Results
from bench.run import CHATSVC, GENERATOR_CPU, PER_DELIVERY, PER_MESSAGE, SERVER_CPU

#: Of what is measured, and of what it is compared with.
_COLOURS = ("#1f6f8b", "#b9c6cc")
_DRAWN = {(SERVER_CPU, PER_MESSAGE), (SERVER_CPU, PER_DELIVERY)}
#: Of one bar, in inches.
_BAR_HEIGHT = 0.26


def table(results: Results, *, brief: bool = False) -> str:
    """The figures in Markdown; that of the reference stands beside what is compared with it.

    A brief one leaves out the bounds' own rows, what the load generator used, and how repetitions differ.
    """
    rows = []
    for figure in compared(results):
        if brief and (figure.name == GENERATOR_CPU or not figure.subject.startswith(CHATSVC)):
            continue
        reference, ratio = results.reference(figure), results.ratio(figure)
        rows.append(
            (
                figure.workload,
                figure.subject,
                figure.name,
                f"{_number(figure.median)} {figure.unit}" + ("" if brief else _spread(figure)),
                f"{_number(reference.median)} ({reference.subject})" if reference else "",
                "" if ratio is None else f"{_number(ratio)} x",
            )
        )
    return _markdown(("workload", "what", "figure", "value", "compared with", "ratio"), rows)


def comparison(before: Results, after: Results) -> str:
    """What changed between two results, in Markdown, by multiples of their references where they have any."""
    rows = []
    for old in compared(before):
        new = after.find(old.workload, old.subject, old.name)
        if new is None or old.name == GENERATOR_CPU:
            continue
        was, now = before.ratio(old), after.ratio(new)
        unit = "x"
        if was is None or now is None:
            was, now, unit = old.median, new.median, old.unit
        change = f"{(now / was - 1) * 100:+.0f} %" if was else ""
        figures = f"{_number(was)} {unit}", f"{_number(now)} {unit}", change
        rows.append((old.workload, old.subject, old.name, *figures))
    heads = (before.commit or before.date, after.commit or after.date)
    return _markdown(("workload", "what", "figure", *heads, "change"), rows)


def compared(results: Results) -> Iterator[Figure]:
    """All figures but those that stand beside others as their reference."""
    references = [results.reference(figure) for figure in results.figures]
    return (figure for figure in by_workload(results) if figure not in references)


def by_workload(results: Results) -> list[Figure]:
    """All figures, those of a workload together; it may have been measured by turns with another."""
    workloads = list(results.references)
    return sorted(results.figures, key=lambda figure: workloads.index(figure.workload))


def draw(results: Results, path: Path) -> None:
    """The chart, as SVG: the CPU time that a server spends on a message or a delivery, by workload."""
    # Imported here, for it takes long, and only the chart needs it.
    import matplotlib as mpl
    from matplotlib.figure import Figure as Chart

    figures = [figure for figure in by_workload(results) if (figure.name, figure.unit) in _DRAWN]
    chart = Chart(figsize=(9, 1 + _BAR_HEIGHT * len(figures)), layout="constrained")
    axes = chart.add_subplot()
    labels = [f"{figure.workload}: {figure.subject}" for figure in figures]
    colours = [_COLOURS[not figure.subject.startswith(CHATSVC)] for figure in figures]
    bars = axes.barh(labels, [figure.median for figure in figures], color=colours)
    axes.bar_label(bars, [f"{_number(figure.median)} {figure.unit}" for figure in figures], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"server CPU time, its store included; {results.machine['processor']}")
    # Text stays text, and equal results make equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chatsvc"}):
        chart.savefig(path, format="svg", metadata={"Date": None})


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _spread(figure: Figure) -> str:
    if len(figure.values) == 1:
        return ""
    return f" ({_number(min(figure.values))} to {_number(max(figure.values))})"


def _number(value: float) -> str:
    """In three digits, or as many as there are before the point."""
    return f"{value:,.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2}f}"
