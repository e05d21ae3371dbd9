"""What deployments install: the releases that deploy/*constraints.txt pin, and a list of what came of it.

Nothing here asks the network; `make audit` does, for known weaknesses of what is pinned.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.service import ROOT

DEADLINE = 120
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PINNED = ("constraints.txt", "build-constraints.txt")


class Pin(NamedTuple):
    """One release, and how many files of it may be installed."""

    requirement: Requirement
    hashes: int

    @property
    def version(self) -> str:
        """The release."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        return only.version

    @property
    def applies(self) -> bool:
        """Whether this Python, on this system, gets it."""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def pins(name: str) -> dict[NormalizedName, Pin]:
    """The releases that a file of deploy/ pins, by name."""
    found: dict[NormalizedName, Pin] = {}
    for entry in re.split(r"^(?=\w)", (ROOT / "deploy" / name).read_text(), flags=re.M)[1:]:
        requirement = Requirement(entry.split("\n")[0].rstrip("\\ "))
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
        found[canonicalize_name(requirement.name)] = Pin(requirement, len(hashes))
    return found


def needed(wanted: list[Requirement]) -> set[NormalizedName]:
    """All distributions that these requirements bring along here, according to what is installed."""
    found: set[NormalizedName] = set()
    seen: set[tuple[NormalizedName, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras} - {extra for of, extra in seen if of == name}:
            seen.add((name, extra))
            brings = map(Requirement, importlib.metadata.requires(name) or ())
            wanted += [one for one in brings if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found


def direct() -> list[Requirement]:
    """What setup.cfg asks for, without extras."""
    return [Requirement(line) for line in SETUP["options"]["install_requires"].strip().splitlines()]


# -- what is pinned --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PINNED)
def test_what_is_pinned_is_pinned_by_hashes_from_wherever_it_comes(name: str) -> None:
    assert [pin for pin in pins(name).values() if not (pin.version and pin.hashes)] == []
    content = (ROOT / "deploy" / name).read_text()
    assert content.count("--hash=") == sum(pin.hashes for pin in pins(name).values())
    assert "://" not in content
    assert not re.search(r"^-", content, re.M)  # no index and no other file is named


def test_what_is_pinned_is_in_the_ranges_that_are_declared() -> None:
    pinned = pins("constraints.txt")
    outside = [one for one in direct() if pinned[canonicalize_name(one.name)].version not in one.specifier]
    assert outside == [], "make constraints"


def test_all_that_the_server_stands_on_is_pinned_and_nothing_else() -> None:
    # The file is for all systems; what it has for others cannot be compared here.
    here = {name: pin.version for name, pin in pins("constraints.txt").items() if pin.applies}
    there = needed(direct())
    other = [name for name in here.keys() & there if importlib.metadata.version(name) != here[name]]
    if other:  # what has been released since may bring along what those do not
        pytest.skip(f"Other releases are installed than those that are pinned, of {', '.join(other)}.")
    assert here.keys() == there, "make constraints"


def test_what_builds_the_image_is_pinned() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    developing = SETUP["options.extras_require"]["dev"].strip().splitlines()
    declared = [Requirement(line) for line in (*backend, *developing)]
    pinned = pins("build-constraints.txt")
    # What `make constraints` asks for: the same as is declared elsewhere.
    asked = [Requirement(line) for line in re.findall(r"'(\S+ >= \S+)'", (ROOT / "Makefile").read_text())]
    assert {one.name for one in asked} == {"setuptools", "cyclonedx-bom"}
    for wanted in asked:
        assert wanted in declared
        assert pinned[canonicalize_name(wanted.name)].version in wanted.specifier


@pytest.mark.parametrize("content", [DOCKERFILE, OPERATIONS], ids=["Dockerfile", "operations.md"])
def test_deployments_install_nothing_that_is_not_pinned(content: str) -> None:
    commands = re.findall(r"pip (?:--python \S+ )?((?:install|wheel) .*?)(?: &&|$)", content, re.M)
    assert commands
    for command in commands:
        pinned = "--require-hashes" in command and set(re.findall(r"-r deploy/(\S+)", command)) <= set(PINNED)
        assert pinned or "--no-deps" in command, command
        # What builds the wheel would else be whatever is newest.
        assert pinned or "--no-index" in command or "--no-build-isolation" in command, command


# -- the bill of materials -------------------------------------------------------------------------

_BILL = re.compile(r"cyclonedx-py (environment .*?)--output-file (\S+) (\S+)")


def test_the_image_and_make_write_the_same_bill() -> None:
    makefile = (ROOT / "Makefile").read_text()
    ((options, where, _),) = _BILL.findall(re.sub(" +", " ", DOCKERFILE))
    assert [found[0] for found in _BILL.findall(makefile)] == [options]
    assert where in OPERATIONS


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the command of the image says of the environment in which the tests run."""
    tool = shutil.which("cyclonedx-py", path=str(Path(sys.executable).parent))
    assert tool is not None, "cyclonedx-bom is in the extra dev"
    ((options, _, _),) = _BILL.findall(re.sub(" +", " ", DOCKERFILE))
    written = tmp_path_factory.mktemp("bill") / "sbom.cdx.json"
    # Builds hold it to its schema; here, with all that developing needs, that would take half a minute.
    command = [tool, *options.split(), "--no-validate", "--output-file", str(written), sys.executable]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
    return json.loads(written.read_text())


def test_the_bill_names_all_that_the_server_stands_on(bill: Any) -> None:
    assert bill["bomFormat"] == "CycloneDX"
    listed = {canonicalize_name(part["name"]): part for part in bill["components"]}
    expected = needed(direct())
    assert expected <= set(listed)
    for name in expected:
        assert listed[name]["version"] == importlib.metadata.version(name)
        assert listed[name]["purl"].startswith("pkg:pypi/")


def test_the_bill_says_what_stands_on_what(bill: Any) -> None:
    names = {part["bom-ref"]: canonicalize_name(part["name"]) for part in bill["components"]}
    stands = {
        names[node["ref"]]: node.get("dependsOn", ()) for node in bill["dependencies"] if node["ref"] in names
    }
    assert {"attrs", "zope-interface"} <= {names[ref] for ref in stands[canonicalize_name("Twisted")]}
