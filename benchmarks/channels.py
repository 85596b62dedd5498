"""What a zero-variance group is where rewards are no 0 and 1: a run's groups by F1 and by exact match.

    python -m benchmarks.cold_starts --seeds 0             # whose policy of gold titles rolls out here
    python -m benchmarks.channels                          # 20 minutes on 2 idle cores
    python -m benchmarks.channels --of RUN                 # of another run's episodes, and nothing is kept

One step of 32 questions of HotpotQA, 8 samples each, reward F1, from that cold start. `pool.channel=reward` takes a
group whose F1 differs for signal, `outcome` one in which some are right and some are not. It writes
benchmarks/results/channels.json.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cold_starts, interleave, kept_runs, stand_ins
from benchmarks.tables import markdown
from qr_jax.answers import exact_match, f1

NAME = "channels"
ONE_STEP = "sft.steps=0", "train.steps=1", "pool.queries=32", "pool.samples=8", "evaluation.base=false"
FEW = "data.eval_limit=4", "pool.min_signal=1"  # nothing is evaluated here
Group = tuple[np.ndarray, np.ndarray]  # F1 [G], exact match [G]


def main() -> None:
    """Make the step unless another run is named, count its groups, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", type=Path, metavar="RUN", help="a run's folder, instead")
    options = parser.parse_args()
    folder = options.of or cold_starts.RUNS / NAME
    if options.of is None:
        init = cold_starts.RUNS / "gold_titles_0"
        words = *cold_starts.words("gold titles"), f"train.init={init}", *ONE_STEP, *FEW
        kept_runs.qr_jax("train", "configs/smollm2_multihop.py", *words, "--run", folder)
    counted = count([*groups(folder)])
    if options.of is None:
        interleave.results(NAME, counted, ())
    print(table(counted), end="")


def groups(folder: Path) -> Iterator[Group]:
    """The scores of each drawn group's answers; episodes that ended by a fault are left out."""
    for _, _, rows in stand_ins.drawn(folder):
        answers = [(row["answer"], row["golds"]) for row in rows if not row["fault"]]
        if answers:
            yield tuple(np.array([[score(*answer) for answer in answers] for score in (f1, exact_match)]))


def count(drawn: Sequence[Group]) -> dict[str, Any]:
    """How many groups bear signal by either channel, and what those are that only F1 tells apart."""
    by_f1, by_outcome = ([len(set(group[at])) > 1 for group in drawn] for at in (0, 1))
    none_right = [not right_G.any() for _, right_G in drawn]
    only_f1 = [one and not other for one, other in zip(by_f1, by_outcome, strict=True)]
    spread = [float(np.std(scores_G)) for scores_G, _ in drawn]
    return {
        "groups": len(drawn),
        "pass_rate": float(np.mean([right_G.mean() for _, right_G in drawn])),
        "reward": sum(by_f1),
        "outcome": sum(by_outcome),
        "none_right": sum(none_right),
        "reward_alone": sum(only_f1),
        "reward_alone_none_right": sum(one and none for one, none in zip(only_f1, none_right, strict=True)),
        "spread_both": _mean([one for one, both in zip(spread, by_outcome, strict=True) if both]),
        "spread_reward_alone": _mean([one for one, alone in zip(spread, only_f1, strict=True) if alone]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def table(counted: dict[str, Any]) -> str:
    """Markdown: a row a channel, and then of what its further groups are made."""
    of = counted["groups"]
    rows = [("groups that bear signal", f"of {of}", "standard deviation of F1 within them")]
    spread = {name: "" if counted[name] is None else f"{counted[name]:.3f}" for name in counted if name[:6] == "spread"}
    rows += [
        ("by outcome (some right, some not)", share(counted["outcome"], of), spread["spread_both"]),
        ("by reward (F1 differs)", share(counted["reward"], of), ""),
        ("by reward alone", share(counted["reward_alone"], of), spread["spread_reward_alone"]),
        ("of these, none right", share(counted["reward_alone_none_right"], of), ""),
        ("(groups without a right answer)", share(counted["none_right"], of), ""),
    ]
    return markdown(rows)


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.2f})" if whole else "0"


if __name__ == "__main__":
    main()
