"""SmolLM2-135M on real questions of one hop: three learning rates, then three seeds at the best, before and after.

    make smollm2 && python -m benchmarks.single_hop     # 2 idle cores: 1 hour of cold starts, 2 of rates, 6 of seeds
    python -m benchmarks.single_hop --seeds 0           # fewer; what is there is not made again
    python -m benchmarks.single_hop --table             # of what is there, and make no run

A cold start is `qr-jax sft configs/smollm2_single_hop.py seed=N`. Each rate trains for RATE_STEPS steps from seed 0's,
and is judged by F1 on half a of the held-out questions; each seed then trains as the config says, and is judged on all
of them. A run's figures join results/single_hop.json when it ends; a run that was stopped goes on in runs/single_hop.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import interleave
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds
from qr_jax import metrics_writer

CONFIG = "configs/smollm2_single_hop.py"
RATES, RATE_STEPS = ("3e-6", "1e-5", "3e-5"), 20
FILE = interleave.ROOT / "benchmarks/results/single_hop.json"
RUNS = interleave.ROOT / "runs/single_hop"
SUMMED = ("rollouts", "tokens", "searches", "zero_variance_rate", "steps", "wall_s")
SERIES = {  # a value a step
    "pass": "reward/outcome_mean", "zero_variance": "pool/zero_variance_rate", "signal": "pool/signal",
    "entropy": "rollout/entropy", "answered": "rollout/stop_answered", "exact_match": "eval/exact_match",
}  # fmt: skip


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args()
    if not options.table:
        for rate in RATES:
            make(f"rate {rate}", 0, [f"learner.lr={rate}", f"train.steps={RATE_STEPS}", "evaluation.half=a"])
        best = best_rate(kept())
        for seed in options.seeds:
            make("trained", seed, [f"learner.lr={best}"])
    print(table(kept()))


def kept() -> list[dict[str, Any]]:
    return json.loads(FILE.read_text(encoding="utf-8"))["runs"] if FILE.is_file() else []


def make(name: str, seed: int, words: Sequence[str]) -> None:
    """A run from the seed's cold start, unless its figures are kept."""
    runs = kept()
    if any((run["name"], run["seed"]) == (name, seed) for run in runs):
        return
    cold, folder = RUNS / f"cold_{seed}", RUNS / f"{name.replace(' ', '_')}_{seed}"
    qr_jax("sft", CONFIG, f"seed={seed}", "--run", str(cold))
    qr_jax("train", CONFIG, f"seed={seed}", f"train.init={cold}", "sft.steps=0", *words, "--run", str(folder))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = metrics_writer.read(folder)
    series = {name: [row.get(metric) for row in rows] for name, metric in SERIES.items()}
    figures: dict[str, Any] = {of: summary[of] for of in (*SUMMED, "gains", "before", "after")}
    runs.append({"name": name, "seed": seed, "words": list(words), **interleave.commit(), **figures, "series": series})
    interleave.results("single_hop", {"runs": runs}, ())


def qr_jax(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "qr_jax.cli", *words], cwd=interleave.ROOT, check=True)


def best_rate(runs: Sequence[Mapping[str, Any]]) -> str:
    """The rate after which F1 was highest."""
    return max(RATES, key=lambda rate: next(run["after"]["f1"] for run in runs if run["name"] == f"rate {rate}"))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a run, with the paired interval over questions; then the mean over seeds, with theirs."""
    rows = [
        ("run", "seed", "steps", "exact match", "gain", "F1", "gain", "zero-variance", "searches a question", "hours")
    ]
    for run in runs:
        scores = [cell for score in ("exact_match", "f1") for cell in (change(run, score), gain(run, score))]
        searches = f"{run['before']['searches_per_question']:.2f} to {run['after']['searches_per_question']:.2f}"
        last = f"{run['zero_variance_rate']:.2f}", searches, f"{run['wall_s'] / 3600:.1f}"
        rows.append((run["name"], str(run["seed"]), str(run["steps"]), *scores, *last))
    seeds = [run for run in runs if run["name"] == "trained"]
    mean = [over_seeds([run["gains"][score]["mean"] for run in seeds], "+") for score in ("exact_match", "f1")]
    return markdown(rows) + f"\nMean gain over {len(seeds)} seeds: exact match {mean[0]}, F1 {mean[1]}."


def change(run: Mapping[str, Any], score: str) -> str:
    return f"{run['before'][score]:.3f} to {run['after'][score]:.3f}"


def gain(run: Mapping[str, Any], score: str) -> str:
    found = run["gains"][score]
    return f"{found['mean']:+.3f} +- {found['half_width']:.3f}"


if __name__ == "__main__":
    main()
