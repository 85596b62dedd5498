"""One GRPO update beside Tunix's on the same episodes, and how full and how useful the learner's rows are.

    make bench-peers bench-learner
    python -m benchmarks.learner --rounds 5
    python -m benchmarks.learner --no-peers --before ../before --rounds 3    # with an earlier checkout

Two loads (peers/episodes.py), at SmolLM2-135M's shape in float32: `dense`, 16 episodes of 192 tokens, and `mixed`, 16
of lengths uniform in 64-192, which Tunix pads to 192. Before a ratio is printed, logits of common ids and the first
gradient's norm must agree. `packing_efficiency` is tokens over computed positions, the median over updates of 32
questions x 8 samples whose lengths are drawn from those of HotpotQA episodes (episode_lengths.json, or the episodes of
any run: --run), in micro-batches of 2 rows of 2,048; in larger ones the last is emptier (`of_rows`).
`zero_variance_tokens` counts trained tokens of groups without reward variance, of a step that drew some such groups.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave

OURS = "benchmarks.learner_ours"
GAP_LOGITS = 1e-3  # between two contenders' logits: the same model, or there is nothing to compare
GAP_NORM = 1e-3  # relative, between the first gradients' norms: the same update
LR = 1e-9  # so small that logits can be compared after the updates of the warm-up
LENGTHS = Path(__file__).with_name("episode_lengths.json")
QUERIES, SAMPLES, ROW_TOKENS = 32, 8, 2048
ROWS = (2, 4, 16)  # rows of a micro-batch that packing is measured with: the first for one device, the last for 16


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    workers = {"ours": interleave.Worker(interleave.Contender("ours", OURS))}
    if options.before:
        workers["before"] = interleave.Worker(interleave.checkout("before", OURS, options.before, is_theirs=True))
    if not options.no_peers:
        workers["tunix"] = interleave.Worker(interleave.peer("tunix", "benchmarks.peers.tunix_learner"))
    everyone = list(workers.values())
    interleave.run("learner", options, everyone, lambda: measure(options, workers), show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__)
    parser.add_argument("--before", type=Path, help="an earlier checkout, its .venv made, whose updates take part")
    parser.add_argument("--run", type=Path, default=None, help="a run folder whose episodes' lengths are packed")
    return parser.parse_args(words)


def measure(options: argparse.Namespace, workers: dict[str, interleave.Worker]) -> dict[str, Any]:
    """All figures; stops the program where contenders are not one model or do not make one update."""
    ours = workers["ours"]
    prepared = {name: worker.ask("prepare", lr=LR) for name, worker in workers.items()}
    figures: dict[str, Any] = {
        "ratio_update_tunix": None, "ratio_update_mixed_tunix": None, **pack_figures(options, ours),
        "zero_variance": ours.ask("zero_variance"), "same_update": same_update(workers, prepared), "prepared": prepared,
        "bounds": [ours.ask("bounds")], "loads": {}, "options": {"rounds": options.rounds, "run": str(options.run)},
    }  # fmt: skip
    figures["zero_variance_tokens"] = figures["zero_variance"]["zero_variance_tokens"]
    for name in ("dense", "mixed"):
        samples = interleave.interleave(list(workers.values()), options.rounds, {"load_name": name})
        figures["loads"][name] = {
            "seconds": {who: interleave.median(found, "seconds") for who, found in samples.items()},
            "ratios": {
                who: interleave.ratio(samples["ours"], samples[who], "updates_a_s") for who in samples if who != "ours"
            },
            "samples": samples,
        }
        figures["bounds"].append(ours.ask("bounds"))
        if "tunix" in samples:
            key = "ratio_update_tunix" if name == "dense" else "ratio_update_mixed_tunix"
            figures[key] = figures["loads"][name]["ratios"]["tunix"]["ratio"]
    rate = max(one["product_flop_a_s"] for one in figures["bounds"])  # what the machine can do, not what is left of it
    dense = interleave.median(figures["loads"]["dense"]["samples"]["ours"], "model_flop_a_s")
    return figures | {"share_of_product_rate": dense / rate}


def pack_figures(options: argparse.Namespace, ours: interleave.Worker, *, updates: int = 9) -> dict[str, Any]:
    """The median efficiency of updates whose lengths are drawn, with replacement, from those of real episodes."""
    known = run_lengths(options.run) if options.run else json.loads(LENGTHS.read_text())["lengths"]
    sizes = {"row_tokens": max(ROW_TOKENS, *known), "queries": QUERIES, "samples": SAMPLES}
    of_rows = {}
    for rows in ROWS:
        chosen = random.Random(0)
        found = [ours.ask("packing", lengths=chosen.choices(known, k=QUERIES * SAMPLES), rows=rows, **sizes)
                 for _ in range(updates)]  # fmt: skip
        of_rows[str(rows)] = statistics.median(one["packing_efficiency"] for one in found)
    packing = {**sizes, "episodes": len(known), "updates": updates, "of_rows": of_rows}
    return {"packing_efficiency": of_rows[str(ROWS[0])], "packing": packing}


def run_lengths(run: Path) -> list[int]:
    lines = [line for file in sorted((run / "episodes").glob("*.jsonl")) for line in file.read_text().splitlines()]
    if not lines:
        raise SystemExit(f"no episodes in {run / 'episodes'}: --run takes the folder of a run")
    return [int(json.loads(line)["context_tokens"]) for line in lines]


def same_update(workers: dict[str, interleave.Worker], prepared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Largest differences of each peer's logits from ours, and of the first gradient's norm."""
    answers = {name: worker.ask("check") for name, worker in workers.items()}
    ours, norm, found = answers.pop("ours"), prepared["ours"]["gradient_norm"], {}
    for name, theirs in answers.items():
        logits = max(abs(a - b) for a, b in zip(ours["logits"], theirs["logits"], strict=True))
        found[name] = {"logits": logits, "gradient_norm": abs(prepared[name]["gradient_norm"] / norm - 1)}
        if not (logits <= GAP_LOGITS and found[name]["gradient_norm"] <= GAP_NORM):
            raise SystemExit(f"{name} does not make our update: {found[name]}, wanted {GAP_LOGITS} and {GAP_NORM}")
    return found


def show(figures: dict[str, Any]) -> None:
    interleave.show_loads(figures, "seconds", "seconds an update")


if __name__ == "__main__":
    main(sys.argv[1:])
