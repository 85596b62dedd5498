"""The data of the page's charts: series of a run, made from summed counts, to be drawn and to be read as tables.

A chart is {"id", "title", "note", "kind", "x", "unit", "series", ...}. `x` is a list of axes, {"label", "values"}, of
which the reader picks one. A series is {"name", "tone", "values"}, one value for each x (None: no value), and may have
its own `x`, or `low` and `high`. Tones are the page's colours; an origin has one tone everywhere. `plain` is a sentence
for readers who do not know the paper; `smooth`: the page may smooth the lines; `fit`: the axis may end below 1."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.evaluation.scores import is_incomplete
from qr_jax.lab.report import curves
from qr_jax.lab.report.series import MOST_POINTS, Row, bins, interval, lines, mean, ratio, said, step_axis, total

Chart = dict[str, Any]
Null = Mapping[str, Any]  # what `null_control.null_or_reason` returns

RATE_BINS = 20  # of rates by origin, which few groups stand behind; as many points are wanted of the null control
FEW = 5  # groups; a rate of fewer is not shown
ORIGINS = {"fresh": "fresh", "ex_hard": "were all wrong", "ex_easy": "were all right"}
ORIGINS |= {"ex_surplus": "were surplus", "ex_consumed": "were accepted"}
PHASES = {"decode": "decoding", "prefill": "prefill", "search_wait": "waiting for searches"}
PHASES |= {"rollout_rest": "rest of the rollout", "settle": "settling", "learner": "learner"}


# What the pool's charts mean, for who has not read the paper.
PLAIN = {
    "batch": "In plain words: the model learns from a question only when some of its tries are right and some wrong; "
    "this counts such questions.",
    "zero-variance": "In plain words: where all tries at a question are right, or all are wrong, there is nothing to "
    "compare, and the work is lost for this step. Lower is better.",
    "null-fresh": "In plain words: how much of what the model learns from are questions it had never tried.",
    "null-ex_hard": "In plain words: questions that it failed at every try, and now sometimes answers. Above the grey "
    "band is more than luck.",
    "null-ex_easy": "In plain words: questions that it answered at every try, and now sometimes fails. A model that "
    "gets better has some, too, for tries are drawn by chance; above the grey band is more than chance.",
    "null-zero_variance_rate_ex_hard": "In plain words: of the questions that it failed at every try and meets "
    "again, how many teach nothing again. Below the grey band it has learned to answer some.",
    "null-zero_variance_rate_ex_easy": "In plain words: of the questions that it answered at every try and meets "
    "again, how many teach nothing again. Above the grey band it has become surer of them.",
}
PANELS = {name: f"{ORIGINS[name].capitalize()}: share of the batch" for name in ("fresh", "ex_hard", "ex_easy")}
PANELS |= {
    f"zero_variance_rate_{name}": f"{ORIGINS[name].capitalize()}, drawn again: zero-variance rate"
    for name in ("ex_hard", "ex_easy")
}


def accuracy(rows: Sequence[Row], before: Row, after: Row, ended: bool) -> Chart:
    """Chart held-out accuracy and the pass rate in training, against each budget."""
    held: list[tuple[Row, float, float | None, float | None]] = []
    questions = before.get("questions") or after.get("questions")
    after = after if ended else {}
    if before.get("exact_match") is not None and not is_incomplete(before):
        held.append(({}, before["exact_match"], before.get("exact_match_se"), before.get("counted", questions)))
    for row in rows:
        if (value := row.get("eval/exact_match")) is not None and not is_incomplete(row):
            asked = row.get("eval/counted") or row.get("eval/questions") or questions
            held.append((row, value, math.sqrt(value * (1 - value) / asked) if asked else None, asked))
    if after.get("exact_match") is not None and not is_incomplete(after):
        counted = after.get("counted", after.get("questions"))
        held.append((rows[-1], after["exact_match"], after.get("exact_match_se"), counted))
    budgets = {"rollouts": "rollouts", "tokens": "sampled tokens", "searches": "searches"}
    lots = bins(rows, MOST_POINTS)
    words = step_axis(lots)[0]["words"]
    axes = [
        {"label": label, "values": [lot[-1].get(f"budget/{name}") for lot in lots], "words": words}
        for name, label in budgets.items()
    ]
    values = [value for _, value, *_ in held]
    low, high = interval(values, [error for *_, error, _ in held], [count for *_, count in held])
    series = lines(lots, [("reward/outcome_mean", "training pass rate", "quiet")])
    series += [
        {
            "name": "held-out, greedy", "tone": "ink", "style": "points", "values": values,
            "low": low, "high": high,
            "hollow": [bool(count and questions and count < 0.95 * questions) for *_, count in held],
            "x": [[row.get(f"budget/{name}") or 0 for row, *_ in held] for name in budgets],
        },
    ]  # fmt: skip
    note = "Held-out exact match with 95 % intervals"
    during = {row["eval/questions"] for row in rows if row.get("eval/questions")} - {questions}
    hollow = ", hollow" if any(series[-1].get("hollow", ())) else ""
    between = f" ({min(during):,} between the first and the last{hollow})" if during else ""
    note += f", {questions:,} questions{between}. " if questions else ". "
    few = sum(map(is_incomplete, [before, *rows, after]))
    note += f"INCOMPLETE: {few} of them over fewer than 95 % of their questions, and not drawn. " if few else ""
    note += "The pass rate in training is over the queries that were drawn, which a recycling pool makes harder."
    return {
        "id": "accuracy", "title": "Accuracy against the budget", "note": note + said(lots), "kind": "lines",
        "x": axes, "unit": "share", "smooth": True, "series": series if held else series[:1],
    }  # fmt: skip


def batch(rows: Sequence[Row], null: Null | None = None) -> Chart:
    """Chart the effective batch by origin, accepted groups a step, with the null control's band."""
    lots = bins(rows, RATE_BINS)
    origins = _origins(rows, "accepted").items()
    series = lines(lots, [(f"pool/accepted_{origin}", words, origin) for origin, words in origins])
    wanted = mean(rows, "pool/wanted")
    chart = {
        "id": "batch", "title": "The effective batch, by origin",
        "note": "Groups with signal that reached the learner, a step, by what their query showed when it was last "
        "drawn." + said(lots),
        "plain": PLAIN["batch"], "kind": "stack", "x": step_axis(lots), "unit": "count", "series": series,
        "marks": [{"y": wanted, "text": f"room for {wanted:g} a step"}] if wanted else [],
    }  # fmt: skip
    if null:
        chart["note"] += " Dashed: where the whole batch lies by chance alone."
        # A step's own point stands at its number, and the middle of its rollouts half a step before it.
        chart["band"] = {"x": [_step_of(rows, at) + 0.5 for at in _middles(null)], **_band(null, "accepted")}
    return chart


def null_panels(null: Null) -> list[Chart]:
    """Make a small chart for each figure: the run's curve, and the null control's band."""
    panels = []
    for name, title in PANELS.items():
        band = {"name": "chance alone", "tone": "quiet", "style": "band", **_band(null, name)}
        tone = name.removeprefix("zero_variance_rate_")
        share = {"name": "the run", "tone": tone, "values": null["run"][name][: len(band["values"])]}
        axis = {"label": "rollouts", "values": _middles(null)[: len(share["values"])]}
        head = {"id": f"null-{name}", "title": title, "note": "", "plain": PLAIN[f"null-{name}"], "small": True}
        panels.append(head | {"kind": "lines", "x": [axis], "unit": "share", "series": [band, share]})
    return panels


def _band(null: Null, name: str) -> dict[str, Any]:
    """Return the null control's mean and band of a figure, over the stretches that the run has too."""
    count = min(len(null["run"]["rollouts"]), len(null["rollouts"]))
    found = null["bands"][name]
    return {to: found[at][:count] for to, at in (("values", "mean"), ("low", "low"), ("high", "high"))}


def _middles(null: Null) -> list[float]:
    """Return the rollouts in the middle of each stretch."""
    ends = null["rollouts"][: len(null["run"]["rollouts"])]
    return [(before + end) / 2 for before, end in zip([0, *ends], ends)]


def _step_of(rows: Sequence[Row], rollouts: float) -> float:
    """Return the step, interpolated, at which so many rollouts were spent."""
    before = 0.0
    for row in rows:
        spent = row.get("budget/rollouts") or 0
        if spent >= rollouts:
            return row["step"] - (spent - rollouts) / max(spent - before, 1)
        before = spent
    return rows[-1]["step"]


def zero_variance(rows: Sequence[Row]) -> Chart:
    """Chart the zero-variance rate of the drawn groups, by origin."""
    lots = bins(rows, RATE_BINS)
    of_all = [ratio(lot, "pool/zero_variance", "pool/drawn") for lot in lots]
    series: list[dict[str, Any]] = [{"name": "all", "tone": "ink", "values": of_all}]
    for origin, words in _origins(rows, "drawn").items():
        names = f"pool/zero_variance_{origin}", f"pool/drawn_{origin}"
        series.append({"name": words, "tone": origin, "values": [ratio(lot, *names, least=FEW) for lot in lots]})
    return {
        "id": "zero-variance", "title": "Zero-variance rate, by origin",
        "note": "Drawn groups whose rewards were all equal: they teach nothing, and their queries go back to the pool."
        + said(lots) + f" A rate of fewer than {FEW} groups is left out.",
        "plain": PLAIN["zero-variance"], "kind": "lines", "x": step_axis(lots), "unit": "share", "series": series,
    }  # fmt: skip


def phases(rows: Sequence[Row]) -> Chart:
    """Chart the seconds a step by phase; the note says which steps, with compilation, are left out."""
    compiled = [row for row in rows if row.get("perf/compiles")]
    plain = [row for row in rows if not row.get("perf/compiles")] or list(rows)
    lots = bins([{**row, **_seconds(row)} for row in plain])
    series = lines(lots, [(name, words, f"phase{at}") for at, (name, words) in enumerate(PHASES.items())])
    note = "Seconds a step." + said(lots)
    if compiled and len(plain) < len(rows):
        seconds = total(compiled, "time/step_s")
        note += f" Left out: {_steps(compiled)}, which compiled programs and took {seconds:.1f} s."
    return {
        "id": "time", "title": "Time by phase", "note": note, "kind": "stack", "x": step_axis(lots),
        "unit": "seconds", "series": series,
    }  # fmt: skip


def _seconds(row: Row) -> dict[str, float]:
    """Split a step's seconds into phases that add up to it; of a rollout that was played ahead the wait for it."""
    named = ("rollout", "decode", "prefill", "search_wait", "settle", "learner", "beside")
    found = {name: row.get(f"time/{name}_s") or 0.0 for name in named}
    parts = {name: found[name] for name in ("decode", "prefill", "search_wait")}
    played_s = sum(parts.values())
    share = min(found["rollout"] / played_s, 1.0) if played_s else 0.0
    rest = found["rollout"] - share * played_s + found["beside"]
    parts = {name: share * seconds for name, seconds in parts.items()}
    return parts | {"settle": found["settle"], "rollout_rest": max(rest, 0.0), "learner": found["learner"]}


def tokens(rows: Sequence[Row]) -> Chart:
    """Chart the tokens a step: trained on, sampled but not trained on, and read."""
    split = []
    for row in rows:
        episodes = row.get("pool/rollouts") or 0
        sampled = (row.get("rollout/tokens") or 0) * episodes
        trained = row.get("learner/tokens") or 0
        read = (row.get("rollout/context_tokens") or 0) * episodes - sampled
        split.append({"step": row["step"], "trained": trained, "dropped": max(sampled - trained, 0), "read": read})
    lots = bins(split)
    drawn = [
        ("trained", "sampled, trained on", "phase0"),
        ("dropped", "sampled, group not accepted", "phase2"),
        ("read", "read, never sampled", "phase4"),
    ]
    return {
        "id": "tokens", "title": "Tokens by what became of them",
        "note": "Tokens a step. Those that the model reads are prompts and passages." + said(lots),
        "kind": "stack", "x": step_axis(lots), "unit": "count", "series": lines(lots, drawn),
    }  # fmt: skip


def latency(rows: Sequence[Row]) -> Chart:
    """Chart the milliseconds a search: in the retriever, and the part during which decoding waits."""
    lots = bins(rows)
    drawn = [("search", "in the retriever", "ink"), ("search_wait", "of that, decoding waits", "quiet")]

    def milliseconds(lot: Sequence[Row], part: str) -> float | None:
        seconds = ratio(lot, f"time/{part}_s", "retriever/queries")
        return None if seconds is None else 1000 * seconds

    return {
        "id": "latency", "title": "Search latency",
        "note": "Milliseconds a search, duplicates dropped; searches that wait together are sent in one batch."
        + said(lots),
        "kind": "lines", "x": step_axis(lots), "unit": "milliseconds",
        "series": [
            {"name": words, "tone": tone, "values": [milliseconds(lot, part) for lot in lots]}
            for part, words, tone in drawn
        ],
    }  # fmt: skip


def gap(rows: Sequence[Row], alarm: float | None) -> Chart:
    """Chart the gap between the learner's and the sampler's log-probabilities, on a logarithmic axis."""
    lots = bins(rows)
    largest = [max((row["sampler_gap/max"] for row in lot if row.get("sampler_gap/max")), default=None) for lot in lots]
    note = "Difference of the log-probabilities of a sampled token, in nats."
    return {
        "id": "gap", "title": "Sampler\u2013learner gap",
        "note": note + (f" A mean above {alarm:g} raises an alarm." if alarm else "") + said(lots),
        "kind": "lines", "x": step_axis(lots), "unit": "nats", "log": True,
        "series": [
            {"name": "largest", "tone": "quiet", "values": largest},
            *lines(lots, [("sampler_gap/mean", "mean", "ink")]),
        ],
    }  # fmt: skip


def make(
    rows: Sequence[Row],
    before: Row,
    after: Row,
    config: Mapping[str, Any],
    *,
    ended: bool,
    null: Null | None = None,
    cold: Sequence[Row] = (),
) -> dict[str, Chart]:
    """Make all charts by id; of a run without a step those of its cold start and of the evaluation after it.

    `cold` are the rows of the cold start's metrics.
    """
    first = curves.by_group(before, after if ended else {}) | curves.cold_start(cold)
    if not rows:
        return first
    alarm = config.get("learner", {}).get("gap_alarm")
    charts = [accuracy(rows, before, after, ended), batch(rows, null), zero_variance(rows), phases(rows), tokens(rows)]
    charts += [latency(rows), gap(rows, alarm)] + (null_panels(null) if null else [])
    return {chart["id"]: chart for chart in charts} | curves.make(rows) | first


def _origins(rows: Sequence[Row], what: str) -> dict[str, str]:
    """Return the origins that occur among a run's accepted or drawn groups, and always the first three."""
    return {
        origin: words
        for origin, words in ORIGINS.items()
        if origin in ("fresh", "ex_hard", "ex_easy") or total(rows, f"pool/{what}_{origin}")
    }


def _steps(rows: Sequence[Row]) -> str:
    """Return "step 1" or "steps 1, 2 and 9"; of many steps the first ones."""
    numbers = [str(row["step"]) for row in rows[:5]] + (["others"] if len(rows) > 5 else [])
    return f"step {numbers[0]}" if len(numbers) == 1 else f"steps {', '.join(numbers[:-1])} and {numbers[-1]}"
