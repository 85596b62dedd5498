"""The figures in the sentences of README.md and docs/rules.md: each is that of a named cell, made from the results.

A paragraph, list or table with figures is followed by a comment that names a cell for each, in their order:

    `foresee` leads plain GRPO by .014 +- .010.
    <!-- cells: foresee less grpo over six pooled -->

`python -m benchmarks.figures --write` writes the figures anew. A figure without a sign says that its cell is positive;
where that is no longer so, the sentence is wrong and its words have to change: ValueError.
"""

import re
from collections.abc import Sequence

from benchmarks import interleave, kept_runs, study_results
from benchmarks.quickstart_seeds import FRESH, of_seeds
from benchmarks.tables import over_seeds

PAGES = tuple(interleave.ROOT / name for name in ("README.md", "docs/rules.md"))
FIGURE = re.compile(r"(?<![\w.])[-+]?\.\d{3}\b(?:\s\+-\s\.\d{3}\b)?|\b\d of \d\b")
HELD = re.compile(r"(?P<block>(?:(?!\n\n).)+?)(?P<between>\n+)<!-- cells: (?P<cells>.*?) -->", re.DOTALL)
GENERATED = re.compile(r"^```.*?^```|<!-- (\w+): python -m .*?<!-- end of \1 -->", re.DOTALL | re.MULTILINE)


def written(page: str) -> str:
    """The page with its cells' figures. ValueError for a figure without a cell, or one that its cell contradicts."""
    if loose := FIGURE.search(HELD.sub("", GENERATED.sub("", page))):
        raise ValueError(f"{loose[0]!r} has no cell; wanted `<!-- cells: NAME; ... -->` after its paragraph")
    return HELD.sub(lambda held: f"{block(held)}{held['between']}<!-- cells: {held['cells']} -->", page)


def block(held: re.Match[str]) -> str:
    """A paragraph with the figures of its cells."""
    names = [" ".join(name.split()) for name in held["cells"].split(";")]
    figures = FIGURE.findall(held["block"])
    if len(figures) != len(names):
        raise ValueError(f"the paragraph of {', '.join(figures)} names {len(names)} cells, {'; '.join(names)}")
    left = iter(names)
    return FIGURE.sub(lambda figure: as_written(figure[0], next(left)), held["block"])


def as_written(figure: str, name: str) -> str:
    """The cell in the figure's form: with a sign or without, with its interval or without, or how often above 0."""
    values = numbers(name)
    if " of " in figure:
        return f"{sum(value > 0 for value in values)} of {len(values)}"
    told = over_seeds(values, "+" if figure[0] in "+-" else "").replace("0.", ".")
    if told.startswith("-") and figure[0] not in "+-":
        raise ValueError(f"the page says {figure} of {name}, which is {told}: the sentence says the opposite")
    return told if "+-" in figure else told.split(" ")[0]


def numbers(name: str) -> Sequence[float]:
    """A cell's value for each seed, or the only one."""
    if found := re.fullmatch(r"(\w+) less (\w+) over (\w+) (first|again|pooled)", name):
        rule, base, over, which = found.groups()
        values = [*study_results.gaps(rule, base, study_results.MEANS.get(over, (over,)), which).values()]
    elif found := re.fullmatch(r"sd of a run of (\w+)", name):
        values = [study_results.sd_of_a_run(found[1])]
    elif found := re.fullmatch(r"quickstart (before|after), (fresh|shuffled|seed (\d+))", name):
        seeds = FRESH if found[2] == "fresh" else [int(found[3] or 0)]
        runs = of_seeds(kept_runs.kept("quickstart_seeds"), seeds, shuffled=found[2] == "shuffled")
        values = [run[found[1]] for run in runs]
    elif found := re.fullmatch(r"(single_hop|real_agent) gain", name):
        runs = [run for run in kept_runs.kept(found[1]) if run.get("name", "trained") == "trained"]
        values = [run["gains"]["exact_match"]["mean"] for run in runs]
    else:
        values = []
    if not values:
        raise ValueError(f"there is no cell {name!r}")
    return values
