"""One browser and one server for all tests of the page; both are left out where there is no browser.

What a test does in the browser is in ``person.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser.person import Person, page_of
from tests.service import Service

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed; pip install '.[dev]' does that."
)
#: What browsers of this kind are called where they are installed from packages.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
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


@pytest.fixture
def people(browser: Any) -> Iterator[Callable[..., Person]]:
    """Makes people, each with a browser of their own; at the end none of their pages has had a fault."""
    made: list[Person] = []

    def make(server: Service, **settings: Any) -> Person:
        made.append(Person(browser, page_of(server), **settings))
        return made[-1]

    yield make
    for person in made:
        person.context.close()
    assert [person.faults for person in made if person.faults] == []


@pytest.fixture(scope="module")
def person(browser: Any, page_server: Service) -> Iterator[Person]:
    """Somebody who has opened the page, and does nothing there."""
    made = Person(browser, page_of(page_server))
    yield made
    made.context.close()
    assert made.faults == []
