"""The cache of one CPU device, where a step of decoding is bound by compute, and memory is the host's.

On other devices a step is bound by reading the weights, and each further program costs half a minute of compiling. Here
idle slots are left out of a step, as each costs its share of compute, and the store grows by doubling (at full length
SmolLM2's, for 16 rows, is .7 GiB). Where memory is tight, caches are freed between rollouts and given back to the
system; a large model's rows are copied by one call per layer, and few tokens are appended by one call per three layers.
A program of SmolLM2's 30 layers takes 2 s to compile and holds 25 to 40 MB. A program of three layers holds 10 MB, and
its calls take 4 to 9 % longer in all; one of a single layer holds 7 MB, and takes 7 to 20 % longer.
"""

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from qr_jax.models import incremental
from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import memory
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode
from qr_jax.rollout.kv_cache import KVCache, mesh_of

DECODE_PARTS = (2, 8, 32)  # of the slots: where no more can decode, the others are left out of a step
SMALLEST_DECODE = 8
LARGEST_PART = 2**28  # bytes of cache rows: a part of the slots is copied out, which must stay cheap and find room
AT_ONCE = 3  # layers per call: fewer make smaller programs, but allocate memory for sums more often
GIVE_BACK_EVERY = 16  # rollouts of a small model
SMALL_CALL = 256  # tokens: more need so much memory for sums that allocating it several times per call is slow


class CpuCache(KVCache):
    """A KVCache that saves memory; if several emulated devices share it, only its key layout is not KVCache's."""

    turned = True
    decode_sizes: Sequence[int] = ()  # how many slots a program of decoding has
    by_layer = False  # True: rows are copied by one call per layer, and few tokens appended by one per AT_ONCE layers
    rollouts = 0
    left_bytes = 0  # of a large cache's arrays that were resized since memory was given back
    resizing_large = False

    def _creating(self, laid: DecodeParams) -> Callable[[], dict[str, caches.Cache]]:
        alone = mesh_of(laid) is None
        parts = {self.slot_count // part for part in DECODE_PARTS} if alone else set()
        self.decode_sizes = sorted({self.slot_count} | {part for part in parts if part >= SMALLEST_DECODE})
        doubled = [view for view in self.views[:-1] if alone and view.bit_count() == 1]
        self.lengths = {"slots": self.views, "store": [*doubled, self.views[-1]]}
        self.by_layer = alone and memory.is_tight(laid)
        return super()._creating(laid)

    def _decode_size(self, slots: int) -> int:
        """Return how many slots decode: all, or a part whose rows are small enough to copy out."""
        row_bytes = caches.nbytes(self.cfg, 1, caches.size(self.caches["slots"])[1], self.kept)
        fitting = [size for size in self.decode_sizes if size >= slots and size * row_bytes <= LARGEST_PART]
        return fitting[0] if fitting else self.slot_count

    def release_caches(self) -> None:
        """Free large caches after a rollout, for what comes before the next; `to_decode_params` makes them anew.

        Those of a pod stay, for its processes would have to free them together.
        """
        self.rollouts += 1
        large = self.mesh is None and memory.is_tight(self.caches)
        if large:
            self.caches = {}
        else:
            self.begin()
        if large or not self.rollouts % GIVE_BACK_EVERY:
            give_back()

    def _resize(self, name: str, length: int) -> None:
        self.resizing_large = memory.is_tight(self.caches[name])
        super()._resize(name, length)
        if self.left_bytes:
            self._give_back()

    def _resized(self, *left: jax.Array) -> None:
        """Give back the memory of a large cache's old arrays: the next are larger."""
        if self.resizing_large:
            self.left_bytes += sum(array.nbytes for array in left)
            if self.left_bytes >= memory.LARGE:
                self._give_back()

    def _give_back(self) -> None:
        give_back()
        self.left_bytes = 0

    def _append_program(self, tiles: int) -> Callable[..., caches.Cache]:
        small = self.by_layer and tiles * self.settings.tile <= SMALL_CALL
        return append_by_layers if small else super()._append_program(tiles)

    def _move_program(self, program: Callable[..., caches.Cache]) -> Callable[..., caches.Cache]:
        return partial(move_by_layer, program) if self.by_layer else program


def append_by_layers(laid, cache, row_T, ids_TI, used_T, count_T, *, cfg, view, mesh=None) -> caches.Cache:
    """Append as `decode.append` does, by a smaller program that is called for every `AT_ONCE` layers."""
    (ids_N, position_N), given = decode.flat_tiles(row_T, ids_TI, used_T, count_T)
    x_DN, *turns_of = incremental.begin(cfg, laid.embed, ids_N, position_N)
    attend, after = decode.attend_in_tiles(view, mesh), []
    for at in range(0, cfg.layers, AT_ONCE):
        some = slice(at, at + AT_ONCE)
        slides_l, layers, kept_l = incremental.slides(cfg)[some], laid.layers[some], tuple(cache[some])
        x_DN, kept_l = incremental.run_layers(cfg, attend, slides_l, layers, kept_l, x_DN, turns_of, given)
        after += kept_l
    return tuple(after)


def move_by_layer(program: Callable[..., Any], *of_caches: caches.Cache, **given: Any) -> caches.Cache:
    """Run `move` or `copy`, one call per layer."""
    return tuple(program(*layers, **given) for layers in zip(*of_caches, strict=True))


def give_back() -> None:
    """Let the C library (glibc) return freed memory; takes a tenth of a second after gigabytes.

    By itself it keeps what it once needed: a run would grow for days.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
