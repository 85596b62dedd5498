"""Estimates of a run from its compiled programs: whether it fits a chip, a step's time at best, and the price.

No jax and no device: sums over counts of bytes and FLOPs (lab/planning/hlo.py). Nothing here is a measurement.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qr_jax.errors import UserError

GIB = 2**30
# How a chip's kind begins -> bytes of HBM that a program may use (as libtpu says when it refuses one), bytes/s between
# chips, all links of one together, one way (Google's figures: 1.6, 4.8, 3.584 and 4.8 Tbit/s a chip). A TPU7x chip is
# two devices, and each has half of it.
CHIPS: Mapping[str, tuple[float, float]] = {
    "TPU v5 lite": (15.75 * GIB, 200e9),
    "TPU v5": (95.74 * GIB, 600e9),
    "TPU v6": (31.25 * GIB, 448e9),
    "TPU7x": (94.75 * GIB, 300e9),
}
# Assumed shares of what a chip can do, and how episodes look; the estimate prints them all.
SHARES = {"matrix unit": 0.4, "HBM": 0.6, "links": 0.5}
EPISODE_SHARE = 0.5  # of rollout.context_tokens that an episode has on average
SAMPLED_SHARE = 0.3  # of an episode's tokens, sampled by the model; the rest are prompt and passages
BUSY_SHARE = 0.8  # of the slots, over a rollout: at its end few episodes are left
PACKED_SHARE = 0.95  # of a learner's rows that episodes fill
CURES = {
    "train": "lower learner.rows or learner.row_tokens, set model.remat=full, set model.lora.rank=16, or take more "
    "chips (mesh.fsdp)",
    "prefill": "lower rollout.slots, rollout.store, rollout.context_tokens or the last of rollout.buckets",
    "decode": "lower rollout.slots, rollout.store or rollout.context_tokens",
    "hand_over": "lower rollout.slots or rollout.store, set model.lora.rank=16, or take more chips",
}


@dataclass(frozen=True)
class Chip:
    """One chip's capacity: bytes of HBM, FLOP/s, bytes/s of its memory and of its links."""

    kind: str
    hbm_bytes: int
    flops_a_s: float
    bytes_a_s: float
    links_a_s: float


def chip(kind: str, flops_a_s: float, bytes_a_s: float) -> Chip:
    """Return the chip of a kind such as "TPU v5 lite"; ValueError names the kinds that are known."""
    for start, (hbm_bytes, links_a_s) in CHIPS.items():
        if kind.startswith(start):
            return Chip(kind, int(hbm_bytes), flops_a_s, bytes_a_s, links_a_s)
    raise unknown(kind)


def unknown(kind: str) -> UserError:
    return UserError(f"no figures of a chip {kind!r}; known: {', '.join(CHIPS)}")


def kernel_flops(
    kernels: Mapping[str, int],
    *,
    rows: int,
    length: int,
    heads: int,
    head_dim: int,
    block: int,
    sliding: float = 0.0,
    window: int = 0,
) -> int:
    """Count the FLOPs of splash attention's kernels on one chip, which HLO does not tell: `kernels` is name -> calls.

    Blocks above the diagonal are skipped, and those out of the `window` where a layer slides, which the share `sliding`
    of the layers does; the others are computed whole. Products a block: forward 2, the gradient of the queries 3, that
    of keys and values 4.
    """

    def pairs_within(reach: int) -> int:
        first = [max(0, query * block - reach + 1) // block for query in range(math.ceil(length / block))]
        return sum(query - key + 1 for query, key in enumerate(first)) * block * block

    pairs = (1 - sliding) * pairs_within(length) + sliding * pairs_within(window)
    products = {"dq": 3, "dkv": 4}
    found = 0.0
    for name, calls in kernels.items():
        if "splash" in name:
            each = next((count for part, count in products.items() if part in name), 2)
            found += calls * each * 2 * pairs * head_dim * heads * rows
    return round(found)


def phases(
    held: Mapping[str, int], own: Mapping[str, int], *, overlap: bool = False, apart: bool = False
) -> dict[str, int]:
    """Return bytes of a chip while each program runs: what is resident then, and the program's own.

    `held` has the learner's `state`, the engine's caches (`slots` and `store`, kept from step to step) and the `laid`
    copy of the parameters, which is there from the hand-over to the rollout's end. `own` are arguments that
    are not resident (a batch), temporaries, and results that do not lie in arguments. With `overlap` the train step
    runs beside a rollout (train.overlap=1), so that each holds what the other needs; `apart`: on chips of its own,
    which hold nothing of the rollouts but what the hand-over makes.
    """
    if apart:
        rollouts = held["slots"] + held["store"] + held["laid"]
        base = {"train": held["state"], "hand_over": held["state"], "prefill": rollouts, "decode": rollouts}
        return {name: base[name] + own[name] for name in base}
    always = held["state"] + held["slots"] + held["store"]
    rollouts = always + held["laid"]
    base = {"train": always, "hand_over": always, "prefill": rollouts, "decode": rollouts}
    if overlap:
        beside = rollouts + own["train"]
        base |= {"train": rollouts + max(own["prefill"], own["decode"]), "prefill": beside, "decode": beside}
    return {name: base[name] + own[name] for name in base}


def refusal(by_phase: Mapping[str, int], hbm_bytes: int, *, adapted: bool) -> str | None:
    """Say why a config does not fit: the program that needs most, its bytes, the limit, the cure. None: it fits."""
    name = max(by_phase, key=lambda phase: by_phase[phase])
    return too_large(name, by_phase[name], hbm_bytes, adapted=adapted) if by_phase[name] > hbm_bytes else None


def too_large(name: str, found_bytes: int, hbm_bytes: int, *, adapted: bool) -> str:
    """Say what a program needs, the limit and the cure."""
    needs = f"{name} needs {found_bytes / GIB:.2f} GiB a chip (with what is resident then)"
    return f"{needs}, and a chip has {hbm_bytes / GIB:.2f} GiB: {cure(name, adapted=adapted)}"


def cure(name: str, *, adapted: bool) -> str:
    """Say what makes a program smaller; with adapters already there (`adapted`) not to set them."""
    return CURES[name].replace(" set model.lora.rank=16,", "") if adapted else CURES[name]


def seconds(program: Mapping[str, Any], on: Chip) -> dict[str, float]:
    """Return one run's seconds by the matrix unit, by HBM and by the links, at the assumed shares of each."""
    moved = sum(program["collectives"].values())
    return {
        "matrix unit": program["flops"] / (on.flops_a_s * SHARES["matrix unit"]),
        "HBM": program["bytes_accessed"] / (on.bytes_a_s * SHARES["HBM"]),
        "links": moved / (on.links_a_s * SHARES["links"]),
    }


@dataclass(frozen=True)
class Load:
    """The work of a step, from the config: whole step, all hosts together, but for `slots` and `call_tokens`."""

    episodes: int  # rolled out
    trained: int  # of them, at most
    episode_tokens: float
    sampled_tokens: float  # of an episode
    hosts: int
    slots: int  # of one host
    call_tokens: int  # of one prefill call of a host
    row_tokens: int  # of one micro-batch: rows x length
    micro: int  # micro-batches that the train program was compiled for
    updates: int = 1  # that the batch is trained in
    beside: bool = False  # rollouts have chips of their own, and run while the others learn


def load(
    settings: Mapping[str, Any], *, hosts: int, slots: int, call_tokens: int, micro: int, beside: bool = False
) -> Load:
    """Return the load of a step of a config (as JSON holds it) on so many hosts."""
    pool, learner = settings["pool"], settings["learner"]
    drawn = pool["queries"] * pool["oversample"]
    tokens = EPISODE_SHARE * settings["rollout"]["context_tokens"]
    trained = (drawn if learner["keep_zero_variance"] else pool["queries"]) * pool["samples"]
    return Load(
        episodes=drawn * pool["samples"], trained=trained, episode_tokens=tokens, sampled_tokens=SAMPLED_SHARE * tokens,
        hosts=hosts, slots=slots, call_tokens=call_tokens, row_tokens=learner["rows"] * learner["row_tokens"],
        micro=micro, updates=learner["updates"], beside=beside,
    )  # fmt: skip


def step(programs: Mapping[str, Mapping[str, Any]], on: Chip, what: Load) -> dict[str, float]:
    """Estimate the seconds of a step's parts, `rollout` (decode and prefill), `learner` and `hand_over`, and the whole.

    Each part is bound by the slowest of matrix unit, HBM and links. `assumptions` says what is not in it.
    """
    bound = {name: max(seconds(program, on).values()) for name, program in programs.items()}
    here = math.ceil(what.episodes / what.hosts)
    decode_steps = math.ceil(here * what.sampled_tokens / (what.slots * BUSY_SHARE))
    calls = math.ceil(here * (what.episode_tokens - what.sampled_tokens) / what.call_tokens)
    used = math.ceil(what.trained * what.episode_tokens / (what.row_tokens * PACKED_SHARE))
    parts = {"decode": decode_steps * bound["decode"], "prefill": calls * bound["prefill"]}
    parts |= {"learner": bound["train"] * min(used, what.micro) / what.micro, "hand_over": bound["hand_over"]}
    rollout = parts["decode"] + parts["prefill"]
    both = max(rollout, parts["learner"]) if what.beside else rollout + parts["learner"]
    return {"rollout": rollout, **parts, "step": both + parts["hand_over"]}


def price(step_s: float, *, steps: int, chips: int, dollars_a_chip_hour: float) -> float:
    """Return dollars of all training steps; cold start, evaluation and compiling are not in it."""
    return step_s * steps * chips * dollars_a_chip_hour / 3600


def assumptions(what: Load) -> list[str]:
    """Return the estimate's assumptions in words."""
    shares = ", ".join(f"{share:.0%} of its {name}" for name, share in SHARES.items())
    old = f"learner.updates={what.updates}: the forward pass for old log-probabilities is neither compiled nor counted"
    return [
        f"a chip reaches {shares}; each program takes as long as the slowest of the three",
        f"{what.episodes} episodes of {what.episode_tokens:.0f} tokens ({EPISODE_SHARE:.0%} of rollout.context_tokens),"
        f" {SAMPLED_SHARE:.0%} of them sampled; a query's samples share no prefill",
        f"{BUSY_SHARE:.0%} of the {what.slots} slots of a host decode, over a cache at its full length",
        f"all {what.trained} episodes that can be are trained on, in rows filled to {PACKED_SHARE:.0%}",
        "searches, rewards, checkpoints, evaluation and the host's own work take no time",
        *([old] if what.updates > 1 else []),
        *(["a step takes as long as the longer of rollout and update, and the hand-over"] if what.beside else []),
    ]
