"""The quickstart by seed: five that nothing was chosen on, beside those its preset was chosen on; and its control.

    python -m benchmarks.quickstart_seeds             # 2 to 4 minutes a seed on 2 cores; resumable
    python -m benchmarks.quickstart_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N`, with a cold start of its own, judged greedily on 1,000 held-out
questions. Its figures join results/quickstart_seeds.json when it ends.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.tables import markdown, over_seeds

NAME = "quickstart_seeds"
CONFIG = "configs/quickstart.py"
FRESH = range(20, 25)  # no run before these had one of them
CHOSEN = range(5)  # the preset was chosen on them
POOR = 7  # its cold start is a poor one
SHUFFLED = "train.shuffle_rewards=true"  # the control, of seed 0
KEPT = ("steps", "rollouts", "wall_s", "gains")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    if not parser.parse_args().table:
        for seed, *words in (*((seed,) for seed in (*FRESH, *CHOSEN, POOR)), (0, SHUFFLED)):
            folder = f"runs/{NAME}/{'shuffled' if words else f'seed_{seed}'}"
            command = "train", CONFIG, f"seed={seed}", *words, "--run", folder
            key = {"command": " ".join(["qr-jax", *command]), "seed": seed}
            kept_runs.make(NAME, key, partial(trained, command, folder))
    print(table(kept_runs.kept(NAME)), end="")


def trained(command: Sequence[str], folder: str) -> dict[str, Any]:
    """What a run answers before and after training."""
    kept_runs.qr_jax(*command)
    summary = kept_runs.summary_of(interleave.ROOT / folder)
    scores = {when: summary[when]["exact_match"] for when in ("before", "after")}
    return {**scores, **{name: summary[name] for name in KEPT}}


def of_seeds(runs: Sequence[Mapping[str, Any]], seeds: Collection[int], *, shuffled: bool = False) -> list[Any]:
    """The kept runs of these seeds, with their own rewards or with shuffled ones."""
    return [run for seed in seeds for run in runs if run["seed"] == seed and shuffled == (SHUFFLED in run["command"])]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a kind of seed; a mean has its 95 % interval over seeds."""
    rows = [("exact match on 1,000 held-out questions", "before", "after", "mean after")]
    for called, of in (
        ("seeds 20 to 24, on which nothing was chosen", of_seeds(runs, FRESH)),
        ("seeds 0 to 4, on which the preset was chosen", of_seeds(runs, CHOSEN)),
        ("seed 7, whose cold start is a poor one", of_seeds(runs, [POOR])),
        ("seed 0 with the rewards shuffled, the control", of_seeds(runs, [0], shuffled=True)),
    ):
        each = (" ".join(f"{run[when]:.3f}" for run in of) for when in ("before", "after"))
        rows.append((called, *each, over_seeds([run["after"] for run in of]) if of[1:] else ""))
    return markdown(rows).replace("0.", ".")


if __name__ == "__main__":
    main()
