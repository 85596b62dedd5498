"""The paper's agent on the quickstart's world: searches called in JSON, up to three at once.

    qr-jax train configs/tool_call.py                # parallel searches
    qr-jax train configs/tool_call.py:one_by_one     # the same questions with search_r1, a search a turn

A world twice as large has 378 comparisons and 372 intersections among 3,000 held-out questions. An intersection's two
searches need nothing of each other, and list up to three persons each, so a search shows three passages, which take
twice the cold start to learn to read (400 steps end at .04, where no group bears signal). A fifth of its answers are
right then: groups of eight learn from that, and the quickstart's groups of two do not. 500 steps, for at 300 it still
rises; otherwise it is the quickstart. Figures: docs/measurements.md, by `python -m benchmarks.tool_call`.
"""

from dataclasses import replace
from pathlib import Path

from qr_jax.config import load, use

quickstart = load(Path(__file__).with_name("quickstart.py"))
SHARES = {"comparison": 0.125, "intersection": 0.125, "trace_comparison": 0.125, "trace_intersection": 0.125}
WORLD = {**quickstart.data.world, **SHARES, "dev": 3000, "documents": 2000}
WORD_LEVEL = {  # the world's words are separated by blanks
    "prompt": "{question} ",
    "results": "{passages} ",
    "passage": "{title} {text} ",
    "nothing": ". ",
    "rest": "",
    "unread": "",
    "invalid": "",
    "last": "",
    "schema": False,
}

one_by_one = replace(
    quickstart,
    data=replace(quickstart.data, world=WORLD),
    rollout=replace(quickstart.rollout, search_k=3, observation_tokens=40, context_tokens=256),
    pool=replace(quickstart.pool, queries=32, samples=8),
    learner=replace(quickstart.learner, lr=7e-4, row_tokens=256),
    sft=replace(quickstart.sft, max_tokens=256, steps=800),
    evaluation=replace(quickstart.evaluation, questions=3000),
    train=replace(quickstart.train, steps=500),
)
config = replace(
    one_by_one,
    env=use("tool_call", max_turns=5, max_queries=3, **WORD_LEVEL),
    rollout=replace(one_by_one.rollout, turn_tokens=40, observation_tokens=96),
)
