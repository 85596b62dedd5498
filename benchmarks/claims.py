"""The figures in the sentences of README.md and docs/rules.md: each is that of a named cell, made from the results.

A paragraph, list or table with figures is followed by a comment that names a cell for each, in their order:

    `foresee` leads plain GRPO by .014 +- .010.
    <!-- cells: foresee-grpo/six/pooled -->

`python -m benchmarks.figures --write` writes the figures anew. A figure without a sign says that its cell is positive;
where that is no longer so, the sentence is wrong and its words have to change: ValueError.
"""

import json
import re
from collections.abc import Sequence

from benchmarks import interleave, kept_runs, study_results
from benchmarks.quickstart_seeds import FRESH, means, of_seeds
from benchmarks.tables import over_seeds

PAGES = tuple(interleave.ROOT / name for name in ("README.md", "docs/rules.md"))
FIGURE = re.compile(r"(?<![\w.])[-+]?\.\d{3}\b(?:\s\+-\s\.\d{3}\b)?|\b\d of \d\b|\b\d\.\d\d(?= times)")
HELD = re.compile(r"(?P<block>(?:(?!\n\n).)+?)(?P<between>\n+)<!-- cells: (?P<cells>.*?) -->", re.DOTALL)
GENERATED = re.compile(r"^```.*?^```|<!-- (\w+): python -m .*?<!-- end of \1 -->", re.DOTALL | re.MULTILINE)


def written(page: str) -> str:
    """The page with its cells' figures. ValueError for a figure without a cell, or one that its cell contradicts."""
    if loose := FIGURE.search(HELD.sub("", GENERATED.sub("", page))):
        raise ValueError(f"{loose[0]!r} has no cell; wanted `<!-- cells: NAME ... -->` after its paragraph")
    return HELD.sub(lambda held: f"{block(held)}{held['between']}<!-- cells: {held['cells']} -->", page)


def block(held: re.Match[str]) -> str:
    """A paragraph with the figures of its cells."""
    names = held["cells"].split()
    figures = FIGURE.findall(held["block"])
    if len(figures) != len(names):
        raise ValueError(f"the paragraph of {', '.join(figures)} names {len(names)} cells, {', '.join(names)}")
    left = iter(names)
    return FIGURE.sub(lambda figure: as_written(figure[0], next(left)), held["block"])


def as_written(figure: str, name: str) -> str:
    """The cell in the figure's form: with a sign or without, with its interval or without, or how often above 0."""
    values = numbers(name)
    if " of " in figure:
        return f"{sum(value > 0 for value in values)} of {len(values)}"
    if figure[0] not in "+-.":
        return f"{values[0]:.2f}"
    told = over_seeds(values, "+" if figure[0] in "+-" else "").replace("0.", ".")
    if told.startswith("-") and figure[0] not in "+-":
        raise ValueError(f"the page says {figure} of {name}, which is {told}: the sentence says the opposite")
    return told if "+-" in figure else told.split(" ")[0]


def numbers(name: str) -> Sequence[float]:
    """A cell's value for each seed, or its only one: RULE-OTHER/SETTINGS/GENERATION is a difference (study_results.py),
    sd/RULE a run's standard deviation, quickstart/WHEN/SEEDS and gain/MODEL exact match, most/recycling_map a ratio.
    """
    kind, *parts = name.split("/")
    values: Sequence[float] = []
    if "-" in kind and len(parts) == 2:
        rule, base = kind.split("-")
        settings = study_results.MEANS.get(parts[0], (parts[0],))
        values = [*study_results.gaps(rule, base, settings, parts[1]).values()]
    elif kind == "sd":
        values = [study_results.sd_of_a_run(*parts)]
    elif kind == "quickstart":
        when, which = parts
        seeds = {"fresh": FRESH, "shuffled": [0]}.get(which) or [int(which)]
        values = means(of_seeds(kept_runs.kept("quickstart_seeds"), seeds, when, shuffled=which == "shuffled"))
    elif kind == "gain":
        runs = [run for run in kept_runs.kept(*parts) if run.get("name", "trained") == "trained"]
        values = [run["gains"]["exact_match"]["mean"] for run in runs]
    elif name == "most/recycling_map":
        points = json.loads(kept_runs.file_of("recycling_map").read_text(encoding="utf-8"))["points"]
        values = [max(point["signal_groups"]["recycle"] / point["signal_groups"]["grpo"] for point in points)]
    if not values:
        raise ValueError(f"there is no cell {name!r}")
    return values
