"""The study: recipes x settings x seeds, each run a process; what each run left is a small file that is kept.

    make study                                                        # all that is missing of recipes.py's PLAN, half b
    python -m benchmarks.study --settings s3 --recipes grpo --seeds 0-4 --half a --jobs 2
    python -m benchmarks.study --tables                               # of what is there, in Markdown

A run's figures go to benchmarks/results/study/HALF/SETTING/RECIPE/seed_N.json as soon as it has finished, and a run
whose file is there is not made again. The runs themselves stand in runs/study, and go on where they were stopped. Runs
of one seed whose worlds are the same share a cold start; another machine's differs by rounding, and only runs of one
are compared: those whose accuracy before training is the same. Half a of the held-out questions is for choosing, half
b for reporting; a guard reads half a in both.
"""

import argparse
import hashlib
import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import kept_runs, study_results
from qr_jax import config as configs
from qr_jax.cli.overrides import override
from qr_jax.config import Config, Learner, use
from qr_jax.evaluation.scores import is_incomplete
from qr_jax.lab.launch import Job, Launcher
from qr_jax.logging import metrics_writer
from qr_jax.settings.checks import check
from qr_jax.settings.settings import conform, differences, plain

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs/study"
EVALUATIONS = 10  # of a run: at every tenth of its budget of rollouts; the last one is after training
ROLLOUTS = 128  # a step, of the reported recipes
Recipes = Mapping[str, Sequence[str]]
SERIES = {  # what a guard reads, a value a step
    "entropy": "rollout/entropy", "answered": "rollout/stop_answered", "grad_norm": "learner/grad_norm",
    "reward": "reward/mean", "searches": "rollout/searches", "signal": "pool/signal", "probe": "probe/exact_match",
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    options = arguments(words)
    if options.tables:
        print("\n\n".join(study_results.tables()))
        return 0
    known = runpy.run_path(str(ROOT / "configs/study/recipes.py"))
    recipes = {name: words for group in ("TUNING", "RECIPES") for name, words in known.get(group, {}).items()}
    if unknown := sorted({*options.recipes} - {*recipes}):
        raise SystemExit(f"there is no recipe {', '.join(unknown)}; there are {', '.join(recipes)}")
    plan, half = [(options.settings, options.recipes, options.seeds)], options.half
    if not options.settings and not options.recipes:
        plan, half = known["PLAN"], "b"
    return make(plan, recipes, half, options.jobs)


def make(
    plan: Sequence[tuple[Sequence[str], Sequence[str], Sequence[int]]], recipes: Recipes, half: str, at_once: int
) -> int:
    """Make the runs of the plan (settings, recipes, seeds) that are missing; the exit code."""
    launcher = Launcher(at_once, lambda line: print(line, flush=True))
    jobs, cold = [], {}
    for settings, named, seeds in plan:
        for seed, name, recipe in itertools.product(seeds, settings, named):
            if not result_path(half, name, recipe, seed).is_file():
                start, job = planned(name, recipe, recipes[recipe], seed, half)
                cold[start.folder] = start
                jobs.append(job)
    print(f"{len(jobs)} runs to make, from {len(cold)} cold starts", flush=True)
    with launcher.alone(RUNS):
        failed = launcher.run(list(cold.values()))
        failed += launcher.run([job for job in jobs if not job.done], then=keep)
        for job in jobs:
            if job.done:
                keep(job)
    return 1 if failed else 0


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME", help="of configs/study/settings.py")
    parser.add_argument("--recipes", nargs="+", default=[], metavar="NAME", help="of configs/study/recipes.py")
    parser.add_argument("--seeds", type=span, default=span("0-4"), metavar="FROM-TO", help="(0-4)")
    parser.add_argument("--half", choices=("a", "b"), default="a", help="of the held-out questions (a)")
    parser.add_argument("--tables", action="store_true", help="print what the kept files say, and make no run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on its own cores (2)")
    return parser.parse_args(words)


def span(text: str) -> list[int]:
    """ "3-5" as [3, 4, 5], "3" as [3]."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def result_path(half: str, setting: str, recipe: str, seed: int) -> Path:
    return study_results.RESULTS / half / setting / recipe / f"seed_{seed}.json"


def planned(setting: str, recipe: str, words: Sequence[str], seed: int, half: str) -> tuple[Job, Job]:
    """The cold start and the run."""
    file = f"{ROOT}/configs/study/settings.py:{setting}"
    pool = configs.load(file).pool
    drawn = ROLLOUTS // pool.oversample
    sizes = ("{groups}", str(drawn // pool.samples)), ("{pairs}", str(drawn // 2))  # other braces are an environment's
    words = [word.replace(*sizes[0]).replace(*sizes[1]) for word in words]
    base = configs.load(file, [f"seed={seed}", *words])
    often = study_results.budget_of(setting) // EVALUATIONS
    made = override(base, [f"evaluation.every_rollouts={often}", f"evaluation.half={half}"])
    return from_cold_start(
        RUNS, f"{setting} {recipe} seed {seed}", RUNS / half / setting / recipe / f"seed_{seed}", made
    )


def from_cold_start(runs: Path, name: str, folder: Path, settings: Config) -> tuple[Job, Job]:
    """The cold start of a run, which stands in `runs`/cold and serves all whose cold start is equal, and the run."""
    cold = cold_start(runs, settings)
    start = Job(f"cold start {cold.name}", "sft", cold, conform("", plain(alone(settings)), Config))
    made = override(settings, ["train.checkpoint_every=40"])
    made = replace(made, train=replace(made.train, init=str(cold)), sft=replace(made.sft, steps=0))
    check(replace(made, train=replace(made.train, init=None)))
    return start, Job(name, "train", folder, conform("", plain(made), Config))


def alone(settings: Config) -> Config:
    """The config with what the cold start does not read set back, so that equal cold starts have equal configs."""
    learner = Learner(rows=settings.learner.rows, row_tokens=settings.learner.row_tokens)
    data = replace(settings.data, train_limit=None)
    kept = {name: getattr(settings, name) for name in ("seed", "model", "env", "retriever", "rollout", "sft", "mesh")}
    return Config(data=data, learner=learner, reward=use("exact_match"), log=settings.log, **kept)


@dataclass(frozen=True)
class Experiment:
    """An experiment of configs/study/plan.md: where its runs and the figures that are kept of each lie."""

    runs: Path
    results: Path
    more: Callable[[Job], Mapping[str, Any]] = lambda run: {}  # figures of a finished run besides those of `figures`
    cold: Path | None = None  # the experiment's folder whose cold starts the runs share, if that is another

    def result(self, run: Job) -> Path:
        return self.results / run.folder.relative_to(self.runs).with_suffix(".json")

    def make(self, pairs: Iterable[tuple[Job, Job]], at_once: int) -> list[Job]:
        """Make each run (cold start, run) that has no result, and keep it when it ends; return the jobs that failed."""
        launcher = Launcher(at_once, lambda line: print(line, flush=True))
        missing = [(start, run) for start, run in pairs if not self.result(run).is_file()]
        with launcher.alone(self.cold or self.runs):
            for run in (run for _, run in missing if run.done):
                self.keep(run)
            starts = {start.folder: start for start, run in missing if not run.done}
            failed = launcher.run([*starts.values()])
            return failed + launcher.run([run for _, run in missing if not run.done], then=self.keep)

    def keep(self, run: Job) -> None:
        """Write a finished run's figures with the plan's SHA-256, unless an evaluation at its ends is incomplete."""
        if is_whole(run):
            found = {"plan_sha256": kept_runs.plan_sha256(), **figures(run), **self.more(run)}
            del found["series"]
            write(self.result(run), found)


def experiment(name: str) -> Experiment:
    return Experiment(ROOT / "runs" / name, study_results.RESULTS.parent / name)


def options(text: str | None, *stages: str) -> argparse.ArgumentParser:
    """The options of an experiment's command: its stages if it has some, --table and --jobs."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if stages:
        parser.add_argument("stage", nargs="?", choices=stages, help="whose missing runs are made")
    parser.add_argument("--table", action="store_true", help="print what the kept files say, and make no run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on its own cores (2)")
    return parser


def cold_start(runs: Path, settings: Config) -> Path:
    """Named by what is set: a setting that a later version adds, at its default, leaves it as it is."""
    told = "\n".join(sorted(differences(Config(), alone(settings))))
    return runs / "cold" / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}_seed_{settings.seed}"


def keep(job: Job) -> None:
    """Write the run's figures beside those of the others, unless an evaluation at its ends is incomplete."""
    half, setting, recipe, _ = job.folder.relative_to(RUNS).parts
    if is_whole(job):
        write(result_path(half, setting, recipe, job.settings.seed), figures(job))


def is_whole(job: Job) -> bool:
    """Whether the evaluations at a finished run's ends are complete; says so where one is not."""
    if incomplete := json.loads((job.folder / "summary.json").read_text())["incomplete"]:
        print(f"{job.name} is not kept: an evaluation before or after training is INCOMPLETE (see {job.folder})")
    return not incomplete


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write figures, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found).replace(', "', ',\n"') + "\n", encoding="utf-8")


def figures(job: Job) -> dict[str, Any]:
    """What a finished run left: whole evaluations, what it spent, its pool's figures, and what a guard would read."""
    rows, summary = metrics_writer.read(job.folder), json.loads((job.folder / "summary.json").read_text())
    asked = [row for row in rows if "eval/exact_match" in row and not is_incomplete(row)]
    every = [[row["budget/rollouts"], round(row["eval/exact_match"], 4)] for row in asked]
    every.append([summary["rollouts"], round(summary["greedy_after"], 4)])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "config": configs.fingerprint(job.settings), "commit": commit.stdout.strip(), "seed": job.settings.seed,
        "before": summary["greedy_before"], "best": max(accuracy for _, accuracy in every), "final": every[-1][1],
        "evaluations": every, "rollouts": summary["rollouts"], "tokens_sampled": summary["tokens"],
        "tokens_trained": sum(row.get("learner/tokens") or 0 for row in rows), "steps": len(rows),
        "seconds": round(sum(row["time/step_s"] for row in rows), 1),
        "drawn_groups": sum(row["pool/drawn"] for row in rows),
        "zero_variance_groups": sum(row["pool/zero_variance"] for row in rows),
        "signal_groups": sum(row["pool/signal"] for row in rows), "unique_queries": rows[-1]["pool/attempted_queries"],
        "recycled": sum(row["pool/accepted_recycled"] for row in rows),
        "accepted": sum(row["pool/accepted"] for row in rows), "epochs": rows[-1]["pool/epoch"],
        "series": {name: [rounded(row.get(metric)) for row in rows] for name, metric in SERIES.items()},
    }  # fmt: skip


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
