"""Keys and values of the sequences in flight: rows for the slots that decode, and a store for rows that do not.

A cache is a tuple over layers of (k, v), each [rows, K, positions, d], in a dtype or as Int8. Of an Int8 the functions
here treat steps and scale [rows, K, positions] alike: what follows the positions' axis is copied.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec, Sharding

from qr_jax.models.families import ModelConfig
from qr_jax.models.quantized import Int8, like

AT = PartitionSpec("slots", "heads")  # how a host's devices share an array, on a mesh of these axes (host_local.py)
Cache = tuple[tuple[jax.Array | Int8, jax.Array | Int8], ...]


def create(cfg: ModelConfig, rows: int, positions: int, dtype) -> Cache:
    """Make a cache of zeros, as Int8 where the dtype is int8."""
    shape = (rows, cfg.kv_heads, positions, cfg.head_dim)

    def part() -> jax.Array | Int8:
        zeros = jnp.zeros(shape, dtype)
        return Int8(zeros, jnp.zeros(shape[:-1], jnp.float32)) if zeros.dtype == jnp.int8 else zeros

    return tuple((part(), part()) for _ in range(cfg.layers))


@functools.lru_cache(4)
def creating(cfg: ModelConfig, sizes: Sequence[tuple[str, int, int]], dtype, layout: Sharding):
    """Return the program that makes caches, laid out so: name -> Cache, of (name, rows, positions)."""

    def create_all() -> dict[str, Cache]:
        return {name: create(cfg, rows, positions, dtype) for name, rows, positions in sizes}

    return jax.jit(create_all, out_shardings=layout)


def nbytes(cfg: ModelConfig, rows: int, positions: int, dtype) -> int:
    parts = jax.tree.leaves(jax.eval_shape(functools.partial(create, cfg, rows, positions, dtype)))
    return sum(part.size * part.dtype.itemsize for part in parts)


def size(cache: Cache) -> tuple[int, int]:
    """Return (rows, positions)."""
    return cache[0][0].shape[0], cache[0][0].shape[2]


def put(part, new_RKJd, row_R, used_R, count_R, mesh: Mesh | None = None):
    """Return keys or values with the first `count_R` of new ones after the first `used_R` positions of rows `row_R`."""
    new = like(part, new_RKJd)
    return jax.tree.map(lambda part, new: _put(part, new, row_R, used_R, count_R, mesh), part, new)


def _put(part, new, row_R, used_R, count_R, mesh: Mesh | None = None):
    """Put as `put` into one array, [rows, K, positions, ...] and [R, K, J, ...].

    Rows and heads are merged into one axis: with an axis between two that are indexed, XLA transposes the whole cache
    and back on TPU, which moves about four times its size a call. `mesh`: where heads lie on several devices (`AT`),
    each writes its own; XLA alone would first gather the whole cache for the merged axis.
    """
    if mesh is not None and mesh.shape["heads"] > 1:
        by_heads, same = PartitionSpec(None, "heads"), PartitionSpec()
        own = jax.shard_map(_put_own, mesh=mesh, in_specs=(AT, by_heads, same, same, same), out_specs=AT)
        return own(part, new, row_R, used_R, count_R)
    rows, kv_heads, positions = part.shape[:3]
    entries = jnp.arange(new.shape[2])[None]
    at_RJ = jnp.where(entries < count_R[:, None], used_R[:, None] + entries, positions)  # out of range: dropped
    head_RK = row_R[:, None] * kv_heads + jnp.arange(kv_heads)[None]
    flat = part.reshape(rows * kv_heads, *part.shape[2:])
    return flat.at[head_RK[:, :, None], at_RJ[:, None]].set(new, mode="drop").reshape(part.shape)


def _put_own(part, new, row_R, used_R, count_R):
    """Write new keys or values, as `_put` does, into the part of the cache that one device of the mesh holds.

    `row_R` counts the rows of the whole cache; entries for rows of other devices are dropped.
    """
    rows = part.shape[0]
    row_R = row_R - rows * jax.lax.axis_index("slots")
    mine_R = (row_R >= 0) & (row_R < rows)
    return _put(part, new, jnp.where(mine_R, row_R, 0), used_R, jnp.where(mine_R, count_R, 0))


def write(cache: Cache, buffer: Cache, row_R, used_R, count_R, mesh: Mesh | None = None) -> Cache:
    """Put as `put` in every layer."""
    how = row_R, used_R, count_R, mesh
    return tuple(
        tuple(put(part, new, *how) for part, new in zip(*of_layer, strict=True))
        for of_layer in zip(cache, buffer, strict=True)
    )


def rows_of(part, row_R, positions: int):
    """Return the first `positions` of rows `row_R`: [R, K, positions, ...]; nothing else of the array is read."""
    size = (1, part.shape[1], positions, *part.shape[3:])
    nowhere = (0,) * (part.ndim - 1)
    return jax.vmap(lambda row: jax.lax.dynamic_slice(part, (row, *nowhere), size)[0])(row_R)


def move(into: Cache, out_of: Cache, from_R, to_R, used_R) -> Cache:
    """Copy the positions in use of rows `from_R` into rows `to_R` of another cache; a target past the end is skipped.

    The rest of rows `to_R` becomes 0: old values may not be finite, and 0 * nan is nan. The caches may have different
    numbers of positions; no row may have more in use than either.
    """

    def copied(whole, part):
        shared = min(whole.shape[2], part.shape[2])
        kept_RB = jnp.arange(shared)[None] < used_R[:, None]
        kept = jnp.expand_dims(kept_RB[:, None], range(3, part.ndim))
        rows = jnp.where(kept, rows_of(part, from_R, shared), jnp.zeros((), part.dtype))
        return whole.at[to_R].set(_longer(rows, whole.shape[2]), mode="drop")

    return jax.tree.map(copied, into, out_of)


@functools.partial(jax.jit, static_argnames="positions")
def resize(part, positions: int):
    """Return the array with more positions, the new ones 0, or with only the first `positions`."""
    return part[:, :, :positions] if positions < part.shape[2] else _longer(part, positions)


def _longer(part, positions: int):
    more = [(0, 0)] * part.ndim
    more[2] = (0, positions - part.shape[2])
    return jnp.pad(part, more)
