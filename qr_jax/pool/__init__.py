"""The pool of queries, what its rules read, and what a step did to it; `qr_jax.pool.pool` is the pool itself."""

import warnings
from typing import Any

from qr_jax import records
from qr_jax.pool import pool as _pool
from qr_jax.pool.pool import Pool, create, draw, drawable, judge, refresh, settle

__all__ = ["Pool", "create", "draw", "drawable", "judge", "refresh", "settle"]

# Public here in version 0.2.
_MOVED = "ARRAYS CONSUMED DRAW EASY FRESH HARD KINDS LAST LAST_ACCEPTED LAST_EASY LAST_HARD LAST_NONE LAST_SURPLUS"
_MOVED += " RESET Rule STATES SURPLUS digest from_arrays query_list_hash to_arrays"
_RECORDS = ("Outcome", "Grades", "Memory")
_GONE = {
    "Settled": "qr_jax.pool.judge returns the step's Outcome, and settle(pool, outcome, rule) the next Pool",
    "describe": "qr_jax.pool.figures.pool_figures counts a pool's queries",
}


def __getattr__(name: str) -> Any:
    if name in _GONE:  # no AttributeError: `from qr_jax.pool import` would drop its text
        raise ImportError(f"qr_jax.pool.{name} of version 0.2 is no more; {_GONE[name]}")
    if name not in (*_MOVED.split(), *_RECORDS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = records if name in _RECORDS else _pool
    warnings.warn(f"qr_jax.pool.{name} is now {place.__name__}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(place, name)
