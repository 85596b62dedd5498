"""Compare rules in tables for a terminal, and in one self-contained HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qr_jax.lab.columns import aligned
from qr_jax.lab.report import page

SCRIPTS = (*page.DRAWING, "comparison.js")
TONES = ("ink", "fresh", "ex_hard", "ex_easy", "ex_surplus", "ex_consumed", "phase5", "quiet")
STYLE = ".line.band { stroke-dasharray: none; stroke-width: 2; }\n.scroll { max-height: none; }\n"
SHARES = {"zero_variance": "zero-variance", "recycled": "recycled", "ex_hard": "ex_hard", "ex_easy": "ex_easy"}
SHARES |= {"flipped": "flipped", "trained": "pool trained"}
ALONE = "over questions alone"
SETTING_CHARS = 80  # of a setting that tells two rules apart; a prompt is longer
Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Arrange the result of `compare.compare` in three tables: outcome, pool shares beside chance alone, and cost."""
    first, reach = next(iter(found["rules"])), found["reach"]
    outcome, pool, cost = [], [], []
    for label, one in found["rules"].items():
        gap, wins, passed = one["difference"], one.get("wins"), one["reached"]["values"]
        some = [value for value in passed if value is not None]
        spread = f" +- {one['accuracy']['sd']:.3f}" if one["accuracy"]["sd"] is not None else ""
        outcome.append([
            label, str(len(one["seeds"])), f"{one['accuracy']['mean']:.3f}{spread}",
            less(gap) if gap else "",
            f"{wins['won']} of {wins['of']}" if wins and wins["of"] else "",
            f"{sum(some) / len(some):,.0f} ({len(some)} of {len(passed)})" if some else "-",
        ])  # fmt: skip
        shares = [f"{_share(one[name]['mean'])} ({_between(one['null'][name])})" for name in SHARES]
        pool.append([label, _number(one["signal_per_1000"]["mean"]), _share(one["drawn"]["mean"]), *shares])
        counts = [_number(one[name]["mean"]) for name in ("rollouts", "tokens", "searches", "steps", "step_seconds")]
        cost.append([label, *counts])
    heads = ["rule", "seeds", "accuracy +- sd", f"minus {first} [95 %]", "seeds won", f"rollouts to {reach:g}"]
    if all(len(curve) < 3 for one in found["rules"].values() for curve in one["curves"]):
        heads, outcome = heads[:-1], [row[:-1] for row in outcome]  # nobody looked between the ends
    return [
        ("Outcome", heads, outcome),
        ("Pool (by chance alone)", ["rule", "signal / 1,000", "pool drawn", *SHARES.values()], pool),
        ("Cost, mean over seeds", ["rule", "rollouts", "tokens", "searches", "steps", "seconds in steps"], cost),
    ]


def less(gap: Mapping[str, Any]) -> str:
    """Return a difference with its interval, marked if that does not include the variation between seeds."""
    return f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" + ("" if gap["seeds"] else f" {ALONE}")


def notes(found: Mapping[str, Any]) -> list[str]:
    """Return the notes that a reader of the tables needs."""
    low, high = found["spent"]
    made = [f"WARNING: {warning}." for warning in found.get("warnings", ())] + [
        f"Budget: {low:,} to {high:,} {found['measure']} a run. Accuracy: greedy exact match over "
        f"{found['questions']:,} questions after training. The interval is of Student's t over seeds, paired where the "
        "rules have the same ones, and as much wider as other questions would move the difference.",
        "Zero-variance rate and shares of the batch (recycled, ex_hard, ex_easy): last tenth of the steps; the other "
        "figures: all steps. In brackets: the band of the same sampler on pass rates that never move, whatever "
        f"the run's first draws allow ({found['null_seeds']} simulated runs of each), averaged over seeds.",
    ]
    if any(one["difference"] and not one["difference"]["seeds"] for one in found["rules"].values()):
        made.append(f"{ALONE}: one seed each; other seeds would move the difference further. Make three or more.")
    counts = {label: len(one["seeds"]) for label, one in found["rules"].items()}
    if lone := [label for label, count in counts.items() if count == 1 < max(counts.values())]:
        made.append(f"{', '.join(lone)}: one seed, taken to vary by seed as a rule of several that it is held against.")
    if found["power"]:
        made += [seeds_for(label, one["seeds_needed"], found["power"]) for label, one in [*found["rules"].items()][1:]]
    if found["faulted_questions"]:
        made.append(f"{found['faulted_questions']} questions are left out: their answer is a fault in some run.")
    for label, one in found["rules"].items():
        told = [f"{name}={value}"[:SETTING_CHARS] for name, value in one["settings"].items()]
        if any(text not in label for text in told):
            made.append(f"{label} is with {' '.join(told)}")
    made += [f"{label}: {reason}." for label, one in found["rules"].items() for reason in one["no_null"]]
    return [*made, "The rules have unequal numbers of seeds."] if len({*counts.values()}) > 1 else made


def seeds_for(rule: str, needed: Mapping[str, Any] | None, size: float) -> str:
    """Say how many seeds a difference of `size` needs, by these runs, or why they cannot tell."""
    if needed is None:
        return f"{rule}: how many seeds a difference of {size:g} needs is told by rules of two seeds or more that vary."
    span = f"{needed['at_least']:,} to {needed['at_most']:,} by the 80 % interval of their sd, {needed['sd']:.3f}"
    return (
        f"{rule}: a true difference of {size:g} is found with a power of {needed['power']:g} by {needed['seeds']:,} "
        f"seeds of each rule ({span}); the seeds that are there find it with {needed['found']:.2f}. This is on these "
        "questions; the interval of the table allows for others too."
    )


def format_tables(found: Mapping[str, Any]) -> str:
    """Format the tables and notes for a terminal."""
    parts = ["\n".join([title, *aligned([head, *rows])]) for title, head, rows in tables(found)]
    return "\n\n".join([*parts, "\n".join(notes(found))])


def accuracy(found: Mapping[str, Any]) -> dict[str, Any]:
    """Chart accuracy against the budget: a rule's mean over seeds, and the band from minimum to maximum."""
    grid = sorted({x for one in found["rules"].values() for curve in one["curves"] for x, _ in curve})
    series = []
    for at, (label, one) in enumerate(found["rules"].items()):
        curves = [np.array(curve, float).T for curve in one["curves"] if curve]
        if not curves:  # every evaluation was incomplete
            continue
        y_SX = np.array([np.interp(grid, *curve, left=np.nan, right=np.nan) for curve in curves])
        known = np.isfinite(y_SX.sum(axis=0)).tolist()
        values = {
            name: [float(value) if ok else None for value, ok in zip(made(y_SX, axis=0), known)]
            for name, made in (("values", np.mean), ("low", np.min), ("high", np.max))
        }
        series.append({"name": label, "tone": TONES[at % len(TONES)], "style": "band", **values})
    return {
        "id": "accuracy", "title": "Accuracy against the budget", "kind": "lines", "unit": "share",
        "note": "Greedy exact match on the evaluation questions: mean over seeds, the band from the least to the most.",
        "x": [{"label": found["measure"], "values": grid}], "series": series,
    }  # fmt: skip


def write(found: Mapping[str, Any], path: Path, name: str) -> Path:
    """Write the page and return its path."""
    data = {"chart": accuracy(found), "tables": tables(found), "notes": notes(found)}
    slots = page.frame(name, page.asset("page.css") + STYLE, SCRIPTS) | {"data": page.as_json(data)}
    path.write_text(page.fill(page.asset("comparison.html"), slots), encoding="utf-8", errors="replace")
    return path


def _between(band: Mapping[str, float | None]) -> str:
    return "-" if band["low"] is None else f"{_share(band['low'])} to {_share(band['high'])}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
