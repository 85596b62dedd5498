"""E12 of configs/study/plan.md: what each question's kind and hops are worth to foresee_learnable, which reads them.

    python -m benchmarks.labels            # the missing runs, two at a time (an hour on two cores), then the table
    python -m benchmarks.labels --table    # the table alone, from benchmarks/results/labels/

The runs are E4's (benchmarks/race.py) with another rule, and begin from its cold starts in runs/race/cold. A run that
has a result is not made again; a run that was stopped goes on.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import race, study, study_results
from benchmarks.tables import markdown, over_seeds
from qr_jax.cli.overrides import override
from qr_jax.lab.launch import Job

KEPT = replace(study.experiment("labels"), runs=race.KEPT.runs / "labels", cold=race.KEPT.runs)
SEEDS = {2: range(108, 124), 3: range(148, 164)}  # by the world's seed: those of E4 whose cold starts were at hand
ARM, RULE = "foresee_learnable", "benchmarks.foresee_unlabelled.foresee_unlabelled"
TO_GRPO, TO_LABELLED = "without labels minus plain GRPO", "without labels minus with labels"
CELLS = {"grpo": TO_GRPO, "labelled": TO_LABELLED}  # as pages name these differences


def main(words: Sequence[str]) -> int:
    options = study.options(__doc__).parse_args(words)
    failed: list[Job] = []
    if not options.table:
        pairs = [planned(world, seed) for both in zip(*SEEDS.values(), strict=True) for world, seed in zip(SEEDS, both)]
        failed = KEPT.make(pairs, options.jobs)
    print(table())
    return 1 if failed else 0


def planned(world: int, seed: int) -> tuple[Job, Job]:
    """E4's cold start of this seed, and E4's run with the rule that reads no labels."""
    start, labelled = race.planned("final", ARM, race.best(ARM), world, seed)
    name, folder = f"without labels, world {world}, seed {seed}", KEPT.runs / f"world_{world}" / f"seed_{seed}"
    settings = override(labelled.settings, [f"rule={RULE}"])
    return start, replace(labelled, name=name, folder=folder, settings=settings)


def read(world: int) -> dict[int, dict[str, Any]]:
    """The kept runs in a world by seed, with their accuracy over the last 30 % of the rollouts."""
    return study_results.of_folder(KEPT.results / f"world_{world}", race.BUDGET)


def gaps() -> dict[str, list[float]]:
    """The accuracy without labels less that of plain GRPO, and of the rule with labels, of each seed that both have."""
    found: dict[str, list[float]] = {TO_GRPO: [], TO_LABELLED: []}
    for name, arm in ((TO_GRPO, race.finalists()[0]), (TO_LABELLED, ARM)):
        for world in SEEDS:
            found[name] += study_results.paired(read(world), race.read("final", arm, race.best(arm), world), name)
    return found


def is_over() -> bool:
    """Whether each seed of the plan has its run."""
    return all({*seeds} <= {*read(world)} for world, seeds in SEEDS.items())


def table() -> str:
    """The rule without labels beside plain GRPO and beside itself with labels, with the plan's verdict on the first."""
    rows = [("foresee_learnable", "difference", "seeds", "verdict")]
    for name, values in gaps().items():
        told = (race.verdict(values) if is_over() else "none yet") if name == TO_GRPO else ""
        rows.append((name, over_seeds(values, "+"), str(len(values)), told))
    return markdown(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
