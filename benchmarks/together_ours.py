"""Contender: the two sums that a seed's step of the quickstart is made of, for one seed or for several in one call."""

import functools
import time
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import interleave
from benchmarks.learner_ours import groups_of
from qr_jax import config
from qr_jax.learner import learner, pack
from qr_jax.models import decoder, families, incremental
from qr_jax.parallel import mesh as meshes
from qr_jax.records import grades
from qr_jax.rollout import cache, decode
from qr_jax.rollout.sampling import Sampling

CFG = families.PRESETS["quickstart"]
POSITIONS, CHUNK, USED, TURN = 128, 6, 60, 24  # of the cache, tokens a chunk, in use, of an episode's end that count
state: dict[str, Any] = {}


def prepare(seeds: int, slots: int, groups: int) -> dict[str, Any]:
    """Random weights a seed; compiles. `slots` decode; an update has `groups` of 8 episodes, 48 to 96 tokens each."""
    params = [_params(np.random.default_rng(seed)) for seed in range(seeds)]
    state.update(seeds=seeds, decode=_decode(params, slots), update=_update(params, groups))
    start = time.monotonic()
    sample("decode", 0)
    sample("update", 0)
    return {"warm_up_s": time.monotonic() - start}


def _params(rng):
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.05), decoder.abstract(CFG)
    )


def _joined(function, seeds: int):
    """The program for one seed, or for all at once with a first axis of seeds."""
    return jax.jit(function if seeds == 1 else jax.vmap(function), donate_argnums=0)


def _stacked(trees):
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _decode(params, slots: int):
    """A chunk in all slots."""
    numbers = [jnp.asarray(n, jnp.int32) for n in (np.arange(slots) % CFG.vocab, [USED] * slots, [CHUNK] * slots)]
    rest = (jnp.arange(2 * slots, dtype=jnp.uint32).reshape(slots, 2), jnp.zeros(CFG.vocab, bool), np.float32(1))
    plain = functools.partial(decode.decode.__wrapped__, cfg=CFG, chunk=CHUNK, sampling=Sampling())
    call = _joined(lambda made, laid: plain(laid, made, None, *numbers, *rest), len(params))
    return (
        call,
        _stacked([cache.create(CFG, slots, POSITIONS, jnp.float32) for _ in params]),
        _stacked([incremental.to_decode_params(CFG, each) for each in params]),
    )


def _update(params, groups: int):
    """One update on `groups` groups of 8, as train.py makes it."""
    settings = config.Learner(lr=7e-4, rows=8, row_tokens=192, clip_norm=1.0)
    made = learner.make(CFG, config.Model(vocab_block=512), settings, meshes.make_mesh(config.Mesh(devices=1)))
    batches = _cut([_batch(np.random.default_rng(100 + seed), groups) for seed in range(len(params))])
    step = made.train_step.jitted.__wrapped__

    def update(state, batch):
        return step(state, batch, np.float32(settings.lr))

    return _joined(update, len(params)), _stacked([made.init(each) for each in params]), _stacked(batches)


def _batch(rng, groups: int):
    ids = [rng.integers(3, CFG.vocab, rng.integers(48, 97)).astype(np.int32) for _ in range(groups * 8)]
    reward_QG = np.tile(np.arange(8) % 2, (groups, 1)).astype(np.float32)
    graded = grades(reward_QG, np.ones_like(reward_QG, bool))
    made = pack.pack(groups_of(ids, 8, USED - TURN), graded, rows=8, row_tokens=192, queries=groups, samples=8)
    return jax.tree.map(jnp.asarray, made)


def _cut(batches):
    """Without the micro-batches that no seed uses: one seed skips them, a `cond` of several computes both sides."""
    most = max(int(batch.used_M.sum()) for batch in batches)
    of_micros = [each.name for each in fields(batches[0]) if "_M" in each.name]
    return [replace(batch, **{name: getattr(batch, name)[:most] for name in of_micros}) for batch in batches]


def sample(kind: str, round: int) -> dict[str, Any]:
    """Milliseconds of one call, for all seeds of it."""
    call, changing, fixed = state[kind]
    start = time.perf_counter()
    changing, found = call(changing, fixed)
    jax.block_until_ready((changing, found))
    seconds = time.perf_counter() - start
    state[kind] = call, changing, fixed
    return {"ms": seconds * 1e3, "seeds_a_s": state["seeds"] / seconds}


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "versions": interleave.versions})
