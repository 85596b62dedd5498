"""What this process holds in memory, and what it gives back to the system."""

import contextlib
import ctypes
import resource
import sys
from typing import Any

import jax

LARGE = 2**27  # bytes of arrays that are worth the milliseconds that giving back costs, and the seconds of a wait


def memory_bytes() -> int:
    """Peak memory so far: of this process's fullest device, or of the process where its devices do not tell."""
    used = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(used) or resident


def is_tight(tree: Any) -> bool:
    """Whether the arrays are large and lie in the process's own memory: what is kept twice is then missed."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    on_cpu = all(next(iter(leaf.sharding.device_set)).platform == "cpu" for leaf in leaves)
    return on_cpu and sum(leaf.nbytes for leaf in leaves) >= LARGE


def give_back() -> None:
    """Let the C library return what was freed (glibc does); a tenth of a second after gigabytes.

    By itself it keeps what it once needed: a run would grow for days.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
