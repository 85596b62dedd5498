"""E2 of configs/study/plan.md: is guarded recycling better than plain GRPO, or is it a smaller step?

    python -m benchmarks.guarded                  # the missing runs, two at a time (two hours on two cores), the table
    python -m benchmarks.guarded --seeds 40-41    # some of them
    python -m benchmarks.guarded --table          # the table alone, from benchmarks/results/guarded/

A run that has a result is not made again; a run that was stopped goes on. Runs of one seed share a cold start.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks import study, study_results
from benchmarks.tables import markdown, over_seeds, p_text
from qr_jax import config as configs
from qr_jax.lab.launch import Job

KEPT = study.experiment("guarded")
SEEDS = {0: range(40, 50), 1: range(50, 60)}  # by the world's seed
RULES = ("grpo", "recycle")
GUARDS = ("learner.full_groups=5", "pool.min_signal=2", "pool.reset_below=0.7")
STEPS = {  # how the learner steps
    "bare": (),
    "guarded": GUARDS,
    "decayed": (*GUARDS, "learner.schedule=linear"),
}
BUDGET = 16896  # rollouts
MARGIN = 0.011  # of exact match: less is not worth a rule
Gaps = Mapping[str, Sequence[float]]


def main(words: Sequence[str]) -> int:
    parser = study.options(__doc__)
    parser.add_argument("--seeds", type=study.span, metavar="FROM-TO", help="of these seeds alone (40-59)")
    options = parser.parse_args(words)
    failed = [] if options.table else make(options.seeds or [*itertools.chain(*SEEDS.values())], options.jobs)
    print(table())
    return 1 if failed else 0


def make(seeds: Sequence[int], at_once: int) -> list[Job]:
    """Make the missing runs of these seeds, all arms of a seed before the next; return the jobs that failed."""
    failed: list[Job] = []
    for world, seed in ((world, seed) for world, own in SEEDS.items() for seed in own if seed in seeds):
        pairs = [planned(rule, step, world, seed) for rule in RULES for step in STEPS]
        failed += KEPT.make(pairs, at_once)
    return failed


def planned(rule: str, step: str, world: int, seed: int) -> tuple[Job, Job]:
    """The cold start and the run of an arm."""
    words = [f"seed={seed}", f"data.world.seed={world}", *STEPS[step]]
    settings = configs.load(f"{study.ROOT}/configs/study/settings.py:guarded_{rule}", words)
    folder = KEPT.runs / f"world_{world}" / rule / step / f"seed_{seed}"
    return study.from_cold_start(KEPT.runs, f"{rule} {step} world {world} seed {seed}", folder, settings)


def read(rule: str, step: str, world: int) -> dict[int, dict[str, Any]]:
    """The kept runs of an arm in a world by seed, with their accuracy over the last 30 % of the rollouts."""
    return study_results.of_folder(KEPT.results / f"world_{world}" / rule / step, BUDGET)


def every_run() -> dict[tuple[str, str, int], dict[int, dict[str, Any]]]:
    """The kept runs of all arms in all worlds."""
    return {place: read(*place) for place in itertools.product(RULES, STEPS, SEEDS)}


def gaps(rows: Mapping[tuple[str, str, int], Mapping[int, Mapping[str, Any]]]) -> Gaps:
    """By way of stepping, recycle less grpo of each seed that both have, from one cold start; first world 0's."""
    found: dict[str, list[float]] = {step: [] for step in STEPS}
    for step, world in itertools.product(STEPS, SEEDS):
        theirs, ours = (rows[rule, step, world] for rule in RULES)
        found[step] += study_results.paired(ours, theirs, f"{step}, world {world}")
    return found


def holm(by_name: Gaps) -> dict[str, float]:
    """The p of each mean difference against 0 (two-sided t), made larger by Holm's rule for their number."""
    raw = {name: p_value(values) for name, values in by_name.items() if len(values) > 1}
    adjusted, largest = {}, 0.0
    for at, name in enumerate(sorted(raw, key=raw.__getitem__)):
        largest = max(largest, min(1.0, raw[name] * (len(raw) - at)))
        adjusted[name] = largest
    return adjusted


def p_value(values: Sequence[float]) -> float:
    spread = np.std(values, ddof=1) / len(values) ** 0.5
    return float(2 * student.sf(abs(np.mean(values)) / spread, len(values) - 1)) if spread else 1.0


def verdict(values: Sequence[float], yes: str = "yes, the rule", level: str = "it was the step") -> str:
    """The plan's verdict on a difference: `yes`, `level`, or undecided."""
    if len(values) < 2:
        return "undecided"
    mean, error, freedom = np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5, len(values) - 1
    if mean - student.ppf(0.975, freedom) * error > 0 and mean >= MARGIN:
        return yes
    return level if abs(mean) + student.ppf(0.95, freedom) * error <= MARGIN else "undecided"


def counts(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the means over runs of their updates and of their groups with signal; "" without any."""
    return [f"{np.mean([run[name] for run in runs]):,.0f}" if runs else "" for name in ("steps", "signal_groups")]


def table() -> str:
    """Each arm's accuracy by world, updates, and groups with signal; then recycle less grpo with interval, Holm's p and
    the plan's verdict.
    """
    rows = every_run()
    counted = ("updates per run", "signal groups per run")
    arms: list[Sequence[str]] = [("rule", "form", *(f"accuracy, world {world}" for world in SEEDS), *counted, "seeds")]
    for rule, step in itertools.product(RULES, STEPS):
        each = [[run["accuracy"] for run in rows[rule, step, world].values()] for world in SEEDS]
        runs = [run for world in SEEDS for run in rows[rule, step, world].values()]
        arms.append((rule, step, *map(over_seeds, each), *counts(runs), " + ".join(str(len(one)) for one in each)))
    found = gaps(rows)
    adjusted = holm(found)
    compared = [("recycle minus grpo", "accuracy", "seeds", "p (Holm-corrected)", "verdict")]
    for step, values in found.items():
        p = p_text(adjusted[step]) if step in adjusted else ""
        said = verdict(values) if step == "guarded" else ""
        compared.append((step, over_seeds(values, "+"), str(len(values)), p, said))
    return markdown(arms) + "\n" + markdown(compared)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
