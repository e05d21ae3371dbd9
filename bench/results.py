"""What a run found: figures with their repetitions, and the machine that they are from; JSON on disk.

How they are shown is in ``report``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec


class Figure(msgspec.Struct):
    """One thing that was measured on one subject in one workload."""

    workload: str
    subject: str
    name: str
    unit: str
    #: One a repetition, in their order.
    values: list[float]

    @property
    def median(self) -> float:
        """The middle of its values."""
        return median(self.values)


class Results(msgspec.Struct):
    """All that one run found."""

    date: str
    #: Of the sources that were measured.
    commit: str
    machine: dict[str, str]
    #: How many messages, connections and so on.
    scale: dict[str, float]
    #: For each workload the subject that its others are compared with.
    references: dict[str, str] = {}
    figures: list[Figure] = []

    def add(self, workload: str, subject: str, name: str, unit: str, value: float) -> None:
        """Note one value."""
        found = self.find(workload, subject, name)
        if found is None:
            found = Figure(workload, subject, name, unit, [])
            self.figures.append(found)
        found.values.append(value)

    def find(self, workload: str, subject: str, name: str) -> Figure | None:
        """A figure, if it was measured."""
        for figure in self.figures:
            if (figure.workload, figure.subject, figure.name) == (workload, subject, name):
                return figure
        return None

    def reference(self, figure: Figure) -> Figure | None:
        """What a figure is compared with: the same of its workload's reference."""
        found = self.find(figure.workload, self.references[figure.workload], figure.name)
        return None if found is figure else found

    def ratio(self, figure: Figure) -> float | None:
        """A figure as a multiple of its reference: the median of the repetitions, each beside its own."""
        reference = self.reference(figure)
        if reference is None or not all(reference.values):
            return None
        return median(a / b for a, b in zip(figure.values, reference.values, strict=True))

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote. Raises `msgspec.ValidationError` if it is something else."""
        return msgspec.json.decode(path.read_bytes(), type=cls)
