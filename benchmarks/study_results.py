"""What the study's runs left (benchmarks/results/study): each setting's table, those of the pages, and what they cite.

A run's accuracy is the mean of its held-out accuracy over the last 30 % of its budget of rollouts; between evaluations
accuracy lies on a line. So it is over the same rollouts whenever a run was evaluated. (Files of November 2026 have the
mean of the last four evaluations under "accuracy", which nothing reads.)

Of s3, s4 and s6 the runs of seeds 5 to 7 were made twice: first (RECIPE/first), then again, on another machine and at
another commit, from cold starts that differ in rounding. A difference is of two runs of one generation and one cold
start, as the same accuracy before training shows. Pooled, a seed's difference is the mean over its generations, and
the 95 % interval is over seeds: two runs of a seed share its weights, traces and questions, and are no two seeds.

A column of a table is over the same seeds in all its rows: a recipe that lacks one of them has no cell there. What was
run on the first three seeds alone stands in tables of its own, beside the others over these three.

In a mean over settings two settings whose runs are the very same on all seeds count once: groups of two make the same
runs whatever the setting's own size is. Each seed's mean is over the same settings.
"""

import functools
import json
import runpy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown, over_seeds, thousandths

RESULTS = interleave.ROOT / "benchmarks/results/study"
SHARE = 0.3  # of the budget: over its end a run's accuracy is the mean
BASELINE = {"a": "grpo_shipped", "b": "grpo"}  # what the others of a half are held against
SETTINGS = {  # of the report, which is of half b: training questions, and how they are drawn
    "s3": "2,000 in groups of 8", "s6": "2,000 in groups of 4", "s4": "500 in groups of 8",
    "s5": "2,000 four-hop ones in groups of 8", "s7": "2,000, a third without answer, in groups of 8",
    "s1": "10,000 in groups of 4, 84,480 rollouts, k 2", "s2": "the same, k 1",
}  # fmt: skip
RULES = {
    "grpo": "grpo", "grpo_pairs": "grpo, groups of two", "foresee": "foresee", "pairs": "foresee, groups of two",
    "recycle": "recycle, with safeguards", "paper": "recycle as published", "soft_recycle": "soft_recycle",
    "greso": "greso", "mopps": "mopps", "bounded_dapo": "bounded_dapo", "dapo": "dapo (with refills)",
}  # fmt: skip
MEANS = {  # settings by the name of their mean
    "six": ("s3", "s6", "s4", "s5", "s1", "s2"), "four": ("s3", "s6", "s4", "s5"), "three": ("s3", "s4", "s5"),
}  # fmt: skip
GENERATIONS = {"first": "first runs", "again": "run again", "pooled": "pooled"}
GROUP_SIZES = {  # what each difference is, of which rules, over which settings
    "foresee minus grpo, both in groups of four or eight as the setting has them": ("foresee", "grpo", "four"),
    "foresee minus grpo, both in groups of two": ("pairs", "grpo_pairs", "three"),
    "foresee in groups of four or eight minus grpo in groups of two": ("foresee", "grpo_pairs", "four"),
    "grpo in groups of two minus grpo in groups of four or eight": ("grpo_pairs", "grpo", "four"),
}
ALL, FIRST = range(5, 10), range(5, 8)  # the report's seeds, and those of recipes and settings that have three
THREE = ("s3", "s1", "s7")  # settings of the tables over FIRST
Run = Mapping[str, Any]
Pair = tuple[Run, Run]


def tables() -> list[str]:
    return [tuning(), cut_short(), by_seed(), by_seed_three(), by_setting(), by_setting_three(), group_sizes(), noise()]


def tuning() -> str:
    """What was tried on half a before anything was reported."""
    return "\n".join(table("a", setting) for setting in ("s3", "s4"))


def cut_short() -> str:
    """The setting whose cold start is cut short, on both halves."""
    return "\n".join(table(half, "s5_cut") for half in "ba")


def accuracy(run: Run, budget: int) -> float:
    """The mean accuracy over the last SHARE of the budget. ValueError where the run was not evaluated up to its end."""
    rollouts, scores = zip((0, run["before"]), *run["evaluations"], strict=True)
    if rollouts[-1] < budget:
        raise ValueError(f"the last evaluation is after {rollouts[-1]} rollouts; wanted one at {budget} or later")
    first = (1 - SHARE) * budget
    at = [first, *(count for count in rollouts if first < count < budget), budget]
    return float(np.trapezoid(np.interp(at, rollouts, scores), at) / (budget - first))


@functools.cache
def budget_of(setting: str) -> int:
    """The rollouts of a setting of configs/study/settings.py."""
    settings = runpy.run_path(str(interleave.ROOT / "configs/study/settings.py"))
    return settings[setting].train.max_rollouts


def read(half: str, setting: str, recipe: str, generation: str = "again") -> dict[int, dict[str, Any]]:
    """The kept runs of a recipe by seed, with their accuracy."""
    folder = RESULTS / half / setting / recipe / ("first" if generation == "first" else "")
    return of_folder(folder, budget_of(setting))


def of_folder(folder: Path, budget: int) -> dict[int, dict[str, Any]]:
    """The kept runs in a folder by seed, with their accuracy over the last SHARE of the budget."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed_*.json"))]
    return {run["seed"]: run | {"accuracy": accuracy(run, budget)} for run in runs}


def paired(ours: Mapping[int, Run], theirs: Mapping[int, Run], what: str) -> list[float]:
    """Our accuracy less theirs, of each seed that both have; ValueError where two runs differ in their cold start."""
    seeds = sorted({*ours} & {*theirs})
    if other := [seed for seed in seeds if ours[seed]["before"] != theirs[seed]["before"]]:
        raise ValueError(f"{what}, seed {other[0]}: the two runs began from different cold starts")
    return [ours[seed]["accuracy"] - theirs[seed]["accuracy"] for seed in seeds]


def pairs(half: str, setting: str, rule: str, base: str, which: str) -> dict[int, list[Pair]]:
    """By seed the runs of two recipes that began from one cold start: those of `which` generation, or of both.

    A seed whose runs were made once has these in each generation.
    """
    found: dict[int, dict[str, Pair]] = {}
    for generation in ("first", "again"):
        ours, theirs = (read(half, setting, recipe, generation) for recipe in (rule, base))
        for seed in sorted({*ours} & {*theirs}):
            if ours[seed]["before"] == theirs[seed]["before"]:
                found.setdefault(seed, {})[generation] = (ours[seed], theirs[seed])
    if which == "pooled":
        return {seed: [*both.values()] for seed, both in found.items()}
    return {seed: [both.get(which) or next(iter(both.values()))] for seed, both in found.items()}


def gaps(rule: str, base: str, settings: Sequence[str], which: str, half: str = "b") -> dict[int, float]:
    """By seed the mean difference of a rule from another over settings, of the seeds that all of these have."""
    each = [pairs(half, setting, rule, base, which) for setting in settings]
    seeds = sorted(set.intersection(*map(set, each)))
    distinct = {tuple(same(run) for seed in seeds for pair in of[seed] for run in pair): of for of in each}
    return {seed: float(np.mean([difference(of[seed]) for of in distinct.values()])) for seed in seeds}


def difference(both: Sequence[Pair]) -> float:
    return float(np.mean([ours["accuracy"] - theirs["accuracy"] for ours, theirs in both]))


def same(run: Run) -> tuple[Any, ...]:
    """Equal for two runs that are the very same: no two others have all evaluations in common."""
    return run["seed"], run["before"], *map(tuple, run["evaluations"])


def level(setting: str, rule: str, which: str, half: str = "b") -> dict[int, float]:
    """A recipe's accuracy by seed: the mean over the generations of `which`."""
    of_pair = pairs(half, setting, rule, rule, which)
    return {seed: float(np.mean([run["accuracy"] for run, _ in both])) for seed, both in of_pair.items()}


def by_setting() -> str:
    """The report: a rule a row, a setting a column, and the mean over six; below it the generations, each alone."""
    settings = [setting for setting in SETTINGS if has("grpo", setting, ALL)]
    rows = [("rule", *(SETTINGS[setting] for setting in settings), "mean of the six")]
    for rule, name in RULES.items():
        if not any(has(rule, setting, ALL) for setting in settings):
            continue
        cells = (cell(setting, rule, "pooled", ALL) for setting in settings)
        rows.append((name, *cells, mean_of_six(rule, "pooled")))
        twice = [setting for setting in settings if read("b", setting, rule, "first")]
        for which in ("first", "again") if twice else ():
            cells = (cell(setting, rule, which, ALL) if setting in twice else "" for setting in settings)
            rows.append((f"... {GENERATIONS[which]}", *cells, mean_of_six(rule, which)))
    return markdown(rows)


def by_setting_three() -> str:
    """The same over the first three seeds, for the rules and settings that have no others."""
    rows = [("rule", *(SETTINGS[setting] for setting in THREE))]
    for rule, name in RULES.items():
        cells = [cell(setting, rule, "pooled", FIRST) for setting in THREE]
        rows += [(name, *cells)] if any(cells) else []
    return markdown(rows)


def has(rule: str, setting: str, seeds: Collection[int]) -> bool:
    return {*seeds} <= {*read("b", setting, rule)}


def cell(setting: str, rule: str, which: str, seeds: Collection[int]) -> str:
    """The accuracy of grpo over these seeds; of another rule its difference from that; "" where a seed is missing."""
    if rule == "grpo":
        return short(level(setting, rule, which), seeds, sign="")
    both = pairs("b", setting, rule, "grpo", which)
    if {*seeds} <= {*both} and all(same(ours) == same(theirs) for seed in seeds for ours, theirs in both[seed]):
        return "the same runs"
    return short(gaps(rule, "grpo", [setting], which), seeds)


def mean_of_six(rule: str, which: str) -> str:
    return short(gaps(rule, "grpo", MEANS["six"], which), ALL) if rule != "grpo" else ""


def short(of_seed: Mapping[int, float], seeds: Collection[int], sign: str = "+") -> str:
    """As in "+.045 +-.039", over these seeds; without a sign the mean alone; "" where a seed is missing."""
    if not {*seeds} <= {*of_seed}:
        return ""
    values = [of_seed[seed] for seed in seeds]
    told = over_seeds(values, sign).replace("+- ", "+-") if sign else thousandths(float(np.mean(values)))
    return told.replace("0.", ".")


def group_sizes() -> str:
    """What a rule is worth beside what the size of the groups is worth."""
    rows = [("mean difference over settings", "settings", *GENERATIONS.values())]
    for name, (rule, base, mean) in GROUP_SIZES.items():
        each = {which: short(gaps(rule, base, MEANS[mean], which), ALL) for which in GENERATIONS}
        if not all(read("b", "s3", recipe, "first") for recipe in (rule, base)):
            each |= {"first": "", "pooled": ""}  # plain GRPO in groups of two was made once, beside the second runs
        rows.append((name, of_training(MEANS[mean]), *each.values()))
    return markdown(rows)


def of_training(settings: Sequence[str]) -> str:
    """Return the settings' training questions as text, without the size of their groups."""
    each = dict.fromkeys(SETTINGS[setting].partition(" in groups of ")[0].removesuffix(" ones") for setting in settings)
    return f"{len(settings)}, with {', '.join(each)} questions"


def noise() -> str:
    """How far the two runs of one recipe and seed lie apart: their standard deviation, and what the second gained."""
    rows = [("rule", "seeds made twice, in all settings", "sd of a run, its seed given", "run again less first")]
    for rule in ("grpo", "foresee", "pairs", "recycle", "paper"):
        gains = replicates(rule)
        rows.append((RULES[rule], str(len(gains)), f"{sd_of_a_run(rule):.3f}", over_seeds(gains, "+")))
    return markdown(rows).replace("0.", ".")


def replicates(rule: str) -> list[float]:
    """What each run that was made again gained on the first; the very same two runs count once."""
    found = {}
    for setting in SETTINGS:
        first, again = (read("b", setting, rule, generation) for generation in ("first", "again"))
        found |= {(same(first[seed]), same(again[seed])): (first[seed], again[seed]) for seed in first}
    return [again["accuracy"] - first["accuracy"] for first, again in found.values()]


def sd_of_a_run(rule: str) -> float:
    """From differences of two: root mean square over the root of 2."""
    return float(np.sqrt(np.mean(np.square(replicates(rule))) / 2))


def by_seed() -> str:
    """The report's runs one by one: a setting and rule a row, of those that have all five seeds."""
    return run_by_run([setting for setting in SETTINGS if has("grpo", setting, ALL)], ALL)


def by_seed_three() -> str:
    """The same over the first three seeds, for the rules and settings that have no others."""
    return run_by_run(THREE, FIRST)


def run_by_run(settings: Sequence[str], seeds: Collection[int]) -> str:
    """All columns are over these seeds; a rule that lacks one of them has no row."""
    rows = [("setting", "rule", f"seeds {min(seeds)} to {max(seeds)}; in brackets the first runs", "pooled")]
    rows[0] += (
        "minus grpo: first runs",
        "run again",
        "pooled",
        "grpo's end reached at",
        "largest fall",
        "signal groups",
    )
    for setting in settings:
        rows.append((f"**{setting}: {SETTINGS[setting]}**", *[""] * (len(rows[0]) - 1)))
        for rule in RULES:
            if not has(rule, setting, seeds):
                continue
            runs, first = (of_seeds(read("b", setting, rule, which), seeds) for which in ("again", "first"))
            each = " ".join(in_thousandths(run) for run in runs.values())
            each += f" ({' '.join(in_thousandths(run) for run in first.values())})" * bool(first)
            rows.append((setting, RULES[rule], each, short(level(setting, rule, "pooled"), seeds, sign=""),
                         *beside(setting, rule, bool(first), seeds), *ends(runs, first)))  # fmt: skip
    return markdown(rows)


def of_seeds(runs: Mapping[int, Any], seeds: Collection[int]) -> dict[int, Any]:
    return {seed: runs[seed] for seed in seeds if seed in runs}


def in_thousandths(run: Run) -> str:
    return f"{run['accuracy']:.3f}".lstrip("0")


def beside(setting: str, rule: str, twice: bool, seeds: Collection[int]) -> tuple[str, str, str, str]:
    """Differences from grpo by generation, and the share of its rollouts after which a rule is as good; of grpo ""."""
    if rule == "grpo":
        return "", "", "", ""
    each = {which: cell(setting, rule, which, seeds) for which in GENERATIONS}
    if not twice:
        each |= {"first": "", "again": ""}
    there = reached(of_seeds(pairs("b", setting, rule, "grpo", "pooled"), seeds))
    return each["first"], each["again"], each["pooled"], "" if there is None else f"{there:.2f}"


def reached(of_seed: Mapping[int, Sequence[Pair]]) -> float | None:
    """The share of the baseline's rollouts after which the mean over seeds is at the baseline's last evaluation or
    above, and stays there; between evaluations it lies on a line. None if it is under it at the end."""
    shares = np.linspace(0.1, 1, 91)
    goal = np.mean([np.mean([base["evaluations"][-1][1] for _, base in both]) for both in of_seed.values()])
    curves = [[np.interp(shares * base["rollouts"], *zip(*run["evaluations"], strict=True)) for run, base in both]
              for both in of_seed.values()]  # fmt: skip
    under = np.flatnonzero(np.mean([np.mean(several, axis=0) for several in curves], axis=0) < goal)
    at = under[-1] + 1 if len(under) else 0
    return float(shares[at]) if at < len(shares) else None


def ends(runs: Mapping[int, Run], first: Mapping[int, Run]) -> tuple[str, str]:
    """The most that any run ends under its best evaluation; signal groups, a seed's being the mean of its runs."""
    every = [[of[seed] for of in (runs, first) if seed in of] for seed in runs]
    under = max(run["best"] - run["final"] for both in every for run in both)
    return f"{under:.3f}", f"{np.mean([mean(both, 'signal_groups') for both in every]):.0f}"


def table(half: str, setting: str) -> str:
    """The recipes of a setting whose runs were made once, best first: a table for each set of seeds that some have."""
    recipes = [folder.name for folder in sorted((RESULTS / half / setting).iterdir())]
    found = {recipe: read(half, setting, recipe) for recipe in recipes}
    sets = sorted({tuple(runs) for runs in found.values()}, key=lambda seeds: (-len(seeds), seeds))
    return "\n".join(over(seeds, found, half, setting) for seeds in sets)


def over(seeds: Sequence[int], found: Mapping[str, Mapping[int, Run]], half: str, setting: str) -> str:
    """The recipes that have just these seeds, and the baseline over them, in any case."""
    base = BASELINE[half] if {*seeds} <= {*found.get(BASELINE[half], {})} else ""
    these = {recipe: of_seeds(runs, seeds) for recipe, runs in found.items() if recipe == base or {*runs} == {*seeds}}
    rows = [("recipe", "accuracy by seed", "mean", "difference", "most under its best", "signal groups", "seconds")]
    for recipe, runs in sorted(these.items(), key=lambda item: -mean(item[1].values(), "accuracy")):
        each = " ".join(map(in_thousandths, runs.values()))
        gap = of_seeds(gaps(recipe, base, [setting], "again", half), seeds) if base not in ("", recipe) else {}
        rows.append((recipe, each, f"{mean(runs.values(), 'accuracy'):.3f}", over_seeds([*gap.values()], "+"),
                     *ends(runs, {}), f"{mean(runs.values(), 'seconds'):.0f}"))  # fmt: skip
    head = f"**{setting}, half {half}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}**"
    return head + f" (differences from {base})" * bool(base) + f"\n\n{markdown(rows)}"


def mean(runs: Collection[Run], name: str) -> float:
    return float(np.mean([run[name] for run in runs]))
