"""Memory: what is held is told, what was freed goes back, and nothing large is kept between two phases."""

import ctypes
import resource
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from killed_run import tiny
from rollouts import CFG, SETTINGS, WORDS, flat, random_params, roll, words_env, world
from rollouts import engine as shared_engine

from qr_jax.models import decoder, incremental
from qr_jax.parallel import compiles, memory
from qr_jax.rollout import cache as caches
from qr_jax.rollout import decode, kv_cache, on_cpu
from qr_jax.rollout.engine import Engine
from qr_jax.run import runs


def test_memory_in_use_is_that_of_the_process_where_the_device_says_nothing():
    assert 2**26 < memory.memory_bytes() < 2**40


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library gives nothing back")
def test_what_was_freed_goes_back_to_the_system():
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    pieces = [bytes(2000) for _ in range(100_000)]
    last = pieces.pop()  # holds the heap's end where it is
    held = resident_bytes()
    del pieces
    on_cpu.give_back()
    assert held - resident_bytes() > 100_000_000 and last


def test_arrays_are_tight_from_so_many_bytes_on(monkeypatch):
    arrays = {"a": np.zeros(1), "b": random_params()}  # a host's array is no matter
    assert not memory.is_tight(arrays) and not memory.is_tight({"a": np.zeros(2**25)})
    monkeypatch.setattr(memory, "LARGE", 2**10)
    assert memory.is_tight(arrays)


def test_large_caches_go_after_a_rollout_and_the_next_one_is_the_same(monkeypatch):
    made = shared_engine(slots=4, buckets=(64,))
    before = flat(roll(made, random_params(), world().train[:3], 2))
    assert made.rows.caches
    monkeypatch.setattr(memory, "LARGE", 2**10)
    again = flat(roll(made, random_params(), world().train[:3], 2))
    assert not made.rows.caches
    once_more = flat(roll(made, random_params(), world().train[:3], 2))
    for one, other, third in zip(before, again, once_more, strict=True):
        assert one.ids_L.tolist() == other.ids_L.tolist() == third.ids_L.tolist()
    monkeypatch.undo()
    made.rows.to_decode_params(random_params())
    assert caches.size(made.rows.caches["slots"])[1] == made.rows.views[0]


def test_caches_that_were_freed_are_made_again_by_the_program_that_warming_up_compiled(monkeypatch):
    made = Engine(CFG, WORDS, replace(SETTINGS, context_tokens=600))
    monkeypatch.setattr(memory, "LARGE", 2**10)
    for _ in made.rows.warm_up(random_params(), 8, 600):
        pass
    before = compiles.count()
    flat(roll(made, random_params(), world().train[:3], 2, env=words_env))
    assert not made.rows.caches and "create_all" not in compiles.told(before)


@pytest.mark.thorough
def test_a_large_model_s_rows_are_filled_and_copied_by_a_few_layers_at_once_and_hold_the_same(monkeypatch):
    asked = {"slots": 4, "store": 9, "buckets": (16, 64)}
    whole, by_layer = (Engine(CFG, WORDS, replace(SETTINGS, **asked)) for _ in range(2))
    episodes = [flat(roll(whole, random_params(), world().train[:8], 3, env=words_env))]
    monkeypatch.setattr(memory, "LARGE", 2**10)
    monkeypatch.setattr(on_cpu, "AT_ONCE", 1)  # of two
    monkeypatch.setattr(on_cpu, "SMALL_CALL", 16)
    warmed = [what for _, what in by_layer.rows.warm_up(random_params(), 30)]
    assert warmed[0] == "prompts, 4 tiles of 16 tokens in 64 positions" and len(warmed) == 2
    calls = []

    def counted(name, program):
        def call(*given, **how):
            calls.append((name, len(jax.tree.leaves(given[0]))))
            return program(*given, **how)

        return call

    for of, name in ((on_cpu, "append_by_layers"), (decode, "move")):
        monkeypatch.setattr(of, name, counted(name, getattr(of, name)))
    episodes.append(flat(roll(by_layer, random_params(), world().train[:8], 3, env=words_env)))
    assert {name for name, _ in calls} == {"append_by_layers", "move"}
    assert {leaves for name, leaves in calls if name == "move"} == {2}  # keys and values of one layer
    for one, other in zip(*episodes, strict=True):
        assert one.ids_L.tolist() == other.ids_L.tolist()
        np.testing.assert_array_equal(one.logp_L, other.logp_L)


@pytest.mark.thorough
def test_five_layers_are_run_three_at_once_and_two_and_hold_what_one_program_puts_there():
    cfg = replace(CFG, layers=5)
    laid = incremental.to_decode_params(cfg, decoder.init(cfg, jax.random.key(0)))
    tiles = (np.int32([0, 1]), np.arange(8, dtype=np.int32).reshape(2, 4), np.int32([0, 3]), np.int32([4, 2]))
    assert on_cpu.AT_ONCE == 3
    found = [
        append(laid, caches.create(cfg, 2, 8, "float32"), *tiles, cfg=cfg, view=8)
        for append in (decode.append, on_cpu.append_by_layers)
    ]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).any()
    how = {"from_R": np.int32([0]), "to_R": np.int32([1]), "used_R": np.int32([3])}
    copied = on_cpu.move_by_layer(decode.copy, found[0], **how), decode.copy(found[1], **how)
    for one, other in zip(*map(jax.tree.leaves, copied), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cache_that_grows_gives_back_what_it_leaves_as_it_goes(monkeypatch):
    made, given_back = Engine(CFG, WORDS, SETTINGS).rows, []
    made.to_decode_params(random_params())
    monkeypatch.setattr(on_cpu, "give_back", lambda: given_back.append(1))
    made.fit("slots", 65)
    assert not given_back  # small
    monkeypatch.setattr(memory, "LARGE", 2**10)
    made.fit("slots", 97)
    assert len(given_back) == CFG.layers


def test_the_store_grows_by_doubling_with_what_waits_in_it_and_is_short_again(monkeypatch):
    made, lengths = shared_engine(slots=4, store=9, buckets=(64,)), []
    resize = kv_cache.KVCache._resize
    monkeypatch.setattr(
        kv_cache.KVCache,
        "_resize",
        lambda self, name, length: (lengths.append((name, length)), resize(self, name, length)),
    )
    roll(made, random_params(), world().train[:8], 3, env=words_env)
    doubled = made.rows.lengths["store"]
    assert doubled[:-1] == [64 * 2**at for at in range(len(doubled) - 1)] and doubled[-1] == made.rows.views[-1]
    grown = [length for name, length in lengths if name == "store"]
    assert grown == [*doubled[1 : len(grown)], doubled[0]] and len(grown) > 1
    assert caches.size(made.rows.caches["store"])[1] == doubled[0]


@pytest.mark.parametrize("large", [False, True])
def test_a_large_state_s_checkpoint_is_written_before_the_run_goes_on(tmp_path, monkeypatch, large):
    monkeypatch.setattr(memory, "LARGE", 2**10 if large else 2**40)
    run = runs.Run(tmp_path / "run", tiny(tmp_path), stage="train")
    try:
        run.go_on(None, lambda host: None)
        waited, wait = [], run.checkpoints.wait
        monkeypatch.setattr(run.checkpoints, "wait", lambda: waited.append(wait()))
        run.save(0, random_params(), {})
        assert len(waited) == (2 if large else 1)  # before a save the one before is waited for
        assert not large or run.checkpoints.latest() == 0
    finally:
        run.close()
