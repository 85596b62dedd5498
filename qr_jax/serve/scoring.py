"""Score given ids: the log-probability of each, and the likeliest ids in its place, by one pass over a cache row."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax.models import incremental
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode
from qr_jax.rollout.kv_cache import KVCache
from qr_jax.serve.jobs import TOP, Scores


@functools.partial(jax.jit, static_argnames=("cfg", "view", "mesh"), donate_argnames=("cache",))
def _append_scored(
    laid, cache, row_1, ids_1I, used_1, count_1, target_I, temperature, *, cfg, view: int, mesh
):  # fmt: skip
    """Append a tile as `decode.append` does; return the cache, the targets' log-probabilities and the TOP likeliest."""
    x_DI, cache = decode.run_tiles(laid, cache, row_1, ids_1I, used_1, count_1, cfg=cfg, view=view, mesh=mesh)
    logp_IV = jax.nn.log_softmax(incremental.logits(cfg, laid, x_DI).T / temperature, axis=-1)
    top_logp_IK, top_id_IK = jax.lax.top_k(logp_IV, min(TOP, cfg.vocab))
    logp_I = jnp.take_along_axis(logp_IV, target_I[:, None], axis=1)[:, 0]
    return cache, logp_I, top_id_IK, top_logp_IK


def score(rows: KVCache, laid, row: int, ids: Sequence[int], temperature: float) -> Scores:
    """Score ids by a row of the store that nobody else uses; only a tile of them has logits at a time."""
    size, found = rows.settings.tile, []
    rows.fit("store", len(ids))
    view = caches.size(rows.caches["store"])[1]
    for at in range(0, len(ids) - 1, size):
        count = min(size, len(ids) - 1 - at)
        ids_1I, target_I = np.zeros((1, size), np.int32), np.zeros(size, np.int32)
        ids_1I[0, :count], target_I[:count] = ids[at : at + count], ids[at + 1 : at + 1 + count]
        row_1, used_1, count_1 = (np.array([value], np.int32) for value in (row, at, count))
        rows.caches["store"], *scored = _append_scored(
            laid, rows.caches["store"], row_1, ids_1I, used_1, count_1, target_I, np.float32(temperature),
            cfg=rows.cfg, view=view, mesh=rows.mesh,
        )  # fmt: skip
        found.append([np.asarray(part)[:count] for part in scored])
    top = min(TOP, rows.cfg.vocab)
    nothing = [np.zeros(0, np.float32), np.zeros((0, top), np.int32), np.zeros((0, top), np.float32)]
    return Scores(*map(np.concatenate, zip(*found, strict=True)) if found else nothing)
