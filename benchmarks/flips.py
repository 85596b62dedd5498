"""E1 of configs/study/plan.md: how much of the signal of queries drawn again is there because the policy moved?

    python -m benchmarks.flips              # the missing runs, two at a time (an hour on two cores), and the table
    python -m benchmarks.flips --table      # the table alone, from benchmarks/results/flips/

A run that has a result is not made again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, null_worlds, study
from benchmarks.tables import markdown, over_seeds
from qr_jax import config as configs
from qr_jax.config import Config
from qr_jax.lab import null_control, probe, probe_figures
from qr_jax.lab.launch import Job, Launcher
from qr_jax.run import runs
from qr_jax.settings.settings import conform, plain

ROOT = interleave.ROOT
RUNS, RESULTS = ROOT / "runs/flips", ROOT / "benchmarks/results/flips"
ARMS = {"trained": [], "frozen": ["learner.lr=1e-12"]}
SIZES, SEEDS = (4, 8), range(30, 35)
ASKED = 128  # queries a sample of the probe


def main(words: Sequence[str]) -> int:
    options = study.options(__doc__).parse_args(words)
    failed = []
    if not options.table:
        launcher = Launcher(options.jobs, lambda line: print(line, flush=True))
        jobs = [job(arm, samples, seed) for seed in SEEDS for arm in ARMS for samples in SIZES]
        with launcher.alone(RUNS):
            failed = launcher.run([one for one in jobs if not result(one).is_file()], then=keep)
        for one in jobs:
            if one.done and not result(one).is_file():
                keep(one)
    print(table(), end="")
    return 1 if failed else 0


def job(arm: str, samples: int, seed: int) -> Job:
    settings = configs.load(f"{ROOT}/configs/study/settings.py:flips_{samples}", [f"seed={seed}", *ARMS[arm]])
    folder = RUNS / arm / f"k{samples}" / f"seed_{seed}"
    return Job(f"{arm} K {samples} seed {seed}", "train", folder, conform("", plain(settings), Config))


def result(run: Job) -> Path:
    arm, size, seed = run.folder.relative_to(RUNS).parts
    return RESULTS / arm / size / f"{seed}.json"


def keep(run: Job) -> None:
    """Write a finished run's figures: its accuracy, its pool beside the null control, and its probe."""
    points = null_worlds.POINTS
    null = null_control.null_of_run(run.folder, kinds=runs.kinds(run.folder), points=points, own=True)
    asked = probe.probe(run.folder, queries=ASKED, say=lambda line: None)
    summary = json.loads((run.folder / "summary.json").read_text())
    found = {
        "plan_sha256": kept_runs.plan_sha256(), **interleave.commit(),
        "config": configs.fingerprint(run.settings), "seed": run.settings.seed,
        "before": summary["greedy_before"], "after": summary["greedy_after"], "rollouts": summary["rollouts"],
        "flipped": null["run"]["flipped"][-1],
        "flipped_by_chance": [null["bands"]["flipped"][edge][-1] for edge in ("low", "high")],
        "chances": null["chances"], **null_worlds.left(null["run"], null["bands"]),
        "probe": {arm: asked["arms"][arm] for arm in probe_figures.ARMS},
    }  # fmt: skip
    result(run).parent.mkdir(parents=True, exist_ok=True)
    result(run).write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def moved(found: Mapping[str, Any], verdicts: Sequence[str] = tuple(probe_figures.AGAIN)) -> float:
    """The share of the signal of queries drawn again that is there by movement, over these verdicts.

    Each verdict counts by its number of draws: 1 - sum of n (filing policy's chance) / sum of n (later policy's).
    """
    arms = [found["probe"][probe_figures.AGAIN[verdict]] for verdict in verdicts]
    known = [arm for arm in arms if arm["queries"]]
    filing, later = (sum(arm["candidates"] * arm["signal"][who] for arm in known) for who in ("filing", "accepting"))
    return 1 - filing / later if later else float("nan")


def kept(arm: str, samples: int) -> list[dict[str, Any]]:
    """The kept runs of an arm, by seed."""
    paths = sorted((RESULTS / arm / f"k{samples}").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def shares(samples: int) -> list[float]:
    """The share by movement over both verdicts, of each trained run."""
    return [moved(run) for run in kept("trained", samples)]


def table() -> str:
    """The arms by group size: shares by movement with 95 % intervals over seeds, flips beside chance, accuracy."""
    shown = ("by movement", "by movement, after all wrong", "after all right", "flipped", "flipped within its band")
    shown += ("metrics outside their bands", "accuracy before to after")
    rows = [("policy", "K", "seeds", *shown)]

    for arm in ARMS:
        for samples in SIZES:
            every = kept(arm, samples)
            if not every:
                continue
            shares = [
                over_seeds([moved(one, some) for one in every], "+")
                for some in (("hard", "easy"), ("hard",), ("easy",))
            ]
            inside = sum(one["flipped_by_chance"][0] <= one["flipped"] <= one["flipped_by_chance"][1] for one in every)
            means = [np.mean([one[name] for one in every]) for name in ("flipped", "outside", "before", "after")]
            cells = [arm, str(samples), str(len(every)), *shares, f"{means[0]:.3f}", f"{inside} of {len(every)}"]
            rows.append((*cells, f"{means[1]:.3f}", f"{means[2]:.3f} to {means[3]:.3f}"))
    return markdown(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
