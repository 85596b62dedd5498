"""The quickstart by seed: five that did not choose its preset, beside those that chose it; and its control.

    python -m benchmarks.quickstart_seeds             # 2 to 4 minutes a seed on 2 cores; resumable
    python -m benchmarks.quickstart_seeds --again 1   # each once more, as a replicate of that number; both count
    python -m benchmarks.quickstart_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N`, with a cold start of its own, judged greedily on 1,000 held-out
questions. Its figures join results/quickstart_seeds.json when it ends, with what the preset was then: tables show the
runs of today's. A seed's value is the mean over its runs.
"""

import argparse
import functools
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs
from benchmarks.tables import markdown, over_seeds
from qr_jax import config as configs

NAME = "quickstart_seeds"
CONFIG = "configs/quickstart.py"
FRESH = range(20, 25)  # no run before these had one of them
CHOSEN = range(5)  # the preset was chosen on them: E10's runs of this arm
CHOICE, ARM = "quickstart_choice", "32 x 4 at 7e-4"
POOR = 7  # its cold start is a poor one
SHUFFLED = "train.shuffle_rewards=true"  # the control, of seed 0
FIRST_PRESET = "foresee, 128 x 2 at 0.001"  # of runs that do not say theirs
KEPT = ("steps", "rollouts", "wall_s", "gains")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    parser.add_argument("--again", type=int, default=0, metavar="NUMBER", help="make a further run of each seed")
    options = parser.parse_args()
    if not options.table:
        for seed, *words in (*((seed,) for seed in FRESH), (0,), (0, SHUFFLED), (POOR,)):
            folder = f"runs/{NAME}/{'shuffled' if words else f'seed_{seed}'}" + f"_{options.again}" * bool(
                options.again
            )
            command = "train", CONFIG, f"seed={seed}", *words, "--run", folder
            key: dict[str, Any] = {"command": " ".join(["qr-jax", *command]), "seed": seed}
            key |= {} if preset() == FIRST_PRESET else {"preset": preset()}
            key |= {"replicate": options.again} if options.again else {}
            kept_runs.make(NAME, key, partial(trained, command, folder))
    print(table(kept_runs.kept(NAME)), end="")


@functools.cache
def preset() -> str:
    """What configs/quickstart.py trains with: rule, queries x samples, learning rate."""
    settings = configs.load(interleave.ROOT / CONFIG)
    pool = settings.pool
    return f"{pool.rule.name}, {pool.queries} x {pool.samples} at {settings.learner.lr:g}"


def trained(command: Sequence[str], folder: str) -> dict[str, Any]:
    """What a run answers before and after training."""
    kept_runs.qr_jax(*command)
    summary = kept_runs.summary_of(interleave.ROOT / folder)
    scores = {when: summary[when]["exact_match"] for when in ("before", "after")}
    return {**scores, **{name: summary[name] for name in KEPT}}


def of_seeds(
    runs: Sequence[Mapping[str, Any]], seeds: Collection[int], when: str, *, shuffled: bool = False
) -> list[list[float]]:
    """Return a list a seed: the exact match of its runs with today's preset, in the order in which they were made."""
    kind = [run for run in runs if shuffled == (SHUFFLED in run["command"])]
    kind = [run for run in kind if run.get("preset", FIRST_PRESET) == preset()]
    return [[run[when] for run in kind if run["seed"] == seed] for seed in seeds]


def means(of_seed: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.mean(scores)) for scores in of_seed if scores]


def listed(of_seed: Sequence[Sequence[float]]) -> str:
    """Return the scores as text, runs of one seed joined by "/"."""
    return " ".join("/".join(f"{score:.3f}" for score in scores) for scores in of_seed)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a kind of seed, runs of one seed joined by "/"; a mean has its interval over seeds."""
    rows = [("exact match on 1,000 held-out questions", "before, by seed", "after", "mean after")]
    choice = [{**run, "preset": preset()} for run in kept_runs.kept(CHOICE) if run["arm"] == ARM]
    for called, seeds, made, shuffled in (
        ("seeds 20 to 24, not used to choose the preset", FRESH, runs, False),
        ("seeds 0 to 4, used to choose the preset", CHOSEN, choice, False),
        ("seed 7, whose cold start is a poor one", [POOR], runs, False),
        ("seed 0 with the rewards shuffled, the control", [0], runs, True),
    ):
        before, after = (of_seeds(made, seeds, when, shuffled=shuffled) for when in ("before", "after"))
        rows.append((called, listed(before), listed(after), over_seeds(means(after)) if len(seeds) > 1 else ""))
    return markdown(rows).replace("0.", ".")


if __name__ == "__main__":
    main()
