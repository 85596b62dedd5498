"""Rollouts by int8: matrices with a scale for each output, keys and values with one for each position and head."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import killed_run
import numpy as np
import pytest
import rollouts
from rollouts import CFG, SETTINGS, WORDS, flat, random_params, roll, words_env, world

from qr_jax import assemble, config
from qr_jax.models import cached_attention, incremental, lora
from qr_jax.models.quantized import Int8, quantize
from qr_jax.parallel import host_local
from qr_jax.parallel import mesh as meshes
from qr_jax.rollout import cache as caches
from qr_jax.rollout.engine import Engine
from qr_jax.settings import checks
from qr_jax.train import train

BOTH = {"weights": "int8", "cache": "int8"}


def whole(array):
    """What an Int8 stands for; any other leaf as it is."""
    return array.steps.astype(jnp.float32) * array.scale[..., None] if isinstance(array, Int8) else array


def dequantized(tree):
    return jax.tree.map(whole, tree, is_leaf=lambda leaf: isinstance(leaf, Int8))


def engine(**settings) -> Engine:
    return Engine(CFG, WORDS, replace(SETTINGS, chunk=8, buckets=(64,), **settings))


def test_steps_and_scale_are_a_hand_calculation_and_no_value_is_off_by_more_than_half_a_step():
    made = quantize(jnp.array([[2.54, -1.27, 0.01], [0.0, 0.0, 0.0]]))
    assert made.steps.tolist() == [[127, -64, 0], [0, 0, 0]]  # -63.5 to even, .5 to even
    np.testing.assert_allclose(made.scale, [0.02, 0.0], rtol=1e-6)
    values = jax.random.normal(jax.random.key(0), (5, 7, 64))
    made = quantize(values)
    assert made.steps.dtype == jnp.int8 and int(jnp.abs(made.steps).max()) == 127
    assert (np.abs(whole(made) - values) <= np.asarray(made.scale)[..., None] / 2 + 1e-7).all()


@pytest.mark.thorough
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_with_int8_matrices_log_probabilities_are_those_of_the_matrices_they_stand_for(qkv_bias):
    cfg = replace(CFG, qkv_bias=qkv_bias)
    params = random_params(cfg)
    laid = incremental.to_decode_params(cfg, params, int8=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(laid)} == {"int8", "float32"}
    kinds = {name: type(array) for name, array in laid.layers[0].items() if not name.endswith(("norm", "bias"))}
    assert set(kinds.values()) == {Int8} and isinstance(laid.head, Int8) and not isinstance(laid.embed, Int8)
    of_int8, of_whole = (
        flat(
            roll(Engine(cfg, WORDS, replace(SETTINGS, chunk=8, buckets=(64,))), of, world().train[:4], 2, env=words_env)
        )
        for of in (laid, dequantized(laid))
    )
    for one, other in zip(of_int8, of_whole, strict=True):
        assert one.ids_L.tolist() == other.ids_L.tolist()
        np.testing.assert_allclose(one.logp_L, other.logp_L, atol=1e-4, rtol=0)
    exact = [rollouts.logp(params, episode, cfg=cfg) for episode in of_int8]
    gaps = [np.abs(episode.logp_L - exact_L).max() for episode, exact_L in zip(of_int8, exact, strict=True)]
    assert 1e-4 < max(gaps) < 0.5, "the learner's weights are other ones"


def test_the_engine_quantizes_a_learners_tree_by_its_settings():
    params = random_params()
    asked = flat(roll(engine(weights="int8"), params, world().train[:3], 2, env=words_env))
    laid = incremental.to_decode_params(CFG, params, int8=True)
    for one, other in zip(asked, flat(roll(engine(), laid, world().train[:3], 2, env=words_env)), strict=True):
        assert one.ids_L.tolist() == other.ids_L.tolist() and one.logp_L.tolist() == other.logp_L.tolist()


def test_attention_over_an_int8_cache_is_that_over_the_keys_and_values_it_stands_for():
    """By hand: a softmax over dequantised keys, with a window and without, for one token and for tiles."""
    key = iter(jax.random.split(jax.random.key(1), 9))
    k_SKBd, v_SKBd = (quantize(jax.random.normal(next(key), (2, 2, 16, 8))) for _ in range(2))
    q_SHd, q_TIHd = jax.random.normal(next(key), (2, 4, 8)), jax.random.normal(next(key), (2, 3, 4, 8))
    new_k, new_v = (jax.random.normal(next(key), (2, 2, 4, 8)) for _ in range(2))
    used_S, position_TI = jnp.array([5, 16]), jnp.array([[4, 5, 6], [13, 14, 15]])
    for window in (0, 6):
        one = [cached_attention.one_token(q_SHd, k, v, used_S, new_k, new_v, 1, window)
               for k, v in ((k_SKBd, v_SKBd), (whole(k_SKBd), whole(v_SKBd)))]  # fmt: skip
        np.testing.assert_allclose(*one, atol=2e-6)
        tiles = [cached_attention.tiles(q_TIHd, k, v, position_TI, used_S + 2, window)
                 for k, v in ((k_SKBd, v_SKBd), (whole(k_SKBd), whole(v_SKBd)))]  # fmt: skip
        np.testing.assert_allclose(*tiles, atol=2e-6)


@pytest.mark.thorough
def test_an_int8_cache_is_put_moved_and_resized_as_its_values():
    cfg, new = replace(CFG, layers=1), jax.random.normal(jax.random.key(2), (2, CFG.kv_heads, 4, CFG.head_dim))
    kept = caches.create(cfg, 3, 8, "int8")
    rows, used, count = jnp.array([2, 0]), jnp.array([1, 0]), jnp.array([3, 4])
    ((k, v),) = caches.write(kept, ((new, -new),), rows, used, count)
    np.testing.assert_array_equal(whole(k)[2, :, 1:4], whole(quantize(new))[0, :, :3])
    np.testing.assert_array_equal(whole(v)[0, :, :4], -whole(quantize(new))[1])
    assert not whole(k)[2, :, 0].any() and not whole(k)[2, :, 4:].any() and not whole(k)[1].any()
    ((moved, _),) = caches.move(
        caches.create(cfg, 3, 12, "int8"), ((k, v),), jnp.array([2]), jnp.array([1]), jnp.array([3])
    )
    np.testing.assert_array_equal(whole(moved)[1, :, :3], whole(k)[2, :, :3])
    assert not whole(moved)[1, :, 3:].any() and moved.scale.shape[2] == 12
    longer = jax.tree.map(lambda part: caches.resize(part, 16), k)
    np.testing.assert_array_equal(whole(longer)[:, :, :8], whole(k))
    assert caches.nbytes(cfg, 3, 8, "int8") == sum(leaf.nbytes for leaf in jax.tree.leaves((k, v)))


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{"cache": "int8"}, BOTH])
def test_episodes_by_int8_are_near_the_learners_log_probabilities(settings):
    params, made = random_params(), engine(**settings)
    episodes = flat(roll(made, params, world().train[:4], 2, env=words_env))
    assert isinstance(made.rows.caches["slots"][0][0], Int8)
    gaps = np.concatenate([np.abs(one.logp_L - rollouts.logp(params, one))[one.mask_L] for one in episodes])
    assert 1e-5 < gaps.mean() < 0.05


def test_adapters_lie_beside_int8_matrices_and_keep_what_an_update_changes():
    """Merged, a change smaller than half a step would be rounded away; beside the matrix it is whole."""
    settings = config.Lora(rank=4, alpha=8.0)
    base, adapters = random_params(), lora.init(CFG, settings, jax.random.key(3))
    moved = jax.tree.map(lambda leaf: leaf + 1e-5, adapters)
    first, second = (
        incremental.to_decode_params(CFG, lora.whole(a, base, settings), int8=True) for a in (adapters, moved)
    )
    assert isinstance(first.layers[0]["qkv"], Int8) and first.layers[0]["qkv_a"].dtype == jnp.float32
    np.testing.assert_array_equal(first.layers[0]["qkv"].steps, second.layers[0]["qkv"].steps)
    assert not np.array_equal(first.layers[0]["qkv_b"], second.layers[0]["qkv_b"])


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "mesh"), [("slots", (2, 2, 2)), ("heads", (1, 2, 1)), ("pod", (2, 2, 1))])
def test_on_several_devices_they_are_quantized_as_on_one_and_lie_where_plain_ones_would(kind, mesh):
    settings = replace(config.Config(), rollout=replace(SETTINGS, slots=8, store=8, buckets=(64,), **BOTH))
    over = meshes.make_mesh(config.Mesh(*mesh, devices=int(np.prod(mesh))))
    laid = host_local.to_rollout_params(assemble.place(random_params(), over), settings, CFG, over, kind)
    plain = incremental.to_decode_params(CFG, random_params(), int8=True)
    for several, one in zip(jax.tree.leaves(laid), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(np.asarray(several, np.float32), np.asarray(one, np.float32), rtol=1e-6)
    made = Engine(CFG, WORDS, settings.rollout)
    episodes = flat(roll(made, laid, world().train[:4], 2, env=words_env))
    for leaf in jax.tree.leaves(made.rows.caches):
        assert leaf.addressable_shards[0].data.size * np.prod(mesh) == leaf.size
    for episode in episodes:
        np.testing.assert_allclose(episode.logp_L, rollouts.logp(random_params(), episode), atol=0.3, rtol=0)


def test_a_run_by_int8_measures_the_gap_and_weighs_by_it(tmp_path):
    settings = killed_run.tiny(tmp_path)
    settings = replace(settings, rollout=replace(settings.rollout, **BOTH))
    (line,) = checks.problems(settings)
    assert "rollout.weights='int8'" in line and "learner.importance=truncate" in line
    settings = replace(settings, learner=replace(settings.learner, importance="truncate"))
    train(settings, tmp_path / "run", say=lambda text: None)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    gaps = [line["sampler_gap/mean"] for line in lines if line.get("sampler_gap/mean")]
    assert gaps and min(gaps) > 1e-3, "as small as float32's"
