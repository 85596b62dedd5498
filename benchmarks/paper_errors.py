"""How far the pools fitted to the paper's figures are from each of its curves, fitted or not.

`python -m benchmarks.paper_implies` keeps and prints these. Expected counts of recycling (`paper_fits.expected`) are
held against the published numbers, not against those that each fit was given.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import paper_fits
from benchmarks.tables import markdown
from qr_jax.lab import paper_world

VERDICTS, ORIGINS = ("easy", "signal", "hard"), ("fresh", "ex_hard", "ex_easy")
LAGGED = f"figure 4 as means over {paper_fits.TRAILING} steps before"
FITTED = {"qwen3_1p7b": ("figure 5", "figure 8", "figure 3"), "qwen3_4b": ("figure 5", LAGGED)}
Errors = Mapping[str, Mapping[str, float]]  # by figure and curve


def of_fit(fit: paper_world.Fit, model: str) -> dict[str, dict[str, float]]:
    """Return the largest absolute error of each curve: of shares, but of counts in figure 3."""
    found, figures = paper_fits.expected(fit), paper_world.figures()
    verdicts, accepted = np.stack([found[name] for name in VERDICTS]), found["accepted"].T
    points = paper_fits.POINTS
    near = np.maximum(points - paper_fits.SMOOTH, 0), np.minimum(points + paper_fits.SMOOTH, paper_fits.STEPS)
    before = np.maximum(points - paper_fits.TRAILING, 0), np.maximum(points, paper_fits.CHUNK)
    told = {"figure 5": off(VERDICTS, shares(verdicts.sum(2), *near), read(figures["5"], model, VERDICTS))}
    for name, window in (("figure 4", near), (LAGGED, before)):
        told[name] = off(ORIGINS, shares(accepted, *window), read(figures["4"], model, ORIGINS))
    if model == "qwen3_1p7b":
        told |= {"figure 8": of_strata(verdicts), "figure 3": of_rescues(accepted)}
    return told


def of_strata(verdicts: np.ndarray) -> dict[str, float]:
    """Return figure 8's errors by stratum, over thirds and verdicts, from counts by verdict, chunk and stratum."""
    count, published = verdicts.reshape(3, 3, -1, verdicts.shape[2]).sum(2), paper_fits.strata()
    rows, strata = paper_world.figures()["8"]["rows"], verdicts.shape[2]
    names = [f"{source} {needed}" for source, needed in zip(rows["source"], rows["documents"], strict=True)][:strata]
    by_stratum = np.moveaxis(np.stack([count / count.sum(0), published / published.sum(0)]), -1, 1)
    return off(names, *by_stratum)


def of_rescues(accepted: np.ndarray) -> dict[str, float]:
    """Return figure 3's errors, of recycling's rescues, from counts by origin and chunk."""
    told = {}
    for name, gained in zip(("rescued_hard", "rescued_easy"), accepted[1:], strict=True):
        curve = paper_world.figures()["3"]["curves"]["recycle"][name]
        steps = np.array(curve["x"]) / paper_fits.PER_STEP
        told |= off([name], paper_fits.between(gained[None], np.zeros(len(steps)), steps), [curve["values"]])
    return told


def shares(counts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return each kind's share of the counts [kinds, chunks] between steps `low` and `high`."""
    found = paper_fits.between(counts, low, high)
    return found / found.sum(0)


def read(figure: Mapping[str, Any], model: str, names: Iterable[str]) -> list[list[float]]:
    return [figure["curves"][model][name] for name in names]


def off(names: Sequence[str], found: Any, published: Any) -> dict[str, float]:
    """Return the largest absolute error by name."""
    errors = np.abs(np.asarray(found) - np.asarray(published)).reshape(len(names), -1).max(1)
    return {name: round(float(error), 4) for name, error in zip(names, errors, strict=True)}


def table(kept: Mapping[str, Sequence[Errors]]) -> str:
    """Return a row a curve: its largest error, as a mean over the fits, at 1.7B and at 4B."""
    rows: list[tuple[str, ...]] = [("largest error of a curve, mean over fits", "1.7B", "", "4B", "")]
    order = ("figure 5", "figure 8", "figure 4", LAGGED, "figure 3")
    for figure in order:
        for curve in kept["qwen3_1p7b"][0][figure]:
            cells = [cell for model, fits in kept.items() for cell in cells_of(fits, model, figure, curve)]
            rows.append((f"{figure}: {curve}", *cells))
    return markdown(rows)


def cells_of(fits: Sequence[Errors], model: str, figure: str, curve: str) -> tuple[str, str]:
    """Return the mean error, and whether the figure was fitted; empty cells where nothing is published."""
    if figure not in fits[0]:
        return "", ""
    error = float(np.mean([fit[figure][curve] for fit in fits]))
    told = f"{error:.0f}" if figure == "figure 3" else f"{error:.3f}".removeprefix("0")
    return told, "fitted" if figure in FITTED[model] else "not"
