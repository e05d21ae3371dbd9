"""Messages under way while the server, the store that it started, or both are killed.

What is kept while nothing is under way is tested in `tests/test_survival.py`; two nodes on a store that is
no server's own, in `tests/test_nodes_chaos.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.load import Load, rounds
from tests.service import Service

pytestmark = pytest.mark.chaos

Make = Callable[..., Service]


def test_the_store_is_killed_under_load(service: Make) -> None:
    server = service().start()
    with Load([server]) as load:
        for _ in rounds():
            server.kill_store()
            load.flow()
        load.settle()


def test_the_server_is_killed_under_load(service: Make) -> None:
    server = service().start()
    with Load([server]) as load:
        for number in rounds():
            if number % 2:
                server.kill_store()
            server.kill()
            server.start()
            load.flow()
        load.settle()
