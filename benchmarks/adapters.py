"""E11 of configs/study/plan.md: adapters on the quickstart, with a rank and a learning rate that are tuned.

    python -m benchmarks.adapters choose    # 18 runs of 5 minutes, two at a time on 2 cores; resumable
    python -m benchmarks.adapters final     # the chosen one and the quickstart on ten fresh seeds: 20 runs
    python -m benchmarks.adapters --table   # of what is kept, and make no run

Runs of one seed are compared where their cold starts score alike: on another machine these differ by rounding. Figures
join results/adapters.json when a run ends.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, paired_seeds, quickstart_seeds
from benchmarks.tables import markdown, over_seeds
from qr_jax import config as configs

NAME = "adapters"
CHOOSING, SEEDS = range(30, 33), range(220, 230)
CANDIDATES = [(rank, times) for rank in (16, 32) for times in (2, 4, 8)]  # of the quickstart's learning rate
FULL = "the quickstart"
MARGIN = 0.04  # of exact match: less does not matter
Runs = Sequence[Mapping[str, Any]]


def main(words: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, all arms of a seed before the next, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("choose", "final"), help="whose missing runs are made")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args(words)
    if options.stage and not options.table:
        arms = [called(*one) for one in CANDIDATES]
        if options.stage == "final":
            arms = [FULL, chosen(kept_runs.kept(NAME))]
        for seed, arm in itertools.product(CHOOSING if options.stage == "choose" else SEEDS, arms):
            make(seed, arm)
    print(table(kept_runs.kept(NAME)), end="")


def called(rank: int, times: int) -> str:
    return f"rank {rank}, {times} times the rate"


def settings_of(arm: str) -> tuple[str, ...]:
    """The settings of an arm, whose learning rate is a multiple of the quickstart's."""
    if arm == FULL:
        return ()
    ((rank, times),) = [one for one in CANDIDATES if called(*one) == arm]
    rate = configs.load(interleave.ROOT / quickstart_seeds.CONFIG).learner.lr * times
    return f"model.lora.rank={rank}", f"learner.lr={rate:g}"


def make(seed: int, arm: str) -> None:
    """Make and keep one run, unless it is kept."""
    folder = f"runs/{NAME}/{arm.replace(',', '').replace(' ', '_')}/seed_{seed}"
    command = "train", quickstart_seeds.CONFIG, f"seed={seed}", *settings_of(arm), "--run", folder
    key = {"command": " ".join(["qr-jax", *command]), "seed": seed, "arm": arm, "preset": quickstart_seeds.preset()}
    kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))


def scores(runs: Runs, arm: str, seeds: Sequence[int]) -> dict[tuple[int, float], float]:
    """Return an arm's exact match after training by cold start: a seed and its score before training."""
    return {(run["seed"], run["before"]): run["after"] for run in runs if run["arm"] == arm and run["seed"] in seeds}


def chosen(runs: Runs) -> str:
    """Return the candidate with the highest mean over the choosing seeds; ValueError while a run is missing."""
    means = {}
    for arm in (called(*one) for one in CANDIDATES):
        found = scores(runs, arm, CHOOSING)
        if {seed for seed, _ in found} != {*CHOOSING}:
            raise ValueError(f"{arm} lacks runs of seeds {list(CHOOSING)}: run `python -m benchmarks.adapters choose`")
        means[arm] = float(np.mean([*found.values()]))
    return max(means, key=means.__getitem__)


def gaps(runs: Runs) -> list[float]:
    """Return the chosen adapters' score less the quickstart's of each seed, from one cold start."""
    tuned, full = (scores(runs, arm, SEEDS) for arm in (chosen(runs), FULL))
    return [tuned[start] - full[start] for start in sorted({*tuned} & {*full})]


def verdict(less: Sequence[float]) -> str:
    """Return the plan's verdict by the 95 % interval over the seeds; "none yet" while seeds are missing."""
    return paired_seeds.judged(less, MARGIN)


def table(runs: Runs) -> str:
    """Return Markdown: each candidate over the choosing seeds; the chosen one less the quickstart, with the verdict."""
    rows: list[Sequence[str]] = [("adapters", "settings", "seeds 30 to 32")]
    for arm in (called(*one) for one in CANDIDATES):
        after = [*scores(runs, arm, CHOOSING).values()]
        rows.append((arm, f"`{' '.join(settings_of(arm))}`", over_seeds(after)))
    try:
        final = row(runs)
    except ValueError:
        return markdown(rows)
    return f"{markdown(rows)}\n{markdown([paired_seeds.VERDICTS, final])}"


def row(runs: Runs) -> tuple[str, str, str, str]:
    """Return a row under `paired_seeds.VERDICTS`: the chosen adapters less the quickstart."""
    less = gaps(runs)
    return f"`{' '.join(settings_of(chosen(runs)))}`", str(len(less)), over_seeds(less, "+"), verdict(less)


if __name__ == "__main__":
    main()
