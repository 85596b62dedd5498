"""E5 and E6 of configs/study/plan.md: adapters, overlap and int8 beside the quickstart, by seed, at equal rollouts.

    python -m benchmarks.paired_seeds             # 40 runs of 2 to 4 minutes on 2 cores; resumable
    python -m benchmarks.paired_seeds --again 205 # the quickstart's run of that seed once more, as a replicate
    python -m benchmarks.paired_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N` with PRESET, the quickstart's before E4 and E10, and the settings
of its arm, from the same cold start, judged greedily on 1,000 held-out questions. On another machine the cold start
differs by rounding: only runs from one are compared. Its figures join results/paired_seeds.json when it ends.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, quickstart_seeds
from benchmarks.quickstart_seeds import CONFIG
from benchmarks.tables import half_width, markdown, over_seeds, thousandths

NAME = "paired_seeds"
MARGINS = {"adapters of rank 16": 0.04, "overlap": 0.02, "int8": 0.02}  # of exact match: less does not matter
SEEDS = range(200, 210)
VERDICTS = ("settings added to the quickstart", "which one", "seeds", "held-out exact match minus its", "verdict")
PRESET = ("rule=foresee", "pool.queries=128", "pool.samples=2", "learner.lr=1e-3", "train.steps=100")
ARMS = {  # settings
    "the quickstart": (),
    "adapters of rank 16": ("model.lora.rank=16", "learner.lr=2e-3"),  # the rate is the better of two on seed 20
    "overlap": ("train.overlap=1",),
    "int8": ("rollout.weights=int8", "rollout.cache=int8", "learner.importance=truncate"),  # E6
}
FULL = ("rollout.weights=compute", "rollout.cache=compute")


def main() -> None:
    """Make the runs that are missing, all arms of a seed before the next, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    parser.add_argument("--again", type=int, metavar="SEED", help="make the quickstart's run of this seed once more")
    options = parser.parse_args()
    if options.again is not None:
        make(options.again, next(iter(ARMS)), replicate=1)
    elif not options.table:
        for seed, arm in itertools.product(SEEDS, ARMS):
            make(seed, arm)
    print(table(kept_runs.kept(NAME)), end="")


def make(seed: int, arm: str, replicate: int = 0) -> None:
    """Make and keep one run, unless it is kept: the first ones do not say PRESET, which needed no words then."""
    folder = f"runs/{NAME}/{arm.replace(' ', '_')}/seed_{seed}" + f"_{replicate}" * bool(replicate)
    command = "train", CONFIG, f"seed={seed}", *PRESET, *ARMS[arm], "--run", folder
    key: dict[str, Any] = {"seed": seed, "arm": arm} | ({"replicate": replicate} if replicate else {})
    kept_runs.make(NAME, key, partial(trained, command, folder))


def trained(command: Sequence[str], folder: str) -> dict[str, Any]:
    """Return what a run answers before and after training, by its full weights where it rolls out by int8."""
    found = {"command": " ".join(["qr-jax", *command]), **quickstart_seeds.trained(command, folder)}
    if "rollout.weights=int8" not in command:
        return found
    told = {f"{when}_by_int8": found[when] for when in ("before", "after")}
    return found | told | {"before": in_full(f"{folder}/sft"), "after": in_full(folder)}


def in_full(folder: str) -> float:
    """Return the exact match of a run's last policy by its full weights, on the same questions."""
    command = [sys.executable, "-m", "qr_jax", "eval", folder, *FULL, "--json"]
    told = subprocess.run(command, cwd=interleave.ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(told)["exact_match"]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a cold start, and each arm's difference from the quickstart over seeds."""
    scores = by_start(runs)
    rows = [("seed", "before", *(f"{arm}, after" for arm in ARMS))]
    for start in sorted({start for after in scores.values() for start in after}):
        after = [thousandths(of[start]) if start in of else "" for of in scores.values()]
        rows.append((str(start[0]), thousandths(start[1]), *after))
    told = [over_seeds(less, "+") for less in differences(runs).values()]
    return markdown([*rows, ("minus the quickstart", "", "", *told)])


def by_start(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[tuple[int, float], float]]:
    """Return the scores after training by arm and cold start, which its seed and its own score tell.

    A run of another machine, whose rounding differs, began from another cold start. Of replicates it is the mean.
    """
    scores: dict[str, dict[tuple[int, float], list[float]]] = {arm: {} for arm in ARMS}
    for run in runs:
        scores[run["arm"]].setdefault((run["seed"], run["before"]), []).append(run["after"])
    return {arm: {start: float(np.mean(after)) for start, after in of.items()} for arm, of in scores.items()}


def differences(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return each arm's score less the quickstart's, a value for each cold start that both have."""
    (_, base), *others = by_start(runs).items()
    return {arm: [after[start] - base[start] for start in sorted({*after} & {*base})] for arm, after in others}


def verdicts(runs: Sequence[Mapping[str, Any]], *more: tuple[str, ...]) -> str:
    """Return Markdown: each arm's difference from the quickstart, with the plan's verdict; then `more` rows."""
    told = ((arm, less) for arm, less in differences(runs).items() if less)
    rows = [
        (f"`{' '.join(ARMS[arm])}`", "an earlier", str(len(less)), over_seeds(less, "+"), verdict(arm, less))
        for arm, less in told
    ]
    return markdown([VERDICTS, *rows, *more])


def verdict(arm: str, less: Sequence[float]) -> str:
    """Return the plan's verdict on an arm by the 95 % interval over its seeds; "none yet" while seeds are missing."""
    return judged(less, MARGINS[arm])


def judged(less: Sequence[float], margin: float) -> str:
    """Return whether these differences cost more than the margin; "none yet" of fewer than the plan's ten seeds."""
    if len(less) < len(SEEDS):
        return "none yet"
    mean, half = float(np.mean(less)), half_width(less)
    return "costs nothing that matters" if mean - half > -margin else "costs" if mean + half < 0 else "undecided"


if __name__ == "__main__":
    main()
