"""The command: `python -m bench --help`.

It reads the command line and puts the parts together; what they do is known to the modules beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from bench import chatting, files, idle, mail, sizes
from bench.fill import Store
from bench.machine import commit, machine
from bench.publish import publish, summary
from bench.report import comparison, draw, table
from bench.results import Results
from bench.run import QUICK, Filled, Run, Scale
from bench.wire import Broken
from chatsvc.store.url import parse
from tests.service import ROOT

RESULTS = ROOT / "bench" / "results"
#: By their names on the command line, in the order in which they are carried out.
WORKLOADS: dict[str, Callable[[Run], None]] = {
    "pairs": chatting.pairs,
    "paced": chatting.paced,
    "absent": mail.absent,
    "mailbox": mail.mailbox,
    "devices": chatting.devices,
    "workers": chatting.workers,
    "idle": idle.idle,
    "files": files.files,
    "sizes": sizes.sizes,
    "stored": chatting.stored,
}
#: The file of results that a command takes.
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """What the server costs, beside bounds that are measured in the same run; bench/README.md says more."""


@main.command()
@click.option(
    "--only", metavar="NAMES", help=f"Of these workloads, with commas between: {', '.join(WORKLOADS)}."
)
@click.option("--quick", is_flag=True, help="So little of each that the figures mean nothing: does it work?")
@click.option(
    "--repeat", type=click.IntRange(1), help="How often cheap measurements are made; 3 if not given."
)
@click.option(
    "--to",
    "directory",
    default=RESULTS,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where latest.json, latest.md and latest.svg are written; bench/results if not given.",
)
@click.option("--options", default="", help="Further options of the chat servers, in one word.")
@click.option(
    "--filled",
    metavar="WHERE",
    help='A store that holds much, for the workload "stored": a redis:// or unix:// address on this machine, '
    "or a server's data directory. Messages are added to it.",
)
@click.option("--target", type=click.IntRange(1), help="The id of a user there with a long mailbox.")
def run(
    only: str | None,
    quick: bool,
    repeat: int | None,
    directory: Path,
    options: str,
    filled: str | None,
    target: int | None,
) -> None:
    """Measure, and write the results."""
    scale = QUICK if quick else Scale()
    if repeat:
        scale = msgspec.structs.replace(scale, repetitions=repeat)
    store = _filled(filled, target) if filled else None
    began = datetime.now(UTC)
    results = Results(f"{began:%Y-%m-%d %H:%M} UTC", commit(), machine(), msgspec.to_builtins(scale))
    directory.mkdir(parents=True, exist_ok=True)
    names = _chosen(only, bool(store))
    with Run(scale, results, tuple(shlex.split(options)), store) as this:
        for name in names:
            click.echo(f"-- {name}, {(datetime.now(UTC) - began).seconds} s after the start --")
            try:
                WORKLOADS[name](this)
            except Broken as error:
                raise click.ClickException(f"{name}: {error}") from error
            results.save(directory / "latest.json")  # each time: the next workload may fail
    (directory / "latest.md").write_text(summary(results, "latest.svg", brief=False))
    draw(results, directory / "latest.svg")
    click.echo(f"{table(results)}\nThis is in {directory}/latest.md, with a chart and JSON beside it.")


def _chosen(only: str | None, has_filled: bool) -> list[str]:
    if only is None:
        return [name for name in WORKLOADS if name != "stored" or has_filled]
    names = only.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise click.UsageError(f"No workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}.")
    if "stored" in names and not has_filled:
        raise click.UsageError("The workload stored needs a store that holds much: --filled.")
    return [name for name in WORKLOADS if name in names]


def _filled(where: str, target: int | None) -> Filled:
    if "://" not in where:
        return Filled(("--data-dir", str(Path(where).absolute())), None, target)
    try:
        url = parse(where)
    except ValueError as error:
        raise click.UsageError(f"--filled: {error}") from None
    with Store(url) as store:
        return Filled(("--redis", where), int(store.info("process_id")), target)


@main.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
def compare(before: Path, after: Path) -> None:
    """Say what changed from one JSON file to another.

    Figures are compared as multiples of what was measured beside them, so two runs may be on different days.
    """
    click.echo(comparison(Results.load(before), Results.load(after)), nl=False)


@main.command("publish")
@click.argument("results", type=_FILE, default=RESULTS / "latest.json")
def publish_command(results: Path) -> None:
    """Put a JSON file's table and chart into README.md and docs/performance.md."""
    try:
        publish(Results.load(results), ROOT)
    except Broken as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m bench")
