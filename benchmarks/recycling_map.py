"""E3 of configs/study/plan.md: over which pools does recycling train on more groups than plain GRPO, at equal rollouts?

    python -m benchmarks.recycling_map                              # points that are missing (half an hour; resumable)
    python -m benchmarks.recycling_map --table                      # what is kept, as tables
    python -m benchmarks.recycling_map --runs runs/study/b/s4/grpo/*    # beside it: the shift and jump of these runs

In a pool every query's log-odds of a right answer grow by `shift` over the budget, and by `jump` each time that the
query is trained on ("memorising" of qr_jax/lab/pass_rates.py). A figure is the groups that a rule trains on, or the
distinct queries, over plain GRPO's at equal rollouts. More groups are not yet more learning.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown, ranged
from qr_jax.lab import oracle, paper_world, pass_rates
from qr_jax.pool.noise import uniforms

FILE = interleave.ROOT / "benchmarks/results/recycling_map.json"
SIZE, QUERIES, SEEDS = 1000, 16, 2  # of the pool, of a step; plays of a point
ARMS = {"grpo": ("grpo", 1), "recycle": ("recycle", 1), "recycle_k2": ("recycle", 2), "foresee": ("foresee", 1)}
RECYCLING = ("recycle", "recycle_k2")
TOLD = {"recycle": "recycle", "recycle_k2": "recycle, k 2", "foresee": "foresee"}  # in tables
SHAPES = {  # how a pool's pass rates begin: Beta(a, b), and the share of the queries that is at a fixed rate
    "Beta(.35, .35)": ((0.35, 0.35), {}),
    "any rate": ((1.0, 1.0), {}),
    "Beta(.3, 1.2)": ((0.3, 1.2), {}),
    "a third at 0, a third at 1": ((1.0, 1.0), {0.0: 1 / 3, 1.0: 1 / 3}),
    "half coins": ((0.35, 0.35), {0.5: 0.5}),
}
SAMPLES, PER_QUERY, SHIFTS, JUMPS = (2, 4, 8), (4, 8, 16, 32), (0, 2, 4), (0, 1, 2, 4, 8)
PLACE = ("shape", "shift", "jump", "per_query", "samples")
FIXED = 93  # the first part of the keys that say which queries have a fixed rate
PAPER_FITS = 4  # of each of the paper's models
PRIOR = 0.1  # precision of a query's own log-odds in `shift_and_jump`: a query that was never right has no estimate
Point = Mapping[str, Any]


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="run folders to place in the map")
    parser.add_argument("--table", action="store_true", help="print what is kept, and play nothing")
    options = parser.parse_args(words)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {**interleave.commit(), "points": [], "paper": []}
    if options.runs:
        fits = {
            f"{run.parent.name}/{run.name}": shift_and_jump(*pass_rates.read_run(run)[1::2]) for run in options.runs
        }
        kept["runs"] = {**kept.get("runs", {}), **fits}
        save(kept)
    elif not options.table:
        for part, points in (("points", missing(kept["points"])), ("paper", missing_of_the_paper(kept["paper"]))):
            for found in points:
                kept[part].append(found)
                save(kept)
    print(table(kept))


def save(kept: Mapping[str, Any]) -> None:
    """Write the file, a point a line."""
    parts = [f' "{name}": {json.dumps(value)}' for name, value in kept.items() if name not in ("points", "paper")]
    for name in ("points", "paper"):
        parts.append(f' "{name}": [\n' + ",\n".join(f"  {json.dumps(point)}" for point in kept[name]) + "\n ]")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def missing(points: Sequence[Point]) -> Iterator[Point]:
    """Play the points that are not there: their place, and by arm the mean groups and distinct queries."""
    there = {tuple(point[part] for part in PLACE) for point in points}
    for place in itertools.product(SHAPES, SHIFTS, JUMPS, PER_QUERY, SAMPLES):
        if place not in there:
            shape, shift, jump, per_query, samples = place
            worlds = [world(shape, shift, jump, seed=seed) for seed in range(SEEDS)]
            settings = {"queries": QUERIES, "samples": samples, "rollouts": per_query * SIZE}
            yield dict(zip(PLACE, place, strict=True)) | counts(worlds, settings, SIZE)


def missing_of_the_paper(points: Sequence[Point]) -> Iterator[Point]:
    """Play the pools that are fitted to the paper's figures, at its settings, in groups of each size."""
    there, size = {(point["model"], point["samples"]) for point in points}, paper_world.SETTING["size"]
    for model, samples in itertools.product(paper_world.MODELS, SAMPLES):
        if (model, samples) not in there:
            worlds = [paper_world.world(model, size, seed=seed) for seed in range(PAPER_FITS)]
            settings = {name: paper_world.SETTING[name] for name in ("queries", "rollouts")} | {"samples": samples}
            yield {"model": model, "samples": samples} | counts(worlds, settings, size)


def counts(worlds: Sequence[pass_rates.World], settings: Mapping[str, int], size: int) -> dict[str, dict[str, float]]:
    """Play each arm in each world: by arm, mean numbers of the groups trained on and of distinct queries."""
    groups, distinct = {}, {}
    for arm, (rule, oversample) in ARMS.items():
        plan = oracle.sampler(rule, oversample=oversample, **settings)
        told = [oracle.summary(oracle.play(plan, one, size=size, seed=seed)) for seed, one in enumerate(worlds)]
        groups[arm] = float(np.mean([summary["accepted_groups"] for summary in told]))
        distinct[arm] = round(float(np.mean([summary["coverage"] for summary in told])) * size, 1)
    return {"groups": groups, "distinct": distinct}


def world(shape: str, shift: float, jump: float, *, seed: int) -> pass_rates.World:
    """A pool of a shape: queries at a fixed rate are told by numbers keyed by (93, seed, query), the others move."""
    (a, b), fixed = SHAPES[shape]
    moves = pass_rates.world(f"memorising:{a},{b},{shift},{jump}", SIZE, seed=seed)
    edges = np.cumsum([*fixed.values(), 1.0])
    kind_P = np.searchsorted(edges, uniforms(SIZE, FIXED, seed), side="right")
    fixed_P = np.array([*fixed, np.nan])[np.minimum(kind_P, len(fixed))]

    def now(done: float, drawn_Q: np.ndarray, *trained: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(fixed_P[drawn_Q]), moves(done, drawn_Q, *trained), fixed_P[drawn_Q])

    return now


def shift_and_jump(size: int, draws: pass_rates.Draws) -> dict[str, float]:
    """The shift and the jump under which a run's right answers are likeliest, with standard errors.

    log-odds of a draw = the query's own + shift x share of the budget spent + jump x times it was trained on before,
    by Newton's method; a query's own log-odds have a normal prior of precision PRIOR. That a group with both right and
    wrong answers is trained on holds for runs that draw no more than they accept.
    """
    signal_D = (draws.right_D > 0) & (draws.right_D < draws.valid_D)
    seen_P, trained_D = np.zeros(size), np.zeros(len(signal_D))
    for at, (query, signal) in enumerate(zip(draws.query_D, signal_D)):
        trained_D[at] = seen_P[query]
        seen_P[query] += signal
    if not trained_D.any():
        raise ValueError("no query was drawn again after it was trained on; there is nothing to tell a jump from")
    own_DP = np.zeros((len(signal_D), size))
    own_DP[np.arange(len(signal_D)), draws.query_D] = 1
    design_DF = np.column_stack([draws.done_D, trained_D, own_DP])
    prior_F = np.array([0.0, 0.0, *[PRIOR] * size])
    weights_F = np.zeros(2 + size)
    for _ in range(30):
        rate_D = 1 / (1 + np.exp(-design_DF @ weights_F))
        slope_F = design_DF.T @ (draws.right_D - draws.valid_D * rate_D) - prior_F * weights_F
        curvature_D = draws.valid_D * rate_D * (1 - rate_D)
        curvature_FF = design_DF.T @ (design_DF * curvature_D[:, None]) + np.diag(prior_F)
        weights_F = weights_F + np.linalg.solve(curvature_FF, slope_F)
    error_F = np.sqrt(np.diag(np.linalg.inv(curvature_FF))[:2])
    passes = len(signal_D) / size
    shift, jump = weights_F[:2]
    figures = {"passes": passes, "shift": shift, "shift_se": error_F[0], "jump": jump, "jump_se": error_F[1]}
    return {name: float(value) for name, value in figures.items()}


def table(kept: Mapping[str, Any]) -> str:
    """In Markdown: groups of each arm over plain GRPO's by shape, then by jump and budget; the paper's pools; runs."""
    points = with_ratios(kept["points"], ("shape", "shift", "jump", "per_query"))
    parts = [by_shape(points), by_jump(points)]
    if kept["paper"]:
        parts.append(of_the_paper(with_ratios(kept["paper"], ("model",))))
    if "runs" in kept:
        rows = [("run", "passes", "shift", "jump")]
        for name, fit in kept["runs"].items():
            about = [f"{fit[part]:.2f} +- {1.96 * fit[part + '_se']:.2f}" for part in ("shift", "jump")]
            rows.append((name, f"{fit['passes']:.1f}", *about))
        parts.append(markdown(rows))
    return "\n".join(parts)


def with_ratios(points: Sequence[Point], common: Sequence[str]) -> list[Point]:
    """Add to each point `same` and `best`: each arm's groups over plain GRPO's at its K, and over the best of its K."""
    best: dict[tuple, float] = {}
    for point in points:
        place = tuple(point[part] for part in common)
        best[place] = max(best.get(place, 1.0), point["groups"]["grpo"])
    return [
        {
            **point,
            "same": {arm: count / max(point["groups"]["grpo"], 1.0) for arm, count in point["groups"].items()},
            "best": {
                arm: count / best[tuple(point[part] for part in common)] for arm, count in point["groups"].items()
            },
            "queries": {arm: count / max(point["distinct"]["grpo"], 1.0) for arm, count in point["distinct"].items()},
        }
        for point in points
    ]


def cell(kept: Mapping[str, Any], figure: str) -> list[float]:
    """Recycling's groups over plain GRPO's at the same K, where they are most, or of the paper's pools; `taught`: those
    less 1 of every pool with a jump of 2 or more in which each query is drawn at least twice; `queries`: the different
    queries over plain GRPO's, less 1, of every pool.
    """
    points = with_ratios(kept["points"], ("shape", "shift", "jump", "per_query"))
    fitted = with_ratios(kept["paper"], ("model",))
    paper = [point["same"][arm] for point in fitted for arm in RECYCLING]
    same = [max(point["same"][arm] for arm in RECYCLING) for point in points]
    best = [max(point["best"][arm] for arm in RECYCLING) for point in points]
    queries = [point["queries"][arm] for point in fitted for arm in RECYCLING]
    found = {"most": [max(same)], "most_of_best": [max(best)], "paper_least": [min(paper)], "paper_most": [max(paper)]}
    found |= {"paper_queries": [max(queries)]}
    others = [max(point["queries"][arm] for arm in RECYCLING) for point in points]
    found |= {"most_queries": [max(others)], "queries": [ratio - 1 for ratio in others]}
    taught = [point["jump"] >= 2 and point["per_query"] >= 2 * point["samples"] for point in points]
    found |= {"taught": [ratio - 1 for ratio, has in zip(same, taught, strict=True) if has]}
    return found[figure]


def by_shape(points: Sequence[Point]) -> str:
    """How many pools an arm wins, and its largest ratio, by how the pool begins."""
    rows = [("pool begins at", "pools", *(f"{told}: more groups (at most)" for told in TOLD.values()))]
    rows[0] += ("either recycle: more than GRPO's best K (at most)", "more different queries than GRPO (at most)")
    for shape in SHAPES:
        own = [point for point in points if point["shape"] == shape]
        if own:
            cells = [won([point["same"][arm] for point in own]) for arm in TOLD]
            either = [max(point["best"][arm] for arm in RECYCLING) for point in own]
            queries = [max(point["queries"][arm] for arm in RECYCLING) for point in own]
            rows.append((shape, str(len(own)), *cells, won(either), won(queries)))
    return markdown(rows)


def won(ratios: Sequence[float]) -> str:
    return f"{sum(ratio > 1 for ratio in ratios)} ({max(ratios):.2f})"


def by_jump(points: Sequence[Point]) -> str:
    """Recycling's groups over plain GRPO's at the same K, by jump and budget: the mean and the range."""
    rows = [("jump", *(f"{per_query} rollouts a query" for per_query in PER_QUERY))]
    for jump in JUMPS:
        cells = []
        for per_query in PER_QUERY:
            own = [point for point in points if (point["jump"], point["per_query"]) == (jump, per_query)]
            cells.append(ranged([point["same"]["recycle"] for point in own], ".2f") if own else "")
        rows.append((str(jump), *cells))
    return markdown(rows)


def of_the_paper(points: Sequence[Point]) -> str:
    """Groups and distinct queries over plain GRPO's in the pools fitted to the paper's figures."""
    rows = [("paper's pool", "K", "GRPO's groups", *(f"{told}: groups, queries" for told in TOLD.values()))]
    for point in points:
        cells = [f"{point['same'][arm]:.2f}, {point['queries'][arm]:.2f}" for arm in TOLD]
        rows.append((point["model"], str(point["samples"]), f"{point['groups']['grpo']:,.0f}", *cells))
    return markdown(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
