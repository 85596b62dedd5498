"""Draw the paper's figures from a run's steps, with the paper's own curves (Coelho et al. 2026, 2606.10709v1).

Steps are shares of the budget and counts are shares of the pool's queries, so that runs of other lengths and pools can
stand beside the paper's 330 steps and 10,000 queries."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.lab import paper_world
from qr_jax.lab.paper_world import ACCEPTED
from qr_jax.lab.report import charts, read, series
from qr_jax.lab.report.charts import Chart
from qr_jax.lab.report.series import Row

QUERIES = paper_world.SETTING["size"]
STEPS = paper_world.STEPS["recycle"]
ROLLOUTS = paper_world.SETTING["rollouts"]
SIZES = {1.7: "qwen3_1p7b", 4.0: "qwen3_4b"}  # billions of parameters
SIZE_IN_NAME = re.compile(r"(?<![\d.])(\d{1,4}(?:[.p]\d{1,4})?)([bm])(?![a-z0-9])")  # 1.7B, 1p7b, 135M
RESCUES = ("rescued_hard", "rescued_easy")
WORDS = {
    "rescued_hard": "rescued, were all wrong",
    "rescued_easy": "rescued, were all right",
    "revisited": "revisited, were accepted",
}
RULES = {"grpo": "GRPO, k 1", "bounded_dapo": "Bounded-DAPO, k 2", "recycle": "recycling, k 2"}
VERDICTS = {"easy": "all right", "signal": "signal", "hard": "all wrong"}
TONES = {name: name for name in ("fresh", "ex_hard", "ex_easy")}
TONES |= {"easy": "ex_easy", "signal": "fresh", "hard": "ex_hard"}
LINES = ("fresh", "ex_hard", "ex_easy")  # of what has no tone of its own: rules, and K
AXIS = "% of the budget"
# By figure: of what it has shares, its title, its parts, and the metrics above and below the line.
SHARES = {
    "4": (
        "accepted groups",
        "Accepted groups, by origin",
        {name: charts.ORIGINS[name] for name in ("fresh", "ex_hard", "ex_easy")},
        "pool/accepted_{}",
        "pool/accepted",
    ),
    "5": ("drawn queries", "Candidates, by verdict", VERDICTS, "pool/{}", "pool/drawn"),
}


def shown(run: read.Run) -> dict[str, Any]:
    """Return what the page shows: `charts` by id, and in `beside` sentences on what cannot be compared."""
    if not run.metrics:
        return {"charts": {}, "beside": ["The run has no step yet; the paper's figures are drawn beside one that has."]}
    made = [rescues(run), *by_rule(run), shares(run, "4"), shares(run, "5"), *by_samples(run), thirds(run)]
    return {"charts": {chart["id"]: chart for chart in made}, "beside": differences(run)}


def differences(run: read.Run) -> list[str]:
    """Say how the run differs from the paper's, and what its figures need that one run does not have."""
    pool, size = run.config.get("pool", {}), _size(run.metrics)
    own = {"rule": _rule(run), "K": pool.get("samples"), "B": pool.get("queries"), "k": pool.get("oversample")}
    told = ", ".join(f"{name} {value}" for name, value in own.items() if value is not None)
    drawn = "does not tell the size of its pool"
    if size:
        draws = series.total(run.metrics, "pool/drawn") / size
        drawn = f"has so far drawn {draws:.2g} times each of {size:,} queries"
    return [
        "Dashed: the paper, arXiv:2606.10709, read off its figures (shares right to .02, counts to 2 %), one run a "
        "curve. Its recycling has K 4, B 32, k 2 and draws 21,120 times from 10,000 queries, 2.1 times each. "
        f"This run has {told or 'settings that it does not tell'}, and {drawn}.",
        f"Figure 3 has three rules and figure 6 has K 4 and K 8: one run has one of each ({told}), which stands beside "
        "them all. Figure 8 is by source and documents needed, which a run's ledger does not hold: its strata are "
        "summed here.",
        *_whose(run)[1],
    ]  # fmt: skip


def rescues(run: read.Run) -> Chart:
    """Draw figure 1: cumulative rescues of the recycling run."""
    figure = paper_world.figures()["1"]
    drawn = [_counted(f"paper: {WORDS[name]}", ACCEPTED[name], figure["curves"][name], STEPS) for name in RESCUES]
    drawn += [_own(run, WORDS[name], ACCEPTED[name], name) for name in RESCUES]
    note = (
        f"Figure 1: signal after a zero-variance verdict, summed; the paper's goes on to step {figure['end']}, "
        f"past the {STEPS} of its budget."
    )
    return _chart("paper-1", "Rescues", note, drawn)


def by_rule(run: read.Run) -> list[Chart]:
    """Draw figure 3: rescues and revisits of three rules."""
    curves = {f"paper: {words}": paper_world.figures()["3"]["curves"][rule] for rule, words in RULES.items()}
    note = "Figure 3: the paper's three rules at equal rollouts."
    return [_beside_curves(run, "3", name, "", curves, ROLLOUTS, f"this run: {_rule(run)}", note) for name in ACCEPTED]


def shares(run: read.Run, number: str) -> Chart:
    """Draw figure 4, the origins of the accepted groups, or figure 5, the verdicts of the candidates."""
    of, title, words, above, below = SHARES[number]
    figure, (model, _) = paper_world.figures()[number], _whose(run)
    curves, lots = figure["curves"][model], series.bins(run.metrics, charts.RATE_BINS)
    ends = [run.share_spent(lot[-1]) for lot in lots]
    middles = [(before + after) / 2 for before, after in zip([0.0, *ends], ends)]
    drawn = []
    for name, word in words.items():
        places = _percent(curves["x"], STEPS)
        drawn.append(_line(f"paper: {word}", TONES[name], places, curves[name]) | {"style": "paper"})
    for name, word in words.items():
        values = [series.ratio(lot, above.format(name), below, least=charts.FEW) for lot in lots]
        drawn.append(_line(word, TONES[name], _percent(middles, 1), values))
    note = f"Figure {number}: shares of the {of}; the paper's of {paper_world.MODELS[model]}." + series.said(lots)
    note += f" A share of fewer than {charts.FEW} is left out."
    return _chart(f"paper-{number}", title, note, drawn, fit=False)


def by_samples(run: read.Run) -> list[Chart]:
    """Draw figure 6: rescues in groups of 4 and of 8."""
    figure, own = paper_world.figures()["6"], run.config.get("pool", {}).get("samples", "?")
    curves = {f"paper: K {samples}": figure["curves"][f"k{samples}"] for samples in (4, 8)}
    note = f"Figure 6: groups of 4 and of 8; the paper's ends at step {figure['end']} of {STEPS}."
    return [_beside_curves(run, "6", name, ", by K", curves, STEPS, f"this run: K {own}", note) for name in RESCUES]


def _beside_curves(
    run: read.Run, number: str, name: str, by: str, curves: Mapping[str, Any], budget: int, own: str, note: str
) -> Chart:
    """Draw the run's count of that name beside several curves of the paper."""
    drawn = [_counted(words, tone, curve[name], budget) for tone, (words, curve) in zip(LINES, curves.items())]
    drawn.append(_own(run, own, "ink", name))
    return _chart(f"paper-{number}-{name}", f"{WORDS[name].capitalize()}{by}", note, drawn, small=True)


def thirds(run: read.Run) -> Chart:
    """Draw figure 8, its strata summed: verdicts by third of the budget, with 95 % intervals."""
    lines = []
    for name, tone, counts in (("paper", "quiet", _read_thirds()), ("this run", "ink", _own_thirds(run))):
        values = [count / of if of else None for count, of in counts]
        errors = [None if p is None else math.sqrt(p * (1 - p) / of) for p, (_, of) in zip(values, counts, strict=True)]
        low, high = series.interval(values, errors, [of for _, of in counts])
        lines.append({"name": name, "tone": tone, "values": values, "low": low, "high": high})
    words = [f"{which} third, {word}" for which in ("first", "second", "last") for word in VERDICTS.values()]
    return {
        "id": "paper-8", "title": "Candidates by third of the budget", "kind": "groups", "unit": "share",
        "note": "Figure 8, its twelve strata summed, with 95 % intervals.", "series": lines,
        "x": [{"label": "third", "values": list(range(len(words))), "words": words}],
    }  # fmt: skip


def _read_thirds() -> list[tuple[float, float]]:
    """Return the paper's count of each verdict, and of all candidates, by third."""
    rows, found = paper_world.figures()["8"]["rows"], []
    for third in (1, 2, 3):
        at = [place for place, of in enumerate(rows["third"]) if of == third]
        drawn = sum(rows["candidates"][place] for place in at)
        for verdict in ("easy", "accepted", "hard"):
            found.append((sum(rows["candidates"][place] * rows[verdict][place] for place in at), drawn))
    return found


def _own_thirds(run: read.Run) -> list[tuple[float, float]]:
    found = []
    for third in (1, 2, 3):
        lot = [row for row in run.metrics if math.ceil(3 * run.share_spent(row)) == third]
        found += [(series.total(lot, f"pool/{verdict}"), series.total(lot, "pool/drawn")) for verdict in VERDICTS]
    return found


def _chart(
    name: str, title: str, note: str, drawn: Sequence[Mapping[str, Any]], *, small: bool = False, fit: bool = True
):
    """Make a chart of lines that each have their own x values; the cursor stops at all of them."""
    places = sorted({x for line in drawn for x in line["x"][0]})
    axis = {"label": AXIS, "values": places}
    return {
        "id": name, "title": title, "note": note, "kind": "lines", "x": [axis], "unit": "share", "fit": fit,
        "small": small, "series": list(drawn),
    }  # fmt: skip


def _line(name: str, tone: str, places: Sequence[float], values: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "tone": tone, "x": [list(places)], "values": list(values)}


def _counted(name: str, tone: str, curve: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Make a line of the paper's counts, as shares of its pool, over shares of its budget."""
    values = [count / QUERIES for count in curve["values"]]
    return _line(name, tone, _percent(curve["x"], budget), values) | {"style": "paper"}


def _own(run: read.Run, words: str, tone: str, name: str) -> dict[str, Any]:
    """Make a line of the run's cumulative counts after each bin of steps, as shares of its pool."""
    lots, size = series.bins(run.metrics), _size(run.metrics)
    total, values = 0.0, []
    for lot in lots:
        total += series.total(lot, f"pool/accepted_{ACCEPTED[name]}")
        values.append(total / size if size else None)
    return _line(words, tone, _percent([run.share_spent(lot[-1]) for lot in lots], 1), values)


def _percent(places: Sequence[float], budget: float) -> list[float]:
    return [round(100 * place / budget, 2) for place in places]


def _size(rows: Sequence[Row]) -> int | None:
    return next((int(row["pool/size"]) for row in rows if row.get("pool/size")), None)


def _rule(run: read.Run) -> str:
    return str(run.config.get("pool", {}).get("rule", {}).get("name", "?"))


def _whose(run: read.Run) -> tuple[str, list[str]]:
    """Return the paper's model that is nearest in size to the run's, and a sentence where it is another one.

    It is the one of 1.7B where the name tells no size: Qwen3-1.7B, qwen3_1p7b and SmolLM2-135M tell one.
    """
    name = str(run.config.get("model", {}).get("name", "")).rstrip("/").rpartition("/")[2]  # folders may have sizes too
    told = SIZE_IN_NAME.search(name.lower())
    billions = float(told[1].replace("p", ".")) / (1 if told[2] == "b" else 1000) if told else 0.0
    model = SIZES[min(SIZES, key=lambda size: abs(math.log(size / (billions or 1.7))))]
    if re.search(r"qwen3[-_](1[.p]7|4)b(?![a-z0-9])", name.lower()):
        return model, []
    why = "the nearest in size" if billions else "for its name does not tell its size"
    whose = f"this run's {name}" if name else "this run's model, which it does not tell,"
    beside = f"{whose} stands beside {paper_world.MODELS[model]}, {why}"
    return model, [f"Figures 4 and 5 have Qwen3-1.7B and Qwen3-4B; {beside}."]
