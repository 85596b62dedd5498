"""Which programs of a rollout a run needs: their shapes, how many were made at the start, and how often each is called.

    python -m benchmarks.shapes           # 200 steps of quickstart and of two_layer, 2 of SmolLM2's laptop preset, and
                                          # 6 of a pod's rollouts; 15 minutes on 2 cores, after `make smollm2`;
                                          # results/shapes.json

On CPU a large model's `append_by_layers` is a program of some of its layers, and `move` and `copy` are called once a
layer.

A pod's: one host's 64 episodes a step with the settings of configs/paper/qwen3_1p7b.py:v5e_16, two_layer's model, and
lengths as in episode_lengths.json (pod_lengths.py).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import jax
import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax.cli import cli
from qr_jax.rollout import decode, on_cpu

DATA = os.environ.get("QR_JAX_DATA", str(interleave.ROOT.parent / "shared" / "data"))
PROGRAMS = {"append_by_layers": on_cpu, **dict.fromkeys(("decode", "append", "move", "copy"), decode)}
CONFIGS = {
    "quickstart": ("configs/quickstart.py", "train.steps=200"),
    "two_layer": ("configs/two_layer.py", "train.steps=200"),
    "SmolLM2, laptop": (
        "configs/smollm2_multihop.py", "sft.steps=0", "evaluation.base=false", "data.eval_limit=4", "train.steps=2",
    ),
    "a host of v5e_16": (
        "configs/paper/qwen3_1p7b.py:v5e_16", "model=two_layer", "model.compute=float32", "model.vocab_block=512",
        "mesh.fsdp=1", "learner.rows=1", "env=benchmarks.pod_lengths.pod_lengths", "pool.queries=8", "sft.steps=0",
        "data.world.documents=2000", "data.world.train=500", "data.world.dev=100", "data.world.traces=100",
        "evaluation.base=false", "evaluation.questions=8", "evaluation.samples=1", "train.steps=6",
    ),
}  # fmt: skip


def main() -> None:
    """Run each config, write the results and print them."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _child([*words, "--run", f"{folder}/{at}"]) for at, (name, words) in enumerate(CONFIGS.items())}
    file = interleave.results("shapes", {"configs": found}, ())
    print(table(json.loads(file.read_text())))


def _child(words: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.shapes", *words],
        cwd=interleave.ROOT, env=os.environ | {"QR_JAX_DATA": DATA}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith(interleave.MARK):
            return json.loads(line.removeprefix(interleave.MARK))
    raise SystemExit(f"`{' '.join(words)}` ended with {done.returncode}:\n{done.stderr[-2000:]}")


def follow(words: list[str]) -> None:
    """The run in this process, its calls counted; a line with each program at its end."""
    calls, at_start = Counter(), set()
    whole = {name: getattr(module, name) for name, module in PROGRAMS.items()}

    def counted(name: str) -> Any:
        def key_of(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, str, str]:
            rows = [named.get(name) for name in ("from_R", "to_R", "used_R")]
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves((given, rows))]
            return name, str((shapes, named.get("view"))), _said(name, given, named)

        def call(*given: Any, **named: Any) -> Any:
            calls[key_of(given, named)] += 1
            return whole[name](*given, **named)

        def lower(*given: Any, **named: Any) -> Any:
            at_start.add(key_of(given, named))
            return whole[name].lower(*given, **named)

        call.lower = lower
        return call

    for name, module in PROGRAMS.items():
        setattr(module, name, counted(name))
    code = cli.main(["train", *words])
    programs = [
        {"program": key[0], "shape": key[2], "at_start": key in at_start, "calls": calls[key]}
        for key in sorted(at_start | set(calls), key=lambda key: -calls[key])
    ]
    print(interleave.MARK + json.dumps(programs), flush=True)
    raise SystemExit(code)


def _said(name: str, given: tuple[Any, ...], named: dict[str, Any]) -> str:
    """As in "64 of 256 slots, 128 positions" and "32 tiles of 8, view 64"."""
    if name == "decode":
        slots, positions = given[1][0][0].shape[0], given[1][0][0].shape[2]
        return f"{len(given[3])} of {slots} slots, {positions} positions"
    if name.startswith("append"):
        tiles, size = given[3].shape
        return f"{tiles} tiles of {size}, view {named['view']}"
    return f"{len(named['used_R'])} rows"


def table(results: dict[str, Any]) -> str:
    """Markdown: a line a config and kind of program."""
    rows = [["run", "program", "shapes", "made at the start", "never called again", "of 90 % of the calls"]]
    for config, programs in results["configs"].items():
        for name in dict.fromkeys(one["program"] for one in programs):
            own = sorted((one for one in programs if one["program"] == name), key=lambda one: -one["calls"])
            calls = np.cumsum([one["calls"] for one in own])
            often = int(np.searchsorted(calls, 0.9 * calls[-1])) + 1 if calls[-1] else 0
            amounts = len(own), sum(one["at_start"] for one in own), sum(not one["calls"] for one in own), often
            rows.append([config, name.replace("_", " "), *map(str, amounts)])
    return markdown(rows)


if __name__ == "__main__":
    follow(sys.argv[1:]) if sys.argv[1:] else main()
