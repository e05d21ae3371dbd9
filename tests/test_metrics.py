"""The page of figures: names, values, the pages of several workers as one; and whether a node is ready.

What is told about is in memory; that the figures move is in ``test_metrics_counts.py``.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import twisted
from chatsvc import __version__
from chatsvc.chat.calls import TABLE
from chatsvc.disk import Full, Room
from chatsvc.net.metrics import NodeMonitor, merged
from chatsvc.net.server import Server
from chatsvc.wire.limits import GIB
from tests.fakes import now
from tests.network import LIMITS, FakeHub
from tests.service import ROOT

DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
#: What the library tells of any process.
LIBRARY = re.compile(r"process_|python_gc_")


class FakeDisk:
    """A disk that has room, unless it is told otherwise."""

    def __init__(self) -> None:
        self.outcome: Room | OSError = Room(10 * GIB, 20 * GIB)

    async def room(self) -> Room:
        if isinstance(self.outcome, OSError):
            raise self.outcome
        return self.outcome


def fake_hub() -> Any:
    """What a node's hub knows, in numbers that tell the figures apart."""
    hub: Any = FakeHub(LIMITS)
    parts = {
        "online": lambda: (2, 3),
        "store": SimpleNamespace(up=True, problem="", reconnects={"mail": 1, "state": 0, "subscriber": 2}),
        "room": SimpleNamespace(full=Full()),
        "extras": SimpleNamespace(watched=6),
        "passwords": SimpleNamespace(running=1, waiting=4, refused=5),
    }
    vars(hub).update(parts)
    return hub


def fake_disk() -> Any:
    """A disk with room."""
    return FakeDisk()


class World:
    """A node that accepts clients, and has what it needs."""

    def __init__(self) -> None:
        self.hub, self.disk = fake_hub(), fake_disk()
        self.server: Any = Server(self.hub)
        self.server.doStart()  # type: ignore[no-untyped-call]
        self.monitor = NodeMonitor(self.hub, self.server, self.disk)

    def problem(self) -> str | None:
        return now(self.monitor.problem())

    def page(self) -> bytes:
        return now(self.monitor.metrics())

    def families(self) -> dict[str, Metric]:
        return families(self.page())


def families(page: bytes) -> dict[str, Metric]:
    """What a page tells, by the names that stand in it."""
    found = list(text_string_to_metric_families(page.decode()))
    named = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in found}
    assert len(named) == len(found), "a name comes twice"
    return named


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """The samples by their labels' values."""
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


@pytest.fixture
def world() -> World:
    return World()


# Whether it is ready.


def test_a_node_that_has_what_it_needs_is_ready(world: World) -> None:
    assert world.problem() is None
    assert values(world.families()["chatsvc_ready"]) == {(): 1}


def test_a_node_is_ready_as_long_as_it_listens(world: World) -> None:
    world.server.doStop()
    assert world.problem() == "The server accepts no clients: it is starting, or stopping."
    world.server.doStart()
    assert world.problem() is None


def test_a_node_that_stops_is_not_ready(world: World) -> None:
    now(world.server.stop())
    assert world.problem() == "The server accepts no clients: it is starting, or stopping."
    assert values(world.families()["chatsvc_ready"]) == {(): 0}


def test_a_node_without_its_store_is_not_ready(world: World) -> None:
    world.hub.store.up, world.hub.store.problem = False, "it closed the connection"
    assert world.problem() == "The store cannot be used: it closed the connection."
    assert values(world.families()["chatsvc_store_up"]) == {(): 0}


@pytest.mark.parametrize("disk", ["files", "store"])
def test_a_node_whose_disk_is_full_still_serves_who_reads(world: World, disk: str) -> None:
    world.disk.outcome = Room(0, GIB)
    setattr(world.hub.room.full, disk, True)
    assert world.problem() is None
    assert values(world.families()["chatsvc_data_disk_free_bytes"]) == {(): 0}
    assert values(world.families()["chatsvc_disk_full"]) == {
        ("files",): disk == "files",
        ("store",): disk == "store",
    }


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("its disk did not answer within 2 s"), "its disk did not answer within 2 s"),
        (FileNotFoundError(2, "No such file or directory", "/srv/a"), "No such file or directory"),
    ],
)
def test_a_node_whose_disk_is_away_is_not_ready(world: World, error: OSError, why: str) -> None:
    world.disk.outcome = error
    assert world.problem() == f"The data directory cannot be used: {why}."
    assert values(world.families()["chatsvc_data_disk_free_bytes"]) == {}


# The figures.


def documented() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """What the document's table has: types, and labels with the values that it lists for them."""
    rows = [line.strip("|").split("|") for line in DOCUMENT.splitlines() if line.startswith("| `chatsvc_")]
    found = {}
    for name, kind, labels, _ in rows:
        words = [re.findall(r"`(\w+)`", label) for label in labels.split(";") if label.strip()]
        found[name.strip(" `")] = kind.strip(), {label: set(listed) for label, *listed in words}
    return found


def test_the_document_has_each_figure_with_its_type_and_labels(world: World) -> None:
    told = {name: (kind, set(labels)) for name, (kind, labels) in documented().items()}
    found = {
        name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for name, family in world.families().items()
        if not LIBRARY.match(name)
    }
    assert found == told


def test_the_document_has_the_values_that_labels_have(world: World) -> None:
    found = world.families()
    listed = [
        (name, *each) for name, (_, labels) in documented().items() for each in labels.items() if each[1]
    ]
    assert len(listed) == 9
    for name, label, told in listed:
        assert {sample.labels[label] for sample in found[name].samples} == told, name


def test_alarms_are_raised_on_figures_that_there_are(world: World) -> None:
    named = set(re.findall(r"(?:chatsvc|process)_\w+", DOCUMENT.partition("## What to alert on")[2]))
    assert len(named) > 10
    assert named <= set(world.families())


def test_names_are_as_prometheus_wants_them(world: World) -> None:
    for name, family in world.families().items():
        if not LIBRARY.match(name):
            assert name.startswith("chatsvc_"), name
            assert family.documentation.endswith("."), name
            assert name.endswith("_seconds") == (family.type == "histogram"), name


def test_figures_are_read_where_they_are_counted(world: World) -> None:
    world.hub.stats.accepted = 7
    world.hub.stats.dropped["idle"] = 8
    world.hub.stats.slow_clients = 9
    world.hub.stats.rests["rate"] = 3
    world.hub.stats.delayed = 4
    found = world.families()
    [build] = found["chatsvc_build_info"].samples
    assert build.labels["version"] == __version__
    assert build.labels["twisted"] == twisted.__version__
    assert values(found["chatsvc_connections_accepted_total"]) == {(): 7}
    assert values(found["chatsvc_connections_dropped_total"]) == {
        ("stalled",): 0, ("idle",): 8, ("crowded",): 0, ("refused",): 0, ("user",): 0, ("full",): 0
    }  # fmt: skip
    assert values(found["chatsvc_accept_rests_total"]) == {("rate",): 3, ("full",): 0}
    assert values(found["chatsvc_connections_delayed_total"]) == {(): 4}
    assert (values(found["chatsvc_connections_waiting"]), values(found["chatsvc_connections_limit"])) == (
        {(): 0},
        {},
    )
    assert values(found["chatsvc_slow_clients_dropped_total"]) == {(): 9}
    assert values(found["chatsvc_users_online"]) == {(): 2}
    assert values(found["chatsvc_devices_online"]) == {(): 3}
    assert values(found["chatsvc_people_watched"]) == {(): 6}
    assert values(found["chatsvc_password_queue"]) == {("running",): 1, ("waiting",): 4}
    assert values(found["chatsvc_passwords_refused_total"]) == {(): 5}
    assert values(found["chatsvc_store_reconnects_total"]) == {
        ("mail",): 1,
        ("state",): 0,
        ("subscriber",): 2,
    }


def test_each_type_of_request_is_there_before_the_first_one(world: World) -> None:
    found = world.families()
    kinds = {*TABLE, "UNKNOWN"}
    assert set(values(found["chatsvc_requests_total"])) == {
        (kind, status) for kind in kinds for status in ("ok", "err", "none")
    }
    buckets = found["chatsvc_request_duration_seconds"].samples
    assert {sample.labels["request"] for sample in buckets} == kinds
    assert {sample.value for sample in buckets} == {0}


def test_a_histogram_goes_out_as_prometheus_adds_it_up(world: World) -> None:
    for seconds in (0.0005, 0.02, 700.0):
        world.hub.stats.delivery_lag.observe(seconds)
    found = world.families()
    samples = found["chatsvc_delivery_lag_seconds"].samples
    lag = {sample.name.rpartition("_")[2] + sample.labels.get("le", ""): sample.value for sample in samples}
    assert lag["bucket0.005"] == lag["bucket0.01"] == 1
    assert lag["bucket0.025"] == lag["bucket600.0"] == 2
    assert lag["bucket+Inf"] == lag["count"] == 3
    assert lag["sum"] == pytest.approx(700.0205)
    assert values(found["chatsvc_messages_pushed_total"]) == {(): 3}


# Several workers.


def page_of(requests: int, seconds: float, label: str = "a") -> bytes:
    """A page with a counter, and a histogram with a label."""
    registry = CollectorRegistry()
    Counter("made", "What was made.", registry=registry).inc(requests)
    time = Histogram("time_seconds", "How long it took.", ["of"], registry=registry, buckets=[1.0])
    time.labels(label).observe(seconds)
    return generate_latest(registry)


def test_the_pages_of_workers_become_one() -> None:
    page = merged({"0": page_of(3, 0.5), "1": page_of(4, 2.0)})
    found = families(page)
    assert values(found["made_total"]) == {("0",): 3, ("1",): 4}
    times = {(s.name, s.labels["worker"], s.labels.get("le")): s.value for s in found["time_seconds"].samples}
    assert times["time_seconds_bucket", "0", "1.0"] == 1
    assert times["time_seconds_bucket", "1", "1.0"] == 0
    assert times["time_seconds_sum", "1", None] == 2.0
    assert times["time_seconds_count", "1", None] == 1
    lines = page.decode().splitlines()
    for start in ("# HELP made_total ", "# TYPE made_total counter", "# TYPE time_seconds histogram"):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_labels_come_through_as_they_are() -> None:
    label = 'a "quoted" \\ backslash\nand more é'
    family = families(merged({"0": page_of(1, 1.0, label)}))["time_seconds"]
    assert {sample.labels["of"] for sample in family.samples} == {label}


def test_the_page_of_a_node_comes_through_whole(world: World) -> None:
    page = world.page()
    once, twice = families(page), families(merged({"0": page, "1": page}))
    assert set(twice) == set(once)
    for name, family in once.items():
        assert (twice[name].type, twice[name].documentation) == (family.type, family.documentation)
        assert len(twice[name].samples) == 2 * len(family.samples), name
        assert {sample.labels["worker"] for sample in twice[name].samples} <= {"0", "1"}


def test_no_pages_make_an_empty_one() -> None:
    assert merged({}) == b""


def test_what_is_no_page_is_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        merged({"0": b"this is no page {"})
