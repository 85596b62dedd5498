"""E10 of configs/study/plan.md: the size of step and the learning rate of the quickstart with the rule that E4 chose.

    python -m benchmarks.quickstart_choice             # 20 runs of 1 to 3 minutes on 2 idle cores; resumable
    python -m benchmarks.quickstart_choice --table     # of what is kept, and make no run

Its figures join results/quickstart_choice.json when a run ends.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import kept_runs, quickstart_seeds, race
from benchmarks.tables import markdown, over_seeds

NAME = "quickstart_choice"
LONGEST = 1.15  # times as long as the quickstart as it is
FOURS = ("pool.samples=4", "pool.oversample=1")
AS_IT_IS, RACED = "as it is", "32 x 4 at 7e-4"
ARMS = {
    "64 x 4 at 1e-3": (*FOURS, "pool.queries=64", "learner.lr=1e-3"),
    "64 x 4 at 7e-4": (*FOURS, "pool.queries=64", "learner.lr=7e-4"),
    RACED: (*FOURS, "pool.queries=32", "learner.lr=7e-4", "train.steps=200"),
    AS_IT_IS: (),  # foresee, 128 x 2 at 1e-3
}


def main() -> None:
    """Make the runs that are missing, all arms of a seed before the next, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    if not parser.parse_args().table:
        rule = race.better() or "grpo"
        for seed, (arm, words) in itertools.product(quickstart_seeds.CHOSEN, ARMS.items()):
            words = (*words, f"rule={rule}") if words else ()
            folder = f"runs/{NAME}/{arm.replace(' ', '_')}/seed_{seed}"
            command = "train", quickstart_seeds.CONFIG, f"seed={seed}", *words, "--run", folder
            key = {"command": " ".join(["qr-jax", *command]), "seed": seed, "arm": arm}
            kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))
    runs = kept_runs.kept(NAME)
    print(table(runs), end="")
    if len(runs) == len(ARMS) * len(quickstart_seeds.CHOSEN):
        print(f"chosen by the plan: {chosen(runs)}")


def chosen(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the plan's choice: the highest mean of the arms that take no longer than LONGEST, else the one raced."""
    fits = [arm for arm in ARMS if arm != AS_IT_IS and ratio(runs, arm) <= LONGEST]
    return max(fits, key=lambda arm: float(np.mean(values(runs, arm, "after"))), default=RACED)


def ratio(runs: Sequence[Mapping[str, Any]], arm: str) -> float:
    """Return how many times as long an arm's runs took, the median by seed; a busy machine spoils some."""
    times = (values(runs, arm, "wall_s"), values(runs, AS_IT_IS, "wall_s"))
    return float(np.median([own / usual for own, usual in zip(*times, strict=False)]))


def values(runs: Sequence[Mapping[str, Any]], arm: str, of: str) -> list[float]:
    return [run[of] for run in runs if run["arm"] == arm]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: each arm's exact match after training and how long its runs took."""
    rows = [("queries x samples", "seeds", "exact match after training", "times as long as it is")]
    for arm in ARMS:
        after, usual = values(runs, arm, "after"), values(runs, AS_IT_IS, "after")
        rows.append((arm, str(len(after)), over_seeds(after), f"{ratio(runs, arm):.2f}" if after and usual else ""))
    return markdown(rows)


if __name__ == "__main__":
    main()
