"""The quickstart beside an earlier checkout's: a decode step, and whole runs by seed, in turn.

    git clone . ../before && git -C ../before checkout 3f55909 && make -C ../before .venv
    python -m benchmarks.quickstart --before ../before                (30 to 50 minutes on 2 idle cores)
    python -m benchmarks.quickstart --before ../before --seeds 0 --results FOLDER        (decode steps and studies)

A decode step is that of 256 slots and a cache of 128 positions, and beside it SmolLM2-135M's. A run is
`qr-jax train configs/quickstart.py`, cold start and two evaluations included, by TASK's groups, rule and rate; each
contender keeps compiled programs in a folder of its own, empty before the first seed. A study is four such runs, two
at a time, by the checkout's own `compare --jobs 2`, after one run of the kind that compiles its programs. `--share`
cuts cold start, rollouts and evaluations alike.
"""

import argparse
import json
import re
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
from benchmarks.tables import markdown

MODULE = "benchmarks.quickstart_ours"
CONFIG = ["configs/quickstart.py", "evaluation.every=0"]  # an earlier one was evaluated before and after alone
# How the earlier quickstart was trained; a later one's settings would give both other things to do.
TASK = ["pool.queries=32", "pool.samples=8", "rule=recycle", "learner.lr=1e-3", "learner.warmup_updates=0"]
TASK += ["train.steps=100"]
STUDY = ["--rules", "grpo"]
STUDY_ROLLOUTS, STUDY_QUESTIONS, COLD_STEPS = 30_720, 1_000, 400  # of a whole study's run
LATE = re.compile(r"step \d+: compiled")  # which programs a step made, by --verbose


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    contenders = [interleave.checkout("before", MODULE, options.before), interleave.Contender("ours", MODULE)]
    workers = [interleave.Worker(contender) for contender in contenders]
    interleave.run("quickstart", options, workers, lambda: measure(options, contenders, workers), show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, rounds=30, peers=False)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with, its .venv made")
    parser.add_argument("--seeds", type=int, default=5, help="whole runs of each (5)")
    parser.add_argument("--studies", type=int, default=3, help="studies of each (3)")
    parser.add_argument("--share", type=float, default=0.2, help="of a study's run that is made (.2)")
    options = parser.parse_args(words)
    if not options.results and (options.seeds < 2 or not options.studies):
        parser.error("the pages' table wants seeds and studies; name a folder with --results for fewer")
    return options


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
        studies = []
        if options.studies:
            for contender in contenders:
                study_s(contender, Path(folder) / "compiles", options.share, seeds=1)
        for at in range(options.studies):
            studies.append({one.name: study_s(one, Path(folder) / f"study_{at}", options.share) for one in contenders})
            print("study, s:", studies[-1], file=sys.stderr, flush=True)
    figures = {"decode_step": steps, "runs": runs, "studies_s": studies, "study_share": options.share}
    if studies:
        s = {one.name: statistics.median(of[one.name] for of in studies) for one in contenders}
        figures |= {"study_s": s, "ratio_study": s["before"] / s["ours"]}
    return {**figures, **(over_seeds(runs) if options.seeds else {})}


def study_s(contender: interleave.Contender, folder: Path, share: float, seeds: int = 4) -> float:
    """Seconds of the seeds, two at a time, with programs that are kept beside the folder."""
    environment = contender.environment(QR_JAX_COMPILED=str(folder.parent / f"{contender.name}_programs"))
    lanes = ["rollout.lanes=1", "mesh.devices=1"] if contender.name == "ours" else []  # two runs share the cores
    words = [*CONFIG, f"sft.steps={round(share * COLD_STEPS)}", *TASK[:2], *TASK[3:], *lanes, *STUDY]
    words += ["--seeds", str(seeds), "--jobs", "2", "--budget", f"rollouts={round(share * STUDY_ROLLOUTS)}"]
    words += ["--questions", str(round(share * STUDY_QUESTIONS)), "--folder", str(folder / contender.name)]
    start = time.monotonic()
    subprocess.run(
        [contender.python, "-m", "qr_jax", "compare", *words],
        cwd=contender.tree, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - start


def whole_run(contender: interleave.Contender, seed: int, folder: Path) -> dict[str, Any]:
    """What one run took and reached; seconds of its steps with what was compiled in them."""
    run = folder / f"{contender.name}_{seed}"
    environment = contender.environment(QR_JAX_COMPILED=str(folder / f"{contender.name}_programs"))
    start = time.monotonic()
    done = subprocess.run(
        [contender.python, "-m", "qr_jax", "train", *CONFIG, *TASK, f"seed={seed}", "--run", run]
        + (["--verbose"] if contender.name == "ours" else []),
        cwd=contender.tree, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wall_s = time.monotonic() - start
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    seconds = {name: sum(row[f"time/{name}"] or 0 for row in rows) for name in ("step_s", "decode_s", "learner_s")}
    return seconds | {
        "seed": seed, "wall_s": wall_s, "compiles": sum(row["perf/compiles"] for row in rows),
        "compiled": [line for line in done.stdout.splitlines() if LATE.search(line)],
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
        print(*[f"seed {run['seed']}, {line}" for run in of for line in run["compiled"]], sep="\n")
    for of in figures["studies_s"]:
        print(f"four runs, two at a time: {of['before']:.0f} s and {of['ours']:.0f} s, {of['before'] / of['ours']:.2f}")
    names = ("ratio_steps", "accuracy", "accuracy_difference", "accuracy_standard_errors", "gap_max", "ratio_study")
    for name in names:
        print(f"{name}: {figures.get(name)}")


def table(found: dict[str, Any]) -> str:
    """Markdown: medians before and after, by how much faster, and what was wanted."""
    rows = [("medians", "before", "after", "faster by", "wanted")]
    shapes = (
        ("quickstart", "256 slots of 128 positions", "3.3 (20 ms to 6)"),
        ("smollm2", "SmolLM2's shape, 16 slots of 192", ""),
    )
    for shape, text, wanted in shapes:
        one = found["decode_step"][shape]
        ms = (f"{one['step_ms'][name]:.1f} ms" for name in ("before", "ours"))
        faster = f"{one['ratio']:.2f} ({len(one['pairs'])} pairs)"
        rows.append((f"a decode step, {text}", *ms, faster, wanted))
    spans = (
        ("step_s", "the 100 steps", "2.5"),
        ("decode_s", "of them decoding", ""),
        ("wall_s", "the whole run, cold start and evaluations", ""),
    )
    for figure, text, wanted in spans:
        before_s, ours_s = (found["medians"][name][figure] for name in ("before", "ours"))
        rows.append((text, f"{before_s:.0f} s", f"{ours_s:.0f} s", f"{before_s / ours_s:.2f}", wanted))
    times, s = len(found["studies_s"]), found["study_s"]
    share = f"a study of four seeds, two at a time, each run cut to {found['study_share']:.0%}; {times} times"
    faster = f"{found['ratio_study']:.2f}"
    rows.append((share, f"{s['before']:.0f} s", f"{s['ours']:.0f} s", faster, "4, of `--together`"))
    after = (f"{found['accuracy'][name]:.3f}" for name in ("before", "ours"))
    apart = f"{found['accuracy_difference']:+.3f}, which is {found['accuracy_standard_errors']:+.2f} standard errors"
    rows.append(
        (
            f"exact match after them, {len(found['runs']['ours'])} seeds",
            *after,
            apart,
            "no worse than -2 standard errors",
        )
    )
    rows.append(("largest gap of sampler and learner, nats", "", f"{found['gap_max']:.1e}", "", "1e-4"))
    return markdown(rows)


if __name__ == "__main__":
    main()
