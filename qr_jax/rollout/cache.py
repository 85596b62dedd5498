"""Keys and values of the sequences in flight: rows for the slots that decode, and a store for rows that do not.

A cache is a tuple over layers of (k, v), each [rows, K, positions, d].
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec, Sharding

from qr_jax.models.families import ModelConfig

AT = PartitionSpec("slots", "heads")  # how a host's devices share an array, on a mesh of these axes (host_local.py)
Cache = tuple[tuple[jax.Array, jax.Array], ...]


def create(cfg: ModelConfig, rows: int, positions: int, dtype) -> Cache:
    shape = (rows, cfg.kv_heads, positions, cfg.head_dim)
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(cfg.layers))


@functools.lru_cache(4)
def creating(cfg: ModelConfig, sizes: Sequence[tuple[str, int, int]], dtype, layout: Sharding):
    """Return the program that makes caches, laid out so: name -> Cache, of (name, rows, positions)."""

    def create_all() -> dict[str, Cache]:
        return {name: create(cfg, rows, positions, dtype) for name, rows, positions in sizes}

    return jax.jit(create_all, out_shardings=layout)


def nbytes(cfg: ModelConfig, rows: int, positions: int, dtype) -> int:
    return 2 * cfg.layers * rows * cfg.kv_heads * positions * cfg.head_dim * jnp.dtype(dtype).itemsize


def size(cache: Cache) -> tuple[int, int]:
    """Return (rows, positions)."""
    return cache[0][0].shape[0], cache[0][0].shape[2]


def put(part, new, row_R, used_R, count_R, mesh: Mesh | None = None):
    """`part` with the first `count_R` of `new` [R, K, J, d] after the first `used_R` positions of rows `row_R`.

    Rows and heads are merged into one axis: with an axis between two that are indexed, XLA transposes the whole cache
    and back on TPU, which moves about four times its size a call. `mesh`: where heads lie on several devices (`AT`),
    each writes its own; XLA alone would first gather the whole cache for the merged axis.
    """
    if mesh is not None and mesh.shape["heads"] > 1:
        by_heads, same = PartitionSpec(None, "heads"), PartitionSpec()
        own = jax.shard_map(_put_own, mesh=mesh, in_specs=(AT, by_heads, same, same, same), out_specs=AT)
        return own(part, new, row_R, used_R, count_R)
    rows, kv_heads, positions, dim = part.shape
    entries = jnp.arange(new.shape[2])[None]
    at_RJ = jnp.where(entries < count_R[:, None], used_R[:, None] + entries, positions)  # out of range: dropped
    head_RK = row_R[:, None] * kv_heads + jnp.arange(kv_heads)[None]
    flat = part.reshape(rows * kv_heads, positions, dim)
    return flat.at[head_RK[:, :, None], at_RJ[:, None]].set(new, mode="drop").reshape(part.shape)


def _put_own(part, new, row_R, used_R, count_R):
    """`put` on a device that has some of the rows: what is for other devices' rows is dropped."""
    rows = part.shape[0]
    row_R = row_R - rows * jax.lax.axis_index("slots")
    mine_R = (row_R >= 0) & (row_R < rows)
    return put(part, new, jnp.where(mine_R, row_R, 0), used_R, jnp.where(mine_R, count_R, 0))


def write(cache: Cache, buffer: Cache, row_R, used_R, count_R, mesh: Mesh | None = None) -> Cache:
    """`put` in every layer."""
    return jax.tree.map(lambda part, new: put(part, new, row_R, used_R, count_R, mesh), cache, buffer)


def rows_of(part, row_R, positions: int):
    """Return the first `positions` of rows `row_R`: [R, K, positions, d]; nothing else of the array is read."""
    size = (1, part.shape[1], positions, part.shape[3])
    return jax.vmap(lambda row: jax.lax.dynamic_slice(part, (row, 0, 0, 0), size)[0])(row_R)


def move(into: Cache, out_of: Cache, from_R, to_R, used_R) -> Cache:
    """Copy the positions in use of rows `from_R` into rows `to_R` of another cache; a target past the end is skipped.

    The rest of rows `to_R` becomes 0: old values may not be finite, and 0 * nan is nan. The caches may have different
    numbers of positions; no row may have more in use than either.
    """

    def copied(whole, part):
        shared = min(whole.shape[2], part.shape[2])
        kept_RB = jnp.arange(shared)[None] < used_R[:, None]
        rows = jnp.where(kept_RB[:, None, :, None], rows_of(part, from_R, shared), jnp.zeros((), part.dtype))
        rows = jnp.pad(rows, ((0, 0), (0, 0), (0, whole.shape[2] - shared), (0, 0)))
        return whole.at[to_R].set(rows, mode="drop")

    return jax.tree.map(copied, into, out_of)


@functools.partial(jax.jit, static_argnames="positions")
def resize(part, positions: int):
    """Return the array with more positions, the new ones 0, or with only the first `positions`."""
    if positions < part.shape[2]:
        return part[:, :, :positions]
    return jnp.pad(part, ((0, 0), (0, 0), (0, positions - part.shape[2]), (0, 0)))
