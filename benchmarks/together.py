"""What several seeds in one call would save: decode and update of the quickstart's shape for four seeds at once.

    python -m benchmarks.together                # 2 minutes on an idle machine of 2 cores; results/together.json

Beside four seeds in one call stand two processes that run one seed each at the same time, which is `--jobs 2`.
"""

import json
import statistics
from concurrent.futures import ThreadPoolExecutor

from benchmarks import interleave
from benchmarks.interleave import Contender, Worker
from benchmarks.tables import markdown

MODULE, SEEDS, ROUNDS = "benchmarks.together_ours", 4, 15
SIZES = {"256 slots, 16 groups": {"slots": 256, "groups": 16}, "32 slots, 2 groups": {"slots": 32, "groups": 2}}
KINDS = ("decode", "update")


def measured(size: dict[str, int]) -> dict[str, dict[str, float]]:
    """Seeds a second by kind of call and way; medians of rounds in turn."""
    workers = [Worker(Contender(name, MODULE)) for name in ("one", "another", "together")]
    one, another, together = workers
    try:
        for worker in workers:
            worker.ask("prepare", seeds=SEEDS if worker is together else 1, **size)
        with ThreadPoolExecutor(2) as at_once:
            found = {kind: _kind(kind, one, another, together, at_once) for kind in KINDS}
    finally:
        for worker in workers:
            worker.close()
    return found


def _kind(kind: str, one: Worker, another: Worker, together: Worker, at_once: ThreadPoolExecutor) -> dict[str, float]:
    rates: dict[str, list[float]] = {"one process": [], "two processes": [], f"{SEEDS} seeds in one call": []}
    for at in range(ROUNDS):
        alone = one.ask("sample", kind=kind, round=at)
        both = [
            each.result() for each in [at_once.submit(w.ask, "sample", kind=kind, round=at) for w in (one, another)]
        ]
        joined = together.ask("sample", kind=kind, round=at)
        pair = sum(each["seeds_a_s"] for each in both)
        for name, rate in zip(rates, (alone["seeds_a_s"], pair, joined["seeds_a_s"]), strict=True):
            rates[name].append(rate)
    return {name: statistics.median(each) for name, each in rates.items()}


def table(found: dict) -> str:
    """In Markdown: seeds a second, as shares of two processes' rate."""
    rows = [("shape", "call", *next(iter(next(iter(found["seeds_a_s"].values())).values())))]
    for shape, kinds in found["seeds_a_s"].items():
        for kind, ways in kinds.items():
            rows.append((shape, kind, *(f"{rate:,.1f} ({rate / ways['two processes']:.2f})" for rate in ways.values())))
    return markdown(rows)


def main() -> None:
    interleave.no_options(__doc__)
    figures = {"rounds": ROUNDS, "seeds_a_s": {name: measured(size) for name, size in SIZES.items()}}
    file = interleave.results("together", figures, ())
    print(json.dumps(json.loads(file.read_text())["seeds_a_s"], indent=1))


if __name__ == "__main__":
    main()
