"""The device side of a rollout: cache rows of slots and store, and the few programs that change them.

Every array shape comes from a small fixed set (tiles of tokens, views of cache positions, parts of the slots), and each
program is compiled when it is first needed. The slots' cache is as long as its longest sequence needs, in steps of
`views`: a step of decoding attends over all of it, and slicing it would copy it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax import config
from qr_jax.models.families import ModelConfig
from qr_jax.models.incremental import DecodeParams, to_decode_params
from qr_jax.parallel.host_local import AXES
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode
from qr_jax.rollout.sampling import EVERYTHING, Sampling

SMALLEST_VIEW = 64  # cache positions that a program looks at, at least
MOVE_ROWS = 8  # rows of the smallest move program; the next has about 4 times as many, and so on up to all slots
Work = tuple[int, Sequence[int], int]  # a row, the ids to put there, the positions it has in use
Move = tuple[int, int, int]  # a row, the row to copy it to, the positions it has in use
Tile = tuple[int, Sequence[int], int]  # a row, at most `tile` ids, the positions in use before them


def views_up_to(positions: int) -> list[int]:
    """List 64, 96, 128, 192, 256, 384, 512, then four per octave (640, 768, 896, 1024, ...), and `positions` last."""
    views, step = [], SMALLEST_VIEW
    while step < positions:
        parts = (4, 6) if step < 512 else (4, 5, 6, 7)
        views += [step * part // 4 for part in parts]
        step *= 2
    return [view for view in views if view < positions] + [positions]


def mesh_of(laid: DecodeParams) -> Mesh | None:
    """Return the devices that share these parameters; None: they are of one device."""
    layout = laid.norm.sharding
    dealt = isinstance(layout, NamedSharding) and layout.mesh.axis_names == AXES and layout.mesh.size > 1
    return layout.mesh if dealt else None  # type: ignore[return-value]


class KVCache:
    """Cache rows: `slots` that decode together, and a `store` for prompts and for episodes that wait."""

    turned = False  # whether keys are kept with their positions last

    def __init__(self, cfg: ModelConfig, settings: config.Rollout, eos_ids: Sequence[int], *, compute: str):
        self.cfg, self.settings, self.compute = cfg, settings, jnp.dtype(compute)
        self.kept = jnp.dtype("int8") if settings.cache == "int8" else self.compute  # dtype of keys and values
        self.slot_count = settings.slots
        self.store_count = settings.store or settings.slots
        self.views = views_up_to(settings.context_tokens)
        self.call_sizes = sorted({self.tiles(tokens) for tokens in settings.buckets})
        self.move_sizes = [self.slot_count]
        while self.move_sizes[0] > MOVE_ROWS:
            self.move_sizes.insert(0, max(self.move_sizes[0] // 4, MOVE_ROWS))
        self.least = self.views[0]  # positions of a cache, at least; `warm_up` knows how long prompts are
        self.lengths = {"slots": self.views, "store": self.views[-1:]}  # that a cache may have
        self.caches: dict[str, caches.Cache] = {}  # created where the first parameters lie
        self.eos_ids = tuple(eos_ids)
        self.stop_at_eos()
        self.sampling = EVERYTHING  # `restrict` changes it
        self.moved = self.grown = 0
        self.mesh: Mesh | None = None  # the devices that share caches and parameters (parallel/host_local.py)
        self.home: Any = None  # the first of this host's devices that roll out, once the caches' layout is known
        self.stop_V: Any = None  # `stop_at_V` on the devices; None until `decode` copies it there

    def to_decode_params(self, params: Any) -> DecodeParams:
        """Convert parameters to the DecodeParams that the programs read; return DecodeParams unchanged."""
        laid = self._laid(params)
        if not self.caches or mesh_of(laid) not in (None, self.mesh):
            self.settle_on(laid)
        return laid

    def _laid(self, params: Any) -> DecodeParams:
        return to_decode_params(self.cfg, params, self.compute, self.settings.weights == "int8")

    def settle_on(self, laid: DecodeParams) -> None:
        """Make the caches anew, laid out like the parameters: no device ever holds more than its part of them."""
        self.caches = {}  # the old ones are freed first
        self.caches = self._creating(laid)()

    def _creating(self, laid: DecodeParams) -> Callable[[], dict[str, caches.Cache]]:
        """Return the maker of caches laid out like these parameters, and set the other programs to that layout."""
        layout = laid.norm.sharding
        if isinstance(layout, NamedSharding):
            self.mesh = mesh_of(laid)
            layout = NamedSharding(layout.mesh, caches.AT if self.mesh else PartitionSpec())
        self.stop_V = None
        self.layout, self.home = layout, min(layout.addressable_devices, key=lambda device: device.id)
        return self._created(**{name: self._shortest(name) for name in self.lengths})

    def _created(self, **lengths: int) -> Callable[[], dict[str, caches.Cache]]:
        """Return the program that makes caches of these lengths (positions), laid out like the parameters."""
        rows = {"slots": self.slot_count, "store": self.store_count}
        sizes = tuple((name, rows[name], length) for name, length in lengths.items())
        return caches.creating(self.cfg, sizes, self.kept, self.layout, self.turned)

    # ---- compiling

    def warm_up(self, params: Any, prompt_tokens: int, positions: int = 0) -> Iterator[tuple[int, str]]:
        """Compile what the first tokens of a rollout need, after prompts of `prompt_tokens`; only caches are made.

        With `positions` also what decoding and observations need up to so many; longer prompts, and copies between
        other lengths, are compiled when they are met. Yields how many programs are left, and what the next of them is.
        As many compile at once as there are cores.
        """
        laid, self.least = self._laid(params), self.views[0]
        self.least = self._view(prompt_tokens + self.settings.chunk)
        self.caches = {}
        creating = self._creating(laid)
        self.caches = creating.eval_shape()
        self.keys(0, 0, 0, [], [])
        calls = self._appending_of(laid, "store")
        calls["copies of prompts"] = self._moving("store", "slots", [(0, 0, 0)] * self.slot_count)
        calls |= self._decoding_of(laid, self.slot_count)
        for name, lengths in self.lengths.items():
            for length in lengths:
                if positions and self.least <= length <= self._view(positions):
                    calls |= self._programs_at(laid, name, length)
        threads = ThreadPoolExecutor(os.cpu_count(), "compiling")
        try:
            calls = {what: call for what, call in calls.items() if hasattr(call.func, "lower")}
            lowered = [call.func.lower(*call.args, **call.keywords) for call in calls.values()]
            compiling = [threads.submit(program.compile) for program in lowered]
            for left, what, compiled in zip(range(len(calls), 0, -1), calls, compiling, strict=True):
                yield left, what
                compiled.result()
        finally:
            threads.shutdown(cancel_futures=True)
            self.caches = {}
        if self.mesh is None:
            jax.block_until_ready(creating())  # compiled by a call, as it will be needed, and freed
        else:  # as in `release_caches`
            self.settle_on(laid)

    def _programs_at(self, laid: DecodeParams, where: str, length: int) -> dict[str, partial]:
        """Return the calls that fill, resize and (slots only) decode a cache of so many positions, by what they do.

        The store is filled with prompts, which are as long as `warm_up` was told.
        """
        self.caches = self._created(**{where: length}).eval_shape()
        calls = self._appending_of(laid, where)
        if where == "slots":
            for slots in {self._decode_size(count) for count in range(1, self.slot_count + 1)}:
                calls |= self._decoding_of(laid, slots)
        shortest, longer = self._shortest(where), [other for other in self.lengths[where] if other > length]
        for other in {shortest, *longer[:1]} - {length}:
            for name, part in zip(("keys", "values"), self.caches[where][0], strict=True):
                calls[f"{where}, {name} of {length} positions to {other}"] = partial(caches.resize, part, other)
        return calls

    def _appending_of(self, laid: DecodeParams, where: str) -> dict[str, partial]:
        """Return, by what they do, the calls that append to a cache as it is, one for each of the call sizes."""
        length, calls = caches.size(self.caches[where])[1], {}
        what, view = ("observations", length) if where == "slots" else ("prompts", self.least)
        for tiles in self.call_sizes:
            call = self._appending(laid, where, [(0, (), 0)] * tiles, view)
            calls[f"{what}, {tiles} tiles of {self.settings.tile} tokens in {length} positions"] = call
        return calls

    def _decoding_of(self, laid: DecodeParams, slots: int) -> dict[str, partial]:
        """Return the call that decodes so many slots of the caches' length, by what it does."""
        zero_N, key_N2 = np.zeros(slots, np.int32), np.zeros((slots, 2), np.uint32)
        call, _ = self._decoding(laid, np.arange(slots), zero_N, zero_N, zero_N, key_N2, 1.0)
        length = caches.size(self.caches["slots"])[1]
        return {f"decoding, {self._decode_size(slots)} slots of {length} positions": call}

    # ---- how long the caches are

    def begin(self) -> None:
        """Make the caches as short as `least` allows; no row may be in use."""
        for name in list(self.caches):
            if caches.size(self.caches[name])[1] > self._shortest(name):
                self._resize(name, self._shortest(name))

    def _shortest(self, name: str) -> int:
        return next(length for length in self.lengths[name] if length >= self.least)

    def release_caches(self) -> None:
        """Make the caches short again after a rollout."""
        self.begin()

    def fit(self, name: str, positions: int) -> None:
        """Make a cache hold `positions`, growing length by length, so that few programs do it."""
        lengths = self.lengths[name]
        while (length := caches.size(self.caches[name])[1]) < min(positions, lengths[-1]):
            self._resize(name, lengths[lengths.index(length) + 1])
            self.grown += name == "slots"

    def _view(self, positions: int) -> int:
        """Return the smallest view that holds `positions` and `least` (a prompt's); the longest if none does."""
        return next((view for view in self.views if view >= max(positions, self.least)), self.views[-1])

    def _resize(self, name: str, length: int) -> None:
        layers: list = list(self.caches.pop(name))
        for number, layer in enumerate(layers):  # layer by layer: two whole caches never exist
            layers[number] = tuple(caches.resize(part, length) for part in layer)
            self._resized(*jax.tree.leaves(layer))
        self.caches[name] = tuple(layers)

    def _resized(self, *left: jax.Array) -> None:
        """Let a subclass do something with the memory of arrays that were resized."""

    # ---- what a rollout does

    def stop_at_eos(self) -> None:
        """Let slots stop decoding at the ids that always end a turn, and at no others."""
        self.stop_at_V, self.stop_V = np.zeros(self.cfg.vocab, bool), None
        self.stop_at(self.eos_ids)

    def stop_at(self, ids: Sequence[int]) -> None:
        """Let slots stop decoding at these ids too: each may end a turn, and the host checks whether it does."""
        if not self.stop_at_V[list(ids)].all():
            self.stop_at_V = self.stop_at_V.copy()  # the device's array may share the old one's memory
            self.stop_at_V[list(ids)] = True
            self.stop_V = None

    def restrict(self, top_p: float, top_k: int) -> None:
        """Sample only the likeliest tokens from now on (top_p=1, top_k=0: all)."""
        self.sampling = Sampling(top_p, top_k if top_k < self.cfg.vocab else 0)

    def keys(self, seed: int, purpose: int, step: int, query_N: Sequence[int], sample_N: Sequence[int]) -> np.ndarray:
        """Return key data [N, 2] of N episodes, computed `slots` at a time."""
        size = self.slot_count
        blocks = []
        for at in range(0, max(len(query_N), 1), size):
            query, sample = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
            query[: len(query_N[at : at + size])] = query_N[at : at + size]
            sample[: len(sample_N[at : at + size])] = sample_N[at : at + size]
            numbers = (np.uint32(number) for number in (seed, purpose, step))
            with jax.default_device(self.home):  # a learner's device may be busy
                blocks.append(np.asarray(decode.episode_keys(*numbers, query, sample)))
        return np.concatenate(blocks)[: len(query_N)]

    def decode(self, laid: DecodeParams, slot_N, pending_N, used_N, room_N, key_N2, temperature: float | np.ndarray):
        """Decode a chunk of tokens in N slots; return the Chunk, and which row of it is each slot's. The temperature is
        one number, or an array [N]."""
        call, at_N = self._decoding(laid, slot_N, pending_N, used_N, room_N, key_N2, temperature)
        self.caches["slots"], chunk = call()
        return chunk, at_N

    def _decoding(self, laid: DecodeParams, slot_N, pending_N, used_N, room_N, key_N2, temperature):
        """Prepare the call that decodes a chunk; return it, and which row of the Chunk is each slot's."""
        self.fit("slots", int(used_N.max()) + self.settings.chunk)
        if self.stop_V is None:
            at = NamedSharding(self.mesh, PartitionSpec()) if self.mesh else self.home
            self.stop_V = jax.device_put(self.stop_at_V, at)
        count = self._decode_size(len(slot_N))
        whole = count == self.slot_count
        at_N = slot_N if whole else np.arange(len(slot_N))

        def padded(value_N, empty: int = 0):
            array = np.full((count, *value_N.shape[1:]), empty, value_N.dtype)
            array[at_N] = value_N
            return array

        rows = None if whole else padded(slot_N, self.slot_count)
        heat = padded(temperature)[None] if isinstance(temperature, np.ndarray) else np.float32(temperature)
        call = partial(
            decode.decode,
            laid, self.caches["slots"], rows, *map(padded, (pending_N, used_N, room_N, key_N2)), self.stop_V,
            heat, cfg=self.cfg, chunk=self.settings.chunk, sampling=self.sampling, mesh=self.mesh,
        )  # fmt: skip
        return call, at_N

    def _decode_size(self, slots: int) -> int:
        """Return the size, in slots, of the program that decodes so many: all (CpuCache has smaller programs too)."""
        return self.slot_count

    def append(self, laid: DecodeParams, where: str, work: Sequence[Work]) -> None:
        """Put known tokens behind what rows hold: cut into tiles, as many tiles per call as the call sizes allow."""
        size = self.settings.tile
        tiles = [(row, ids[at : at + size], used + at) for row, ids, used in work for at in range(0, len(ids), size)]
        longest = max((used + len(ids) for _, ids, used in tiles), default=0)
        self.fit(where, longest)
        view = caches.size(self.caches[where])[1] if where == "slots" else self._view(longest)
        while tiles:
            taken = tiles[: self._call_size(len(tiles))]
            self.caches[where] = self._appending(laid, where, taken, view)()
            tiles = tiles[len(taken) :]
        jax.block_until_ready(self.caches[where])  # so that its time is not counted as decoding's

    def tiles(self, tokens: int) -> int:
        """Count the tiles that so many tokens of one row take."""
        return -(-tokens // self.settings.tile)

    def _call_size(self, tiles: int) -> int:
        """Return the next call's size in tiles: the smallest size that holds all tiles, or the largest that they fill.

        The latter if no size holds them all, or if more than half of it were padding and they fill a smaller one.
        """
        smaller = [size for size in self.call_sizes if size <= tiles]
        whole = [size for size in self.call_sizes if size >= tiles]
        return whole[0] if whole and (not smaller or 2 * tiles >= whole[0]) else smaller[-1]

    def _appending(self, laid: DecodeParams, where: str, tiles: Sequence[Tile], view: int) -> partial:
        """Return the call that puts the tiles into the rows."""
        count = next(size for size in self.call_sizes if size >= len(tiles))
        ids_TI = np.zeros((count, self.settings.tile), np.int32)
        row_T, used_T, count_T = (np.zeros(count, np.int32) for _ in range(3))
        for t, (row, ids, used) in enumerate(tiles):
            ids_TI[t, : len(ids)] = ids
            row_T[t], used_T[t], count_T[t] = row, used, len(ids)
        return partial(
            self._append_program(count),
            laid, self.caches[where], row_T, ids_TI, used_T, count_T, cfg=self.cfg, view=view, mesh=self.mesh,
        )  # fmt: skip

    def move(self, out_of: str, into: str, moves: Sequence[Move]) -> None:
        """Copy rows within or between caches, a batch at a time by the smallest program that holds it."""
        self.fit(into, max((used for _, _, used in moves), default=0))
        for at in range(0, len(moves), self.slot_count):
            self.caches[into] = self._moving(out_of, into, moves[at : at + self.slot_count])()
        self.moved += len(moves) * (out_of != into)

    def _moving(self, out_of: str, into: str, batch: Sequence[Move]) -> partial:
        """Return the call that copies a batch of rows."""
        size, dropped = next(size for size in self.move_sizes if size >= len(batch)), caches.size(self.caches[into])[0]
        from_R, to_R, used_R = np.zeros(size, np.int32), np.full(size, dropped, np.int32), np.zeros(size, np.int32)
        from_R[: len(batch)], to_R[: len(batch)], used_R[: len(batch)] = zip(*batch, strict=True)
        program = self._move_program(decode.copy if out_of == into else decode.move)
        used = (self.caches[name] for name in dict.fromkeys((into, out_of)))
        return partial(program, *used, from_R=from_R, to_R=to_R, used_R=used_R)

    def _append_program(self, tiles: int) -> Callable[..., caches.Cache]:
        """Return the program that appends so many tiles."""
        return decode.append

    def _move_program(self, program: Callable[..., caches.Cache]) -> Callable[..., caches.Cache]:
        """Return the program that copies rows; `program` copies them in all layers."""
        return program
