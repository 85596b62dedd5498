"""The device side of a rollout: cache rows of slots and store, and the few programs that change them.

Every array shape comes from a small fixed set (buckets of lengths and of cache positions), so after `warm_up` nothing
compiles.
"""

import time
from collections.abc import Sequence
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from qr_jax import config
from qr_jax.models.families import ModelConfig
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode

APPEND_ROWS = (2, 8)  # rows of one append call: the fewest that hold what there is
SMALLEST_VIEW = 256  # cache positions that a program looks at, at least

MOVE_ROWS = 8  # rows of the smallest move; others are about 4 times the one before, up to all slots

Work = tuple[int, Sequence[int], int]  # a row, the ids to put there, the positions it has in use
Move = tuple[int, int, int]  # a row, the row of the other cache to copy it to, the positions it has in use


class Rows:
    """Cache rows: `slots` that decode together, and a `store` for prompts and for episodes that wait."""

    def __init__(self, cfg: ModelConfig, settings: config.Rollout, eos_ids: Sequence[int], *, compute: str):
        self.cfg, self.settings = cfg, settings
        self.slot_count = settings.slots
        self.store_count = settings.store or settings.slots
        positions = settings.context_tokens
        self.views = [positions]
        while self.views[0] > SMALLEST_VIEW:
            self.views.insert(0, max(self.views[0] // 2, SMALLEST_VIEW))
        self.lengths = sorted({min(length, positions) for length in settings.buckets})
        self.move_sizes = [self.slot_count]
        while self.move_sizes[0] > MOVE_ROWS:
            self.move_sizes.insert(0, max(self.move_sizes[0] // 4, MOVE_ROWS))
        self.caches = {
            "slots": caches.create(cfg, self.slot_count, positions, jnp.dtype(compute)),
            "store": caches.create(cfg, self.store_count, positions, jnp.dtype(compute)),
        }
        stop_V = np.zeros(cfg.vocab, bool)
        stop_V[list(eos_ids)] = True
        self.stop_V = jnp.asarray(stop_V)
        self.sampling = decode.Sampling(settings.top_p, settings.top_k)
        self.moved = 0

    def warm_up(self, params) -> float:
        """Compile every program that a rollout can need; returns the seconds it took.

        The caches are laid out like `params` first: a program first seen with another layout would compile again.
        """
        start = time.monotonic()
        layout = jax.tree.leaves(params)[0].sharding
        if isinstance(layout, NamedSharding):
            layout = NamedSharding(layout.mesh, PartitionSpec())
        self.caches = jax.device_put(self.caches, layout)
        self._try_all(params)
        jax.block_until_ready(self.caches)
        self.moved = 0
        return time.monotonic() - start

    def _try_all(self, params) -> None:
        none_S = np.zeros(self.slot_count, np.int32)
        self.keys(0, 0, 0, [], [])
        for view in self.views:
            self.decode(params, none_S, none_S, none_S, np.zeros((self.slot_count, 2), np.uint32), 1.0, view)
            for length, rows in product(self.lengths, APPEND_ROWS):
                none_R, ids_RL = np.zeros(rows, np.int32), np.zeros((rows, length), np.int32)
                for where in {self.slot_count: "slots", self.store_count: "store"}.values():  # of one size: one program
                    self._append(params, where, none_R, ids_RL, none_R, none_R, view)
        for size in self.move_sizes:
            self.move("slots", "store", [(0, self.store_count, 0)] * size)  # to no row
            self.move("store", "slots", [(0, self.slot_count, 0)] * size)

    def view(self, positions: int) -> int:
        return next(view for view in self.views if view >= positions)

    def keys(self, seed: int, purpose: int, step: int, query_N: Sequence[int], sample_N: Sequence[int]) -> np.ndarray:
        """Key data [N, 2] of N episodes, computed `slots` at a time."""
        size = self.slot_count
        blocks = []
        for at in range(0, max(len(query_N), 1), size):
            query, sample = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
            query[: len(query_N[at : at + size])] = query_N[at : at + size]
            sample[: len(sample_N[at : at + size])] = sample_N[at : at + size]
            numbers = (np.uint32(number) for number in (seed, purpose, step))
            blocks.append(np.asarray(decode.episode_keys(*numbers, query, sample)))
        return np.concatenate(blocks)[: len(query_N)]

    def decode(self, params, pending_S, used_S, room_S, key_S2, temperature: float, view: int) -> decode.Chunk:
        self.caches["slots"], chunk = decode.decode(
            params, self.caches["slots"], pending_S, used_S, room_S, key_S2, self.stop_V, np.float32(temperature),
            cfg=self.cfg, bucket=view, chunk=self.settings.chunk, sampling=self.sampling,
        )  # fmt: skip
        return chunk

    def _append(self, params, where: str, row_R, ids_RL, used_R, count_R, view: int) -> None:
        self.caches[where] = decode.append(
            params, self.caches[where], row_R, ids_RL, used_R, count_R, cfg=self.cfg, bucket=view
        )

    def append(self, params, where: str, work: Sequence[Work]) -> None:
        """Put known tokens behind what rows hold: a few rows a call, like lengths together, long in parts."""
        longest = self.lengths[-1]
        while work:
            now = sorted(((row, ids[:longest], used) for row, ids, used in work), key=lambda item: len(item[1]))
            for at in range(0, len(now), APPEND_ROWS[-1]):
                self._append_batch(params, where, now[at : at + APPEND_ROWS[-1]])
            work = [(row, ids[longest:], used + longest) for row, ids, used in work if len(ids) > longest]

    def _append_batch(self, params, where: str, batch: Sequence[Work]) -> None:
        length = next(length for length in self.lengths if length >= max(len(ids) for _, ids, _ in batch))
        rows = next(rows for rows in APPEND_ROWS if rows >= len(batch))
        ids_RL = np.zeros((rows, length), np.int32)
        row_R, used_R, count_R = (np.zeros(rows, np.int32) for _ in range(3))
        for r, (row, ids, used) in enumerate(batch):
            ids_RL[r, : len(ids)] = ids
            row_R[r], used_R[r], count_R[r] = row, used, len(ids)
        self._append(params, where, row_R, ids_RL, used_R, count_R, self.view(int(used_R.max())))

    def move(self, out_of: str, into: str, moves: Sequence[Move]) -> None:
        """Copy rows from one cache to the other, in one batched copy (the fewest rows a program has that hold them)."""
        dropped = self.caches[into][0].shape[1]
        for at in range(0, len(moves), self.slot_count):
            some = moves[at : at + self.slot_count]
            size = next(size for size in self.move_sizes if size >= len(some))
            from_R, to_R, used_R = np.zeros(size, np.int32), np.full(size, dropped, np.int32), np.zeros(size, np.int32)
            from_R[: len(some)], to_R[: len(some)], used_R[: len(some)] = zip(*some, strict=True)
            self.caches[into] = decode.move(self.caches[into], self.caches[out_of], from_R, to_R, used_R)
        self.moved += len(moves)
