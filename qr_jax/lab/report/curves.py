"""Charts of the learner, of its episodes and of its cold start; and accuracy by groups of questions.

A metric that no step of a run has is not drawn, nor is a chart without a metric.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qr_jax.lab.report.series import MOST_POINTS, Row, bins, interval, lines, said, step_axis

Chart = dict[str, Any]


class Curve(NamedTuple):
    """`names` are the metrics that it draws, each with its words; of the ones after the first, those that ever say
    anything but 0."""

    title: str
    note: str
    unit: str
    names: Mapping[str, str]
    kind: str = "lines"


CURVES = {
    "reward": Curve(
        "Reward", "Mean over a step's episodes.", "number",
        {"reward/mean": "reward", "reward/outcome_mean": "pass rate"},
    ),
    "entropy": Curve(
        "Entropy", "Nats a token: how undecided the policy is. It falls as the policy settles.", "number",
        {"rollout/entropy": "of sampled tokens", "learner/entropy": "in the learner"},
    ),
    "kl": Curve("KL to the reference", "Nats a token: how far the policy has moved.", "number", {"learner/kl": "KL"}),
    "grad-norm": Curve("Gradient norm", "Before it is clipped.", "number", {"learner/grad_norm": "gradient norm"}),
    "clip-share": Curve(
        "Clip share", "Of the trained tokens, those whose ratio was cut.", "share",
        {"learner/clip_low": "from below", "learner/clip_high": "from above", "learner/dual": "by the dual clip"},
    ),
    "length": Curve("Response length", "Sampled tokens an episode.", "number", {"rollout/tokens": "tokens"}),
    "searches": Curve(
        "Searches", "An episode; each turn is a search or the answer.", "number",
        {
            "rollout/searches": "searches", "rollout/turns": "turns",
            "rollout/parallel_turns": "turns of several searches",
        },
    ),
    "endings": Curve(
        "Endings", "Why episodes ended, as shares of a step's.", "share",
        {
            "rollout/stop_answered": "answered", "rollout/stop_no_action": "no action", "rollout/stop_length": "length",
            "rollout/stop_turns": "turns", "rollout/stop_context": "context", "rollout/stop_fault": "fault",
        },
        "stack",
    ),
}  # fmt: skip
GROUPS = {"hops": "hops", "kind": "kind", "type": "type", "dataset": "set"}  # tables of an evaluation
MOST_GROUPS = 24  # of a table that are drawn
MOST_LETTERS = 60  # of a group's name
TONES = ("ink", "quiet", "plus")


def make(rows: Sequence[Row]) -> dict[str, Chart]:
    """Return the charts of CURVES that the steps have something for."""
    return {name: chart for name, curve in CURVES.items() if (chart := _chart(name, curve, rows))}


def _chart(name: str, curve: Curve, rows: Sequence[Row]) -> Chart | None:
    stacked = curve.kind == "stack"
    lots = bins(rows) if stacked else bins(rows, MOST_POINTS)
    known = [metric for metric in curve.names if any(row.get(metric) is not None for row in rows)]
    drawn = [metric for at, metric in enumerate(known) if not at or any(row.get(metric) for row in rows)]
    if name == "reward" and len(drawn) == 2 and all(row.get(drawn[0]) == row.get(drawn[1]) for row in rows):
        drawn = drawn[:1]  # a reward that is 1 for right and 0 for wrong
    if not drawn:
        return None
    cut = name != "clip-share" or any(row.get(metric) for metric in drawn for row in rows)
    note = curve.note + ("" if cut else " None was in any step.") + said(lots)
    tones = [f"phase{at}" if stacked else TONES[at] for at in range(len(drawn))]
    series = lines(lots, [(metric, curve.names[metric], tone) for metric, tone in zip(drawn, tones, strict=True)])
    return {
        "id": name, "title": curve.title, "note": note, "kind": curve.kind,
        "x": step_axis(lots), "unit": curve.unit, "series": series, "fit": True, "small": True, "smooth": not stacked,
    }  # fmt: skip


def cold_start(rows: Sequence[Row]) -> dict[str, Chart]:
    """Return the loss of the cold start's steps; nothing without one."""
    known = [row for row in rows if row.get("sft/loss") is not None]
    if not known:
        return {}
    lots = bins(known, MOST_POINTS)
    note = "Cross-entropy in nats a token of the expert's traces, on which the model is trained before step 1."
    series = lines(lots, [("sft/loss", "loss", "ink")])
    chart = {"id": "cold-start", "title": "Cold start", "note": note + said(lots), "kind": "lines", "unit": "number"}
    return {"cold-start": chart | {"x": step_axis(lots), "small": True, "smooth": True, "series": series}}


def by_group(before: Row, after: Row) -> dict[str, Chart]:
    """Return held-out accuracy before and after training by hops, kind, type and set, where these are known."""
    charts = {}
    for group, words in GROUPS.items():
        tables = {"before training": before.get(f"by_{group}"), "after training": after.get(f"by_{group}")}
        tables = {name: table for name, table in tables.items() if table}
        values = list(dict.fromkeys(value for table in tables.values() for value in table))[:MOST_GROUPS]
        if not values:
            continue
        counts = {
            value: table[value].get("questions") for table in tables.values() for value in values if value in table
        }
        series = []
        for name, table in tables.items():
            rows = [table.get(value, {}) for value in values]
            known = [row.get("exact_match") for row in rows]
            counted = [row.get("counted", row.get("questions")) for row in rows]
            low, high = interval(known, [row.get("exact_match_se") for row in rows], counted)
            tone = "ink" if name.startswith("after") else "quiet"
            series.append({"name": name, "tone": tone, "values": known, "low": low, "high": high})
        labels = [_label(group, value, counts[value]) for value in values]
        charts[f"by-{group}"] = {
            "id": f"by-{group}", "title": f"Accuracy by {words}", "kind": "groups", "unit": "share", "series": series,
            "note": "Held-out exact match with 95 % intervals.",
            "x": [{"label": words, "values": list(range(len(values))), "words": labels}],
        }  # fmt: skip
    return charts


def _label(group: str, value: str, questions: int | None) -> str:
    """Return the words under a bar of a chart: the group of questions and its size, as in "2 hops, 203 questions"."""
    unit = (" hop" if value == "1" else " hops") if group == "hops" else ""
    return f"{value[:MOST_LETTERS]}{unit}" + (f", {questions:,} questions" if questions else "")
