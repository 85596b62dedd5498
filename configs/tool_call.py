"""The paper's agent on the quickstart's world: searches called in JSON, up to three at once.

    qr-jax train configs/tool_call.py                # parallel searches
    qr-jax train configs/tool_call.py:one_by_one     # the same questions with search_r1, one search per turn

The world is twice as large as the quickstart's and has 378 comparisons and 372 intersections among 3,000 held-out
questions. The two searches of an intersection are independent and list up to three persons each, so a search shows
three passages. Learning to read these takes a cold start of 800 steps: after 400 the run ends at .04, because hardly
any group bears signal. After 800 a fifth of the answers is right: groups of eight learn from this, and
groups of two do not. GRPO takes 500 steps, because accuracy still rises at 300. The rule is foresee, with which the
figures in docs/measurements.md were made (`python -m benchmarks.tool_call`); all else is as in the quickstart.
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
    pool=replace(quickstart.pool, queries=32, samples=8, rule=use("foresee")),
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
