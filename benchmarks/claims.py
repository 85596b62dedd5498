"""The figures in the sentences of the PAGES: each is that of a named cell, made from the results.

A paragraph, list or table with figures is followed by a comment that names a cell for each, in their order:

    `foresee` leads plain GRPO by .014 +- .010.
    <!-- cells: foresee-grpo/six/pooled -->

`python -m benchmarks.figures --write` writes the figures anew. A sentence's words go with a figure's sign ("leads",
"behind", "level" for .000), with a count ("5 of 5"), and with whether an interval holds 0 ("leads", "not told apart").
Where one of these has changed in a cell the figure is not written: ValueError, until somebody has read the sentence and
changed it by hand. A figure without a sign says that its cell is positive.
"""

import json
import re
from collections.abc import Sequence

from benchmarks import (
    adapters,
    flips,
    guarded,
    interleave,
    kept_runs,
    labels,
    null_worlds,
    paired_seeds,
    race,
    recycling_cells,
    recycling_map,
    study_results,
    surplus,
)
from benchmarks.quickstart_seeds import FRESH, means, of_seeds
from benchmarks.tables import over_seeds

PAGES = tuple(
    interleave.ROOT / name
    for name in (
        "README.md",
        "docs/rules.md",
        "docs/concepts.md",
        "docs/recycling.md",
        "docs/measurements.md",
        "docs/lora.md",
    )
)
ARMS = {"adapters": "adapters of rank 16"}  # of paired_seeds, by their names in cells
FIGURE = re.compile(r"(?<![\w.])[-+]?\.\d{3}\b(?:\s\+-\s\.\d{3}\b)?|\b\d+ of \d+\b|\b\d\.\d\d(?=\s+times)")
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
    """The cell in the figure's form: with a sign or without, with its interval or without, or how often above 0.

    ValueError where the cell has another sign, another count, or an interval that holds 0 where the figure's does not.
    """
    values = numbers(name)
    if " of " in figure:
        told = f"{sum(value > 0 for value in values)} of {len(values)}"
        same = told == figure
    elif figure[0] not in "+-.":
        return f"{values[0]:.2f}"
    else:
        told = over_seeds(values, "+" if figure[0] in "+-" else "").replace("0.", ".")
        told = told if "+-" in figure else told.split(" ")[0]
        same = says(told) == says(figure)
    if not same:
        raise ValueError(
            f"the page says {figure} of {name}, which is {told}: another sign, count, or side of the interval. "
            "Read the sentence, change its words where they are no longer true, and write the new figure by hand"
        )
    return told


def says(figure: str) -> tuple[int, bool]:
    """The sign of a figure, 0 for .000, and whether its interval, if it has one, holds 0."""
    value, *interval = (float(part) for part in re.split(r"\s\+-\s", figure))
    return (value > 0) - (value < 0), any(abs(value) <= half for half in interval)


def numbers(name: str) -> Sequence[float]:
    """A cell's value for each seed, or its only one: RULE-OTHER/SETTINGS/GENERATION is a difference (study_results.py),
    sd/RULE a run's standard deviation, quickstart/WHEN/SEEDS and gain/MODEL exact match (gain/MODEL/f1: F1), map/FIGURE
    of recycling_map.py, cells/FIGURE of recycling_cells.py, flips/K the share by movement, guarded/STEPS E2's
    differences, paired/ARM E5's (/loss: of the other sign), race/RULE[/WORLD] E4's, surplus/COMPARISON E7's, labels/...
    E12's, adapters/ATTEMPT E11's, E13's and E14's, null/... the null control's band in known pools (null_worlds.py).
    """
    kind, *parts = name.split("/")
    values: Sequence[float] = []
    sign = -1 if parts[-1:] == ["loss"] else 1
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
        model, *metric = parts
        runs = [run for run in kept_runs.kept(model) if run.get("name", "trained") == "trained"]
        values = [run["gains"][metric[0] if metric else "exact_match"]["mean"] for run in runs]
    elif kind == "flips":
        values = flips.shares(int(parts[0]))
    elif kind == "guarded":
        values = [sign * gap for gap in guarded.gaps(guarded.every_run())[parts[0]]]
    elif kind == "race":
        rule, *worlds = parts
        values = race.gaps(map(int, worlds) if worlds else race.FINAL)[rule]
    elif kind == "labels":
        values = [sign * gap for gap in labels.gaps()[labels.CELLS[parts[0]]]]
    elif kind == "adapters":
        values = [sign * gap for gap in adapters.gaps(kept_runs.kept(adapters.NAME), adapters.BY_NAME[parts[0]])]
    elif kind == "surplus":
        values = [sign * gap for gap in surplus.gaps()[surplus.CELLS[parts[0]]]]
    elif kind == "paired":
        values = [sign * gap for gap in paired_seeds.differences(kept_runs.kept(paired_seeds.NAME))[ARMS[parts[0]]]]
    elif kind == "map":
        values = recycling_map.cell(json.loads(recycling_map.FILE.read_text(encoding="utf-8")), *parts)
    elif kind == "cells":
        values = recycling_cells.cell(*parts)
    elif kind == "null":
        values = null_worlds.cell(json.loads(null_worlds.FILE.read_text(encoding="utf-8")), *parts)
    if not values:
        raise ValueError(f"there is no cell {name!r}")
    return values
