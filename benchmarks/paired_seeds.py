"""E5 and E6 of configs/study/plan.md: adapters, overlap and int8 beside the quickstart, by seed, at equal rollouts.

    python -m benchmarks.paired_seeds             # 40 runs of 2 to 4 minutes on 2 cores; resumable
    python -m benchmarks.paired_seeds --again 205 # the quickstart's run of that seed once more, as a replicate
    python -m benchmarks.paired_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N` with the settings of its arm, from the same cold start, judged
greedily on 1,000 held-out questions. On another machine the cold start differs by rounding: only runs from one are
compared. Its figures join results/paired_seeds.json when it ends.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks import kept_runs, quickstart_seeds
from benchmarks.quickstart_seeds import CONFIG
from benchmarks.tables import markdown, over_seeds, thousandths

NAME = "paired_seeds"
MARGINS = {"adapters of rank 16": 0.04, "overlap": 0.02, "int8": 0.02}  # of exact match: less does not matter
SEEDS = range(200, 210)
ARMS = {  # settings
    "the quickstart": (),
    "adapters of rank 16": ("model.lora.rank=16", "learner.lr=2e-3"),  # the rate is the better of two on seed 20
    "overlap": ("train.overlap=1",),
    "int8": ("rollout.weights=int8", "rollout.cache=int8", "learner.importance=truncate"),  # E6
}


def main() -> None:
    """Make the runs that are missing, all arms of a seed before the next, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    parser.add_argument("--again", type=int, metavar="SEED", help="make the quickstart's run of this seed once more")
    options = parser.parse_args()
    if options.again is not None:
        make(options.again, next(iter(ARMS)), {"replicate": 1})
    elif not options.table:
        for seed, arm in itertools.product(SEEDS, ARMS):
            make(seed, arm)
    print(table(kept_runs.kept(NAME)), end="")


def make(seed: int, arm: str, replicate: Mapping[str, int] = MappingProxyType({})) -> None:
    """Make and keep one run, unless it is kept."""
    folder = "_".join([f"runs/{NAME}/{arm.replace(' ', '_')}/seed_{seed}", *map(str, replicate.values())])
    command = "train", CONFIG, f"seed={seed}", *ARMS[arm], "--run", folder
    key: dict[str, Any] = {"command": " ".join(["qr-jax", *command]), "seed": seed, "arm": arm, **replicate}
    kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a cold start, and each arm's difference from the quickstart over seeds.

    A cold start is known by its seed and its score: a run of another machine, whose rounding differs, has its own row.
    """
    by_arm = {arm: {(run["seed"], run["before"]): run["after"] for run in runs if run["arm"] == arm} for arm in ARMS}
    rows = [("seed", "before", *(f"{arm}, after" for arm in ARMS))]
    for start in sorted({start for after in by_arm.values() for start in after}):
        scores = [thousandths(after[start]) if start in after else "" for after in by_arm.values()]
        rows.append((str(start[0]), thousandths(start[1]), *scores))
    told = [over_seeds(less, "+") for less in differences(runs).values()]
    return markdown([*rows, ("less the quickstart", "", "", *told)])


def verdicts(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: each arm's difference from the quickstart, and the verdict by the plan's rule."""
    head = ("in place of the quickstart as it is", "seeds", "held-out exact match, less the quickstart's", "verdict")
    rows = [(f"`{' '.join(ARMS[arm])}`", str(len(less)), over_seeds(less, "+"), verdict(arm, less))
            for arm, less in differences(runs).items() if less]  # fmt: skip
    return markdown([head, *rows])


def verdict(arm: str, less: Sequence[float]) -> str:
    """Return the plan's verdict on an arm by the 95 % interval over its seeds; "none yet" while seeds are missing."""
    if len(less) < len(SEEDS):
        return "none yet"
    low, high = t.interval(0.95, len(less) - 1, np.mean(less), np.std(less, ddof=1) / len(less) ** 0.5)
    return "costs nothing that matters" if low > -MARGINS[arm] else "costs" if high < 0 else "undecided"


def differences(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return each arm's exact match less the quickstart's, a value for each cold start that both have."""
    base, *arms = ({(run["seed"], run["before"]): run["after"] for run in runs if run["arm"] == arm} for arm in ARMS)
    names = list(ARMS)[1:]
    return {
        arm: [after[start] - base[start] for start in sorted({*after} & {*base})]
        for arm, after in zip(names, arms, strict=True)
    }


if __name__ == "__main__":
    main()
