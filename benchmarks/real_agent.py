"""SmolLM2-135M as the paper's agent on real questions of several hops: a cold start, then GRPO, before and after.

    make smollm2 && python -m benchmarks.real_agent     # one GPU: 6 minutes a seed; resumable
    python -m benchmarks.real_agent --seeds 0 learner.lr=1e-5      # fewer seeds, other settings: further rows
    python -m benchmarks.real_agent --table             # of what is kept, and make no run

A run is `qr-jax train configs/smollm2_tool_call.py:full seed=N`, judged greedily on all held-out questions of HotpotQA,
2WikiMultihopQA and MuSiQue: by its cold start, and after the steps of GRPO. Its figures join results/real_agent.json
when it ends; a run that was stopped goes on in runs/real_agent, and so does one that is asked for more --steps.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import interleave, kept_runs, single_hop
from benchmarks.single_hop import change, curves, dead, gain
from benchmarks.study import span
from benchmarks.tables import markdown, over_seeds

NAME = "real_agent"
CONFIG = "configs/smollm2_tool_call.py:full"
SERIES = single_hop.SERIES | {
    "searches": "rollout/searches", "parallel_turns": "rollout/parallel_turns", "step_s": "time/step_s",
    "gap": "sampler_gap/mean", "largest_gap": "sampler_gap/max",
}  # fmt: skip
SCORES = "exact_match", "f1"
STRETCHES = (0, 10, 20, 30, 40)  # steps between which the curves are averaged
SHOWN = {
    "pass": "right answers", "signal": "groups with signal, of 16", "entropy": "entropy, nats",
    "searches": "searches an episode", "parallel_turns": "turns of several", "gap": "sampler and learner, nats",
}  # fmt: skip
A_QUESTION = {"searches": "searches_per_question", "turns of several": "parallel_turns_per_question"}


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=span, default=span("0-2"), metavar="FROM-TO", help="(0-2)")
    parser.add_argument("--table", action="store_true", help="print what the kept file says, and make no run")
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="steps of GRPO (40)")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="as qr-jax train has them")
    options = parser.parse_args()
    for seed in () if options.table else options.seeds:
        words = [f"train.steps={options.steps}", *options.settings]
        folder = interleave.ROOT / "runs" / NAME / "_".join([str(seed), *options.settings])
        kept_runs.make(NAME, {"seed": seed, "words": words}, partial(trained, seed, words, folder))
    print(table(kept_runs.kept(NAME)), end="")


def trained(seed: int, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """What a seed's run has learnt."""
    kept_runs.qr_jax("train", CONFIG, f"seed={seed}", *words, "--run", folder)
    return single_hop.figures_of(folder, SERIES)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a run, with the paired intervals over questions; then mean gains over seeds, and curves."""
    of = "seed", "settings", "device", "steps", "exact match", "gain", "F1", "gain", "zero-variance"
    rows: list[tuple[str, ...]] = [(*of, *A_QUESTION)]
    for run in runs:
        scores = [cell for score in SCORES for cell in (change(run, score), gain(run, score))]
        asked = [f"{run['before'][of]:.2f} to {run['after'][of]:.2f}" for of in A_QUESTION.values()]
        about = str(run["seed"]), called(run), run["device"], str(run["steps"])
        rows.append((*about, *scores, dead(run), *asked))
    told = ""
    for words in dict.fromkeys(map(called, runs)):
        like = [run for run in runs if called(run) == words]
        mean = [over_seeds([run["gains"][score]["mean"] for run in like], "+") for score in SCORES]
        told += f"Mean gain over {len(like)} seeds, {words}: exact match {mean[0]}, F1 {mean[1]}.\n\n"
    return f"{markdown(rows)}\n{told}{curves(runs, STRETCHES, SHOWN)}"


def called(run: Mapping[str, Any]) -> str:
    """The run's settings beside the config's."""
    return " ".join(run["words"])


if __name__ == "__main__":
    main()
