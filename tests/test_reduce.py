"""Denominators: what each mode divides by, over which tokens, and that splitting the batch changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax.learner.reduce import token_weights

MODES = ["token_mean", "sequence_mean", "fixed_length"]
MASK_NL = jnp.array([[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)  # 3 tokens, 1 token, none


def test_weights_by_hand():
    weights = {mode: token_weights(MASK_NL, mode=mode, horizon_tokens=10) for mode in MODES}
    np.testing.assert_allclose(weights["token_mean"], np.asarray(MASK_NL) / 4)
    np.testing.assert_allclose(weights["sequence_mean"], [[0, 1 / 6, 1 / 6, 1 / 6], [0, 0, 1 / 2, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(weights["fixed_length"], np.asarray(MASK_NL) / 20)


def test_what_was_drawn_and_not_accepted_joins_the_denominator():
    """6 further tokens in 2 further episodes: 10 tokens, 4 episodes."""
    wanted = {"token_mean": 1 / 10, "sequence_mean": 1 / (3 * 4), "fixed_length": 1 / (10 * 4)}
    for mode, value in wanted.items():
        weight_NL = token_weights(MASK_NL, mode=mode, horizon_tokens=10, extra_tokens=6, extra_episodes=2)
        np.testing.assert_allclose(weight_NL[0, 1], value)


@pytest.mark.parametrize("mode", MODES)
def test_no_token_at_all_gives_zero_weights(mode):
    weight_NL = token_weights(jnp.zeros((2, 3), bool), mode=mode, horizon_tokens=10)
    assert not np.asarray(weight_NL).any()
    extra = token_weights(jnp.zeros((2, 3), bool), mode=mode, horizon_tokens=10, extra_tokens=5, extra_episodes=1)
    assert not np.asarray(extra).any()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_micro_batches_have_the_weights_of_the_whole(mode, seed):
    mask_NL = np.random.Generator(np.random.Philox(seed)).random((12, 7)) < 0.4
    whole_NL = token_weights(jnp.array(mask_NL), mode=mode, horizon_tokens=5)
    split_MNL = token_weights(jnp.array(mask_NL.reshape(4, 3, 7)), mode=mode, horizon_tokens=5)
    np.testing.assert_array_equal(np.asarray(split_MNL).reshape(12, 7), np.asarray(whole_NL))
    assert not np.asarray(whole_NL)[~mask_NL].any()
    if mode != "fixed_length" and mask_NL.any():
        np.testing.assert_allclose(np.asarray(whole_NL).sum(), 1, rtol=1e-5)


def test_a_fully_masked_episode_changes_nothing():
    for mode in MODES:
        with_it = token_weights(MASK_NL, mode=mode, horizon_tokens=10)
        without = token_weights(MASK_NL[:2], mode=mode, horizon_tokens=10)
        np.testing.assert_array_equal(with_it[:2], without)


def test_the_count_runs_over_all_shards():
    mask_NL = np.random.Generator(np.random.Philox(5)).random((16, 6)) < 0.5
    mesh = Mesh(np.array(jax.devices()).reshape(-1), ("data",))
    sharded_NL = jax.device_put(mask_NL, NamedSharding(mesh, PartitionSpec("data")))
    weigh = jax.jit(token_weights, static_argnames=("mode", "horizon_tokens"))
    for mode in MODES:
        found = weigh(sharded_NL, mode=mode, horizon_tokens=9, extra_tokens=3, extra_episodes=1)
        wanted = token_weights(jnp.array(mask_NL), mode=mode, horizon_tokens=9, extra_tokens=3, extra_episodes=1)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_group_means_by_hand():
    """Groups 0, 2, 0, 1 of 3, 2, 1, 0 tokens: 4 and 2 tokens of two groups that have any; also in two micro-batches."""
    mask_NL = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    group_N = np.array([0, 2, 0, 1])
    wanted_NL = mask_NL / np.array([[2 * 4], [2 * 2], [2 * 4], [1]])
    how = {"mode": "group_mean", "horizon_tokens": 1, "groups": 5}
    np.testing.assert_allclose(token_weights(jnp.array(mask_NL), group_N=jnp.array(group_N), **how), wanted_NL)
    split_MNL = token_weights(jnp.array(mask_NL.reshape(2, 2, 4)), group_N=jnp.array(group_N.reshape(2, 2)), **how)
    np.testing.assert_allclose(split_MNL, wanted_NL.reshape(2, 2, 4))
    nothing = token_weights(jnp.zeros((4, 4), bool), group_N=jnp.array(group_N), **how)
    assert not np.asarray(nothing).any()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_group_means_over_shards_are_a_loop_over_prompts(seed):
    """SkyRL's prompt_mean: 1 / (prompts * the prompt's tokens); of 16 episodes on 8 devices, in any order."""
    rng = np.random.Generator(np.random.Philox(seed))
    mask_NL, group_N = rng.random((16, 6)) < 0.5, rng.permutation(np.arange(16) // 4)
    mask_NL[:, 0] = True  # it counts a prompt without tokens too; here such a group is no group
    wanted_NL = np.zeros((16, 6))
    for group in range(4):
        wanted_NL[group_N == group] = mask_NL[group_N == group] / (4 * mask_NL[group_N == group].sum())
    mesh = Mesh(np.array(jax.devices()).reshape(-1), ("data",))
    put = NamedSharding(mesh, PartitionSpec("data"))
    weigh = jax.jit(token_weights, static_argnames=("mode", "horizon_tokens", "groups"))
    sharded = {"mask_NL": jax.device_put(mask_NL, put), "group_N": jax.device_put(group_N, put)}
    found = weigh(**sharded, mode="group_mean", horizon_tokens=1, groups=4)
    np.testing.assert_allclose(found, wanted_NL, rtol=1e-6)
