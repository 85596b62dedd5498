"""A run's steps in bins: sums, rates and means over each, for charts whose points are several steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qr_jax.evaluation.scores import ends

Row = Mapping[str, Any]
MOST_BINS = 40
MOST_POINTS = 400  # of a line, which the page smooths and whose reader may look closer


def bins(rows: Sequence[Row], most: int = MOST_BINS) -> list[list[Row]]:
    """Split steps, in order, into at most `most` bins of nearly equal size."""
    lots = min(len(rows), most)
    return [list(rows[len(rows) * at // lots : len(rows) * (at + 1) // lots]) for at in range(lots)]


def total(rows: Sequence[Row], name: str) -> float:
    """Return the sum of a metric over steps; a missing value counts as 0."""
    return sum(row.get(name) or 0 for row in rows)


def ratio(rows: Sequence[Row], above: str, below: str, least: float = 0) -> float | None:
    """Return a rate over several steps, from summed counts; None over nothing, or over less than `least`."""
    count = total(rows, below)
    return total(rows, above) / count if count and count >= least else None


def mean(rows: Sequence[Row], name: str) -> float | None:
    """Return the mean over the steps that have the metric."""
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) / len(known) if known else None


def lines(lots: Sequence[Sequence[Row]], drawn: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Return a line of means for each (metric, words, tone)."""
    return [
        {"name": words, "tone": tone, "values": [mean(lot, metric) for lot in lots]} for metric, words, tone in drawn
    ]


def step_axis(lots: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Make the x axis of binned steps: each bin at its middle, labelled with its steps."""
    spans = [(lot[0]["step"], lot[-1]["step"]) for lot in lots]
    words = [f"step {low}" if low == high else f"steps {low}\u2013{high}" for low, high in spans]
    return [{"label": "step", "values": [(low + high) / 2 for low, high in spans], "words": words}]


def said(lots: Sequence[Sequence[Row]]) -> str:
    """Return the note on how many steps a point stands for, if more than one."""
    least, most = min(map(len, lots)), max(map(len, lots))
    return "" if most == 1 else f" Each point is {most if least == most else f'{least} or {most}'} steps."


def interval(
    shares: Sequence[float | None], errors: Sequence[float | None], questions: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Return the lower and upper ends of each share's 95 % interval, as tables print it."""
    known = zip(shares, errors, questions, strict=True)
    found = [(None, None) if share is None else ends(share, error, count) for share, error, count in known]
    return [low for low, _ in found], [high for _, high in found]
