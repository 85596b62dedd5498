"""E4 of configs/study/plan.md: a fair race of rules, tuned alike and then run on fresh seeds in two new worlds.

    python -m benchmarks.race tuning      # three candidates an arm, three seeds each; then five more of each arm's best
    python -m benchmarks.race final       # tuned plain GRPO and the two arms that led, 32 seeds in each of two worlds
    python -m benchmarks.race --table     # what is kept, from benchmarks/results/race/

A run that has a result is not made again; a run that was stopped goes on (six hours a stage on two cores).
"""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import guarded, study, study_results
from benchmarks.tables import markdown, over_seeds, p_text
from qr_jax import config as configs
from qr_jax.lab.launch import Job

KEPT = study.experiment("race")
TUNING, MORE = range(70, 73), range(73, 78)  # seeds of every candidate, and of each arm's best
FINAL = {2: range(100, 132), 3: range(140, 172)}  # by the world's seed
WORLD, BUDGET = 0, 30_000
RATES = {"5e-4": "learner.lr=5e-4", "7e-4": "learner.lr=7e-4", "1e-3": "learner.lr=1e-3"}
GROUPS = {2: ("pool.samples=2", "pool.queries=64"), 4: ("pool.samples=4", "pool.queries=32")}
GROUPS[8] = ("pool.samples=8", "pool.queries=16")  # each 128 rollouts a step
SPEED = ("rule=grpo", "rounds=speed")
GUARDS = ("pool.reset_below=0.7", "pool.min_signal=4", "learner.full_groups=8")


def in_three(*words: str, other: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A rule's candidates: groups of 8, groups of 4, and groups of 8 with another value of a setting of its own."""
    return {
        "groups of 8": (*GROUPS[8], *words),
        "groups of 4": (*GROUPS[4], *words),
        "other": (*GROUPS[8], *words, *other),
    }


ARMS: dict[str, dict[str, tuple[str, ...]]] = {
    **{
        f"grpo in {k}s": {rate: (*GROUPS[k], "rule=grpo", word) for rate, word in RATES.items()} for k in GROUPS
    },
    "dapo": in_three("rule=bounded_dapo", "rounds=refill", other=("rounds.max_rounds=3",)),
    "greso": in_three("rule=greso", other=("pool.oversample=2",)),
    "speed": {
        "4 and 4": (*GROUPS[4], *SPEED, "rounds.further=4", "rounds.max_rounds=2"),
        "4 and 12": (*GROUPS[4], *SPEED, "pool.queries=16", "rounds.further=12", "rounds.max_rounds=2"),
        "2 and 6": (*GROUPS[2], *SPEED, "pool.queries=16", "rounds.further=6", "rounds.max_rounds=4"),
    },
    "vcrl": in_three("rule=vcrl", other=("learner.lr=1e-3",)),
    "prompt_replay": in_three("rule=prompt_replay", other=("learner.lr=1e-3",)),
    "retire": in_three("rule=retire", other=("rule.review=0.2",)),
    "kimi": in_three("rule=kimi", other=("learner.lr=1e-3",)),
    "recycle guarded": in_three("rule=recycle", *GUARDS, other=("pool.oversample=2",)),
    "foresee": in_three("rule=foresee", other=("rule.rho=0.8",)),
    "foresee_learnable": in_three("rule=foresee_learnable", other=("rule.power=2.0",)),
}  # fmt: skip
GRPO = [arm for arm in ARMS if arm.startswith("grpo")]
Runs = Mapping[int, Mapping[str, Any]]


def main(words: Sequence[str]) -> int:
    options = study.options(__doc__, "tuning", "final").parse_args(words)
    failed: list[Job] = []
    if options.stage and not options.table:
        failed = (tune if options.stage == "tuning" else finish)(options.jobs)
    print(candidates(), "" if failed else table(), sep="\n")
    return 1 if failed else 0


def tune(at_once: int) -> list[Job]:
    """Make the runs of the first stage: every candidate's, a seed after the other, then more of each arm's best."""
    failed: list[Job] = []
    for seed in TUNING:
        pairs = [planned("tuning", arm, name, WORLD, seed) for arm in ARMS for name in ARMS[arm]]
        failed += KEPT.make(pairs, at_once)
    if not failed:
        for seed in MORE:
            pairs = [planned("tuning", arm, best(arm), WORLD, seed) for arm in ARMS]
            failed += KEPT.make(pairs, at_once)
    return failed


def finish(at_once: int) -> list[Job]:
    """Make the runs of the second stage, all arms of a seed before the next."""
    failed: list[Job] = []
    for pair in zip(*FINAL.values(), strict=True):
        for world, seed in zip(FINAL, pair, strict=True):
            pairs = [planned("final", arm, best(arm), world, seed) for arm in finalists()]
            failed += KEPT.make(pairs, at_once)
    return failed


def planned(stage: str, arm: str, candidate: str, world: int, seed: int) -> tuple[Job, Job]:
    """The cold start and the run of a candidate."""
    words = [f"seed={seed}", f"data.world.seed={world}", f"evaluation.half={'a' if stage == 'tuning' else 'b'}"]
    settings = configs.load(f"{study.ROOT}/configs/study/settings.py:race", [*words, *ARMS[arm][candidate]])
    folder = KEPT.runs / place(stage, arm, candidate, world) / f"seed_{seed}"
    return study.from_cold_start(KEPT.runs, f"{arm}, {candidate}, world {world}, seed {seed}", folder, settings)


def place(stage: str, arm: str, candidate: str, world: int) -> Path:
    """Where a candidate lies among the runs, and among the results."""
    return Path(stage) / f"world_{world}" / f"{arm} {candidate}".replace(" ", "_")


def read(stage: str, arm: str, candidate: str, world: int) -> dict[int, dict[str, Any]]:
    """The kept runs of a candidate by seed, with their accuracy over the last 30 % of the rollouts."""
    return study_results.of_folder(KEPT.results / place(stage, arm, candidate, world), BUDGET)


def best(arm: str) -> str:
    """The candidate of an arm with the highest mean over the seeds that all candidates have; ValueError before that."""
    means = {}
    for name in ARMS[arm]:
        runs = read("tuning", arm, name, WORLD)
        if lacking := [seed for seed in TUNING if seed not in runs]:
            raise ValueError(f"{arm}, {name} has no result of seeds {lacking}: run `python -m benchmarks.race tuning`")
        means[name] = np.mean([runs[seed]["accuracy"] for seed in TUNING])
    return max(means, key=means.__getitem__)


def standing() -> dict[str, float]:
    """Each arm's mean over all eight seeds of its best candidate, the best first; ValueError before they are there."""
    found = {}
    for arm in ARMS:
        runs = read("tuning", arm, best(arm), WORLD)
        if lacking := [seed for seed in (*TUNING, *MORE) if seed not in runs]:
            raise ValueError(f"{arm} has no result of seeds {lacking}: run `python -m benchmarks.race tuning`")
        found[arm] = float(np.mean([runs[seed]["accuracy"] for seed in (*TUNING, *MORE)]))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def finalists() -> list[str]:
    """The best arm of plain GRPO, and the two best of the others."""
    by_mean = [*standing()]
    others = [arm for arm in by_mean if arm not in GRPO]
    return [next(arm for arm in by_mean if arm in GRPO), *others[:2]]


def gaps(worlds: Iterable[int] = FINAL) -> dict[str, list[float]]:
    """By rule of the second stage, its accuracy less plain GRPO's, of each seed of the worlds that both have."""
    base, *others = finalists()
    found: dict[str, list[float]] = {arm: [] for arm in others}
    for arm, world in itertools.product(others, worlds):
        theirs, ours = (read("final", name, best(name), world) for name in (base, arm))
        found[arm] += study_results.paired(ours, theirs, f"{arm}, world {world}")
    return found


def at_equal(tokens: str) -> dict[str, list[float]]:
    """As `gaps`, over the last 30 % of the tokens that the pair's cheaper run spent; `tokens`: sampled or trained.

    Not planned. A run's tokens per rollout are taken as constant, because its evaluations say rollouts alone.
    """
    base, *others = finalists()
    found: dict[str, list[float]] = {arm: [] for arm in others}
    for arm, world in itertools.product(others, FINAL):
        theirs, ours = (read("final", name, best(name), world) for name in (base, arm))
        field = f"tokens_{tokens}"
        least = {seed: min(ours[seed][field], theirs[seed][field]) for seed in {*ours} & {*theirs}}
        ours, theirs = up_to(least, field, ours), up_to(least, field, theirs)
        found[arm] += study_results.paired(ours, theirs, f"{arm}, world {world}")
    return found


def up_to(least: Mapping[int, int], field: str, runs: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The runs of the seeds that `least` has, with their accuracy when they had spent so many tokens."""
    shares = {seed: count / runs[seed][field] for seed, count in least.items()}
    return {
        seed: {**runs[seed], "accuracy": study_results.accuracy(runs[seed], round(BUDGET * share))}
        for seed, share in shares.items()
    }


def better() -> str | None:
    """Return the rule that the plan calls better, by the larger mean if both are; ValueError while runs are missing."""
    found = gaps()
    if not is_over(found):
        raise ValueError("E4 has no verdict yet: run `python -m benchmarks.race final`")
    arms = [arm for arm, values in found.items() if verdict(values) == "better"]
    return max(arms, key=lambda arm: float(np.mean(found[arm])), default=None)


def is_over(found: Mapping[str, Sequence[float]]) -> bool:
    return all(len(values) == sum(map(len, FINAL.values())) for values in found.values())


def verdict(values: Sequence[float]) -> str:
    return guarded.verdict(values, "better", "level")


def said(arm: str, name: str) -> str:
    """A candidate by its groups, its learning rate, or the setting that sets it apart."""
    if arm == "speed":
        return "{} samples, then {} more".format(*name.split(" and "))
    name = f"learner.lr={name}" if name in RATES else name
    return f"groups of 8, {ARMS[arm][name][-1]}" if name == "other" else name


def candidates() -> str:
    """Every candidate of the first stage: its accuracy over the seeds it has, of E4's thirteen arms."""
    rows = [("arm", "candidate", "accuracy", "seeds")]
    for arm, name in [(arm, name) for arm, by_name in ARMS.items() for name in by_name]:
        values = [run["accuracy"] for run in read("tuning", arm, name, WORLD).values()]
        rows.append((arm, said(arm, name), over_seeds(values), str(len(values))))
    return markdown(rows)


def table() -> str:
    """Each arm's accuracy as tuned, and the finalists' in the two new worlds, the best first; then each rule less plain
    GRPO in the second stage, by world too; with Holm's p and the plan's verdict once all its runs are there.
    """
    rows = [
        (
            "arm",
            "tuned setting",
            f"accuracy, world {WORLD}, half a, 8 seeds",
            *(f"accuracy, world {world}, half b" for world in FINAL),
        )
    ]
    for arm in standing():
        first = [run["accuracy"] for run in read("tuning", arm, best(arm), WORLD).values()]
        new = [[run["accuracy"] for run in read("final", arm, best(arm), world).values()] for world in FINAL]
        rows.append((arm, said(arm, best(arm)), over_seeds(first), *map(over_seeds, new)))
    found = gaps()
    adjusted = guarded.holm(found) if is_over(found) else {}
    compared = [(f"minus {finalists()[0]}", "accuracy", "seeds", "p (Holm-corrected)", "verdict")]
    for arm, values in found.items():
        p = p_text(adjusted[arm]) if arm in adjusted else ""
        said_of = verdict(values) if is_over(found) else "none yet"
        compared.append((arm, over_seeds(values, "+"), str(len(values)), p, said_of))
        for world in FINAL:
            own = gaps([world])[arm]
            compared.append((f"{arm}, world {world}", over_seeds(own, "+"), str(len(own)), "", ""))
    return f"{markdown(rows)}\n{markdown(compared)}\n{costs()}"


def costs() -> str:
    """What a run of each finalist spends in the second stage, and each rule's lead at equal tokens."""
    head = ("in a run of the second stage", "updates", "tokens sampled", "tokens trained on")
    rows = [(*head, f"minus {finalists()[0]} at equal tokens sampled", "at equal tokens trained on")]
    gaps_of = [at_equal(tokens) for tokens in ("sampled", "trained")]
    for arm in finalists():
        spent = [mean_of(arm, what) for what in ("steps", "tokens_sampled", "tokens_trained")]
        rows.append((arm, *spent, *(over_seeds(found.get(arm, []), "+") for found in gaps_of)))
    return markdown(rows)


def mean_of(arm: str, what: str) -> str:
    """The mean over an arm's runs of the second stage of a count that their results have."""
    counts = [run[what] for world in FINAL for run in read("final", arm, best(arm), world).values()]
    return f"{np.mean(counts):,.0f}" if counts else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
