"""This process's memory: how much it uses, and whether arrays leave it little."""

import resource
import sys
from typing import Any

import jax

LARGE = 2**27  # bytes of arrays that are worth the time to give them back


def memory_bytes() -> int:
    """Return the peak memory so far: of this process's fullest device, or of the process if devices do not tell."""
    used = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(used) or resident


def is_tight(tree: Any) -> bool:
    """Return True if the arrays are large and in the process's own memory, where a second copy would be too much."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    on_cpu = all(next(iter(leaf.sharding.device_set)).platform == "cpu" for leaf in leaves)
    return on_cpu and sum(leaf.nbytes for leaf in leaves) >= LARGE
