"""Searches called in JSON, up to three at once, beside one search a turn: what each learns, by kind of question.

    python -m benchmarks.tool_call --seeds 0-2      # 15 to 25 minutes a run on 2 cores; what is there is not made again

A run is `qr-jax train configs/tool_call.py[:one_by_one] seed=N`. Its figures join results/tool_call.json when it ends;
a run that was stopped goes on in runs/tool_call.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds

NAME = "tool_call"
CONFIGS = {"tool_call": "configs/tool_call.py", "one_by_one": "configs/tool_call.py:one_by_one"}
KEPT = ("rollouts", "tokens", "searches", "zero_variance_rate", "wall_s")
ALL, WHEN = "all", ("before", "after")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="which (both)")
    options = parser.parse_args()
    for seed, name in itertools.product(options.seeds, options.configs):
        kept_runs.make(NAME, {"config": name, "seed": seed}, partial(trained, name, seed))
    print(table(kept_runs.kept(NAME)))


def trained(name: str, seed: int) -> dict[str, Any]:
    """What `figures_of` keeps of a run that is gone on with until it ends."""
    folder = interleave.ROOT / "runs" / NAME / f"{name}_{seed}"
    kept_runs.qr_jax("train", CONFIGS[name], f"seed={seed}", "--run", folder)
    return figures_of(kept_runs.summary_of(folder))


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Exact match before and after, of all questions and by kind; searches and turns of several a question; costs."""
    found: dict[str, Any] = {name: summary[name] for name in KEPT}
    for when in WHEN:
        one = summary[when]
        found[when] = {ALL: one["exact_match"]} | {kind: of["exact_match"] for kind, of in one["by_kind"].items()}
        found[f"searches_{when}"] = one["searches_per_question"]
        found[f"parallel_{when}"] = one["parallel_turns_per_question"]
    return found


def table(kept: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: means over seeds with their 95 % intervals."""
    of = "questions", "environment", "seeds", "before", "after", "rise", "by seed"
    rows: list[tuple[str, ...]] = [(*of, "searches a question", "turns of several")]
    for kind, name in itertools.product((ALL, "chain", "comparison", "intersection"), CONFIGS):
        runs = [run for run in kept if run["config"] == name]
        before, after = ([run[when][kind] for run in runs] for when in WHEN)
        rises = [late - early for early, late in zip(before, after, strict=True)]
        searches = [over_seeds([run[f"searches_{when}"] for run in runs]) for when in WHEN]
        several = [over_seeds([run[f"parallel_{when}"] for run in runs if f"parallel_{when}" in run]) for when in WHEN]
        told = [" to ".join(one) if kind == ALL and all(one) else "" for one in (searches, several)]
        called = {"tool_call": "tool_call", "one_by_one": "search_r1"}[name]
        risen = over_seeds(rises, "+"), " ".join(f"{rise:+.3f}" for rise in rises)
        rows.append((kind, called, str(len(runs)), over_seeds(before), over_seeds(after), *risen, *told))
    return markdown(rows)


if __name__ == "__main__":
    main()
