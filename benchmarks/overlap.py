"""Measure train.overlap: steps of the quickstart with slow searches, with and without it, in turn.

    make quickstart && python -m benchmarks.overlap     # 25 minutes on 2 idle cores; results/overlap.json

Each run begins with the quickstart's last weights and takes `STEPS` steps in a process of its own, training on all
groups, so that an update takes about as long as quick rollouts do. "apart": one of two emulated devices learns, the
other rolls out. "by arrival": no search is waited for while another episode can decode. Medians are over the steps
after the first `SKIPPED`, in which programs are made; idle is the share of the two cores that the process did not use
in these steps.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax.records import Passage, SearchFunction

STEPS, SKIPPED = 16, 6
CORES = 2
SECONDS = (0.05, 1.0)  # of a call of the search
KINDS = {
    "one device": ("mesh.devices=1",),
    "one device, by arrival": ("mesh.devices=1", "rollout.schedule=arrival"),
    "one device, overlap": ("mesh.devices=1", "train.overlap=1"),
    "apart, overlap": ("mesh.devices=2", "mesh.rollout_devices=1", "train.overlap=1"),
}
PHASES = ("step", "rollout", "learner", "ahead", "search_wait")


def late(*, corpus: Sequence[Passage], seconds: float = 1.0) -> SearchFunction:
    """Retriever: BM25 whose every call takes `seconds` longer."""
    from qr_jax.search.retrievers.bm25 import bm25

    search = bm25(corpus=corpus)

    def slow(queries: list[str], k: int) -> Sequence[Sequence[Passage]]:
        time.sleep(seconds)
        return search(queries, k)

    return slow


def main() -> None:
    """Measure every kind of run in turn, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=interleave.ROOT / "runs/quickstart", help="whose weights (RUN)")
    parser.add_argument("--rounds", type=int, default=2, help="of each, in turn (2)")
    parser.add_argument("--play", nargs="+", metavar="SETTING", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        print(json.dumps(play(options.play)))
        return
    found: dict[tuple[float, str], list[dict[str, float]]] = {}
    for _, seconds, kind in itertools.product(range(options.rounds), SECONDS, KINDS):
        words = (*KINDS[kind], f"retriever.seconds={seconds}", f"train.init={options.run}")
        command = [sys.executable, "-m", "benchmarks.overlap", "--play", *words]
        done = subprocess.run(command, cwd=interleave.ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found.setdefault((seconds, kind), []).append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        {"seconds": seconds, "kind": kind}
        | {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}
        | {"steps": [one["step"] for one in rounds]}
        for (seconds, kind), rounds in found.items()
    ]
    file = interleave.results("overlap", {"steps": STEPS, "rounds": options.rounds, "rows": rows}, ())
    print(table(json.loads(file.read_text(encoding="utf-8"))))


def play(words: Sequence[str]) -> dict[str, float]:
    """Train for some steps with these settings; return medians of seconds by phase, and the idle share."""
    from qr_jax import config, train
    from qr_jax.parallel import mesh

    fixed = ("retriever=benchmarks.overlap.late", "sft.steps=0", f"train.steps={STEPS}", "rollout.lanes=1", *words)
    fixed += ("learner.keep_zero_variance=true",)
    fixed += ("evaluation.every=0", "evaluation.questions=8", "train.checkpoint_every=1000", "log.tensorboard=false")
    settings, used, take = config.load("configs/quickstart.py", fixed), [], train.take_step
    mesh.emulate(settings.mesh.devices)

    def timed(*given: Any) -> Any:
        used.append((time.monotonic(), time.process_time()))
        return take(*given)

    train.take_step = timed
    with tempfile.TemporaryDirectory() as folder:
        train.train(settings, Path(folder) / "run", say=lambda text: None)
        lines = (Path(folder) / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "pool/drawn" in row][SKIPPED:-1]  # none is played beside the last
    wall_s, busy_s = np.subtract(used[-1], used[SKIPPED])
    medians = {name: float(np.median([row.get(f"time/{name}_s") or 0.0 for row in rows])) for name in PHASES}
    return medians | {"idle": float(1 - busy_s / (wall_s * min(CORES, os.cpu_count() or 1)))}


def table(kept: Mapping[str, Any]) -> str:
    """Return Markdown: seconds of a step and of its parts, and the step over the longer part without overlap."""
    head = ("each search", "rollouts and updates", "step, s", "rollouts, s", "update, s")
    rows = [(*head, "step / longer part alone", "cores idle")]
    first = next(iter(KINDS))
    alone = {row["seconds"]: max(row["rollout"], row["learner"]) for row in kept["rows"] if row["kind"] == first}
    for row in kept["rows"]:
        played = row["ahead"] or row["rollout"]
        figures = (row["step"], played, row["learner"], row["step"] / alone[row["seconds"]], row["idle"])
        rows.append((f"{row['seconds']:g} s", row["kind"], *(f"{value:.2f}" for value in figures)))
    return markdown(rows)


if __name__ == "__main__":
    main()
