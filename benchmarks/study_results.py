"""What the study's runs left (benchmarks/results/study): each setting's table, and the pages' two.

Accuracy is the mean of a run's last four evaluations; +- is a 95 % interval over seeds; differences are of seeds in
common whose runs began from one cold start, as the same accuracy before training shows.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown, over_seeds

RESULTS = interleave.ROOT / "benchmarks/results/study"
LAST = 4  # evaluations of a run are its accuracy
BASELINE = {"a": "grpo_shipped", "b": "grpo"}  # what the others of a half are held against
SETTINGS = {  # of the report, which is of half b
    "s3": "2,000 questions, 8 samples", "s6": "2,000, 4 samples", "s4": "500, 8 samples",
    "s5": "2,000 hard ones, 8 samples", "s7": "2,000, a third impossible, 8 samples",
    "s1": "10,000, 4 samples, 84,480 rollouts", "s2": "10,000, 4 samples, no oversampling",
}  # fmt: skip
RULES = {
    "grpo": "grpo", "grpo_pairs": "grpo, groups of two", "pairs": "foresee, groups of two (`pairs`)",
    "foresee": "foresee", "recycle": "recycle, guarded", "paper": "recycle as published",
    "soft_recycle": "soft_recycle", "greso": "greso", "mopps": "mopps", "bounded_dapo": "bounded_dapo",
    "dapo": "dapo (with refills)",
}  # fmt: skip
POOLED = (
    ("s3", "s6", "s4", "s5"),
    ("s1", "s2", "s3", "s4", "s5", "s6"),
)  # settings whose seeds are averaged: of one budget; all


def tables() -> list[str]:
    """Each setting's, and the report's."""
    return [*(table(half, folder.name) for half in "ba" for folder in sorted((RESULTS / half).glob("*"))), by_setting()]


def table(half: str, setting: str) -> str:
    """The recipes of a setting, best first."""
    found = {folder.name: read(folder) for folder in sorted((RESULTS / half / setting).iterdir())}
    base = found.get(BASELINE[half], {})
    head = ("recipe", "seeds", "accuracy", "difference", "there after", "lowest seed", "most under its best")
    rows = [(*head, "signal groups", "seconds")]
    for recipe, runs in sorted(found.items(), key=lambda item: -mean(item[1], "accuracy")):
        every = [run["accuracy"] for run in runs.values()]
        rows.append((recipe, str(len(runs)), over_seeds(every), *beside(runs, base), f"{min(every):.3f}", *ends(runs),
                     f"{mean(runs, 'seconds'):.0f}"))  # fmt: skip
    return f"**{setting}, half {half}** (differences from {BASELINE[half]})\n\n{markdown(rows)}"


def reached(runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the baseline's rollouts after which the mean over seeds is at the baseline's last evaluation or
    above, and stays there; between evaluations it lies on a line. None if it is under it at the end."""
    shares = np.linspace(0.1, 1, 91)
    goal = np.mean([run["evaluations"][-1][1] for run in base])
    mean_of = np.mean([
        np.interp(shares * of["rollouts"], *zip(*run["evaluations"], strict=True))
        for run, of in zip(runs, base, strict=True)
    ], axis=0)  # fmt: skip
    under = np.flatnonzero(mean_of < goal)
    at = under[-1] + 1 if len(under) else 0
    return float(shares[at]) if at < len(shares) else None


def by_setting() -> str:
    """The report: a rule a row, a setting a column, and means over POOLED of what a seed has in all of them."""
    columns = [setting for setting in SETTINGS if (RESULTS / "b" / setting / "grpo").is_dir()]
    means = (f"mean of {', '.join(settings)}, less grpo" for settings in POOLED)
    rows = [("rule", *(SETTINGS[setting] for setting in columns), *means)]
    rows.append(("seeds", *(str(len(runs_of(setting, "grpo"))) for setting in columns), *[""] * len(POOLED)))
    for rule, name in RULES.items():
        cells = []
        for setting in columns:
            runs, base = runs_of(setting, rule), runs_of(setting, "grpo")
            gaps = over_seeds([runs[seed]["accuracy"] - base[seed]["accuracy"] for seed in paired(runs, base)], "+")
            cells.append((f"{mean(runs, 'accuracy'):.3f}" + f" ({gaps})" * (rule != "grpo")) if runs else "")
        rows.append((name, *cells, *(pooled(rule, settings) if rule != "grpo" else "" for settings in POOLED)))
    return markdown(rows)


def pooled(rule: str, settings: Sequence[str]) -> str:
    """A rule's difference from grpo, averaged over settings by seed: of the seeds that all of them have."""
    both = [(runs_of(setting, rule), runs_of(setting, "grpo")) for setting in settings]
    seeds = set.intersection(*({*paired(runs, base)} for runs, base in both))
    gaps = [np.mean([runs[seed]["accuracy"] - base[seed]["accuracy"] for runs, base in both]) for seed in seeds]
    return over_seeds(gaps, "+")


def by_seed() -> str:
    """The report's runs one by one: a setting and rule a row."""
    head = ("setting", "rule", "by seed, from 5", "mean", "less grpo", "there after")
    rows = [(*head, "most under its best", "signal groups")]
    for setting in SETTINGS:
        base = runs_of(setting, "grpo")
        for rule, name in RULES.items():
            runs = runs_of(setting, rule)
            if runs:
                each = " ".join(f"{runs[seed]['accuracy']:.3f}".lstrip("0") for seed in sorted(runs))
                rows.append((setting, name, each, f"{mean(runs, 'accuracy'):.3f}", *beside(runs, base), *ends(runs)))
    return markdown(rows)


def runs_of(setting: str, rule: str) -> dict[int, dict[str, Any]]:
    """The report's runs by seed."""
    return read(RESULTS / "b" / setting / rule)


def beside(runs: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> tuple[str, str]:
    """Difference, and the share of the baseline's rollouts after which runs are as good; of the baseline nothing."""
    seeds = paired(runs, base)
    if not seeds or runs == base:
        return "", ""
    there = reached([runs[seed] for seed in seeds], [base[seed] for seed in seeds])
    gaps = [runs[seed]["accuracy"] - base[seed]["accuracy"] for seed in seeds]
    return over_seeds(gaps, sign="+"), "" if there is None else f"{there:.2f}"


def paired(runs: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """The seeds of both whose runs began from one cold start: machines differ in rounding, and so do theirs."""
    return [seed for seed in sorted({*runs} & {*base}) if runs[seed]["before"] == base[seed]["before"]]


def ends(runs: Mapping[int, Mapping[str, Any]]) -> tuple[str, str]:
    """The most that a run ends under its best evaluation, and signal groups."""
    return f"{max(run['best'] - run['final'] for run in runs.values()):.3f}", f"{mean(runs, 'signal_groups'):.0f}"


def read(folder: Path) -> dict[int, dict[str, Any]]:
    """The kept runs of a recipe by seed."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed_*.json"))]
    return {run["seed"]: run for run in runs}


def mean(runs: Mapping[int, Mapping[str, Any]], name: str) -> float:
    return float(np.mean([run[name] for run in runs.values()]))
