"""A small model learns to use two tools: it searches two figures, computes with them, and answers.

    qr-jax train configs/two_tools.py                # both
    qr-jax train configs/two_tools.py env.max_turns=2 --run runs/no_room    # no turn is left to compute: it must not rise
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
