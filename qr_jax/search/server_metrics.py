"""Counts and histograms of a server, in Prometheus's text format 0.0.4."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass
class Histogram:
    bounds: Sequence[float]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Format the histogram; a bucket counts all values up to its bound."""
        buckets, so_far = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            so_far += count
            buckets.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*buckets, f"{name}_sum {self.total:.9g}", f"{name}_count {so_far}"]


@dataclass
class ServerMetrics:
    """Counts and histograms of a server since its start."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # (path, status)
    queries: int = 0
    search_errors: int = 0
    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    search_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_queries: Histogram = field(default_factory=lambda: Histogram(SIZES))

    def text(self, gauges: Mapping[str, tuple[str, float]], refused: Mapping[str, int]) -> str:
        """Format all metrics, with the gauges (name -> help, value) and the refused requests by reason."""
        statuses = [
            f'qr_jax_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        parts = [
            _part("requests_total", "counter", "requests by path and status", statuses),
            _part("queries_total", "counter", "queries asked", [f"qr_jax_queries_total {self.queries}"]),
        ]
        failed = [f"qr_jax_search_errors_total {self.search_errors}"]
        parts.append(_part("search_errors_total", "counter", "search calls that failed", failed))
        reasons = [f'qr_jax_refused_total{{reason="{reason}"}} {count}' for reason, count in refused.items()]
        parts.append(_part("refused_total", "counter", "refused or cut off for the sake of others, by reason", reasons))
        for name, help_text in (
            ("request_seconds", "from a search request's arrival to its answer"),
            ("search_seconds", "of one search call"),
            ("batch_queries", "different queries of one search call"),
        ):
            parts.append(_part(name, "histogram", help_text, getattr(self, name).lines(f"qr_jax_{name}")))
        for name, (help_text, value) in gauges.items():
            parts.append(_part(name, "gauge", help_text, [f"qr_jax_{name} {value:g}"]))
        return "\n".join(parts) + "\n"


def _part(name: str, kind: str, help_text: str, lines: Sequence[str]) -> str:
    return "\n".join([f"# HELP qr_jax_{name} {help_text}", f"# TYPE qr_jax_{name} {kind}", *lines])
