"""A run's steps in lots: sums, rates and means over each, for charts whose points are several steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.evaluation.bootstrap import half_width

Row = Mapping[str, Any]
MOST_BINS = 40
MOST_POINTS = 400  # of a line, which the page smooths and whose reader may look closer


def bins(rows: Sequence[Row], most: int = MOST_BINS) -> list[list[Row]]:
    """Steps that follow one another, in at most `most` lots, as equal as can be."""
    lots = min(len(rows), most)
    return [list(rows[len(rows) * at // lots : len(rows) * (at + 1) // lots]) for at in range(lots)]


def total(rows: Sequence[Row], name: str) -> float:
    """The sum of a metric over steps; nothing counts as 0."""
    return sum(row.get(name) or 0 for row in rows)


def ratio(rows: Sequence[Row], above: str, below: str, least: float = 0) -> float | None:
    """A rate over several steps, of summed counts; None over nothing, or over less than `least`."""
    count = total(rows, below)
    return total(rows, above) / count if count and count >= least else None


def mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean over those steps that have the metric."""
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) / len(known) if known else None


def step_axis(lots: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """The x axis of binned steps: each lot at its middle, with words for what it spans."""
    spans = [(lot[0]["step"], lot[-1]["step"]) for lot in lots]
    words = [f"step {low}" if low == high else f"steps {low}\u2013{high}" for low, high in spans]
    return [{"label": "step", "values": [(low + high) / 2 for low, high in spans], "words": words}]


def said(lots: Sequence[Sequence[Row]]) -> str:
    """How many steps a point stands for, where it is more than one."""
    least, most = min(map(len, lots)), max(map(len, lots))
    return "" if most == 1 else f" Each point is {most if least == most else f'{least} or {most}'} steps."


def interval(
    shares: Sequence[float | None], errors: Sequence[float | None], questions: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Where the 95 % interval of each share begins and ends; a share is never less than 0 nor more than 1."""
    ends = [(share, half_width(error, count)) for share, error, count in zip(shares, errors, questions, strict=True)]
    low = [None if share is None else max(share - margin, 0.0) for share, margin in ends]
    return low, [None if share is None else min(share + margin, 1.0) for share, margin in ends]
