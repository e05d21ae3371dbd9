"""One browser and one server for all tests of the page; both are left out where there is no browser.

What a test does in the browser is in ``person.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.browser.person import Person, page_of
from tests.service import Service

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed; pip install '.[dev]' does that."
)
#: What browsers of this kind are called where they are installed from packages.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


# Not for the whole session: as long as Playwright runs, no other test in the process can run asyncio.
@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium without a window; BROWSER names another one."""
    path = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("There is no Chromium to show the page with; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # In a container the browser's own sandbox has no rights, and /dev/shm no room.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"]
        started = driver.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="session")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with a page, for all tests that only use it."""
    service = Service(tmp_path_factory.mktemp("page"), "--web", "tcp:0:interface=127.0.0.1")
    with service.running():
        yield service


@pytest.fixture(scope="package")
def free(browser: Any) -> Iterator[list[Person]]:
    """People whom no test needs at the moment; to make one costs as much as what most tests do."""
    found: list[Person] = []
    yield found
    for person in found:
        person.context.close()


@contextmanager
def invited(browser: Any, free: list[Person]) -> Iterator[Callable[..., Person]]:
    """Brings people to the page of a server; at the end none of their pages has had a fault."""
    here: list[Person] = []

    def invite(server: Service, **settings: Any) -> Person:
        here.append(free.pop() if free else Person(browser))
        here[-1].come(page_of(server), **settings)
        return here[-1]

    yield invite
    for person in here:
        person.leave()
    faults = [person.faults.copy() for person in here if person.faults]
    for person in here:
        person.faults.clear()
    free.extend(here)
    assert faults == []


@pytest.fixture
def people(browser: Any, free: list[Person]) -> Iterator[Callable[..., Person]]:
    """Brings people to the page of a server, each with a browser of their own that knows nothing yet."""
    with invited(browser, free) as invite:
        yield invite


@pytest.fixture(scope="module")
def person(browser: Any, free: list[Person], page_server: Service) -> Iterator[Person]:
    """Somebody who has opened the page, and does nothing there."""
    with invited(browser, free) as invite:
        yield invite(page_server)
