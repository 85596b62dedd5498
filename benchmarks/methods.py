"""The neighbouring methods (configs/methods.py) screened: does it train, does it break?

    make bench-methods                                          # all that is missing: 15,000 rollouts, seeds 0 and 1
    python -m benchmarks.methods --methods gspo sapo --seeds 0-1 --jobs 2
    python -m benchmarks.methods --finals                       # the five best, 30,000 rollouts, seeds 5 to 9, half b
    python -m benchmarks.methods --tables                       # of what is there, in Markdown

The study's machinery (benchmarks/study.py): each run a process that goes on where it was stopped, one cold start a seed
and world, a small file a run in benchmarks/results/study/HALF/SETTING/METHOD. The screen reads half a of the held-out
questions, the finals half b. What depends on earlier passes over the pool is screened on 500 queries, too.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence

from benchmarks import study, study_results
from benchmarks.tables import markdown, over_seeds

BASELINE = "grpo"
SCREEN, FEW, FINALS = ("a", "screen"), ("a", "screen_500"), ("b", "finals")  # half, setting
BEST = 5


def main(words: Sequence[str]) -> int:
    options = arguments(words)
    known = runpy.run_path(str(study.ROOT / "configs/methods.py"))
    methods, later = known["METHODS"], known["LATER_PASSES"]
    if unknown := sorted({*options.methods} - {*methods}):
        raise SystemExit(f"there is no method {', '.join(unknown)}; there are {', '.join(methods)}")
    named, seeds = options.methods or [*methods], options.seeds or range(2)
    (half, setting), few = SCREEN, [name for name in named if name in (BASELINE, *later)]
    plan = [((setting,), named, seeds), ((FEW[1],), few, seeds)]
    if options.finals:
        (half, setting), named = FINALS, options.methods or [BASELINE, *best()]
        plan = [((setting,), named, options.seeds or range(5, 10))]
    code = 0 if options.tables else study.make(plan, methods, half, options.jobs)
    print(tables(), end="")
    return code


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="of configs/methods.py (all)")
    parser.add_argument("--seeds", type=study.span, metavar="FROM-TO", help="(0-1; of the finals 5-9)")
    parser.add_argument("--finals", action="store_true", help="the best of the screen beside GRPO, at 30,000 rollouts")
    parser.add_argument("--tables", action="store_true", help="print what the kept files say, and make no run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on its own cores (2)")
    return parser.parse_args(words)


def kept(half: str, setting: str) -> dict[str, dict]:
    """The kept runs by method, best mean accuracy first."""
    folder = study_results.RESULTS / half / setting
    names = [path.name for path in sorted(folder.iterdir())] if folder.is_dir() else []
    runs = {name: study_results.read(half, setting, name) for name in names}
    return dict(sorted(runs.items(), key=lambda item: -study_results.mean(item[1].values(), "accuracy")))


def best() -> list[str]:
    """The methods that go to the finals. SystemExit before there is a screen."""
    names = [name for name in kept(*SCREEN) if name != BASELINE][:BEST]
    if not names:
        raise SystemExit("the finals take the best of the screen, and there is none yet; run make bench-methods first")
    return names


def tables() -> str:
    """What every setting's methods did, best first, each setting under its name."""
    places = [place for place in (SCREEN, FEW, FINALS) if kept(*place)]
    return "\n".join(f"**{setting}**, half {half}:\n\n{table(half, setting)}" for half, setting in places)


def table(half: str, setting: str) -> str:
    """A row a method, best mean first. Differences are from GRPO, over the seeds in common."""
    runs = kept(half, setting)
    head = ("method", "seeds", "before", "after", "last 30 %", f"minus {BASELINE}", "zero-variance rate")
    rows = [(*head, "tokens sampled", "tokens trained", "seconds a step")]
    for method, of_seed in runs.items():
        shared = sorted({*of_seed} & {*runs.get(BASELINE, {})}) if method != BASELINE else []
        gaps = [of_seed[seed]["accuracy"] - runs[BASELINE][seed]["accuracy"] for seed in shared]
        mean = {name: study_results.mean(of_seed.values(), name) for name in COLUMNS}
        rows.append((
            method, str(len(of_seed)), f"{mean['before']:.3f}", f"{mean['final']:.3f}",
            over_seeds([run["accuracy"] for run in of_seed.values()]), over_seeds(gaps, sign="+"),
            f"{mean['zero_variance_groups'] / mean['drawn_groups']:.3f}", f"{mean['tokens_sampled']:,.0f}",
            f"{mean['tokens_trained']:,.0f}", f"{mean['seconds'] / mean['steps']:.2f}",
        ))  # fmt: skip
    return markdown(rows)


COLUMNS = ("before", "final", "zero_variance_groups", "drawn_groups", "tokens_sampled", "tokens_trained")
COLUMNS += ("seconds", "steps")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
