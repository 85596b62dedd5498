"""SmolLM2-135M on real questions of one hop: three learning rates, then three seeds at the best, before and after.

    make smollm2 && python -m benchmarks.single_hop     # 2 idle cores: 1 hour of cold starts, 2 of rates, 6 of seeds
    python -m benchmarks.single_hop --seeds 0           # fewer; what is there is not made again
    python -m benchmarks.single_hop --table             # of what is there, and make no run
    python -m benchmarks.single_hop --steps 200 rollout.slots=128 learner.rows=8     # a GPU: 10 minutes a seed

A cold start is `qr-jax sft configs/smollm2_single_hop.py seed=N`. Each rate trains for RATE_STEPS steps from seed 0's,
and is judged by F1 on half a of the held-out questions; each seed then trains as the config says, and is judged on all
of them. A run's figures join results/single_hop.json when it ends; a run that was stopped goes on in runs/single_hop.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.logging import metrics_writer

NAME = "single_hop"
CONFIG = "configs/smollm2_single_hop.py"
RATES, RATE_STEPS = ("1e-5", "3e-5", "3e-6"), 20
RUNS = interleave.ROOT / "runs" / NAME
SUMMED = ("rollouts", "tokens", "searches", "steps", "wall_s", "gains", "before", "after")
SERIES = {  # a value a step
    "pass": "reward/outcome_mean", "zero_variance": "pool/zero_variance_rate", "signal": "pool/signal",
    "entropy": "rollout/entropy", "answered": "rollout/stop_answered", "exact_match": "eval/exact_match",
}  # fmt: skip

STRETCHES = (0, 10, 20, 40, 80, 140, 200)  # steps between which the curves are averaged
SHOWN = {"signal": "groups with signal, of 16", "entropy": "entropy, nats", "exact_match": "exact match, 100 questions"}


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a seed (the config's 80)")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="for the seeds, as qr-jax train has them")
    options = parser.parse_args()
    if not options.table:
        for rate in RATES:
            make(f"rate {rate}", 0, [f"learner.lr={rate}", f"train.steps={RATE_STEPS}", "evaluation.half=a"])
        words = [f"learner.lr={best_rate(kept_runs.kept(NAME))}", *options.settings]
        words += [f"train.steps={options.steps}"] if options.steps else []
        for seed in options.seeds:
            make("trained", seed, words)
    print(table(kept_runs.kept(NAME)), end="")


def make(name: str, seed: int, words: Sequence[str]) -> None:
    """A run from the seed's cold start, unless its figures are kept."""

    def run() -> dict[str, Any]:
        cold, folder = RUNS / f"cold_{seed}", RUNS / f"{name.replace(' ', '_')}_{seed}"
        kept_runs.qr_jax("sft", CONFIG, f"seed={seed}", "--run", cold)
        from_cold = f"train.init={cold}", "sft.steps=0"
        kept_runs.qr_jax("train", CONFIG, f"seed={seed}", *from_cold, *words, "--run", folder)
        return {"words": list(words), **figures_of(folder, SERIES)}

    kept_runs.make(NAME, {"name": name, "seed": seed}, run)


def figures_of(folder: Path, series: Mapping[str, str]) -> dict[str, Any]:
    """What a finished run's summary says, and its values a step, by the names of `series`."""
    summary, rows = kept_runs.summary_of(folder), metrics_writer.read(folder)
    whole = [row | {"eval/exact_match": None} if is_incomplete(row) else row for row in rows]
    values = {name: [row.get(metric) for row in whole] for name, metric in series.items()}
    return {**{of: summary[of] for of in SUMMED}, "series": values}


def best_rate(runs: Sequence[Mapping[str, Any]]) -> str:
    """The rate after which F1 was highest."""
    return max(RATES, key=lambda rate: next(run["after"]["f1"] for run in runs if run["name"] == f"rate {rate}"))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a run, with the paired interval over questions; then the mean over seeds, with theirs."""
    of = "run", "seed", "device", "steps", "exact match", "gain", "F1", "gain"
    rows = [(*of, "zero-variance", "searches a question", "hours")]
    for run in runs:
        scores = [cell for score in ("exact_match", "f1") for cell in (change(run, score), gain(run, score))]
        searches = f"{run['before']['searches_per_question']:.2f} to {run['after']['searches_per_question']:.2f}"
        last = dead(run), searches, f"{run['wall_s'] / 3600:.1f}"
        rows.append((run["name"], str(run["seed"]), run["device"], str(run["steps"]), *scores, *last))
    seeds = [run for run in runs if run["name"] == "trained"]
    mean = [over_seeds([run["gains"][score]["mean"] for run in seeds], "+") for score in ("exact_match", "f1")]
    told = f"\nMean gain over {len(seeds)} seeds: exact match {mean[0]}, F1 {mean[1]}.\n\n"
    return markdown(rows) + told + curves(seeds, STRETCHES, SHOWN)


def curves(runs: Sequence[Mapping[str, Any]], stretches: Sequence[int], shown: Mapping[str, str]) -> str:
    """Markdown: means of values a step over stretches of steps, a row a value and a seed; "" past a run's end."""
    ends = list(itertools.pairwise(stretches))
    rows: list[tuple[str, ...]] = [("mean of", "seed", *(f"{first + 1}-{last}" for first, last in ends))]
    for (name, called), run in itertools.product(shown.items(), runs):
        parts = [[value for value in run["series"][name][first:last] if value is not None] for first, last in ends]
        rows.append((called, str(run["seed"]), *(f"{np.mean(part):.3g}" if part else "" for part in parts)))
    return markdown(rows)


def dead(run: Mapping[str, Any]) -> str:
    """The share of groups without signal, over all steps."""
    return f"{np.mean(run['series']['zero_variance']):.2f}"


def change(run: Mapping[str, Any], score: str) -> str:
    return f"{run['before'][score]:.3f} to {run['after'][score]:.3f}"


def gain(run: Mapping[str, Any], score: str) -> str:
    found = run["gains"][score]
    return f"{found['mean']:+.3f} +- {found['half_width']:.3f}"


if __name__ == "__main__":
    main()
