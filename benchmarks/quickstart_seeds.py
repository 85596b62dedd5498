"""The quickstart by seed: five seeds that nothing was chosen on, and beside them those on which its preset was chosen.

    python -m benchmarks.quickstart_seeds             # 2 to 4 minutes a seed on 2 cores; resumable
    python -m benchmarks.quickstart_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N`, with a cold start of its own, judged greedily on 1,000 held-out
questions. Its figures join results/quickstart_seeds.json when it ends.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds

NAME = "quickstart_seeds"
CONFIG = "configs/quickstart.py"
FRESH = range(20, 25)  # no run before these had one of them
USED = (*range(5), 7)  # 0 to 4: the preset was chosen on them; 7: the worst seed of the study
KEPT = ("steps", "rollouts", "wall_s", "gains")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=[*FRESH, *USED], metavar="FROM-TO", help="(20-24, 0-4, 7)")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args()
    for seed in () if options.table else options.seeds:
        kept_runs.make(NAME, {"seed": seed}, partial(trained, seed))
    print(table(kept_runs.kept(NAME)), end="")


def trained(seed: int) -> dict[str, Any]:
    """What a seed's run answers before and after training, and its command."""
    folder = f"runs/{NAME}/seed_{seed}"
    words = "train", CONFIG, f"seed={seed}", "--run", folder
    kept_runs.qr_jax(*words)
    summary = kept_runs.summary_of(interleave.ROOT / folder)
    scores = {when: summary[when]["exact_match"] for when in ("before", "after")}
    return {"command": " ".join(["qr-jax", *words]), **scores, **{name: summary[name] for name in KEPT}}


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a kind of seed; means have their 95 % interval over seeds."""
    rows = [("seeds", "before training", "after", "mean", "lowest")]
    for called, seeds in (
        ("20 to 24: nothing was chosen on them", FRESH),
        ("0 to 4: the preset was chosen on them", USED[:5]),
        ("7", USED[5:]),
    ):
        of = [run for seed in seeds for run in runs if run["seed"] == seed]
        after = [run["after"] for run in of]
        each = (" ".join(f"{run[when]:.3f}".lstrip("0") for run in of) for when in ("before", "after"))
        rows.append((called, *each, over_seeds(after), f"{min(after):.3f}"))
    return markdown(rows)


if __name__ == "__main__":
    main()
