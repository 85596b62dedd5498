"""Counters, gauges and histograms of the retrieval server, as Prometheus reads them."""

from collections.abc import Callable, Mapping

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class ServerMetrics:
    """Counts of a server since its start; `gauges` are name -> help and a function of the present value."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]] | None = None):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        common = {"namespace": "qr_jax", "registry": self._registry}
        self.requests = Counter("requests", "requests by path and status", ("path", "status"), **common)
        self.queries = Counter("queries", "queries asked", **common)
        self.search_errors = Counter("search_errors", "search calls that failed", **common)
        text = "requests refused or cut off for the sake of others, by reason"
        self.refused = Counter("refused", text, ("reason",), **common)
        text = "from a search request's arrival to its answer"
        self.request_seconds = Histogram("request_seconds", text, buckets=SECONDS, **common)
        self.search_seconds = Histogram("search_seconds", "of one search call", buckets=SECONDS, **common)
        text = "different queries of one search call"
        self.batch_queries = Histogram("batch_queries", text, buckets=SIZES, **common)
        for name, (text, value) in (gauges or {}).items():
            Gauge(name, text, **common).set_function(value)

    def text(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus's text format, and its Content-Type."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry), "text/plain; version=0.0.4; charset=utf-8"
