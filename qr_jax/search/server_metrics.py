"""Counters, gauges and histograms of the servers, as Prometheus reads them."""

from collections.abc import Callable, Mapping
from typing import Any

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class HttpMetrics:
    """Counts of a server since its start; `gauges` are name -> help and a function of the present value."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._common: dict[str, Any] = {"namespace": "qr_jax", "registry": self._registry}
        self.requests = Counter("requests", "requests by path and status", ("path", "status"), **self._common)
        text = "requests refused or cut off for the sake of others, by reason"
        self.refused = Counter("refused", text, ("reason",), **self._common)
        text = "from a request's arrival to its answer"
        self.request_seconds = Histogram("request_seconds", text, buckets=SECONDS, **self._common)
        for name, (text, value) in gauges.items():
            Gauge(name, text, **self._common).set_function(value)

    def text(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus's text format, and its Content-Type."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry), "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics(HttpMetrics):
    """Counts of the retrieval server."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]):
        from prometheus_client import Counter, Histogram

        super().__init__(gauges)
        self.queries = Counter("queries", "queries asked", **self._common)
        self.search_errors = Counter("search_errors", "search calls that failed", **self._common)
        self.search_seconds = Histogram("search_seconds", "of one search call", buckets=SECONDS, **self._common)
        text = "different queries of one search call"
        self.batch_queries = Histogram("batch_queries", text, buckets=SIZES, **self._common)
