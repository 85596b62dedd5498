"""Rollouts: generated tokens/s beside Tunix and transformers on the same turns, and beside what memory allows.

    make bench-peers bench-rollout
    python -m benchmarks.rollout --before ../before --rounds 3    # with an earlier checkout, as published
    python -m benchmarks.rollout --precision bfloat16 --rounds 3  # beside Tunix in bfloat16: rollout_bfloat16.json
    python -m benchmarks.rollout --precision int8 --rounds 3      # ours alone: weights and cache in int8

Two loads and three variants (peers/load.py), all at SmolLM2-135M's shape, in float32 unless said otherwise.
`multi_turn`: 8 questions x 4 samples, 3 searches of real BM25 over HotpotQA, observations of 128 tokens, 4 turns of 64
tokens; also with 16 slots for our 32 episodes, so that they are parked while others decode, and with searches that take
50 ms more. `single_turn`: 16 prompts of 128 tokens, 64 new ones; `single_turn_distinct` the same with 16 different
questions, where no prefill can be shared. All turns end after 64 tokens on all sides. Needs HotpotQA's files
(QR_JAX_DATA). README.md says what is compared and what is not.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.peers import load

PRECISIONS = ("float32", "bfloat16", "int8")  # of weights and cache; sums of int8 are float32
GAP_NATS = {"float32": 1e-4}  # between sampler and learner; elsewhere the gap is kept, and stops nothing
GAP_LOGITS = 1e-3  # between two contenders' logits in float32: the same model, or there is nothing to compare
MULTI = load.MULTI_QUERIES * load.MULTI_SAMPLES


@dataclass(frozen=True)
class Load:
    """What the workers call it, how many episodes of how many samples a question, and who takes part beside us.

    `slots`: of ours, so that episodes wait for one (None: one each); `latency_s`: of each call of the retriever.
    """

    kind: str
    episodes: int
    group: int
    peers: tuple[str, ...]
    slots: int | None = None
    latency_s: float = 0.0

    @property
    def has_before(self) -> bool:
        """Whether an earlier checkout takes part: its worker may know neither slots nor latencies."""
        return self.slots is None and not self.latency_s


LOADS = {
    "multi_turn": Load("multi_turn", MULTI, load.MULTI_SAMPLES, ("tunix",)),
    "multi_turn_16_slots": Load("multi_turn", MULTI, load.MULTI_SAMPLES, ("tunix",), slots=16),
    "multi_turn_50_ms": Load("multi_turn", MULTI, load.MULTI_SAMPLES, ("tunix",), latency_s=0.05),
    "single_turn": Load("single_turn", load.SINGLE_BATCH, 4, ("tunix", "torch")),
    "single_turn_distinct": Load("single_turn", load.SINGLE_BATCH, 1, ("tunix",)),
}
OURS = "benchmarks.rollout_ours"
MODULES = {"tunix": "benchmarks.peers.tunix_rollout", "torch": "benchmarks.peers.torch_rollout"}


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    contenders = [interleave.Contender("ours", OURS)]
    if options.before:
        contenders.append(interleave.checkout("before", OURS, options.before, is_theirs=True))
    workers = {one.name: interleave.Worker(one) for one in contenders}
    if not options.no_peers:
        peers = MODULES if options.precision == "float32" else {"tunix": MODULES["tunix"]}
        workers |= {name: interleave.Worker(interleave.peer(name, module)) for name, module in peers.items()}
    name = "rollout" if options.precision == "float32" else f"rollout_{options.precision}"
    with tempfile.TemporaryDirectory() as folder:
        interleave.run(name, options, list(workers.values()), lambda: measure(options, workers, folder), show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), help="which loads (all)")
    parser.add_argument("--before", type=Path, help="an earlier checkout, its .venv made, whose rollouts take part")
    parser.add_argument(
        "--tunix-episodes", type=int, default=8,
        help="episodes of a multi-turn sample of Tunix (8 of the 32, which take it four minutes)",
    )  # fmt: skip
    parser.add_argument("--concurrency", type=int, default=32, help="Tunix's max_concurrency (32, its default)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of weights and cache (float32)")
    options = parser.parse_args(words)
    if options.before and options.precision != "float32":
        parser.error(f"--before is measured in float32 alone; found --precision {options.precision}")
    options.no_peers |= options.precision == "int8"  # which no peer has
    return options


def measure(options: argparse.Namespace, workers: dict[str, interleave.Worker], folder: str) -> dict[str, Any]:
    """All figures; stops the program where contenders are not one model, or sampler and learner do not agree."""
    prepared: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(LOADS[name].kind for name in options.loads):
        prepared[kind] = {}
        taking = {peer for one in LOADS.values() if one.kind == kind for peer in ("ours", "before", *one.peers)}
        for name, worker in workers.items():
            if name in taking:
                more: dict[str, Any] = {"concurrency": options.concurrency} if name == "tunix" else {}
                more |= {"folder": folder} if name == "before" else {}
                more |= {"precision": options.precision} if name in ("ours", "tunix") else {}
                prepared[kind][name] = worker.ask("prepare", load_name=kind, **more)
    figures: dict[str, Any] = {
        "ratio_multi_turn_tunix": None, "ratio_single_turn_tunix": None, "share_of_bandwidth_bound": None,
        "compiles_after_warmup": 0, "same_model": same_model(workers, prepared), "prepared": prepared,
        "options": {
            name: vars(options)[name] for name in ("rounds", "loads", "tunix_episodes", "concurrency", "precision")
        },
        "loads": {},
    }  # fmt: skip
    for name in options.loads:
        figures["loads"][name] = one = measure_load(options, workers, name)
        figures["compiles_after_warmup"] += sum(sample["compiles"] for sample in one["samples"]["ours"])
        for who in {"tunix", "before"} & one["ratios"].keys():
            figures[f"ratio_{name}_{who}"] = one["ratios"][who]["ratio"]
        if name == "single_turn":
            figures |= shares(one["samples"]["ours"])
    return figures


def same_model(workers: dict[str, interleave.Worker], prepared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Largest differences of each peer's logits and log-probabilities from ours, on common ids."""
    ready = {name for names in prepared.values() for name in names}
    answers = {name: worker.ask("check") for name, worker in workers.items() if name in ready}
    ours, found = answers.pop("ours"), {}
    for name, theirs in answers.items():
        found[name] = {what: largest(ours[what], theirs[what]) for what in ("logits", "logps")}
        if not max(found[name].values()) <= GAP_LOGITS:
            raise SystemExit(f"{name} does not run our model: largest differences {found[name]}, wanted {GAP_LOGITS}")
    return found


def largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def measure_load(options: argparse.Namespace, workers: dict[str, interleave.Worker], name: str) -> dict[str, Any]:
    """Interleaved samples of one load, medians, ratios; the log-probabilities are checked before any ratio is made."""
    chosen = LOADS[name]
    names = ("ours", *chosen.peers, *(["before"] if chosen.has_before else []))
    taking = [worker for who, worker in workers.items() if who in names]
    request = {"load_name": chosen.kind, "episodes": chosen.episodes, "group": chosen.group}
    own: dict[str, dict[str, Any]] = {}
    if chosen.kind == "multi_turn":
        own = {
            "tunix": {"episodes": options.tunix_episodes, "latency_s": chosen.latency_s},
            "ours": {"slots": chosen.slots, "latency_s": chosen.latency_s},
        }
    if name == "single_turn":
        own = {"ours": {"with_bounds": True}}
    samples = interleave.interleave(taking, options.rounds, request, own=own)
    rivals, gap = [who for who in samples if who != "ours"], workers["ours"].ask("gap")
    if not gap["largest_nats"] <= (most := GAP_NATS.get(options.precision, float("inf"))):
        raise SystemExit(f"{name}: sampler and learner differ by {gap['largest_nats']} nats; wanted {most} or less")
    return {
        "tokens_a_s": {who: interleave.median(found, "tokens_a_s") for who, found in samples.items()},
        "ratios": {who: interleave.ratio(samples["ours"], samples[who], "tokens_a_s") for who in rivals},
        "sampler_learner_gap": gap, "samples": samples,
    }  # fmt: skip


def shares(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians of what of the memory's bound is reached while decoding and over the whole run; and of arithmetic's."""
    of = {
        "share_of_bandwidth_bound": ("decode_tokens_a_s", "bandwidth_bound_tokens_a_s"),
        "share_of_bandwidth_bound_whole_run": ("tokens_a_s", "bandwidth_bound_tokens_a_s"),
        "share_of_arithmetic_bound": ("decode_tokens_a_s", "arithmetic_bound_tokens_a_s"),
    }
    return {name: statistics.median(one[rate] / one[bound] for one in samples) for name, (rate, bound) in of.items()}


def show(figures: dict[str, Any]) -> None:
    interleave.show_loads(figures, "tokens_a_s", "tokens/s")
    for name, one in figures["loads"].items():
        for at, sample in enumerate(one["samples"]["ours"]):
            if sample["compiled"]:
                print(f"{name}, round {at}: compiled after the warm-up: {sample['compiled']}")


if __name__ == "__main__":
    main(sys.argv[1:])
