"""Several runs in one page: their charts overlaid, and the settings in which they differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.lab.report import page, read
from qr_jax.lab.report.charts import PLAIN, Chart
from qr_jax.settings.settings import few

NAME = "overlay.html"  # in the first run's folder, where no other place is said
TONES = ("ink", "fresh", "ex_hard", "ex_easy", "ex_surplus", "ex_consumed", "phase5", "quiet")  # one a run
# What one line a run says, where its own charts say more: title and note.
TITLES = {
    "accuracy": ("Held-out accuracy against the budget", "Greedy exact match with 95 % intervals."),
    "batch": ("The effective batch", "Groups with signal that reached the learner, a step."),
    "zero-variance": ("Zero-variance rate", "Drawn groups whose rewards were all equal."),
    "time": ("Time", "Seconds a step, without those that compiled programs."),
    "tokens": ("Tokens", "Tokens a step, read and sampled."),
    "latency": ("Search latency", "Milliseconds a search in the retriever."),
    "gap": ("Largest sampler\u2013learner gap", "Difference of a token's log-probabilities, in nats."),
    "clip-share": ("Clip share", "Of the trained tokens, those whose ratio was cut."),
    "endings": ("Ended with an answer", "Share of a step's episodes."),
}
SUMMED = ("batch", "time", "tokens", "clip-share")
ASKED = ("data.", "evaluation.", "env.", "retriever.", "rollout.")  # settings that change what accuracy is of


def write(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of the runs, by default into the first one's folder; return its path. ValueError: not all runs."""
    return page.save(build(folders), out or Path(folders[0]) / NAME)


def build(folders: Sequence[Path]) -> str:
    """Build the page of several runs, which may be going on."""
    return page.of_data(overview(folders), None)


def overview(folders: Sequence[Path]) -> dict[str, Any]:
    """Return all data of the page, in the form of `page.overview`, with `runs` and `differences` added."""
    labels = names(folders)
    runs = dict(zip(labels, map(read.run, folders), strict=True))
    settings = {name: {key: value for key, value in page.settings(run.config)} for name, run in runs.items()}
    every = list(dict.fromkeys(key for known in settings.values() for key in known))
    differ = [
        [key, *values]
        for key in every
        if len(set(values := [known.get(key, "\u2013") for known in settings.values()])) > 1
    ]
    return {
        "name": ", ".join(labels), "status": f"{len(runs)} runs. {_said([row[0] for row in differ])}",
        "facts": [page.held_out(run) | {"label": name} for name, run in runs.items() if run.metrics],
        "runs": [
            {"name": name, "tone": tone, "status": page.status(run)}
            for (name, run), tone in zip(runs.items(), TONES, strict=False)
        ],
        "differences": {"head": ["setting", *labels], "rows": differ},
        "charts": laid_over({name: page.drawn(run) for name, run in runs.items()}),
        "unread": sum(run.unread for run in runs.values()),
        "heat": None, "settings": [], "null": "",
    }  # fmt: skip


def names(folders: Sequence[Path]) -> list[str]:
    """Name each run by the shortest end of its path that no other run has. ValueError if a run is given twice."""
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise UserError("a run is named twice; give each folder once")
    if len(whole) > len(TONES):
        raise UserError(f"{len(whole)} runs are too many for one page; give at most {len(TONES)}")
    return [_apart(path, [other for other in whole if other != path]) for path in whole]


def _apart(path: Path, others: Sequence[Path]) -> str:
    count = 1
    while any(other.parts[-count:] == path.parts[-count:] for other in others):
        count += 1
    return "/".join(path.parts[-count:])


def _said(differ: Sequence[str]) -> str:
    """Say in which settings the runs differ."""
    if not differ:
        return "Their settings are the same."
    text = f"They differ in {'one setting' if len(differ) == 1 else f'{len(differ)} settings'}: {few(differ)}."
    if any(name.startswith(ASKED) for name in differ):
        text += " These change what is asked, found or allowed, so accuracies may not be of the same task."
    return text


def laid_over(runs: Mapping[str, Mapping[str, Chart]]) -> dict[str, Chart]:
    """Merge the runs' charts by id: each chart has a line for each run."""
    tones = dict(zip(runs, TONES, strict=False))
    merged = {}
    for name in dict.fromkeys(name for charts in runs.values() for name in charts):
        having = {run: charts[name] for run, charts in runs.items() if name in charts}
        first = next(iter(having.values()))
        title, note = TITLES.get(name, (first["title"], first["note"].partition(" Each point is ")[0]))
        chart = {key: first[key] for key in ("id", "unit", "fit", "small", "smooth", "log") if key in first}
        chart |= {"title": title, "note": note, "plain": PLAIN.get(name, ""), "overlaid": True}
        merged[name] = chart | (_groups if first["kind"] == "groups" else _lines)(having, tones)
    return merged


def _lines(having: Mapping[str, Chart], tones: Mapping[str, str]) -> Chart:
    """Reduce each run's chart to one line with its own x values: the sum, the held-out points, or the first line."""
    series = []
    for run, chart in having.items():
        lines = chart["series"]
        shown = next((line for line in lines if line.get("style") == "points"), lines[0])
        kept = {key: shown[key] for key in ("values", "style", "low", "high", "x") if key in shown}
        if chart["id"] in SUMMED:
            kept["values"] = [
                sum(value or 0 for value in column) for column in zip(*(line["values"] for line in lines), strict=True)
            ]
        series.append({"name": run, "tone": tones[run], "x": [axis["values"] for axis in chart["x"]]} | kept)
    axes = [
        {"label": axis["label"], "values": sorted({x for line in series for x in line["x"][at] if x is not None})}
        for at, axis in enumerate(next(iter(having.values()))["x"])
    ]
    return {"kind": "lines", "x": axes, "series": series}


def _groups(having: Mapping[str, Chart], tones: Mapping[str, str]) -> Chart:
    """Take each run's last evaluation; groups are equal if their labels are, which include the question count."""
    words = list(dict.fromkeys(word for chart in having.values() for word in chart["x"][0]["words"]))
    series = []
    for run, chart in having.items():
        last, own = chart["series"][-1], chart["x"][0]["words"]
        name = run if last["name"].startswith("after") else f"{run}, before training"
        line: dict[str, Any] = {"name": name, "tone": tones[run]}
        for key in ("values", "low", "high"):
            line[key] = [last[key][own.index(word)] if word in own else None for word in words]
        series.append(line)
    label = next(iter(having.values()))["x"][0]["label"]
    return {
        "kind": "groups",
        "x": [{"label": label, "values": list(range(len(words))), "words": words}],
        "series": series,
    }
