"""E5 and E6 of configs/study/plan.md: adapters, overlap and int8 beside the quickstart, by seed, at equal rollouts.

    python -m benchmarks.paired_seeds             # 40 runs of 2 to 4 minutes on 2 cores; resumable
    python -m benchmarks.paired_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N` with the settings of its arm, from the same cold start, judged
greedily on 1,000 held-out questions. Its figures join results/paired_seeds.json when it ends.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import kept_runs, quickstart_seeds
from benchmarks.quickstart_seeds import CONFIG
from benchmarks.tables import markdown, over_seeds, thousandths

NAME = "paired_seeds"
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
    for seed in () if parser.parse_args().table else SEEDS:
        for arm, words in ARMS.items():
            folder = f"runs/{NAME}/{arm.replace(' ', '_')}/seed_{seed}"
            command = "train", CONFIG, f"seed={seed}", *words, "--run", folder
            key: dict[str, Any] = {"command": " ".join(["qr-jax", *command]), "seed": seed, "arm": arm}
            kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))
    print(table(kept_runs.kept(NAME)), end="")


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a seed, and each arm's difference from the quickstart over seeds."""
    by_arm = {arm: {run["seed"]: run for run in runs if run["arm"] == arm} for arm in ARMS}
    first, *others = ARMS
    rows = [("seed", "before", *(f"{arm}, after" for arm in ARMS))]
    for seed in sorted(by_arm[first]):
        after = [thousandths(of[seed]["after"]) if seed in of else "" for of in by_arm.values()]
        rows.append((str(seed), thousandths(by_arm[first][seed]["before"]), *after))
    told = [over_seeds(differences(by_arm[arm], by_arm[first]), "+") for arm in others]
    return markdown([*rows, ("less the quickstart", "", "", *told)])


def differences(own: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> list[float]:
    """Return the difference after training of each seed that both have; ValueError of another cold start."""
    seeds = sorted({*own} & {*base})
    if other := [seed for seed in seeds if own[seed]["before"] != base[seed]["before"]]:
        raise ValueError(f"seed {other[0]} began at {own[other[0]]['before']} and at {base[other[0]]['before']}")
    return [own[seed]["after"] - base[seed]["after"] for seed in seeds]


if __name__ == "__main__":
    main()
