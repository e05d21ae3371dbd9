"""What fault tests have in common: the bug that is planted, servers with it, and the figures of the report.

What people do meanwhile is in `tests/chaos/load.py`, and how figures are shown in `tests/chaos/report.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.chaos import plants
from tests.chaos.load import Load
from tests.chaos.pair import Make, share
from tests.chaos.report import Tally, properties
from tests.service import Service, Valkey

MakeStore = Callable[..., Valkey]


@pytest.fixture
def bug(request: pytest.FixtureRequest) -> str | None:
    """The bug that is planted into the servers of this test; None, unless it has a `control`."""
    return getattr(request, "param", None)


@pytest.fixture
def tally(request: pytest.FixtureRequest, bug: str | None) -> Iterator[Tally]:
    """The test's figures, for the report at the end of the run."""
    made = Tally(bug)
    yield made
    request.node.user_properties.append(properties(made))


@pytest.fixture
def people(tally: Tally) -> Callable[..., Load]:
    """Makes `Load`s whose figures are reported."""
    return partial(Load, tally=tally)


@pytest.fixture
def buggy(service: Make, bug: str | None) -> Make:
    """As `service`; these servers have the bug."""
    return partial(service, command=plants.command(bug)) if bug else service


@pytest.fixture
def here(bug: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the bug, as long as the test takes."""
    monkeypatch.setattr(plants, "_replace", monkeypatch.setattr)
    if bug is not None:
        plants.PLANTS[bug]()


@pytest.fixture
def store(valkey: MakeStore) -> Valkey:
    """A store that is no server's own."""
    return valkey().start()


@pytest.fixture
def nodes(store: Valkey, buggy: Make, tmp_path: Path) -> list[Service]:
    """Two nodes on one store and one directory of files."""
    return share(tmp_path, buggy, f"unix://{store.socket_path}")
