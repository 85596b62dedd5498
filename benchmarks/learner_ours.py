"""Contender: GRPO updates by qr_jax, as train.py makes them: pack, then `update` of `learner.make`.

Packing on the host is inside the timed part. Rows of 768 tokens, one a micro-batch: what an update needs is as many
rows as its episodes fill, and rows that none fills are skipped.
"""

import time
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from benchmarks.peers import episodes, model
from benchmarks.rollout_ours import CONFIG, product_rate
from qr_jax import config
from qr_jax.learner import learner, pack
from qr_jax.learner.variance import group_variance_mask
from qr_jax.models import costs, decoder, layout
from qr_jax.parallel import compiles
from qr_jax.parallel import mesh as meshes
from qr_jax.pool.pool import judge
from qr_jax.records import Episode, Query, grades

MODEL = config.Model(compute="float32", remat="dots", vocab_block=8192)
ROWS, ROW_TOKENS = 1, 768
state: dict[str, Any] = {}


def prepare(lr: float = 1e-6) -> dict[str, Any]:
    """Build, compile and make two updates, which are thrown away; returns seconds and the first gradient's norm."""
    compiles.count()
    start = time.monotonic()
    settings = config.Learner(lr=lr, rows=ROWS, row_tokens=ROW_TOKENS)
    made = learner.make(CONFIG, MODEL, settings, meshes.make_mesh(config.Mesh(devices=1)))
    params = layout.assemble(CONFIG, dict(model.tensors()).__getitem__)
    state.update(made=made, lr=lr, learner=made.init(jax.device_put(params)))
    built_s, start = time.monotonic() - start, time.monotonic()
    first = sample("dense", 0)
    sample("mixed", 0)
    return {
        "built_s": built_s, "warm_up_s": time.monotonic() - start, "compiles": compiles.count(),
        "gradient_norm": first["gradient_norm"], "settings": {"model": asdict(MODEL), "learner": asdict(settings)},
    }  # fmt: skip


def groups_of(ids: list[np.ndarray], samples: int, prompt_tokens: int) -> list[list[Episode]]:
    """Episodes whose tokens after the prompt were sampled, group by group."""
    found = []
    for n, ids_L in enumerate(ids):
        mask_L = np.arange(len(ids_L)) >= prompt_tokens
        query = Query(f"q{n // samples}", "?", ("!",))
        turn_L, logp_L = np.where(mask_L, 0, -1), np.where(mask_L, -1, 0).astype(np.float32)
        found.append(
            Episode(query, n % samples, 0, ids_L, mask_L, logp_L, turn_L, (), None, "answered", True),
        )
    return [found[at : at + samples] for at in range(0, len(found), samples)]


def sample(load_name: str, round: int) -> dict[str, Any]:
    """Seconds of packing and one update, and how many tokens it held, real and padded."""
    drawn, before = episodes.batch(load_name, round), compiles.count()
    groups = groups_of(drawn.ids, episodes.SAMPLES, episodes.PROMPT_TOKENS)
    graded = grades(drawn.reward_QG, np.ones_like(drawn.reward_QG, bool))
    start = time.monotonic()
    packed = pack.pack(
        groups, graded, rows=ROWS, row_tokens=ROW_TOKENS, queries=episodes.QUERIES, samples=episodes.SAMPLES
    )
    state["learner"], (metrics,) = state["made"].update(state["learner"], packed, state["lr"])
    jax.block_until_ready(state["learner"])
    seconds = time.monotonic() - start
    parameters = costs.parameter_count(CONFIG)
    return {
        "seconds": seconds, "updates_a_s": 1 / seconds, "tokens": drawn.tokens,
        "padded_tokens": int(packed.used_M.sum()) * ROWS * ROW_TOKENS, "loss": float(metrics["loss"]),
        "gradient_norm": float(metrics["grad_norm"]), "compiles": compiles.count() - before,
        "model_flop_a_s": 6 * parameters * drawn.tokens / seconds,
    }  # fmt: skip


def zero_variance(*, queries: int = 64, accept: int = 32, samples: int = 8) -> dict[str, Any]:
    """Trained tokens of groups without reward variance in a batch as train.py hands it on: settled, accepted, packed.

    Rewards are n correct of 8 with n uniform in 0-8, worth 0.1 each: not a number that float32 holds exactly.
    """
    generator = np.random.Generator(np.random.Philox(0))
    hits_Q = generator.integers(0, samples + 1, queries)
    reward_QG = np.where(np.arange(samples)[None] < hits_Q[:, None], 0.1, 0.0).astype(np.float32)
    graded = grades(reward_QG, np.ones_like(reward_QG, bool))
    ids = [np.arange(length, dtype=np.int32) + 3 for length in generator.integers(64, 193, queries * samples)]
    groups = groups_of(ids, samples, episodes.PROMPT_TOKENS)
    outcome = judge(np.arange(queries), graded, step=0, accept=accept)
    at = outcome.accepted_at
    kept = grades(graded.reward_QG[at], graded.valid_QG[at])
    packed = pack.pack([groups[q] for q in at], kept, rows=ROWS, row_tokens=ROW_TOKENS, queries=accept, samples=samples)
    dead_Q = ~np.asarray(group_variance_mask(packed.grades.reward_QG, packed.grades.valid_QG))
    tokens_ME = packed.mask_MEL.sum(-1)
    of_dead_ME = (packed.episode_ME >= 0) & dead_Q[np.maximum(packed.episode_ME, 0) // samples]
    dead = sum(verdict in ("easy", "hard") for verdict in outcome.verdict_Q)
    return {
        "drawn_groups": queries, "drawn_zero_variance_groups": dead, "trained_groups": len(at),
        "trained_tokens": int(tokens_ME.sum()), "zero_variance_tokens": int(tokens_ME[of_dead_ME].sum()),
    }  # fmt: skip


def packing(lengths: list[int], *, rows: int, row_tokens: int, queries: int, samples: int) -> dict[str, Any]:
    """How full the rows of an update are whose episodes have these lengths."""
    groups = groups_of([np.full(length, 3, np.int32) for length in lengths], samples, 1)
    valid_QG = np.ones((queries, samples), bool)
    graded = grades(np.zeros((queries, samples)), valid_QG)
    packed = pack.pack(groups, graded, rows=rows, row_tokens=row_tokens, queries=queries, samples=samples)
    return {"packing_efficiency": pack.packing_efficiency(packed), "tokens": sum(lengths)}


def bounds() -> dict[str, float]:
    """float32 operations/s of a large matrix product, at this moment."""
    return {"product_flop_a_s": product_rate()}


def check() -> dict[str, list[float]]:
    ids = jnp.asarray(model.check_ids())
    position = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    params = state["learner"].params
    hidden = decoder.forward(CONFIG, params, ids, position, jnp.ones_like(ids))
    return model.check_answer(np.asarray(decoder.logits(CONFIG, params, hidden)))


if __name__ == "__main__":
    interleave.serve({
        "prepare": prepare, "sample": sample, "zero_variance": zero_variance, "packing": packing, "bounds": bounds,
        "check": check, "versions": interleave.versions,
    })  # fmt: skip
