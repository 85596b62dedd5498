"""Adapters beside full training on the quickstart, by seed: after the same cold start, of the whole model.

    python -m benchmarks.lora_seeds             # ten runs of 2 to 4 minutes on 2 cores; resumable
    python -m benchmarks.lora_seeds --table     # of what is kept, and make no run

A run is `qr-jax train configs/quickstart.py seed=N` with the adapters of `SETTINGS`, judged greedily on 1,000 held-out
questions. Its figures join results/lora_seeds.json when it ends. Beside it stand the runs of the same seed without
adapters that results/quickstart_seeds.json has (python -m benchmarks.quickstart_seeds), or their mean.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import kept_runs, quickstart_seeds
from benchmarks.quickstart_seeds import CHOSEN, CONFIG, FRESH, means, of_seeds
from benchmarks.tables import markdown, over_seeds, thousandths

NAME = "lora_seeds"
SETTINGS = ("model.lora.rank=16", "learner.lr=2e-3")  # the rate is the better of 1e-3 and 2e-3 on seed 20
SEEDS = (*FRESH, *CHOSEN)


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    for seed in () if parser.parse_args().table else SEEDS:
        folder = f"runs/{NAME}/seed_{seed}"
        command = "train", CONFIG, f"seed={seed}", *SETTINGS, "--run", folder
        key: dict[str, Any] = {"command": " ".join(["qr-jax", *command]), "seed": seed}
        kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))
    print(table(kept_runs.kept(NAME), kept_runs.kept(quickstart_seeds.NAME)), end="")


def table(ours: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: a row a seed that has both, and the mean difference with its interval over seeds."""
    seeds = [seed for seed in SEEDS if all(any(run["seed"] == seed for run in runs) for runs in (ours, full))]
    rows = [("seed", "before", "full training, after", "adapters, after", "difference")]
    differences = []
    for seed in seeds:
        before, after = (means(of_seeds(ours, [seed], when))[0] for when in ("before", "after"))
        whole = means(of_seeds(full, [seed], "after"))[0]
        differences.append(after - whole)
        rows.append((str(seed), *map(thousandths, (before, whole, after)), thousandths(after - whole, "+")))
    rows.append(("mean", "", "", "", over_seeds(differences, "+")))
    return markdown(rows)


if __name__ == "__main__":
    main()
