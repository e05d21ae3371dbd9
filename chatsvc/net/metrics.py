"""Whether a node is ready, and its figures under the names that Prometheus knows (``docs/metrics.md``).

What happens is counted elsewhere, in plain numbers that are read here when somebody asks.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import twisted
from chatsvc import __version__
from chatsvc.chat.calls import TABLE
from chatsvc.chat.extras import FEATURES
from chatsvc.chat.hub import Hub
from chatsvc.disk import Disk, Room
from chatsvc.net.server import Server
from chatsvc.stats import REQUEST_BOUNDS, Drop, Histogram, Limited, Rest


class NodeMonitor:
    """One node as the monitoring site sees it: a `chatsvc.net.http.Monitored`."""

    def __init__(self, hub: Hub, server: Server, disk: Disk) -> None:
        """`disk` is that of the data directory."""
        self._hub = hub
        self._server = server
        self._disk = disk
        self._figures = _Figures(hub, server)
        self._registry = CollectorRegistry()
        self._registry.register(self._figures)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def problem(self) -> str | None:
        """Why no clients should be sent to this node now, in a sentence; None if they should."""
        return self._judge(await self._look())

    async def metrics(self) -> bytes:
        """All figures of this node, in the text format of Prometheus."""
        found = await self._look()
        self._figures.is_ready = self._judge(found) is None
        self._figures.room = found if isinstance(found, Room) else None
        return generate_latest(self._registry)

    async def _look(self) -> Room | OSError:
        try:
            return await self._disk.room()
        except OSError as error:
            return error

    def _judge(self, found: Room | OSError) -> str | None:
        if not self._server.accepting:
            return "The server accepts no clients: it is starting, or stopping."
        if not self._hub.store.up:
            return f"The store cannot be used: {self._hub.store.problem}."
        if isinstance(found, OSError):
            return f"The data directory cannot be used: {found.strerror or found}."
        return None  # with a full disk it still serves who reads


class _Figures(Collector):
    """All that is ours among the figures, each read from where it is counted."""

    def __init__(self, hub: Hub, server: Server) -> None:
        self._hub = hub
        self._server = server
        self.is_ready = False
        #: None if the disk did not tell.
        self.room: Room | None = None

    def collect(self) -> Iterator[Metric]:
        """The families, in the order of ``docs/metrics.md``."""
        yield from self._node()
        yield from self._connections()
        yield from self._requests()
        yield from self._messages()
        yield from self._files()
        yield from self._passwords()
        yield from self._store()

    def _node(self) -> Iterator[Metric]:
        versions = {"version": __version__, "python": platform.python_version()}
        build = InfoMetricFamily("chatsvc_build", "The versions of what runs.")
        build.add_metric([], versions | {"twisted": twisted.__version__})
        yield build
        yield _gauge("ready", "1 if clients may be sent here, as /readyz says.", self.is_ready)
        disk = _gauge("data_disk_free_bytes", "What may still be written to the data directory's disk.")
        if self.room is not None:
            disk.add_metric([], self.room.free)
        yield disk
        full = self._hub.room.full
        yield _gauges(
            "disk_full",
            "1 if too little room is left on a disk, and more is refused.",
            "disk",
            {"files": full.files, "store": full.store},
        )
        delay = _histogram("event_loop_delay_seconds", "How late a timer came that is due each second.")
        _add(delay, [], self._hub.stats.loop_delay)
        yield delay

    def _connections(self) -> Iterator[Metric]:
        stats, connections = self._hub.stats, self._server.connections
        bound = sum(connection.is_bound for connection in connections)
        states = {"bound": bound, "unbound": len(connections) - bound}
        yield _gauges(
            "connections", "Open connections, by whether their device is logged in.", "device", states
        )
        doors = self._server.doors
        yield _gauge("connections_limit", "Connections that the process may have.", doors.most)
        yield _gauge("connections_waiting", "Connections that wait for their address's turn.", doors.waiting)
        yield _counter("connections_accepted", "Connections that were accepted.", stats.accepted)
        yield _counter("connections_delayed", "Connections that had to wait for that.", stats.delayed)
        rests = {reason: stats.rests[reason] for reason in get_args(Rest)}
        yield _counters("accept_rests", "Times that accepting connections paused.", "reason", rests)
        dropped = {reason: stats.dropped[reason] for reason in get_args(Drop)}
        yield _counters("connections_dropped", "Connections closed by a limit.", "reason", dropped)
        yield _counter(
            "slow_clients_dropped", "Connections cut as the client did not read.", stats.slow_clients
        )
        yield _counter("violations", "Connections closed for breaking the protocol.", stats.violations)
        users, devices = self._hub.online()
        yield _gauge("users_online", "Users with a connection to this node.", users)
        yield _gauge("devices_online", "Their devices with a connection to this node.", devices)
        queued = sum(connection.outbox.queued for connection in connections)
        yield _gauge("send_buffer_bytes", "What waits to be written to clients.", queued)
        held = self._server.budget.held
        yield _gauge("unfinished_request_bytes", "Memory of large requests that are not answered.", held)

    def _requests(self) -> Iterator[Metric]:
        stats, kinds = self._hub.stats, (*sorted(TABLE), "UNKNOWN")
        requests = CounterMetricFamily(
            "chatsvc_requests", "Requests, by their type and answer.", labels=["request", "status"]
        )
        duration = _histogram(
            "request_duration_seconds", "From a request's arrival to the end of its answer.", "request"
        )
        for kind in kinds:
            seconds = Histogram(REQUEST_BOUNDS)
            for outcome, histogram in stats.requests[kind].items():
                requests.add_metric([kind, outcome], histogram.count)
                seconds.add(histogram)
            _add(duration, [kind], seconds)
        yield requests
        refused = {limit: stats.refused[limit] for limit in get_args(Limited)}
        yield _counters("requests_refused", "Requests over a limit.", "limit", refused)
        yield duration

    def _messages(self) -> Iterator[Metric]:
        stats = self._hub.stats
        yield _counter(
            "messages_stored", "Messages stored and answered OK.", stats.requests["SENDMSG"]["ok"].count
        )
        yield _counter("messages_pushed", "Messages queued to clients unasked.", stats.delivery_lag.count)
        lag = _histogram("delivery_lag_seconds", "From a message's storing to its being queued to a client.")
        _add(lag, [], stats.delivery_lag)
        yield lag
        yield _counter("catch_ups", "Times that a connection began to read what it missed.", stats.catch_ups)
        hints = {kind: stats.hints[kind] for kind in sorted(FEATURES)}
        yield _counters("hints_pushed", "Pushes to clients that asked for features.", "push", hints)
        watched = self._hub.extras.watched
        yield _gauge("people_watched", "Users whom clients here see come and go.", watched)

    def _files(self) -> Iterator[Metric]:
        stats = self._hub.stats
        yield _counter("uploads", "Attachments received whole.", stats.uploads)
        yield _counter("upload_bytes", "Bytes of attachments received whole.", stats.upload_bytes)
        yield _counter("downloads", "Attachments sent, in whole or a range.", stats.downloads)
        yield _counter("download_bytes", "Bytes of attachments sent.", stats.download_bytes)

    def _passwords(self) -> Iterator[Metric]:
        passwords = self._hub.passwords
        queue = {"running": passwords.running, "waiting": passwords.waiting}
        yield _gauges("password_queue", "Passwords that are being hashed, or wait for it.", "state", queue)
        yield _counter("passwords_refused", "Passwords refused as too many waited.", passwords.refused)

    def _store(self) -> Iterator[Metric]:
        store = self._hub.store
        yield _gauge("store_up", "1 if the store can be asked.", store.up)
        yield _counters("store_reconnects", "Connections to the store made again.", "link", store.reconnects)


def _gauge(name: str, meaning: str, value: float | None = None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"chatsvc_{name}", meaning, value)


def _gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"chatsvc_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"chatsvc_{name}", meaning, value)


def _counters(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"chatsvc_{name}", meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, meaning: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"chatsvc_{name}", meaning, labels=labels)


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)


def merged(pages: Mapping[str, bytes]) -> bytes:
    """The pages of several workers as one; each sample gets the label ``worker`` with its page's key.

    Raises ValueError for what is no text of Prometheus.
    """
    families: dict[str, Metric] = {}
    for worker, page in pages.items():
        for found in text_string_to_metric_families(page.decode()):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            family.samples += [
                sample._replace(labels=sample.labels | {"worker": worker}) for sample in found.samples
            ]
    return generate_latest(_Families(families.values()))


class _Families(Collector):
    """Figures that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        return self._families
