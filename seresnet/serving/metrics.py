"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from seresnet.serving.model import ServedModel

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters and histograms of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # a time of creation beside each series
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "seresnet_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = self._seconds(
            "seresnet_request_seconds", "Seconds from the end of a request's headers to its response.", "route"
        )
        self.shed = Counter(
            "seresnet_shed", "Requests that were refused with 503, by reason.", ("reason",), registry=self.registry
        )
        self.images = Counter("seresnet_images", "Images that were answered.", ("model",), registry=self.registry)
        self.queue_wait = self._seconds(
            "seresnet_queue_wait_seconds", "Seconds that an image waited for its batch.", "model"
        )
        self.batch_size = Histogram(
            "seresnet_batch_size", "Images of a batch.", ("model",), buckets=SIZES, registry=self.registry
        )
        self.batch_seconds = self._seconds(
            "seresnet_batch_seconds", "Seconds that a batch took on the engine.", "model"
        )
        self._pending = Gauge(
            "seresnet_queue_depth",
            "Images that were admitted and not yet answered.",
            ("model",),
            registry=self.registry,
        )
        self._connections = Gauge("seresnet_connections", "Open connections.", registry=self.registry)

    def _seconds(self, name: str, description: str, label: str) -> Histogram:
        """Return a histogram of durations."""
        return Histogram(name, description, (label,), buckets=SECONDS, registry=self.registry)

    def watch(self, model: ServedModel) -> None:
        """Note the batches of a model, and read the depth of its queue whenever the metrics are."""
        size, seconds = self.batch_size.labels(model.name), self.batch_seconds.labels(model.name)

        def observe(images: int, took: float) -> None:
            size.observe(images)
            seconds.observe(took)

        model.batcher.observe = observe
        self._pending.labels(model.name).set_function(lambda: float(model.pending))

    def watch_connections(self, connections: Callable[[], Iterable[object]]) -> None:
        """Count the open connections whenever the metrics are read."""
        self._connections.set_function(lambda: float(sum(1 for _ in connections())))

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
