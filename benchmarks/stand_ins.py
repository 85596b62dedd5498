"""How often a reward differs from exact match on the episodes that a run has kept, and what it makes of its groups.

    python -m benchmarks.stand_ins RUN                  # a run of the quickstart: its questions are those of a world

A row a reward: the share of episodes whose score is not their exact match, and of groups that bear signal by either.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from qr_jax import plugins
from qr_jax.queries.world.generate import build, settings_from
from qr_jax.records import Episode, Passage, Query, Turn
from qr_jax.report import read
from qr_jax.rewards.exact_match import exact_match
from qr_jax.settings import use

REWARDS = (
    use("f1"), use("cover_match"),
    use("search_r1_format", think=False), use("ikea"), use("deep_researcher"), use("e_grpo"), use("carr"),
    use("info_reasoner"), use("atom_searcher", steps=100),
)  # fmt: skip


def groups(folder: Path):
    """(query, its episodes) of each step; a search's passages are what the model was shown of them."""
    world = json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"]["world"]
    known = {query.id: query for query in build(settings_from(world)).train}
    steps = sorted(int(path.stem.removeprefix("step_")) for path in (folder / "episodes").iterdir())
    for step in steps:
        rows = defaultdict(list)
        for row in read.episodes(folder, step):
            rows[row["query"]].append(row)
        for name, group in rows.items():
            yield known[name], [_episode(known[name], row, step - 1) for row in group]


def _episode(query: Query, row: dict, step: int) -> Episode:
    turns = tuple(
        Turn(turn["author"], turn["text"], tuple(asked), ((Passage("", "", turn["text"]),),) if asked else ())
        for turn in row["turns"]
        for asked in [turn.get("queries", ())]
    )
    said, none = np.arange(sum(turn.author == "model" for turn in turns)), np.zeros(0)
    fault = row["fault"]
    return Episode(query, row["sample"], step, none, none, none, said, turns, row["answer"], row["stop"], not fault)


def main(folder: Path) -> None:
    whole = list(groups(folder))
    exact = [exact_match(query, episodes) for query, episodes in whole]
    signal = np.mean([score_G.max() > score_G.min() for score_G in exact])
    print(f"{sum(map(len, exact))} episodes of {len(exact)} groups, of which {signal:.3f} bear signal by exact match")
    for chosen in REWARDS:
        reward = plugins.bind("reward", chosen)
        scores = [reward(query, episodes).score_G for query, episodes in whole]
        differs = np.mean(np.concatenate(scores) != np.concatenate(exact))
        signal = np.mean([score_G.max() > score_G.min() for score_G in scores])
        print(f"{chosen.name:18} differs on {differs:.3f} of the episodes; {signal:.3f} of the groups bear signal")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
