"""A small model learns to use two tools: it searches for two numbers, computes with them, and answers.

    qr-jax train configs/two_tools.py    # 2 to 10 minutes on 2 cores

70 % of the questions ask for a sum or a difference of two numbers; the others are chains of one or two hops. Each
subject has two numbers. The traces show one of each relation's four phrasings and one of each operation's two
wordings; the model must learn what the others mean in GRPO. The rule is foresee, in groups of two, with which the
figures in docs/tools.md were made (`python -m benchmarks.two_tools`); all else is as in the quickstart.
"""

from dataclasses import replace
from pathlib import Path

from qr_jax.config import load, use

quickstart = load(Path(__file__).with_name("quickstart.py"))
SHARES = {name: 0.0 for name in ("comparison", "intersection", "trace_comparison", "trace_intersection")}
WORLD = {**quickstart.data.world, **SHARES, "arithmetic": 0.7, "trace_arithmetic": 0.7, "test": 0}
WORLD |= {"hops": (0.5, 0.5), "trace_hops": (0.6, 0.4)}
WORD_LEVEL = {  # the world's words are separated by blanks
    "prompt": "{question} ",
    "searched": "{passages} ",
    "called": "{passages} ",
    "passage": "{title} {text} ",
    "nothing": ". ",
    "rest": "",
    "wrong": ". ",
    "invalid": "",
    "last": "",
    "schema": False,
}

config = replace(
    quickstart,
    data=replace(quickstart.data, world=WORLD),
    pool=replace(quickstart.pool, queries=128, samples=2, rule=use("foresee")),
    learner=replace(quickstart.learner, lr=1e-3),
    train=replace(quickstart.train, steps=100),
    env=use("several_tools", max_turns=4, max_calls=1, **WORD_LEVEL),
    tools=(use("search"), use("calculator")),
)
