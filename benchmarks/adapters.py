"""E11, E13 and E14 of configs/study/plan.md: adapters on the quickstart, whose rank and learning rate are tuned.

    python -m benchmarks.adapters E13 choose    # 9 runs of 5 minutes; resumable
    python -m benchmarks.adapters E13 final     # the chosen one and the quickstart on ten fresh seeds: 20 runs
    python -m benchmarks.adapters E14 choose    # E13's control, the whole model at a falling rate: 6 runs; final: 10
    python -m benchmarks.adapters --table       # of what is kept, and make no run
    python -m benchmarks.adapters E13 final --part 0 2    # every second run, in a checkout of its own for each part

Runs of one seed are compared where their cold starts score alike: on another machine these differ by rounding. Figures
join results/adapters.json when a run ends.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import interleave, kept_runs, paired_seeds, quickstart_seeds
from benchmarks.tables import markdown, over_seeds
from qr_jax import config as configs

NAME = "adapters"
CHOOSING = range(30, 33)  # seeds
FULL = "the quickstart"
MARGIN = 0.04  # of exact match: less does not matter
Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """Adapters of a rank (0: the whole model), whose learning rate is a multiple of the quickstart's."""

    rank: int
    times: int
    schedule: str = "constant"

    @property
    def arm(self) -> str:
        """Return its name in the kept runs."""
        trained = f"rank {self.rank}" if self.rank else "the whole model"
        return f"{trained}, {self.times} times the rate" + ", falling" * (self.schedule != "constant")

    def settings(self) -> tuple[str, ...]:
        """Return its settings, added to the quickstart."""
        rate = configs.load(interleave.ROOT / quickstart_seeds.CONFIG).learner.lr * self.times
        falling = (f"learner.schedule={self.schedule}",) * (self.schedule != "constant")
        return *(f"model.lora.rank={self.rank}",) * (self.rank > 0), f"learner.lr={rate:g}", *falling


@dataclass(frozen=True)
class Attempt:
    """An experiment: the best of its candidates on the choosing seeds is run beside the quickstart on fresh seeds.

    `control_of` names the attempt whose adapters are compared with this one's whole model, in place of the quickstart.
    """

    name: str
    candidates: tuple[Candidate, ...]
    seeds: range
    control_of: str = ""


ATTEMPTS = (
    Attempt("E11", tuple(Candidate(rank, times) for rank in (16, 32) for times in (2, 4, 8)), range(220, 230)),
    Attempt("E13", (Candidate(8, 4), Candidate(16, 4, "linear"), Candidate(16, 8, "linear")), range(240, 250)),
    Attempt("E14", (Candidate(0, 1, "linear"), Candidate(0, 2, "linear")), range(240, 250), control_of="E13"),
)

BY_NAME = {one.name: one for one in ATTEMPTS}


def main(words: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, all arms of a seed before the next, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attempt", nargs="?", choices=BY_NAME, help="whose missing runs are made")
    parser.add_argument("stage", nargs="?", choices=("choose", "final"), help="which of them")
    parser.add_argument("--part", nargs=2, type=int, default=(0, 1), metavar=("K", "N"), help="every N-th run, from K")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args(words)
    if options.stage and not options.table:
        attempt, (part, of) = BY_NAME[options.attempt], options.part
        arms = {one.arm: one.settings() for one in attempt.candidates}
        if options.stage == "final":
            best = chosen(kept_runs.kept(NAME), attempt)
            arms = {best.arm: best.settings()} if attempt.control_of else {FULL: (), best.arm: best.settings()}
        seeds = CHOOSING if options.stage == "choose" else attempt.seeds
        for seed, (arm, added) in list(itertools.product(seeds, arms.items()))[part::of]:
            make(seed, arm, added)
    print(table(kept_runs.kept(NAME)), end="")


def make(seed: int, arm: str, added: Sequence[str]) -> None:
    """Make and keep one run, unless it is kept."""
    folder = f"runs/{NAME}/{arm.replace(',', '').replace(' ', '_')}/seed_{seed}"
    command = "train", quickstart_seeds.CONFIG, f"seed={seed}", *added, "--run", folder
    key = {"command": " ".join(["qr-jax", *command]), "seed": seed, "arm": arm, "preset": quickstart_seeds.preset()}
    kept_runs.make(NAME, key, partial(quickstart_seeds.trained, command, folder))


def scores(runs: Runs, arm: str, seeds: Sequence[int]) -> dict[tuple[int, float], float]:
    """Return an arm's exact match after training by cold start: a seed and its score before training."""
    return {(run["seed"], run["before"]): run["after"] for run in runs if run["arm"] == arm and run["seed"] in seeds}


def chosen(runs: Runs, attempt: Attempt) -> Candidate:
    """Return the candidate with the highest mean over the choosing seeds; ValueError while a run is missing."""
    means = {}
    for one in attempt.candidates:
        found = scores(runs, one.arm, CHOOSING)
        if {seed for seed, _ in found} != {*CHOOSING}:
            todo = f"run `python -m benchmarks.adapters {attempt.name} choose`"
            raise ValueError(f"{one.arm} lacks runs of seeds {list(CHOOSING)}: {todo}")
        means[one] = float(np.mean([*found.values()]))
    return max(means, key=means.__getitem__)


def gaps(runs: Runs, attempt: Attempt) -> list[float]:
    """Return the chosen adapters' score less the quickstart's, or the control's, of each seed, from one cold start."""
    best, of = chosen(runs, attempt).arm, attempt.control_of
    arms = (chosen(runs, BY_NAME[of]).arm, best) if of else (best, FULL)
    tuned, full = (scores(runs, arm, attempt.seeds) for arm in arms)
    return [tuned[start] - full[start] for start in sorted({*tuned} & {*full})]


def verdict(less: Sequence[float]) -> str:
    """Return the plan's verdict by the 95 % interval over the seeds; "none yet" while seeds are missing."""
    return paired_seeds.judged(less, MARGIN)


def table(runs: Runs) -> str:
    """Return Markdown: each candidate over the choosing seeds; the chosen ones less the quickstart, with verdicts."""
    tried: list[Sequence[str]] = [("attempt", "trained", "settings", "seeds 30 to 32")]
    for attempt in ATTEMPTS:
        for one in attempt.candidates:
            after = [*scores(runs, one.arm, CHOOSING).values()]
            tried.append((attempt.name, one.arm, f"`{' '.join(one.settings())}`", over_seeds(after)))
    return f"{markdown(tried)}\n{markdown([paired_seeds.VERDICTS, *rows(runs)])}"


def rows(runs: Runs) -> list[tuple[str, ...]]:
    """Return rows under `paired_seeds.VERDICTS`: each attempt's chosen adapters less the quickstart."""
    found = []
    for attempt in ATTEMPTS:
        try:
            best, less = chosen(runs, attempt), gaps(runs, attempt)
        except ValueError:
            continue
        if less:
            told = f"`{' '.join(best.settings())}`"
            if attempt.control_of:
                told = f"the adapters of the row above, beside the whole model at {told}"
            found.append((told, "today's", str(len(less)), over_seeds(less, "+"), verdict(less)))
    return found


if __name__ == "__main__":
    main()
