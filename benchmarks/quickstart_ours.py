"""Contender: a decode step of the quickstart's shape and of SmolLM2-135M's, by the qr_jax that is on the path."""

import inspect
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from qr_jax.models import decoder, families, incremental
from qr_jax.rollout import cache, decode
from qr_jax.rollout.sampling import Sampling

# preset, slots, cache positions, tokens a chunk, positions in use
SHAPES = {"quickstart": ("quickstart", 256, 128, 6, 60), "smollm2": ("smollm2_135m", 16, 192, 8, 120)}
state: dict[str, Any] = {}


def prepare(shape: str) -> dict[str, Any]:
    """Random weights and an empty cache; compiles."""
    preset, slots, positions, chunk, used = SHAPES[shape]
    cfg, rng = families.PRESETS[preset], np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.05), decoder.abstract(cfg)
    )
    numbers = (np.arange(slots) % cfg.vocab, np.full(slots, used))
    state[shape] = {
        "cfg": cfg, "chunk": chunk, "laid": incremental.to_decode_params(cfg, params),
        "cache": cache.create(cfg, slots, positions, jnp.float32),
        "numbers": [jnp.asarray(number, jnp.int32) for number in numbers],
        "rest": (jnp.arange(2 * slots, dtype=jnp.uint32).reshape(slots, 2), jnp.zeros(cfg.vocab, bool), np.float32(1)),
    }  # fmt: skip
    start = time.monotonic()
    sample(shape, 0)
    return {"warm_up_s": time.monotonic() - start}


def sample(shape: str, round: int) -> dict[str, Any]:
    """Milliseconds of a step, all slots decoding for a whole chunk."""
    of = state[shape]
    room = jnp.full(len(of["numbers"][0]), of["chunk"], jnp.int32)
    rows = (None,) if "row_S" in inspect.signature(decode.decode).parameters else ()
    start = time.perf_counter()
    of["cache"], chunk = decode.decode(
        of["laid"], of["cache"], *rows, *of["numbers"], room, *of["rest"],
        cfg=of["cfg"], chunk=of["chunk"], sampling=Sampling(),
    )  # fmt: skip
    jax.block_until_ready((of["cache"], chunk))
    seconds = time.perf_counter() - start
    return {"step_ms": seconds / of["chunk"] * 1e3, "steps_a_s": of["chunk"] / seconds}


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "versions": interleave.versions})
