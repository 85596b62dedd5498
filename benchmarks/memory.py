"""What a command's process holds, phase by phase: SmolLM2's laptop preset, shortened, and then its rollouts alone.

    python -m benchmarks.memory           # 30 minutes on 2 cores, after `make smollm2`; results/memory.json

A phase is what the live line says. Resident memory before and after it, and the most within it; arrays are what jax
counts as alive after it, the rest is the interpreter, programs, and what the allocator has not given back.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.tables import markdown

SIGNAL = "benchmarks.every_other.every_other"
DATA = os.environ.get("QR_JAX_DATA", str(interleave.ROOT.parent / "shared" / "data"))
# All of the preset's questions: caches grow with the longest episode, which a few do not show. Each bears signal: an
# update of none computes no gradient.
SHORT = ("sft.steps=3", "sft.limit=24", "evaluation.base=false", "train.steps=1", f"reward={SIGNAL}")
GIB = 2**30


def main() -> None:
    """Measure, write the results and print them."""
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        commands = {
            "training": ("train", "configs/smollm2_multihop.py", *SHORT, "--run", run),
            "rollouts alone": ("eval", run),
        }
        found = {name: _child(words) for name, words in commands.items()}
    file = interleave.results("memory", {"commands": found}, ())
    print(table(json.loads(file.read_text())))


def _child(words: tuple[str, ...]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *words],
        cwd=interleave.ROOT, env=os.environ | {"QR_JAX_DATA": DATA}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith(interleave.MARK):
            return json.loads(line.removeprefix(interleave.MARK))
    raise SystemExit(f"`{' '.join(words)}` ended with {done.returncode}:\n{done.stderr[-2000:]}")


def follow(words: list[str]) -> None:
    """The command in this process; a line with its phases at its end."""
    from qr_jax.cli import cli
    from qr_jax.logging import terminal

    rows, open_now, whole = [], [], terminal.phase

    @contextlib.contextmanager
    def phase(what: str, *given: Any, **named: Any) -> Iterator[Any]:
        _note(open_now)
        row = {"phase": what, "before": resident()["VmRSS"], "most": 0}
        rows.append(row)
        open_now.append(row)
        try:
            with whole(what, *given, **named) as made:
                yield made
        finally:
            _note(open_now)
            open_now.remove(row)
            row |= {"after": resident()["VmRSS"], "arrays": _arrays()}

    terminal.phase = phase
    code = cli.main(words)
    print(interleave.MARK + json.dumps(rows), flush=True)
    raise SystemExit(code)


def _note(open_now: list[dict[str, Any]]) -> None:
    """The highest mark since the last call counts for all phases that are open, and falls to what is held now."""
    most = resident()["VmHWM"]
    for row in open_now:
        row["most"] = max(row["most"], most)
    Path("/proc/self/clear_refs").write_text("5")


def resident() -> dict[str, int]:
    """VmRSS and VmHWM of this process, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}


def _arrays() -> int:
    jax = sys.modules.get("jax")
    return sum(array.nbytes for array in jax.live_arrays()) if jax else 0


def table(results: dict[str, Any]) -> str:
    """Markdown: the phases that needed a tenth of a GiB more than was held before, or let one go."""
    rows = [["command", "phase", "before (GiB)", "most", "after", "of it arrays"]]
    for command, phases in results["commands"].items():
        for row in phases:
            if max(row["most"], row["before"]) - min(row["before"], row["after"]) > GIB / 10:
                amounts = (row[name] / GIB for name in ("before", "most", "after", "arrays"))
                rows.append([command, row["phase"], *(f"{amount:.2f}" for amount in amounts)])
    return markdown(rows)


if __name__ == "__main__":
    follow(sys.argv[1:]) if sys.argv[1:] else main()
