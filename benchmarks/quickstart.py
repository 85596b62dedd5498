"""The quickstart beside an earlier checkout's: a decode step, and whole runs by seed, in turn.

    git clone . ../before && git -C ../before checkout 3f55909 && make -C ../before .venv
    python -m benchmarks.quickstart --before ../before --seeds 5      (25 minutes on 2 idle cores)

A decode step is that of 256 slots and a cache of 128 positions, and beside it SmolLM2-135M's. A run is
`qr-jax train configs/quickstart.py`, cold start and two evaluations included, by TASK's groups, rule and rate; each
contender keeps compiled programs in a folder of its own, empty before the first seed. A study is four such runs, two
at a time, by the checkout's own `compare --jobs 2`; STUDY cuts cold start, rollouts and evaluations to a fifth alike.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.quickstart_ours import SHAPES

MODULE = "benchmarks.quickstart_ours"
CONFIG = ["configs/quickstart.py", "evaluation.every=0"]  # an earlier one was evaluated before and after alone
# How the earlier quickstart was trained; a later one's settings would give both other things to do.
TASK = ["pool.queries=32", "pool.samples=8", "rule=recycle", "learner.lr=1e-3", "learner.warmup_updates=0"]
STUDY = ["--rules", "grpo", "--seeds", "4", "--jobs", "2", "--budget", "rollouts=6144", "--questions", "200"]
SHORTER = "sft.steps=80"


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    contenders = [interleave.checkout("before", MODULE, options.before), interleave.Contender("ours", MODULE)]
    workers = [interleave.Worker(contender) for contender in contenders]
    interleave.run("quickstart", options, workers, lambda: measure(options, contenders, workers), show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, rounds=30, peers=False)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with, its .venv made")
    parser.add_argument("--seeds", type=int, default=5, help="whole runs of each (5)")
    parser.add_argument("--studies", type=int, default=1, help="studies of each (1)")
    return parser.parse_args(words)


def measure(options: argparse.Namespace, contenders, workers) -> dict[str, Any]:
    steps = {}
    for shape in SHAPES:
        for worker in workers:
            worker.ask("prepare", shape=shape)
        samples = interleave.interleave(workers, options.rounds, {"shape": shape})
        steps[shape] = {
            "step_ms": {name: interleave.median(answers, "step_ms") for name, answers in samples.items()},
            **interleave.ratio(samples["ours"], samples["before"], "steps_a_s"),
        }
    runs: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for contender in contenders:
                runs[contender.name].append(whole_run(contender, seed, Path(folder)))
                print(contender.name, runs[contender.name][-1], file=sys.stderr, flush=True)
        studies = [{one.name: study_s(one, Path(folder), at) for one in contenders} for at in range(options.studies)]
        print("studies, s:", studies, file=sys.stderr, flush=True)
    return {"decode_step": steps, "runs": runs, "studies_s": studies, **(over_seeds(runs) if options.seeds else {})}


def study_s(contender: interleave.Contender, folder: Path, at: int) -> float:
    """Seconds of four seeds, two at a time, with programs that are kept."""
    environment = contender.environment(QR_JAX_COMPILED=str(folder / f"{contender.name}_programs"))
    lanes = ["rollout.lanes=1", "learner.lanes=1"] if contender.name == "ours" else []  # two runs share the cores
    words = [*CONFIG, SHORTER, *TASK[:2], *TASK[3:], *lanes, *STUDY]
    words += ["--folder", str(folder / f"{contender.name}_study_{at}")]
    start = time.monotonic()
    subprocess.run(
        [contender.python, "-m", "qr_jax.cli", "compare", *words],
        cwd=contender.tree, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - start


def whole_run(contender: interleave.Contender, seed: int, folder: Path) -> dict[str, Any]:
    """What one run took and reached; seconds of its steps with what was compiled in them."""
    run = folder / f"{contender.name}_{seed}"
    environment = contender.environment(QR_JAX_COMPILED=str(folder / f"{contender.name}_programs"))
    start = time.monotonic()
    subprocess.run(
        [contender.python, "-m", "qr_jax.cli", "train", *CONFIG, *TASK, f"seed={seed}", "--run", run],
        cwd=contender.tree, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wall_s = time.monotonic() - start
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    seconds = {name: sum(row[f"time/{name}"] or 0 for row in rows) for name in ("step_s", "decode_s", "learner_s")}
    return seconds | {
        "seed": seed, "wall_s": wall_s, "compiles": sum(row["perf/compiles"] for row in rows),
        "gap_max": max(row["sampler_gap/max"] or 0 for row in rows),
        "before": summary["greedy_before"], "after": summary["greedy_after"],
    }  # fmt: skip


def over_seeds(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The runs' figures side by side; `accuracy_standard_errors`: the difference of means in its standard errors."""
    medians = {
        name: {figure: statistics.median(run[figure] for run in of) for figure in ("step_s", "decode_s", "wall_s")}
        for name, of in runs.items()
    }
    after = {name: [run["after"] for run in of] for name, of in runs.items()}
    difference = statistics.mean(after["ours"]) - statistics.mean(after["before"])
    several = all(len(of) > 1 for of in after.values())
    error = sum(statistics.variance(of) / len(of) for of in after.values()) ** 0.5 if several else None
    return {
        "medians": medians,
        "ratio_steps": medians["before"]["step_s"] / medians["ours"]["step_s"],
        "accuracy": {name: statistics.mean(of) for name, of in after.items()},
        "accuracy_difference": difference,
        "accuracy_standard_errors": difference / error if error else None,
        "gap_max": max(run["gap_max"] for run in runs["ours"]),
    }  # fmt: skip


def show(figures: dict[str, Any]) -> None:
    rows = [[shape, *one["step_ms"].values(), one["ratio"]] for shape, one in figures["decode_step"].items()]
    print(interleave.table(["decode step, ms", "before", "ours", "faster by"], rows))
    for name, of in figures["runs"].items():
        head = ["seed", "step_s", "decode_s", "learner_s", "wall_s", "compiles", "before", "after"]
        print(f"\n{name}\n{interleave.table(head, [[run[key] for key in head] for run in of])}")
    for of in figures["studies_s"]:
        print(f"four runs, two at a time: {of['before']:.0f} s and {of['ours']:.0f} s, {of['before'] / of['ours']:.2f}")
    for name in ("ratio_steps", "accuracy", "accuracy_difference", "accuracy_standard_errors", "gap_max"):
        print(f"{name}: {figures.get(name)}")


if __name__ == "__main__":
    main()
