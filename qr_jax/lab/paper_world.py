"""Pools whose pass rates move as the paper's figures say they moved (Coelho et al. 2026, arXiv:2606.10709v1).

`paper_curves.json` holds its figures as numbers; `paper_fits.json` pools that were fitted to them, several a model, by
`python -m benchmarks.paper_fits`. A query's log-odds of a right answer are normal within its stratum (a source and a
number of documents), grow over the budget by an amount of the query's own, and jump each time it is trained on, in
proportion to its weight in that batch's loss; a share of the queries is never answered right."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.pool.noise import uniforms
from qr_jax.settings import json_text

RATES = 92  # as in pass_rates.py; the numbers here have one more key
STRATUM, IMPOSSIBLE, START, GROWTH = range(4)
MODELS = {"qwen3_1p7b": "Qwen3-1.7B", "qwen3_4b": "Qwen3-4B"}
SETTING = {"size": 10_000, "queries": 32, "samples": 4, "rollouts": 84_480}
OVERSAMPLE = {"recycle": 2, "grpo": 1, "bounded_dapo": 2}
STEPS = {
    rule: SETTING["rollouts"] // (SETTING["queries"] * SETTING["samples"] * times) for rule, times in OVERSAMPLE.items()
}
# Counts of accepted groups, by what the query was before (an origin of `qr_jax.pool.figures`).
ACCEPTED = {"rescued_hard": "ex_hard", "rescued_easy": "ex_easy", "revisited": "ex_consumed"}

Fit = Mapping[str, Any]
World = Callable[[float, np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # as in pass_rates.py


@cache
def _read(name: str) -> Any:
    return json_text.parse((resources.files("qr_jax.lab") / name).read_text(encoding="utf-8"))


def figures() -> dict[str, Any]:
    """Return the paper's figures, by number."""
    return _read("paper_curves.json")["figures"]


def fits(model: str) -> list[Fit]:
    """Return the pools fitted to a model's figures. ValueError if there are none of that name."""
    if model not in MODELS:
        raise UserError(f"there is no paper:{model}; wanted {' or '.join(f'paper:{name}' for name in MODELS)}")
    return _read("paper_fits.json")["fits"][model]


def world(model: str, size: int, *, seed: int) -> World:
    """Return a world of the model's fits: seed s has fit number s modulo their count, and queries of its own."""
    known = fits(model)
    return of_fit(known[seed % len(known)], size, seed=seed)


def of_fit(fit: Fit, size: int, *, seed: int) -> World:
    """Return a world of one fit, whose queries are keyed by (92, seed, part, query)."""
    from scipy.special import expit, ndtri

    share_SP = np.array([uniforms(size, RATES, seed, part) for part in range(4)])
    last = len(fit["shares"]) - 1
    stratum_P = np.minimum(np.searchsorted(np.cumsum(fit["shares"]), share_SP[STRATUM]), last)
    mean_P, never_P, drift_P = (np.array(fit[name])[stratum_P] for name in ("mean", "impossible", "drift"))
    start_P, other_P = ndtri(share_SP[START]), ndtri(share_SP[GROWTH])
    growth_P = growth(fit, drift_P, start_P, other_P)
    odds_P = np.where(share_SP[IMPOSSIBLE] < never_P, -np.inf, mean_P + fit["deviation"] * start_P)

    def moved(done: float, drawn_Q: np.ndarray, trained_Q: np.ndarray, weight_Q: np.ndarray) -> np.ndarray:
        return expit(odds_P[drawn_Q] + growth_P[drawn_Q] * rise(fit, done) + fit["jump"] * weight_Q)

    return moved


def growth(fit: Fit, drift: np.ndarray, start: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the growth of the log-odds until the end, from two standard normals: `start`'s and another.

    `normal` growth may be below 0; `lognormal` growth is never, and has `drift` as its mean.
    """
    both = fit["correlation"] * start + np.sqrt(1 - fit["correlation"] ** 2) * other
    if fit["growth"] == "normal":
        return drift + fit["spread"] * both
    return drift * np.exp(fit["spread"] * both - fit["spread"] ** 2 / 2)


def rise(fit: Fit, done: float) -> float:
    """Return the part of its growth that a query has after a share of the budget: fast at first, 1 in the end."""
    return float(np.expm1(-done / fit["pace"]) / np.expm1(-1 / fit["pace"]))


def oversample(rates: str, rule: str) -> int:
    """Return the k that a rule has by default in the world of `rates`: in the paper's its own, else 2."""
    return OVERSAMPLE.get(rule, 2) if rates.startswith("paper:") else 2


def published(rates: str, rule: str, settings: Mapping[str, int], *, prolonged: bool = False) -> dict[str, float]:
    """Return the paper's figures for a rule in the world of `rates`, named as in `oracle.summary`; {} for none.

    `settings` (size, queries, samples, rollouts and oversample) must be the paper's own. Shares and groups are from
    figures 4 and 5, over the first and the last tenth; counts from figures 3 and 8. A count whose curve ends before the
    budget does is there only if `prolonged`, by `at_end`.
    """
    shape, _, model = rates.partition(":")
    if shape != "paper" or dict(settings) != SETTING | {"oversample": OVERSAMPLE.get(rule)}:
        return {}
    found = _shares(model) if rule == figures()["5"]["rule"] else {}
    if model == "qwen3_1p7b":
        curves = figures()["3"]["curves"][rule]
        ended = [name for name in ACCEPTED if prolonged or curves[name]["x"][-1] >= SETTING["rollouts"]]
        found |= {name: round(at_end(curves[name]), 1) for name in ended}
    return found


def at_end(curve: Mapping[str, Any], end: float = SETTING["rollouts"]) -> float:
    """Return a cumulative count at the end of the budget, extrapolated from the last four points if it ends before."""
    x, values = curve["x"], curve["values"]
    return values[-1] + (values[-1] - values[-4]) / (x[-1] - x[-4]) * (end - x[-1])


def _shares(model: str) -> dict[str, float]:
    """Return figures 4, 5 and 8 for recycling, which accepts each query at most once."""
    verdicts, origins = (figures()[number]["curves"][model] for number in ("5", "4"))
    drawn = SETTING["queries"] * OVERSAMPLE["recycle"]
    tenth = figures()["5"]["end"] // 10

    def mean(curve: Mapping[str, Any], name: str, last: bool) -> float:
        known = [y for x, y in zip(curve["x"], curve[name], strict=True) if (x >= 9 * tenth if last else x <= tenth)]
        return sum(known) / len(known)

    groups = drawn * float(np.trapezoid(verdicts["signal"], verdicts["x"]))
    if model == "qwen3_1p7b":
        rows = figures()["8"]["rows"]
        groups = sum(n * share for n, share in zip(rows["candidates"], rows["accepted"], strict=True))
    hard, easy = (mean(origins, name, True) for name in ("ex_hard", "ex_easy"))
    return {
        "zero_variance_first": 1 - mean(verdicts, "signal", False),
        "zero_variance_last": 1 - mean(verdicts, "signal", True),
        "accepted_last": drawn * mean(verdicts, "signal", True),
        "recycled_share_last": hard + easy,
        "ex_hard_last": hard,
        "ex_easy_last": easy,
        "signal_groups": groups,
        "coverage": groups / SETTING["size"],
    }
