"""How often the null control's 90 % band is left where no pass rate moves, and where all move.

    python -m benchmarks.null_worlds                               # simulated pools (ten minutes)
    python -m benchmarks.null_worlds --runs runs/frozen/k4_seed_*  # beside them: trained runs whose policy cannot move

A frozen world is a pool of 2,000 queries with fixed pass rates, played for 51,200 rollouts by a rule; its figures over
ten stretches are held against the band that its own first draws give. Figures that do not change over the run are left
out. `outside` is the share of (figure, stretch) pairs outside the band: .10 would be exact, less is cautious. `moved`
are the same pools, but each query's log-odds grow by 1 after its first draw: `outside` is then how often the band is
left. `stretches` is the share of stretches in which one of the figures of MOVES or more leaves it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from qr_jax.lab import null_control, oracle
from qr_jax.run import runs

FILE = interleave.ROOT / "benchmarks/results/null_worlds.json"
SIZE, ROLLOUTS, POINTS = 2000, 51_200, 10
SAMPLERS = {"recycle": 2, "grpo": 1, "foresee": 1}  # a rule and its oversampling
MOVES = ("zero_variance_rate", "flipped", *null_control.AGAIN)
Rates = Callable[[np.random.Generator, int], np.ndarray]


def impossible(share: float, rates: Rates) -> Rates:
    return lambda random, size: np.where(random.random(size) < share, 0.0, rates(random, size))


WORLDS: dict[str, Rates] = {
    "Beta(.35, .35)": lambda random, size: random.beta(0.35, 0.35, size),
    "uniform": lambda random, size: random.random(size),
    "Beta(.3, 1.2)": lambda random, size: random.beta(0.3, 1.2, size),
    "a third impossible": impossible(1 / 3, lambda random, size: random.beta(0.6, 0.6, size)),
    "coins": lambda random, size: np.full(size, 0.5),
    "coins and impossible": impossible(1 / 2, lambda random, size: np.full(size, 0.5)),
    "nearly all hard": lambda random, size: random.beta(1, 30, size),
    "nearly all easy": lambda random, size: random.beta(30, 1, size),
    "easy or hard": lambda random, size: np.where(random.random(size) < 0.5, 0.97, 0.03),
    "three rates": lambda random, size: random.choice([0.0, 0.3, 0.9], size),
    "logit-normal": lambda random, size: 1 / (1 + np.exp(0.6 - 1.1 * random.normal(size=size))),
}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, default=[], metavar="RUN", help="runs with learner.lr=1e-12")
    parser.add_argument("--seed", type=int, default=0, help="of the pools and of the plays (0)")
    options = parser.parse_args(words)
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"frozen": {}, "moved": {}, "runs": {}}
    for folder in options.runs:
        found = null_control.null_of_run(folder, kinds=runs.kinds(folder), points=POINTS, own=True)
        kept["runs"][f"{folder.parent.name}/{folder.name}"] = left(found["run"], found["bands"])
        save(kept)
    if not options.runs:
        kept |= interleave.commit()
        for at, (name, rates) in enumerate(WORLDS.items()):
            for samples in (4, 8):
                rule = list(SAMPLERS)[at % len(SAMPLERS)]
                for kind, shift in (("frozen", 0.0), ("moved", 1.0)):
                    label = f"{name}, {rule}, K {samples}"
                    kept[kind][label] = played(rates, rule, samples, shift, options.seed + at)
                    print(f"{kind}: {label}: {kept[kind][label]['outside']:.3f}", flush=True)
                    save(kept)
    print(told(kept))


def save(kept: Mapping[str, Any]) -> None:
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def played(rates: Rates, rule: str, samples: int, shift: float, seed: int, size: int = SIZE) -> dict[str, Any]:
    """A pool's figures outside the band that its first draws give."""
    rate_P, rollouts = rates(np.random.default_rng(seed), size), ROLLOUTS * size // SIZE

    seen_P = np.zeros(size, bool)

    def world(done: float, drawn_Q: np.ndarray, *_: np.ndarray) -> np.ndarray:
        odds_Q, rate_Q = np.where(seen_P[drawn_Q], np.exp(shift), 1.0), rate_P[drawn_Q]
        seen_P[drawn_Q] = True
        return rate_Q * odds_Q / (1 - rate_Q + rate_Q * odds_Q)

    oversample = SAMPLERS[rule]
    sizes = {"queries": size // 4 // samples // oversample, "samples": samples, "oversample": oversample}
    plan = oracle.sampler(rule, **sizes, rollouts=rollouts)
    run = oracle.play(plan, world, size=size, seed=1000 + seed)
    found = null_control.null(plan, run.draws, size=size, points=POINTS)
    chances = {name: [round(value, 4) for value in bounds] for name, bounds in found["chances"].items() if bounds}
    return left(null_control.curves(run.rows, POINTS, rollouts), found["bands"]) | {"chances": chances}


def left(run: Mapping[str, Sequence[float | None]], bands: Mapping[str, Mapping[str, Sequence[float | None]]]):
    """The share of figures outside their bands, by figure and over all, and of the stretches that MOVES left."""
    outside = {}
    for name in null_control.NAMES:
        value_T, low_T, high_T = (np.array(one, float) for one in (run[name], bands[name]["low"], bands[name]["high"]))
        known_T = np.isfinite(value_T) & np.isfinite(low_T)
        if known_T.any() and np.ptp(value_T[known_T]) > 0:
            out_T = (value_T < low_T - 1e-9) | (value_T > high_T + 1e-9)
            outside[name] = np.where(known_T, out_T, np.nan)
    every = np.array(list(outside.values()))
    again = [np.nan_to_num(outside[name]) for name in MOVES if name in outside]
    any_T = np.max(again, axis=0) if again else np.zeros(POINTS)
    by_figure = {name: round(float(np.nanmean(out_T)), 3) for name, out_T in outside.items()}
    means = {"outside": round(float(np.nanmean(every)), 4), "stretches": round(float(any_T.mean()), 3)}
    return means | {"by_figure": by_figure}


def told(kept: Mapping[str, Any]) -> str:
    """The means over worlds."""
    lines = []
    for kind in ("frozen", "moved", "runs"):
        for samples in ("K 4", "K 8", ""):
            some = [found for name, found in kept[kind].items() if name.endswith(samples)]
            if some and (samples or kind == "runs"):
                means = [np.mean([found[figure] for found in some]) for figure in ("outside", "stretches")]
                lines.append(f"{kind} {samples}: {len(some)} worlds, outside {means[0]:.3f}, stretches {means[1]:.3f}")
    both = [found["outside"] for kind in ("frozen", "runs") for found in kept[kind].values()]
    return "\n".join([*lines, f"frozen and runs: {len(both)} worlds, outside {np.mean(both):.3f}"])


if __name__ == "__main__":
    main(sys.argv[1:])
