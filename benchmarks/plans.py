"""`qr-jax plan` for docs/planning.md: the configs for pods, one model over a whole pod, and one that does not fit.

    python -m benchmarks.plans                       # all of them, and benchmarks/results/plans.json
    python -m benchmarks.plans --only v5e_16 v5e_64  # these anew, the others as they are in that file

Each plan is the command that its `command` says, run as a user would, with its wall-clock seconds. libtpu compiles; no
TPU is needed, and nothing is a measurement of one. The file is written after each plan.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave

ONE_CHIP = ("mesh.fsdp=1", "learner.rows=2", "rollout.slots=8", "rollout.store=8")
APART = ("train.overlap=1", "mesh.rollout_devices=2", "mesh.fsdp=8", "rollout.slots=32", "rollout.store=16")
PLANS = {
    "v5e_16": ("paper/qwen3_1p7b.py:v5e_16", "v5e:4x4"),
    "v5e_64": ("paper/qwen3_1p7b.py:v5e_64", "v5e:8x8"),
    "v5p_16": ("paper/qwen3_1p7b.py:v5p_16", "v5p:2x2x2"),
    "v6e_16": ("paper/qwen3_1p7b.py:v6e_16", "v6e:4x4"),
    "v5e_16_overlap": ("paper/qwen3_1p7b.py:v5e_16", "v5e:4x4", *APART),
    "v5e_16_pod": ("paper/qwen3_1p7b.py:v5e_16", "v5e:4x4", "mesh.rollout=pod"),
    "4b_v5e_16": ("paper/qwen3_4b.py:v5e_16", "v5e:4x4"),
    "4b_v5e_64": ("paper/qwen3_4b.py:v5e_64", "v5e:8x8"),
    "4b_v5p_16": ("paper/qwen3_4b.py:v5p_16", "v5p:2x2x2"),
    "4b_v6e_16": ("paper/qwen3_4b.py:v6e_16", "v6e:4x4"),
    "search_r1_v5e_64": ("search_r1.py:v5e_64", "v5e:8x8"),
    **{
        f"{name}_{chip}_8": (f"tpu/v5e_8.py:{name}", f"{chip}:2x4")
        for name in ("qwen3_0p6b", "qwen3_1p7b_lora", "gemma3_1b")
        for chip in ("v5e", "v6e")
    },
    **{f"qwen3_0p6b_lora_{chip}_1": ("tpu/v5e_8.py:qwen3_0p6b_lora_1", f"{chip}:1x1") for chip in ("v5e", "v6e")},
    "qwen3_0p6b_tpu7x_4": ("tpu/v5e_8.py:qwen3_0p6b", "tpu7x:2x2x1"),
    "qwen3_1p7b_v5p_1": ("paper/qwen3_1p7b.py", "v5p:1x1x1", *ONE_CHIP),
    "qwen3_1p7b_lora_v5p_1": ("paper/qwen3_1p7b.py", "v5p:1x1x1", *ONE_CHIP, "model.lora.rank=16"),
    "v5e_16_too_large": ("paper/qwen3_1p7b.py:v5e_16", "v5e:4x4", "rollout.slots=256"),
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PLANS, default=list(PLANS), metavar="NAME", help=", ".join(PLANS))
    parser.add_argument("--results", type=Path, default=None, help="folder for the JSON (benchmarks/results)")
    options = parser.parse_args(words)
    file = (options.results or interleave.ROOT / "benchmarks/results") / "plans.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in options.only:
        found[name] = one(name)
        file.write_text(json.dumps({each: found[each] for each in PLANS if each in found}, indent=1) + "\n")
    head = ["", "fits", "GiB a chip", "a step, s", "wall_s"]
    print(interleave.table(head, [row(name, found[name]) for name in PLANS if name in found]))
    print(f"written to {file}")


def one(name: str) -> dict[str, Any]:
    """Return one plan for a slice of TPUs."""
    config, topology, *more = PLANS[name]
    overrides, flags = ([word for word in more if word.startswith("--") is flag] for flag in (False, True))
    return run(name, f"configs/{config}", *overrides, "--topology", topology, *flags)


def run(name: str, *words: str) -> dict[str, Any]:
    """Return what `qr-jax plan` with these words answers, its exit status and seconds, commit, machine and packages."""
    start = time.monotonic()
    command = [sys.executable, "-m", "qr_jax", "plan", *words, "--json"]
    done = subprocess.run(command, cwd=interleave.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    wall_s = time.monotonic() - start
    if not done.stdout:
        raise SystemExit(f"{name}: qr-jax plan {' '.join(words)} ended with {done.returncode} and no answer")
    about = {"command": ["qr-jax", "plan", *words, "--json"], "exit_status": done.returncode, "wall_s": wall_s}
    about |= {**interleave.commit(), "machine": interleave.machine(), "packages": interleave.versions()}
    return about | {"answer": json.loads(done.stdout)}


def row(name: str, found: Mapping[str, Any]) -> list[Any]:
    answer = found["answer"]
    step_s = answer["seconds"]["step"] if "seconds" in answer else "-"
    return [name, answer["fits"], answer["peak_bytes_per_chip"] / 2**30, step_s, found["wall_s"]]


if __name__ == "__main__":
    main()
