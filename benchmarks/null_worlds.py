"""How often the null control's 90 % band is left where no pass rate moves, and where all move.

    python -m benchmarks.null_worlds                               # simulated pools (ten minutes)
    python -m benchmarks.null_worlds --runs runs/frozen/k4_seed_*  # beside them: trained runs whose policy cannot move

A frozen world is a pool of 2,000 queries with fixed pass rates, played for 51,200 rollouts by a rule; its figures over
ten stretches are held against the band that its own first draws give. Figures that do not change over the run are left
out. `outside` is the share of (figure, stretch) pairs outside the band: .10 would be exact, less is cautious. `moved`
are the same pools, but each query's log-odds grow by 1 after its first draw: `outside` is then how often the band is
left. `stretches` is the share of stretches in which one of the figures of null_control.MOVES or more leaves it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax.lab import null_control, oracle
from qr_jax.run import runs

FILE = interleave.ROOT / "benchmarks/results/null_worlds.json"
SIZE, ROLLOUTS, POINTS = 2000, 51_200, 10
SAMPLERS = {"recycle": 2, "grpo": 1, "foresee": 1}  # a rule and its oversampling
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
    outside = null_control.outside(run, bands)
    every = np.array(list(outside.values()))
    left_T = null_control.stretches_left(outside)
    by_figure = {name: round(float(np.nanmean(out_T)), 3) for name, out_T in outside.items()}
    stretches = round(float(left_T.mean()), 3) if left_T.size else 0.0
    return {"outside": round(float(np.nanmean(every)), 4), "stretches": stretches, "by_figure": by_figure}


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


def table(kept: Mapping[str, Any]) -> str:
    """Markdown: a row a pool and rule; for K 4 and K 8 what lies outside while rates are still, and while they move."""
    heads = ("still: figures outside", "still: `flipped` outside", "still: stretches left", "moving: stretches left")
    rows = [("pool, rule", *(f"K {samples}, {head}" for samples in (4, 8) for head in heads))]
    for label in pools(kept, 4):
        every = [figures(kept, f"{label}, K {samples}") for samples in (4, 8)]
        rows.append((label, *(f"{value:.2f}" for of_k in every for value in of_k)))
    for name, of in (("mean", np.mean), ("least", np.min), ("most", np.max)):
        every = [[figures(kept, f"{label}, K {samples}") for label in pools(kept, samples)] for samples in (4, 8)]
        rows.append((name, *(f"{value:.2f}" for of_k in every for value in of(of_k, axis=0))))
    return markdown(rows).replace("0.", ".")


def pools(kept: Mapping[str, Any], samples: int) -> list[str]:
    """The pools and rules that were played with so many samples a query."""
    end = f", K {samples}"
    return [label.removesuffix(end) for label in kept["frozen"] if label.endswith(end)]


def figures(kept: Mapping[str, Any], label: str) -> tuple[float, float, float, float]:
    """A pool's figures outside, its stretches with `flipped` outside, and those left, still; those left, moving."""
    still, moving = kept["frozen"][label], kept["moved"][label]
    return still["outside"], still["by_figure"]["flipped"], still["stretches"], moving["stretches"]


def cell(kept: Mapping[str, Any], kind: str, *parts: str) -> list[float]:
    """A cell of benchmarks/claims.py. Of a share of stretches, a value a stretch: 1 where it counts, -1 where not.

    outside, or outside/POOL/K: shares of figures outside, still. flipped/POOL/K, flipped/most/K: stretches with
    `flipped` outside, still. left/K: by pool its stretches left, moving, less a half; rest/K: stretches left in the
    pool that has most of those under half. most_left: by pool its stretches left, still, less a half.
    """
    samples = int(parts[-1]) if parts else 0
    every = [figures(kept, f"{label}, K {k}") for k in ([samples] if parts else [4, 8]) for label in pools(kept, k)]
    if kind == "outside" and not parts:
        return [outside for outside, *_ in every]
    if kind == "most_left":
        return [still - 0.5 for _, _, still, _ in every]
    if kind == "left":
        return [moving - 0.5 for *_, moving in every]
    if kind == "rest":
        return of_stretches(max(moving for *_, moving in every if moving < 0.5))
    if kind == "flipped" and parts[0] == "most":
        return of_stretches(max(flipped for _, flipped, *_ in every))
    outside, flipped, *_ = next(
        figures(kept, f"{label}, K {samples}") for label in pools(kept, samples) if label.split(", ")[0] == parts[0]
    )
    return [outside] if kind == "outside" else of_stretches(flipped)


def of_stretches(share: float) -> list[float]:
    return [1.0 if at < round(share * POINTS) else -1.0 for at in range(POINTS)]


if __name__ == "__main__":
    main(sys.argv[1:])
