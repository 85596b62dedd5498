"""The pool of queries, what its rules read, and what a step did to it; `qr_jax.pool.pool` is the pool itself."""

from qr_jax.pool.pool import Pool, create, draw, drawable, judge, refresh, settle

__all__ = ["Pool", "create", "draw", "drawable", "judge", "refresh", "settle"]
