"""Where recycling as published finds more signal than plain GRPO: simulated pools, and where real runs lie among them.

    python -m benchmarks.recycling_map                                  # the map: benchmarks/results/recycling_map.json
    python -m benchmarks.recycling_map --runs runs/study/b/s4/grpo/*    # beside it: the shift and jump of these runs

In the map every query's log-odds of a right answer grow by `shift` over the budget, and by `jump` more each time that
the query itself is trained on ("memorising" of qr_jax/lab/pass_rates.py). `passes` is how often the budget would
draw the whole pool. A figure is the signal groups of a rule over plain GRPO's, at equal rollouts. Signal is not yet
learning.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from qr_jax.lab import oracle, pass_rates

FILE = interleave.ROOT / "benchmarks/results/recycling_map.json"
SIZE, QUERIES = 1000, 16  # of the pool, of a step
RULES = ("grpo", "recycle", "foresee")
BETAS = ("0.35,0.35", "1,1", "0.3,1.2")  # most queries all right or all wrong; any rate; most all wrong
PARTS = ("beta", "samples", "passes", "shift", "jump")
SAMPLES, PASSES, SHIFTS, JUMPS = (4, 8), (1, 2, 4, 8), (0, 2, 4), (0, 1, 2, 4, 8)
PRIOR = 0.1  # precision of a query's own log-odds in `shift_and_jump`: a query that was never right has no estimate


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="run folders to place in the map")
    parser.add_argument("--seeds", type=int, default=3, help="simulated runs of a point that is not there yet (3)")
    options = parser.parse_args(words)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    if options.runs:
        fits = {
            f"{run.parent.name}/{run.name}": shift_and_jump(*pass_rates.read_run(run)[1::2]) for run in options.runs
        }
        kept["runs"] = {**kept.get("runs", {}), **fits}
    else:
        kept |= {"points": kept.get("points", []), **interleave.commit()}
        there = {tuple(place[part] for part in PARTS) for place in kept["points"]}
        for place in itertools.product(BETAS, SAMPLES, PASSES, SHIFTS, JUMPS):
            if place not in there:
                kept["points"].append(point(*place, seeds=options.seeds))
                FILE.write_text(json.dumps(kept, indent=1) + "\n")
    FILE.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept))


def point(beta: str, samples: int, passes: int, shift: float, jump: float, *, seeds: int) -> dict[str, Any]:
    """A point of the map: its place, and the signal groups of each rule, summed over the seeds."""
    rollouts, groups = passes * samples * SIZE, {}
    for rule in RULES:
        sampler = oracle.sampler(rule, queries=QUERIES, samples=samples, oversample=1, rollouts=rollouts)
        signal = 0
        for seed in range(seeds):
            world = pass_rates.world(f"memorising:{beta},{shift},{jump}", SIZE, seed=seed)
            played = oracle.play(sampler, world, size=SIZE, seed=seed)
            signal += int(oracle.summary(played)["signal_groups"] or 0)
        groups[rule] = signal
    place = dict(zip(PARTS, (beta, samples, passes, shift, jump), strict=True))
    return place | {"seeds": seeds, "signal_groups": groups}


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


def table(kept: dict[str, Any]) -> str:
    """In Markdown: recycling's signal groups over plain GRPO's, foresee's in brackets; then where runs lie."""
    lines = []
    for beta, samples in itertools.product(BETAS, SAMPLES):
        rows = [place for place in kept.get("points", ()) if (place["beta"], place["samples"]) == (beta, samples)]
        cells = {(place["passes"], place["shift"], place["jump"]): ratios(place["signal_groups"]) for place in rows}
        lines += [
            "",
            f"Beta({beta}), {samples} samples",
            "",
            "| passes | shift | " + " | ".join(map(str, JUMPS)) + " |",
        ]
        lines += ["|---" * (len(JUMPS) + 2) + "|"]
        for passes, shift in itertools.product(PASSES, SHIFTS):
            shown = [cells.get((passes, shift, jump), "") for jump in JUMPS]
            lines.append(f"| {passes} | {shift} | " + " | ".join(shown) + " |")
    if "runs" in kept:
        lines += ["", "| run | passes | shift | jump |", "|---|---|---|---|"]
        for name, fit in kept["runs"].items():
            about = [f"{fit[part]:.2f} +- {1.96 * fit[part + '_se']:.2f}" for part in ("shift", "jump")]
            lines.append(f"| {name} | {fit['passes']:.1f} | " + " | ".join(about) + " |")
    return "\n".join(lines)


def ratios(groups: dict[str, int]) -> str:
    recycle, foresee = (groups[rule] / max(groups["grpo"], 1) for rule in ("recycle", "foresee"))
    return f"{f'**{recycle:.2f}**' if recycle > 1 else f'{recycle:.2f}'} ({foresee:.2f})"


if __name__ == "__main__":
    main(sys.argv[1:])
