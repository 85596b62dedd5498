"""The query pool at one million queries: draw and settle of a step of 1,024, with each rule in turn.

    make bench-pool
    python -m benchmarks.pool --rounds 5 --rules recycle soft_recycle grpo bounded_dapo

Each rule is a process of its own with its own pool; a sample goes on with its steps. Groups are of 4, their pass rates
uniform, so that about three fifths bear signal; 512 of 1,024 are accepted. Beside it stands what else a training step
does with the whole pool: refresh, the figures of its metrics, the digest that processes compare.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import interleave

RULES = ("recycle", "soft_recycle", "grpo", "bounded_dapo")
PARTS = ("draw_settle_ms", "draw_ms", "settle_ms", "refresh_ms", "figures_ms", "digest_ms")
MILLION = 1_000_000


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    contenders = [interleave.Contender(rule, "benchmarks.pool_ours") for rule in options.rules]
    workers = [interleave.Worker(contender) for contender in contenders]
    interleave.run("pool", options, workers, lambda: measure(options, workers), show)


def measure(options: argparse.Namespace, workers: Sequence[interleave.Worker]) -> dict[str, Any]:
    """Every rule's medians over the steps of its samples, and the samples."""
    load = {"size": options.size, "count": options.count, "accept": options.count // 2}
    for worker in workers:
        worker.ask("prepare", rule=worker.name, **load)
    return summary(interleave.interleave(workers, options.rounds, {"steps": options.steps}), load)


def show(figures: dict[str, Any]) -> None:
    rows = [[rule, *medians.values()] for rule, medians in figures["by_rule"].items()]
    print(interleave.table(["rule", *PARTS], rows))
    print(f"draw_settle_ms_1m: {figures['draw_settle_ms_1m']}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, peers=False)
    parser.add_argument("--rules", nargs="+", default=list(RULES), help="rules by name (the four)")
    parser.add_argument("--size", type=int, default=MILLION, help="queries of the pool (1,000,000)")
    parser.add_argument("--count", type=int, default=1024, help="queries of a step (1,024)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a sample (20)")
    return parser.parse_args(words)


def summary(samples: dict[str, list[dict[str, Any]]], load: dict[str, int]) -> dict[str, Any]:
    """Medians over all steps of all rounds by rule; `draw_settle_ms_1m` is the slowest rule's."""
    by_rule = {
        rule: {part: statistics.median(one for sample in taken for one in sample[part]) for part in PARTS}
        for rule, taken in samples.items()
    }
    slowest = max(medians["draw_settle_ms"] for medians in by_rule.values())
    whole = load["size"] == MILLION and load["count"] == 1024
    return {"draw_settle_ms_1m": slowest if whole else None, "load": load, "by_rule": by_rule, "samples": samples}


if __name__ == "__main__":
    main(sys.argv[1:])
