"""Training runs, each kept in results/NAME.json when it ends: none is made twice, and one that was stopped goes on."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import interleave
from qr_jax.evaluation.scores import INCOMPLETE

Figures = dict[str, Any]
PLAN = interleave.ROOT / "configs/study/plan.md"


def file_of(name: str) -> Path:
    return interleave.ROOT / f"benchmarks/results/{name}.json"


def kept(name: str) -> list[Figures]:
    """The runs that are there, in the order in which they ended."""
    return json.loads(file_of(name).read_text(encoding="utf-8"))["runs"] if file_of(name).is_file() else []


def make(name: str, key: Mapping[str, Any], run: Callable[[], Figures]) -> None:
    """Keep `key`, what `run` gives, and the plan's hash, commit and device, unless a run of that key is kept."""
    if not any(key.items() <= one.items() for one in kept(name)):
        one = {**key, "plan_sha256": plan_sha256(), **interleave.commit(), "device": device(), **run()}
        interleave.results(name, {"runs": [*kept(name), one]}, ())


def plan_sha256() -> str:
    """The SHA-256 of the plan of the experiments, as it is now."""
    return hashlib.sha256(PLAN.read_bytes()).hexdigest()


def device() -> str:
    """The kind of JAX's first device, asked for by a process of its own: one that has a GPU keeps it."""
    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def qr_jax(*words: str | Path) -> None:
    """A command of this checkout; subprocess.CalledProcessError where it fails (its error stands above)."""
    command = [sys.executable, "-m", "qr_jax", *map(str, words)]
    subprocess.run(command, cwd=interleave.ROOT, check=True)


def summary_of(folder: Path) -> Figures:
    """Return a run's summary. ValueError where an evaluation before or after training is over too few questions."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if summary.get("incomplete"):
        raise ValueError(f"{folder}: {INCOMPLETE}. Its figures are not kept; evaluate it again, or make it anew")
    return summary
