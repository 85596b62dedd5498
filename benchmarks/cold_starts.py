"""SmolLM2-135M cold-started on HotpotQA's questions by their gold titles.

    make smollm2 && python -m benchmarks.cold_starts      # 20 minutes a seed on 2 idle cores; resumable
    python -m benchmarks.cold_starts --table              # of what is kept, and make no run

Each seed learns from the multi-hop config's traces, and answers the same held-out questions of HotpotQA, greedily, with
BM25 over its passages. A figure joins results/cold_starts.json when its run ends.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds

NAME = "cold_starts"
RUNS = interleave.ROOT / "runs" / NAME
CORPUS = "{data}/corpus/hotpotqa.corpus.jsonl.gz"
OWN = "{data}/dev/hotpotqa.questions.jsonl"
HELD_OUT = 200  # questions
FROM = {"gold titles": ("data.traces=supporting", f"data.train={OWN}")}
SCORES = ("exact_match", "f1", "cover_match", "searches_per_question", "tokens_per_question", "stops", "questions")


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    options = parser.parse_args()
    for seed in () if options.table else options.seeds:
        for name in FROM:
            kept_runs.make(NAME, {"name": name, "seed": seed}, partial(learnt, name, seed))
    print(table(kept_runs.kept(NAME)), end="")


def learnt(name: str, seed: int) -> dict[str, Any]:
    """What a cold start from these traces answers."""
    folder = RUNS / f"{name.replace(' ', '_')}_{seed}"
    kept_runs.qr_jax("sft", "configs/smollm2_multihop.py", *words(name), f"seed={seed}", "--run", folder)
    command = [sys.executable, "-m", "qr_jax", "eval", str(folder), f"data.eval_limit={HELD_OUT}", "--json"]
    said = subprocess.run(command, cwd=interleave.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    scores = json.loads(said)
    return {"cold_start": kept_runs.summary_of(folder), **{score: scores[score] for score in SCORES}}


def words(name: str) -> tuple[str, ...]:
    """The settings of where questions, traces and passages come from."""
    return *FROM[name], f"data.eval={OWN}", f"data.corpus={CORPUS}"


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a source of traces, means with their 95 % intervals over the seeds."""
    rows = [("traces of", "seeds", "traces", "exact match", "F1", "searches a question", "ended by an answer")]
    for name in FROM:
        of = [run for run in runs if run["name"] == name]
        means = [over_seeds([run[score] for run in of]) for score in ("exact_match", "f1", "searches_per_question")]
        answered = over_seeds([run["stops"].get("answered", 0) / run["questions"] for run in of])
        traces = ", ".join(sorted({str(run["cold_start"]["traces"]) for run in of}))
        rows.append((name, ", ".join(str(run["seed"]) for run in of), traces, *means, answered))
    return markdown(rows)


if __name__ == "__main__":
    main()
