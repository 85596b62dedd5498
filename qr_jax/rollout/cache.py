"""Keys and values of the sequences in flight: rows for the slots that decode, and a store for rows that do not."""

import jax
import jax.numpy as jnp

from qr_jax.models.families import ModelConfig

Cache = tuple[jax.Array, ...]  # two: k and v, each [layers, rows, K, B, d]


def create(cfg: ModelConfig, rows: int, positions: int, dtype) -> Cache:
    shape = (cfg.layers, rows, cfg.kv_heads, positions, cfg.head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def nbytes(cfg: ModelConfig, rows: int, positions: int, dtype) -> int:
    return 2 * cfg.layers * rows * cfg.kv_heads * positions * cfg.head_dim * jnp.dtype(dtype).itemsize


def write(cache: Cache, buffer: Cache, row_R, used_R, count_R) -> Cache:
    """Put the first `count_R` of `buffer` [layers, R, K, J, d] after the first `used_R` positions of rows `row_R`."""
    positions, entries = cache[0].shape[3], buffer[0].shape[3]
    at_RJ = used_R[:, None] + jnp.arange(entries)[None]
    at_RJ = jnp.where(jnp.arange(entries)[None] < count_R[:, None], at_RJ, positions)  # out of range: dropped
    # two index arrays with a slice between them put their axes first: the update is [R, J, layers, K, d]
    return tuple(
        whole.at[:, row_R[:, None], :, at_RJ].set(jnp.transpose(new, (1, 3, 0, 2, 4)), mode="drop")
        for whole, new in zip(cache, buffer, strict=True)
    )


def in_use(rows: Cache, used_R) -> Cache:
    """Rows with 0 past their first `used_R` positions: what once stood there may not be finite, and 0 * nan is nan."""
    kept_RB = jnp.arange(rows[0].shape[3])[None] < used_R[:, None]
    return tuple(jnp.where(kept_RB[None, :, None, :, None], part, jnp.zeros((), part.dtype)) for part in rows)


def move(into: Cache, out_of: Cache, from_R, to_R, used_R) -> Cache:
    """Copy the positions in use of rows `from_R` over rows `to_R` of another cache; a `to` past the end is dropped."""
    rows = in_use(tuple(jnp.take(part, from_R, axis=1, mode="clip") for part in out_of), used_R)
    return tuple(whole.at[:, to_R].set(part, mode="drop") for whole, part in zip(into, rows, strict=True))
