"""E3 of configs/study/plan.md, trained: does recycling learn more where the map says that it has more groups?

    python -m benchmarks.recycling_cells fit       # plain GRPO once in each candidate; what the map predicts of it
    python -m benchmarks.recycling_cells final     # the predicted loss, {grpo, recycle}, eight seeds
    python -m benchmarks.recycling_cells --table   # what is kept, from benchmarks/results/recycling_cells/

A prediction plays grpo and recycle (qr_jax/lab/oracle.py) in pools whose pass rates begin as the run's first draws do
and grow by the shift and jump that are likeliest for it. A run that has a result is not made again; a run that was
stopped goes on.
"""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import study, study_results
from benchmarks.recycling_map import shift_and_jump
from benchmarks.tables import markdown, over_seeds
from qr_jax import config as configs
from qr_jax.lab import oracle, pass_rates
from qr_jax.lab.launch import Job

KEPT = study.experiment("recycling_cells")
FIT_SEED, SEEDS = 68, range(60, 68)
RULES = ("grpo", "recycle")
PLAYS = 40  # of a prediction
SMALL = ("data.train_limit=250", "pool.queries=16")
CANDIDATES = {  # pool of 250; updates of a batch, learning rate, samples, rollouts
    f"{updates}, {rate}, K {samples}, {rollouts}": (
        *SMALL, *split, f"learner.lr={rate}", f"pool.samples={samples}",
        f"train.max_rollouts={rollouts}",
    )
    for (updates, split), rate, (samples, rollouts) in itertools.product(
        {"1 updates": ("learner.updates=1",), "4 updates of rows": ("learner.updates=4", "learner.rows=1")}.items(),
        ("7e-4", "2e-3"),
        ((2, 2000), (4, 4000)),
    )
}  # fmt: skip
LOSS = ("pool.queries=32", "pool.samples=4", "train.max_rollouts=8000")  # 2,000 questions, one pass
FITTED = {**CANDIDATES, "one pass": LOSS}
CELLS = {"loss": LOSS}  # by what the map predicts; no candidate is predicted to win


def main(words: Sequence[str]) -> int:
    options = study.options(__doc__, "fit", "final").parse_args(words)
    failed: list[Job] = []
    if options.stage == "fit" and not options.table:
        pairs = [planned("fit", name, words, "grpo", FIT_SEED) for name, words in FITTED.items()]
        failed = replace(KEPT, more=prediction).make(pairs, options.jobs)
    elif options.stage == "final" and not options.table:
        for seed in SEEDS:
            pairs = [planned("final", cell, CELLS[cell], rule, seed) for cell in CELLS for rule in RULES]
            failed += KEPT.make(pairs, options.jobs)
    print(tables())
    return 1 if failed else 0


def planned(stage: str, name: str, words: Sequence[str], rule: str, seed: int) -> tuple[Job, Job]:
    """The cold start and the run of a rule in a cell or a candidate, evaluated at every tenth of its budget."""
    more = (f"seed={seed}", f"rule={rule}", "evaluation.half=b", f"evaluation.every_rollouts={budget_of(words) // 10}")
    settings = configs.load(f"{study.ROOT}/configs/study/settings.py:race", [*words, *more])
    folder = KEPT.runs / stage / name.replace(",", "").replace(" ", "_") / rule / f"seed_{seed}"
    return study.from_cold_start(KEPT.runs, f"{name}, {rule}, seed {seed}", folder, settings)


def budget_of(words: Sequence[str]) -> int:
    """The rollouts that a cell's settings allow."""
    (budget,) = (int(word.partition("=")[2]) for word in words if word.startswith("train.max_rollouts="))
    return budget


def prediction(run: Job) -> dict[str, Any]:
    """The fit of a run of plain GRPO, and what is predicted from it."""
    settings, size, _, draws = pass_rates.read_run(run.folder)
    fit = {**fitted(size, draws), "size": size}
    rollouts = run.settings.train.max_rollouts or 0
    plan = {"queries": settings.queries, "samples": settings.samples, "rollouts": rollouts}
    return {"fit": fit, "predicted": predicted(fit, plan)}


def fitted(size: int, draws: pass_rates.Draws) -> dict[str, float]:
    """A pool's first pass rates as Beta(a, b) by the moments of first draws, and its shift and jump.

    Where no query was drawn after it was trained on, shift and jump are 0: one pass has no use for them.
    """
    _, first_D = np.unique(draws.query_D, return_index=True)
    right_D, valid_D = draws.right_D[first_D], draws.valid_D[first_D]
    k = float(valid_D.mean())
    mean = float(right_D.sum() / valid_D.sum())
    # Of beta-binomial counts the variance is k m (1 - m) (1 + (k - 1) r), and a + b = 1 / r - 1.
    spread = float(right_D.var(ddof=1)) / (k * mean * (1 - mean))
    r = min(max((spread - 1) / (k - 1), 0.01), 0.99)
    start = {"a": mean * (1 / r - 1), "b": (1 - mean) * (1 / r - 1)}
    if len(draws.query_D) == len(first_D):
        return start | {"shift": 0.0, "jump": 0.0, "shift_se": 0.0, "jump_se": 0.0}
    return start | shift_and_jump(size, draws)


def predicted(fit: Mapping[str, float], plan: Mapping[str, int]) -> float:
    """Recycle's groups over plain GRPO's, the ratio of means over PLAYS pools; a growth below 0 counts as none."""
    size, growth = int(fit["size"]), [max(fit[name], 0.0) for name in ("shift", "jump")]
    rates = f"memorising:{fit['a']},{fit['b']},{growth[0]},{growth[1]}"
    groups = []
    for rule in RULES:
        sampler = oracle.sampler(rule, oversample=1, **plan)
        played = [
            oracle.play(sampler, pass_rates.world(rates, size, seed=at), size=size, seed=at) for at in range(PLAYS)
        ]
        groups.append(sum(oracle.summary(one)["accepted_groups"] or 0 for one in played))
    return groups[1] / groups[0]


def read(cell: str, rule: str) -> dict[int, dict[str, Any]]:
    """The kept runs of a rule in a cell by seed, with their accuracy over the last 30 % of the rollouts."""
    _, run = planned("final", cell, CELLS[cell], rule, SEEDS[0])
    return study_results.of_folder(KEPT.result(run).parent, budget_of(CELLS[cell]))


def tables() -> str:
    return f"{fits()}\n{table()}"


def fits() -> str:
    """Each candidate's fit, and recycle's groups over plain GRPO's as predicted from it."""
    rows: list[Sequence[str]] = [
        ("plain GRPO, pool of 250 but for the last", "exact match", "first rates", "shift", "jump", "predicted")
    ]
    for name, run in kept_fits().items():
        fit = run["fit"]
        grown = [f"{fit[of]:.2f} +- {1.96 * fit[of + '_se']:.2f}" for of in ("shift", "jump")]
        scores = f"{run['before']:.3f} to {run['final']:.3f}"
        rows.append((name, scores, f"Beta({fit['a']:.2f}, {fit['b']:.2f})", *grown, f"{run['predicted']:.3f}"))
    return markdown(rows)


def kept_fits() -> dict[str, dict[str, Any]]:
    """The kept runs of FITTED, with the fit and the prediction of each."""
    paths = {name: KEPT.result(planned("fit", name, words, "grpo", FIT_SEED)[1]) for name, words in FITTED.items()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def cell(name: str) -> Sequence[float]:
    """What a page cites: recycle less grpo in a cell ("loss"), the "groups" there over grpo's, the "most" that are
    predicted of a candidate, and those of "one_pass".
    """
    if name == "most":
        return [max(run["predicted"] for at, run in kept_fits().items() if at in CANDIDATES)]
    if name == "one_pass":
        return [kept_fits()["one pass"]["predicted"]]
    return [groups("loss")] if name == "groups" else gaps().get(name, [])


def gaps() -> dict[str, list[float]]:
    """By cell, recycle less grpo of each seed that both have, from one cold start."""
    return {cell: study_results.paired(read(cell, "recycle"), read(cell, "grpo"), cell) for cell in CELLS}


def groups(cell: str) -> float:
    """Recycle's groups with signal over plain GRPO's in the runs of a cell."""
    counted = [np.mean([run["signal_groups"] for run in read(cell, rule).values()]) for rule in RULES]
    return float(counted[1] / counted[0])


def table() -> str:
    """Each cell's accuracies, groups and difference: no verdict of the plan, which asks for a predicted win."""
    rows: list[Sequence[str]] = [
        ("predicted", "grpo", "recycle", "groups, recycle over grpo", "recycle minus grpo", "seeds")
    ]
    for cell, values in gaps().items():
        scores = [over_seeds([run["accuracy"] for run in read(cell, rule).values()]) for rule in RULES]
        told = f"{groups(cell):.2f}" if values else ""
        rows.append((cell, *scores, told, over_seeds(values, "+"), str(len(values))))
    return markdown(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
