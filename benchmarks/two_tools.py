"""Two tools: a small model learns to search two figures, compute with them and answer; the turns of each tool.

    python -m benchmarks.two_tools --seeds 0-2      # 5 to 10 minutes a run on 2 cores; what is there is not made again
    python -m benchmarks.two_tools --table          # the table alone, from benchmarks/results/two_tools/

A run is `qr-jax train configs/two_tools.py seed=N`. Its figures become results/two_tools/seed_N.json when it ends; a
run that was stopped goes on in runs/two_tools.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds

NAME, CONFIG = "two_tools", "configs/two_tools.py"
RESULTS = interleave.ROOT / "benchmarks/results" / NAME
COSTS = ("steps", "rollouts", "tokens", "searches", "zero_variance_rate", "wall_s")
ALL, KINDS, TOOLS, WHEN = "all", ("chain", "sum", "difference"), ("search", "calculator"), ("before", "after")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--table", action="store_true", help="print what the kept files say, and make no run")
    options = parser.parse_args()
    for seed in () if options.table else options.seeds:
        if not result(seed).is_file():
            keep(seed, trained(seed))
    print(table([json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("seed_*.json"))]))


def result(seed: int) -> Path:
    return RESULTS / f"seed_{seed}.json"


def trained(seed: int) -> dict[str, Any]:
    """What `figures_of` keeps of a run that is gone on with until it ends."""
    folder = interleave.ROOT / "runs" / NAME / f"seed_{seed}"
    kept_runs.qr_jax("train", CONFIG, f"seed={seed}", "--run", folder)
    return figures_of(kept_runs.summary_of(folder))


def keep(seed: int, figures: Mapping[str, Any]) -> None:
    """Write a run's figures, with the commit and the device it ran on."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    row = {"seed": seed, **interleave.commit(), "device": kept_runs.device(), **figures}
    result(seed).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Exact match of all questions and by kind, and the share of turns that call each tool, before and after; costs."""
    found: dict[str, Any] = {name: summary[name] for name in COSTS}
    for when in WHEN:
        figures = summary[when]
        by_kind = {kind: of["exact_match"] for kind, of in figures["by_kind"].items()}
        found[when] = {ALL: figures["exact_match"], **by_kind, "questions": figures["questions"]}
        shares = figures.get("turn_share_by_tool", {"search": figures["search_turn_share"]})
        found[f"turns_{when}"] = {tool: round(shares.get(tool, 0.0), 4) for tool in TOOLS}
    return found


def table(kept: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: means over seeds with their 95 % intervals."""
    rows: list[tuple[str, ...]] = [("", "seeds", "before", "after", "rise", "by seed")]
    figures = [(f"exact match, {kind}", "", kind) for kind in (ALL, *KINDS)]
    figures += [(f"turns that call {tool}", "turns_", tool) for tool in TOOLS]
    for called, where, name in figures:
        before, after = ([run[where + when][name] for run in kept] for when in WHEN)
        rises = [late - early for early, late in zip(before, after, strict=True)]
        shown = over_seeds(before), over_seeds(after), over_seeds(rises, "+")
        rows.append((called, str(len(kept)), *shown, " ".join(f"{rise:+.3f}" for rise in rises)))
    return markdown(rows)


if __name__ == "__main__":
    main()
