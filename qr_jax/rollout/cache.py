"""Keys and values of the sequences in flight: rows for the slots that decode, and a store for rows that do not.

A cache is a tuple over layers of (k, v), each [rows, K, positions, d]: arrays of a dtype, Int8, or, keys alone, Turned
(positions last: [rows, K, d, positions]). The functions here treat an Int8's steps and its scale [rows, K, positions]
alike (models/quantized.py): what follows the positions' axis is copied.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec, Sharding

from qr_jax.models.cached_attention import Turned
from qr_jax.models.families import ModelConfig
from qr_jax.models.quantized import Int8, like

AT = PartitionSpec("slots", "heads")  # how a host's devices share an array, on a mesh of these axes (host_local.py)
Part = jax.Array | Int8 | Turned
Cache = tuple[tuple[Part, Part], ...]


def _by_array(change: Callable[..., Any], part: Part, *more: Any) -> Any:
    """Apply `change(array, *more, axis=that of the positions)` to each array of keys or values; return the changed."""
    if isinstance(part, Turned):
        return Turned(change(part.array, *(one.array if isinstance(one, Turned) else one for one in more), axis=3))
    return jax.tree.map(functools.partial(change, axis=2), part, *more)


def create(cfg: ModelConfig, rows: int, positions: int, dtype, *, turned: bool = False) -> Cache:
    """Make a cache of zeros, as Int8 where the dtype is int8; where it is float32, keys are Turned if asked for."""
    shape = (rows, cfg.kv_heads, positions, cfg.head_dim)
    turns = turned and dtype == jnp.float32

    def part() -> jax.Array | Int8:
        zeros = jnp.zeros(shape, dtype)
        return Int8(zeros, jnp.zeros(shape[:-1], jnp.float32)) if zeros.dtype == jnp.int8 else zeros

    def keys() -> Part:
        return Turned(jnp.zeros((rows, cfg.kv_heads, cfg.head_dim, positions), dtype)) if turns else part()

    return tuple((keys(), part()) for _ in range(cfg.layers))


@functools.lru_cache(64)  # of the lengths that warming up goes through, and of several engines
def creating(cfg: ModelConfig, sizes: Sequence[tuple[str, int, int]], dtype, layout: Sharding, turned: bool = False):
    """Return the program that makes {name: Cache} in this layout; `sizes`: (name, rows, positions)."""

    def create_all() -> dict[str, Cache]:
        return {name: create(cfg, rows, positions, dtype, turned=turned) for name, rows, positions in sizes}

    return jax.jit(create_all, out_shardings=layout)


@functools.lru_cache(64)
def nbytes(cfg: ModelConfig, rows: int, positions: int, dtype) -> int:
    """Return the bytes of a cache of so many rows and positions."""
    parts = jax.tree.leaves(jax.eval_shape(functools.partial(create, cfg, rows, positions, dtype)))
    return sum(part.size * part.dtype.itemsize for part in parts)


def size(cache: Cache) -> tuple[int, int]:
    """Return (rows, positions)."""
    return cache[0][0].shape[0], cache[0][0].shape[2]


def put(part, new_RKJd, row_R, used_R, count_R, mesh: Mesh | None = None):
    """Return keys or values with the first `count_R` new ones put behind the first `used_R` of rows `row_R`."""
    where = row_R, used_R, count_R, mesh
    return _by_array(lambda array, new, axis: _put(array, new, *where, axis), part, like(part, new_RKJd))


def _put(part, new, row_R, used_R, count_R, mesh: Mesh | None, axis: int):
    """Do as `put` to one array [rows, K, positions, ...] (axis 3: [rows, K, d, positions]); `new`: [R, K, J, ...].

    Rows and heads are merged into one axis: with an axis between two that are indexed, XLA transposes the whole cache
    and back on TPU, which moves about four times its size per call. `mesh`: where heads lie on several devices (`AT`),
    each writes its own; XLA alone would first gather the whole cache for the merged axis.
    """
    if mesh is not None and mesh.shape["heads"] > 1:
        by_heads, same = PartitionSpec(None, "heads"), PartitionSpec()
        own = functools.partial(_put_own, axis=axis)
        own = jax.shard_map(own, mesh=mesh, in_specs=(AT, by_heads, same, same, same), out_specs=AT)
        return own(part, new, row_R, used_R, count_R)
    (rows, kv_heads), positions = part.shape[:2], part.shape[axis]
    entries = jnp.arange(new.shape[2])[None]
    at_RJ = jnp.where(entries < count_R[:, None], used_R[:, None] + entries, positions)  # out of range: dropped
    head_RK = row_R[:, None] * kv_heads + jnp.arange(kv_heads)[None]
    flat = part.reshape(rows * kv_heads, *part.shape[2:])
    between = (slice(None),) * (axis - 2)
    return flat.at[head_RK[:, :, None], *between, at_RJ[:, None]].set(new, mode="drop").reshape(part.shape)


def _put_own(part, new, row_R, used_R, count_R, axis: int):
    """Write new keys or values, as `_put` does, into the part of the cache that one device of the mesh holds.

    `row_R` counts the rows of the whole cache; entries for rows of other devices are dropped.
    """
    rows = part.shape[0]
    row_R = row_R - rows * jax.lax.axis_index("slots")
    mine_R = (row_R >= 0) & (row_R < rows)
    return _put(part, new, jnp.where(mine_R, row_R, 0), used_R, jnp.where(mine_R, count_R, 0), None, axis)


def write(cache: Cache, buffer: Cache, row_R, used_R, count_R, mesh: Mesh | None = None) -> Cache:
    """Return the cache with the buffer put, as by `put`, into every layer."""
    how = row_R, used_R, count_R, mesh
    return tuple(
        tuple(put(part, new, *how) for part, new in zip(*of_layer, strict=True))
        for of_layer in zip(cache, buffer, strict=True)
    )


def rows_of(part: Part, row_R, positions: int | None = None) -> Any:
    """Return the first `positions` (None: all) of rows `row_R` of keys or values."""
    return _by_array(lambda array, axis: _rows(array, row_R, positions or array.shape[axis], axis), part)


def _rows(array, row_R, positions: int, axis: int):
    """Return the first `positions` of rows `row_R` of one array; nothing else of it is read."""
    size = tuple(positions if at == axis else length for at, length in enumerate((1, *array.shape[1:])))
    nowhere = (0,) * (array.ndim - 1)
    return jax.vmap(lambda row: jax.lax.dynamic_slice(array, (row, *nowhere), size)[0])(row_R)


def move(into: Cache, out_of: Cache, from_R, to_R, used_R) -> Cache:
    """Copy the positions in use of rows `from_R` into rows `to_R` of another cache; a target past the end is skipped.

    The rest of rows `to_R` becomes 0: old values may not be finite, and 0 * nan is nan. The caches may have different
    numbers of positions; no row may have more in use than either.
    """

    def copied(whole, array, axis: int):
        shared = min(whole.shape[axis], array.shape[axis])
        kept_RB = jnp.arange(shared)[None] < used_R[:, None]
        kept = jnp.expand_dims(kept_RB, [at for at in range(1, array.ndim) if at != axis])
        rows = jnp.where(kept, _rows(array, from_R, shared, axis), jnp.zeros((), array.dtype))
        return whole.at[to_R].set(_longer(rows, whole.shape[axis], axis), mode="drop")

    return jax.tree.map(
        functools.partial(_by_array, copied), into, out_of, is_leaf=lambda part: isinstance(part, Turned)
    )


@functools.partial(jax.jit, static_argnames="positions")
def resize(part: Part, positions: int) -> Any:
    """Return keys or values with more positions, the new ones 0, or with only the first `positions`."""

    def resized(array, axis: int):
        if positions < array.shape[axis]:
            return jax.lax.slice_in_dim(array, 0, positions, axis=axis)
        return _longer(array, positions, axis)

    return _by_array(resized, part)


def _longer(array, positions: int, axis: int):
    more = [(0, 0)] * array.ndim
    more[axis] = (0, positions - array.shape[axis])
    return jnp.pad(array, more)
