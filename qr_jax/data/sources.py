"""Batches of rows, shuffled by grain, as a function of (seed, step) alone.

No iterator is kept or saved: a resumed run needs its step and nothing else, on any number of hosts. Works with any
sequence that has a length and takes an index: a list, a TFDS data source, a memory map."""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, cast


class Rows(Protocol):
    """Rows that can be read by index: a list, a TFDS data source."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


def batches(rows: Rows, size: int, *, seed: int) -> Callable[[int], list]:
    """Return a function from a step, counted from 0, to its `size` rows.

    Every epoch is shuffled anew and visits every row once; a batch may end one epoch and begin the next, so a step near
    that boundary can hold a row twice.
    """
    import grain  # imported here: grain imports jax, which the host-only modules must not

    # a hash of the seed: grain shuffles epoch e by seed + e, so seeds 0 and 1 would overlap
    hashed = int.from_bytes(hashlib.sha256(f"shuffle {seed}".encode()).digest()[:4], "big")
    shuffled = grain.MapDataset.source(cast(Any, rows)).shuffle(seed=hashed).repeat()

    def batch(step: int) -> list:
        return [shuffled[at] for at in range(step * size, (step + 1) * size)]

    return batch
