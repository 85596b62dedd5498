"""A small model learns to use two tools: it searches for two numbers, computes with them, and answers.

    qr-jax train configs/two_tools.py                # 4 to 8 minutes on 2 cores
    qr-jax train configs/two_tools.py train.steps=60 # seed 0: greedy exact match .437 -> .750 of 300 held-out questions

70 % of the questions ask for a sum or a difference of two numbers; the others are chains of one or two hops. Each
subject has two numbers. The traces show one of each relation's four phrasings and one of each operation's two
wordings; the model must learn what the others mean in GRPO. All else is as in the quickstart. `python -m
benchmarks.two_tools` makes the table over seeds.
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
    env=use("several_tools", max_turns=4, max_calls=1, **WORD_LEVEL),
    tools=(use("search"), use("calculator")),
)
