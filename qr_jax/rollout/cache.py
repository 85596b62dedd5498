"""Keys and values of the sequences in flight: rows for the slots that decode, and a store for rows that do not."""

import jax
import jax.numpy as jnp

from qr_jax.models.families import ModelConfig

Cache = tuple[jax.Array, jax.Array]  # k and v, each [layers, rows, K, B, d]


def create(cfg: ModelConfig, rows: int, positions: int, dtype) -> Cache:
    shape = (cfg.layers, rows, cfg.kv_heads, positions, cfg.head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def nbytes(cfg: ModelConfig, rows: int, positions: int, dtype) -> int:
    return 2 * cfg.layers * rows * cfg.kv_heads * positions * cfg.head_dim * jnp.dtype(dtype).itemsize


def write(cache: Cache, buffer: Cache, row_R, used_R, count_R) -> Cache:
    """Put the first `count_R` entries of `buffer` [layers, R, K, J, d] after the first `used_R` positions of rows `row_R`."""
    positions, entries = cache[0].shape[3], buffer[0].shape[3]
    at_RJ = used_R[:, None] + jnp.arange(entries)[None]
    at_RJ = jnp.where(jnp.arange(entries)[None] < count_R[:, None], at_RJ, positions)  # out of range: dropped
    # two index arrays with a slice between them put their axes first: the update is [R, J, layers, K, d]
    return tuple(
        whole.at[:, row_R[:, None], :, at_RJ].set(jnp.transpose(new, (1, 3, 0, 2, 4)), mode="drop")
        for whole, new in zip(cache, buffer, strict=True)
    )


def move(into: Cache, out_of: Cache, from_R, to_R) -> Cache:
    """Copy whole rows `from_R` of one cache over rows `to_R` of another; a `to` past the end is dropped (padding)."""
    return tuple(
        whole.at[:, to_R].set(jnp.take(other, from_R, axis=1, mode="clip"), mode="drop")
        for whole, other in zip(into, out_of, strict=True)
    )
