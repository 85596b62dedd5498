"""The k rows of a large matrix with the largest products with a vector: exact, over any number of devices.

Each device has a run of rows; it finds its own k best, and these are merged. Equal scores go by row. Inside a device
rows stand in groups: the k best rows lie in the k groups with the largest maxima (k rows are better than any row of
another group), so that only those groups are sorted.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

GROUP = 256  # rows
CHUNK = 8192  # rows of int8 that become floats at once
SHARD = PartitionSpec("shard")

Read = Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Rows:
    """A matrix over the devices: float32, bfloat16, or int8 with the factor of each row."""

    vector_PD: jax.Array
    scale_P: jax.Array | None
    count: int  # rows of the matrix; rows after it are padding
    count_on_devices: jax.Array  # `count`, whole on every device
    mesh: Mesh


def lay_out(read: Read, count: int, devices: Sequence[Any]) -> Rows:
    """Lay rows out over the devices. `read(start, stop)` gives one device's share at a time; int8 with factors."""
    share = -(-count // len(devices))
    unit = CHUNK if share > CHUNK else GROUP
    share = -(-share // unit) * unit
    mesh = Mesh(np.array(devices), ("shard",))
    parts = [_part(read, count, share, at, device) for at, device in enumerate(devices)]

    def whole(pieces: list[Any]) -> jax.Array:
        shape = (share * len(devices), *pieces[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, SHARD), pieces)

    scales = None if parts[0][1] is None else whole([scale for _, scale in parts])
    count_on_devices = jax.device_put(np.int32(count), NamedSharding(mesh, PartitionSpec()))
    return Rows(whole([vectors for vectors, _ in parts]), scales, count, count_on_devices, mesh)


def _part(read: Read, count: int, share: int, at: int, device: Any) -> tuple[jax.Array, jax.Array | None]:
    vectors, scale = read(min(at * share, count), min((at + 1) * share, count))
    rest = share - len(vectors)
    padded = jax.device_put(np.pad(vectors, ((0, rest), (0, 0))), device)
    return padded, None if scale is None else jax.device_put(np.pad(scale, (0, rest)), device)


def nearest(rows: Rows, query_BD: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores float32 [B, K] and rows int32 [B, K], best first; K is the lesser of k and the rows.

    A program is compiled for each B and each power of two of k, from 8.
    """
    enough = max(8, 1 << (k - 1).bit_length())
    query_BD = jax.device_put(query_BD, NamedSharding(rows.mesh, PartitionSpec()))
    count = rows.count_on_devices
    best = _nearest(rows.mesh, enough, rows.vector_PD, rows.scale_P, count, query_BD)
    score_BK, row_BK = jax.device_get(best)
    return score_BK[:, : min(k, rows.count)], row_BK[:, : min(k, rows.count)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _nearest(mesh, k, vector_PD, scale_P, count, query_BD):
    def own(vector_PD, scale_P, count, query_BD):
        size = vector_PD.shape[0]
        row_P = jax.lax.axis_index("shard") * size + jnp.arange(size)
        score_BP = jnp.where((row_P < count)[None], _scores(vector_PD, scale_P, query_BD), -jnp.inf)
        top_BK, at_BK = largest(score_BP, k)
        return top_BK, row_P[0] + at_BK

    merged = PartitionSpec(None, "shard")
    specs = {"in_specs": (SHARD, SHARD, PartitionSpec(), PartitionSpec()), "out_specs": (merged, merged)}
    top_BX, row_BX = jax.shard_map(own, mesh=mesh, **specs)(vector_PD, scale_P, count, query_BD)
    # Devices hold runs of rows in order, and top_k puts the first of equals first: ties still go by row.
    top_BK, at_BK = jax.lax.top_k(top_BX, min(k, top_BX.shape[1]))
    return top_BK, jnp.take_along_axis(row_BX, at_BK, axis=1)


def _scores(vector_PD, scale_P, query_BD):
    """Return the products, float32 [B, P]; int8 rows become floats a chunk at a time."""

    def product(part_CD):
        exact = jax.lax.Precision.HIGHEST if part_CD.dtype == jnp.float32 else None
        over = (((1,), (1,)), ((), ()))
        query = query_BD.astype(part_CD.dtype)
        return jax.lax.dot_general(query, part_CD, over, precision=exact, preferred_element_type=jnp.float32)

    if scale_P is None:
        return product(vector_PD)
    parts = vector_PD.reshape(-1, min(CHUNK, len(vector_PD)), vector_PD.shape[1])
    score_XBC = jax.lax.map(lambda part: product(part.astype(jnp.float32)), parts)
    return jnp.moveaxis(score_XBC, 0, 1).reshape(len(query_BD), -1) * scale_P[None]


def largest(score_BP, k: int):
    """Return what `jax.lax.top_k` does (values, places; the first of equals first), by groups where there are many."""
    size = score_BP.shape[1]
    if size % GROUP or size // GROUP <= 2 * k:
        return jax.lax.top_k(score_BP, min(k, size))
    score_BXG = score_BP.reshape(len(score_BP), -1, GROUP)
    _, group_BK = jax.lax.top_k(score_BXG.max(-1), k)
    group_BK = jnp.sort(group_BK, axis=1)  # in the order of their rows, for ties
    score_BKG = jnp.take_along_axis(score_BXG, group_BK[:, :, None], axis=1)
    top_BK, at_BK = jax.lax.top_k(score_BKG.reshape(len(score_BP), -1), k)
    return top_BK, jnp.take_along_axis(group_BK, at_BK // GROUP, axis=1) * GROUP + at_BK % GROUP
