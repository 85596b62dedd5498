"""E7 of configs/study/plan.md: in E2, did recycling lose by its rule, or by its half as many updates?

    python -m benchmarks.surplus            # the missing runs, two at a time (an hour on two cores), then the table
    python -m benchmarks.surplus --table    # the table alone, from benchmarks/results/surplus/

A run that has a result is not made again; a run that was stopped goes on. Runs of one seed share a cold start.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import guarded, study, study_results
from benchmarks.tables import half_width, markdown, over_seeds, p_text
from qr_jax import config as configs
from qr_jax.lab.launch import Job

KEPT = study.experiment("surplus")
SEEDS = {4: range(300, 308), 5: range(310, 318)}  # by the world's seed
ARMS = [(rule, k) for rule in guarded.RULES for k in (1, 2)]
COMPARED = {  # an arm minus another
    "recycle minus grpo, k 1": (("recycle", 1), ("grpo", 1)),
    "recycle minus grpo, k 2": (("recycle", 2), ("grpo", 2)),
    "k 2 minus k 1, grpo": (("grpo", 2), ("grpo", 1)),
    "k 2 minus k 1, recycle": (("recycle", 2), ("recycle", 1)),
    "as in E2: recycle with k 2 minus grpo with k 1": (("recycle", 2), ("grpo", 1)),
}
RULE_1, RULE_2, UPDATES = [*COMPARED][:3]
CELLS = dict(zip(("rule_1", "rule_2", "k_grpo", "k_recycle", "again"), COMPARED, strict=True))  # their names in pages
Arm = tuple[str, int]


def main(words: Sequence[str]) -> int:
    options = study.options(__doc__).parse_args(words)
    failed: list[Job] = []
    for at in () if options.table else range(8):
        pairs = [planned(arm, world, seeds[at]) for world, seeds in SEEDS.items() for arm in ARMS]
        failed += KEPT.make(pairs, options.jobs)
    print(table())
    return 1 if failed else 0


def planned(arm: Arm, world: int, seed: int) -> tuple[Job, Job]:
    """The cold start and the run of an arm."""
    rule, k = arm
    words = [f"seed={seed}", f"data.world.seed={world}", *guarded.GUARDS, f"pool.oversample={k}"]
    settings = configs.load(f"{study.ROOT}/configs/study/settings.py:guarded_{rule}", words)
    folder = KEPT.runs / place(arm, world) / f"seed_{seed}"
    return study.from_cold_start(KEPT.runs, f"{rule}, k {k}, world {world}, seed {seed}", folder, settings)


def place(arm: Arm, world: int) -> Path:
    """Where an arm lies among the runs, and among the results."""
    return Path(f"world_{world}") / f"{arm[0]}_k{arm[1]}"


def read(arm: Arm, world: int) -> dict[int, dict[str, Any]]:
    """The kept runs of an arm in a world by seed, with their accuracy over the last 30 % of the rollouts."""
    return study_results.of_folder(KEPT.results / place(arm, world), guarded.BUDGET)


def gaps() -> dict[str, list[float]]:
    """By comparison, one arm minus the other of each seed that both have, from one cold start; world 4's first."""
    return {
        name: [gap for world in SEEDS for gap in study_results.paired(read(ours, world), read(theirs, world), name)]
        for name, (ours, theirs) in COMPARED.items()
    }


def verdict(found: Mapping[str, Sequence[float]]) -> str:
    """The plan's verdict: the rule, the updates, both, or undecided."""
    if any(len(found[name]) < 2 for name in (RULE_1, RULE_2, UPDATES)):
        return "undecided"
    loses = {name: float(np.mean(found[name])) + half_width(found[name]) < 0 for name in (RULE_1, RULE_2, UPDATES)}
    if loses[UPDATES]:
        return "both" if loses[RULE_2] else "it was the updates"
    return "it was the rule" if loses[RULE_1] and loses[RULE_2] else "undecided"


def table() -> str:
    """Each arm's accuracy, updates, and groups with signal; then the differences, Holm's p, and the plan's verdict."""
    arms: list[Sequence[str]] = [("rule", "k", "accuracy", "updates per run", "signal groups per run", "runs")]
    for rule, k in ARMS:
        runs = [run for world in SEEDS for run in read((rule, k), world).values()]
        accuracy = over_seeds([run["accuracy"] for run in runs])
        arms.append((rule, str(k), accuracy, *guarded.counts(runs), str(len(runs))))
    found = gaps()
    adjusted = guarded.holm(found)
    compared = [("difference", "accuracy", "pairs", "p (Holm-corrected)")]
    for name, values in found.items():
        p = p_text(adjusted[name]) if name in adjusted else ""
        compared.append((name, over_seeds(values, "+"), str(len(values)), p))
    return f"{markdown(arms)}\n{markdown(compared)}\nVerdict of the plan: {verdict(found)}.\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
