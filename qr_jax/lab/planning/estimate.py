"""Estimates of a run: whether its compiled programs fit a chip, a step's time at best, and the price.

No device: sums over counts of bytes and FLOPs by the model's shape (models/costs.py). Nothing here is a measurement.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.models import costs
from qr_jax.models.families import ModelConfig

GIB = 2**30
# How a chip's kind begins -> bytes of HBM that a program may use, as libtpu says when it refuses one.
CHIPS: Mapping[str, float] = {"TPU v5 lite": 15.75 * GIB, "TPU v5": 95.74 * GIB, "TPU v6": 31.25 * GIB}
# Assumed shares of what a chip can do, and how episodes look; the estimate prints them all.
MATRIX_SHARE, HBM_SHARE = 0.4, 0.6
EPISODE_SHARE = 0.5  # of rollout.context_tokens that an episode has on average
SAMPLED_SHARE = 0.3  # of an episode's tokens, sampled by the model; the rest are prompt and passages
BUSY_SHARE = 0.8  # of the slots, over a rollout: at its end few episodes are left
CAUSES = {
    "train": "lower learner.rows or learner.row_tokens, set model.remat=full, or raise mesh.fsdp on a larger slice",
    "prefill": "lower rollout.slots, rollout.store, rollout.context_tokens or the last of rollout.buckets",
    "decode": "lower rollout.slots, rollout.store or rollout.context_tokens",
    "hand_over": "lower rollout.slots or rollout.store, or take a larger slice",
}


@dataclass(frozen=True)
class Chip:
    """One chip's capacity: bytes of HBM, FLOP/s, bytes/s of its memory."""

    kind: str
    hbm_bytes: int
    flops_a_s: float
    bytes_a_s: float


@dataclass(frozen=True)
class Shared:
    """A slice's chips, the rollouts that go on at a time on it, and the chips that share the weights of one."""

    chips: int
    rollouts: int
    by_heads: int


def chip(kind: str, flops_a_s: float, bytes_a_s: float) -> Chip:
    """Return the chip of a kind such as "TPU v5 lite"; ValueError names the kinds that are known."""
    for start, hbm_bytes in CHIPS.items():
        if kind.startswith(start):
            return Chip(kind, int(hbm_bytes), flops_a_s, bytes_a_s)
    raise unknown(kind)


def unknown(kind: str) -> UserError:
    return UserError(f"no figures of a chip {kind!r}; known: {', '.join(CHIPS)}")


def phases(held: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """Bytes of a chip while each program runs: what is resident then, and the program's own.

    `held` has the learner's `state`, the engine's caches (`slots` and `store`, kept from step to step) and the `laid`
    copy of the parameters, which is there from the hand-over to the rollout's end. `own` are arguments that
    are not resident (a batch), temporaries, and results that do not lie in arguments.
    """
    always = held["state"] + held["slots"] + held["store"]
    rollouts = always + held["laid"]
    base = {"train": always, "hand_over": always, "prefill": rollouts, "decode": rollouts}
    return {name: base[name] + own[name] for name in base}


def refusal(by_phase: Mapping[str, int], hbm_bytes: int) -> str | None:
    """Say why a config does not fit: the program that needs most, its bytes, the limit, the cure. None: it fits."""
    name = max(by_phase, key=lambda phase: by_phase[phase])
    return too_large(name, by_phase[name], hbm_bytes) if by_phase[name] > hbm_bytes else None


def too_large(name: str, found_bytes: int, hbm_bytes: int) -> str:
    needs = f"{name} needs {found_bytes / GIB:.2f} GiB a chip (with what is resident then)"
    return f"{needs}, and a chip has {hbm_bytes / GIB:.2f} GiB: {CAUSES[name]}"


def step(settings: Config, cfg: ModelConfig, over: Shared, on: Chip) -> dict[str, float]:
    """Estimate the seconds of a step's parts, `rollout` (decode and prefill) and `learner`, and of the whole.

    Decoding is bound by HBM, prefill and learner by the matrix unit. `assumptions` says what is not in it.
    """
    tokens, sampled = _episode(settings)
    episodes, trained = _episodes(settings)
    slots, item_bytes = settings.rollout.slots, 2 if settings.model.compute == "bfloat16" else 4
    positions = slots * settings.rollout.context_tokens
    weights = costs.decoding_bytes(cfg, steps=1, positions=0, item_bytes=item_bytes)
    cache = costs.decoding_bytes(cfg, steps=0, positions=positions, item_bytes=item_bytes)
    decode_steps = math.ceil(episodes / over.rollouts * sampled / (slots * BUSY_SHARE))
    read = weights / over.by_heads + cache * over.rollouts / over.chips
    given = int(episodes * (tokens - sampled))
    prefill = costs.training_flops(cfg, tokens=given, pairs=int(given * tokens / 2), predicted=0) / 3
    pairs = int(trained * tokens * (tokens + 1) / 2)
    forwards = (settings.learner.updates > 1) + (settings.learner.kl_weight > 0)
    learner = costs.training_flops(
        cfg, tokens=int(trained * tokens), pairs=pairs, predicted=int(trained * sampled), forwards=forwards
    )
    rate = over.chips * on.flops_a_s * MATRIX_SHARE
    parts = {"decode": decode_steps * read / (on.bytes_a_s * HBM_SHARE), "prefill": prefill / rate}
    rollout = parts["decode"] + parts["prefill"]
    return {"rollout": rollout, **parts, "learner": learner / rate, "step": rollout + learner / rate}


def _episode(settings: Config) -> tuple[float, float]:
    """Return an episode's tokens, and those of them that are sampled."""
    tokens = EPISODE_SHARE * settings.rollout.context_tokens
    return tokens, SAMPLED_SHARE * tokens


def _episodes(settings: Config) -> tuple[int, int]:
    """Return a step's episodes, and those of them that are trained on at most."""
    pool = settings.pool
    drawn = pool.queries * pool.oversample
    trained = drawn if settings.learner.keep_zero_variance else pool.queries
    return drawn * pool.samples, trained * pool.samples


def price(step_s: float, *, steps: int, chips: int, dollars_a_chip_hour: float) -> float:
    """Return the dollars of all training steps; cold start, evaluation and compiling are not in it."""
    return step_s * steps * chips * dollars_a_chip_hour / 3600


def assumptions(settings: Config) -> list[str]:
    """Return the estimate's assumptions in words."""
    tokens, (episodes, trained) = _episode(settings)[0], _episodes(settings)
    return [
        f"a chip reaches {MATRIX_SHARE:.0%} of its matrix unit in prefill and learner, {HBM_SHARE:.0%} of its HBM in "
        "decoding; what is sent between chips takes no time of its own, nor what remat computes again",
        f"{episodes} episodes of {tokens:.0f} tokens ({EPISODE_SHARE:.0%} of rollout.context_tokens),"
        f" {SAMPLED_SHARE:.0%} of them sampled; a query's samples share no prefill",
        f"{BUSY_SHARE:.0%} of the {settings.rollout.slots} slots of a rollout decode, over a cache at its full length",
        f"all {trained} episodes that can be are trained on",
        "searches, rewards, the hand-over, checkpoints, evaluation and the host's own work take no time",
    ]
