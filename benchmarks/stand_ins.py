"""How often a reward differs from exact match on the episodes that a run has kept, and what it makes of its groups.

    python -m benchmarks.stand_ins RUN                  # a run of the quickstart: its questions are those of a world

A row a reward: the share of episodes whose score is not their exact match, and of groups that bear signal by either.
It writes benchmarks/results/stand_ins.json (or into --results).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax import plugins
from qr_jax.data.world.generate import build, settings_from
from qr_jax.lab.report import read
from qr_jax.records import Episode, Passage, Query, Turn
from qr_jax.rewards.exact_match import exact_match
from qr_jax.settings.settings import use

REWARDS = (
    use("f1"), use("cover_match"),
    use("search_r1_format", think=False), use("ikea"), use("deep_researcher"), use("e_grpo"), use("carr"),
    use("info_reasoner"), use("atom_searcher", steps=100), use("search_gen_v"),
    use("search_gen_v", chain=0.5), use("o2_searcher", think=False),
    use("ai_search_planner"), use("ada_search"),
)  # fmt: skip


def groups(folder: Path):
    """(query, its episodes) of each step; a search's passages are what the model was shown of them."""
    world = json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"]["world"]
    known = {query.id: query for query in build(settings_from(world)).train}
    for step, name, rows in drawn(folder):
        yield known[name], [_episode(known[name], row, step - 1) for row in rows]


def drawn(folder: Path) -> Iterator[tuple[int, str, list[dict[str, Any]]]]:
    """(step, query, the rows of its episodes) of all that a run has kept."""
    for step in sorted(int(path.stem.removeprefix("step_")) for path in (folder / "episodes").iterdir()):
        of_query = defaultdict(list)
        for row in read.episodes(folder, step):
            of_query[row["query"]].append(row)
        yield from ((step, name, rows) for name, rows in of_query.items())


def _episode(query: Query, row: dict, step: int) -> Episode:
    turns = tuple(
        Turn(turn["author"], turn["text"], tuple(asked), ((Passage("", "", turn["text"]),),) if asked else ())
        for turn in row["turns"]
        for asked in [turn.get("queries", ())]
    )
    said, none = np.arange(sum(turn.author == "model" for turn in turns)), np.zeros(0)
    fault = row["fault"]
    return Episode(query, row["sample"], step, none, none, none, said, turns, row["answer"], row["stop"], not fault)


def measure(whole: Sequence[tuple[Query, Sequence[Episode]]]) -> dict[str, Any]:
    """Of groups of episodes: how many there are, and by reward the shares above."""
    exact = [exact_match(query, episodes) for query, episodes in whole]
    rewards = {}
    for chosen in REWARDS:
        reward = plugins.bind("reward", chosen)
        scores = [reward(query, episodes).score_G for query, episodes in whole]
        differs = np.concatenate(scores) != np.concatenate(exact)
        name = " ".join([chosen.name, *(f"{key}={value}" for key, value in chosen.settings.items())])
        rewards[name] = {"differs": float(differs.mean()), "signal": _signal(scores)}
    steps = len({episode.step for _, episodes in whole for episode in episodes})
    counts = {"steps": steps, "episodes": sum(map(len, exact)), "groups": len(exact)}
    return {**counts, "exact_match": _signal(exact), "rewards": rewards}


def _signal(scores: Sequence[np.ndarray]) -> float:
    """The share of groups whose scores are not all equal."""
    return float(np.mean([score_G.max() > score_G.min() for score_G in scores]))


def table(found: dict[str, Any]) -> str:
    """In Markdown, the reward that differs most first."""
    counts = f"{found['episodes']:,} episodes, {found['groups']:,} groups, {found['steps']} steps"
    head = (counts, "episodes whose score is not exact match", "groups that bear signal")
    rows = [(name, f"{one['differs']:.3f}", f"{one['signal']:.3f}") for name, one in found["rewards"].items()]
    rows.sort(key=lambda row: row[1], reverse=True)
    return markdown([head, *rows, ("exact_match", "", f"{found['exact_match']:.3f}")])


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run that kept its episodes")
    parser.add_argument("--results", type=Path, default=None, help="folder for the JSON (benchmarks/results)")
    options = parser.parse_args(words)
    found = measure(list(groups(options.run)))
    interleave.results("stand_ins", found, (), folder=options.results)
    print(table(found), end="")


if __name__ == "__main__":
    main()
