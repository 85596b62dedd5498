"""Advantages that learn from a part of each group: which part, by hand, and what the others get."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import records
from qr_jax.learner.advantages.grpo import grpo
from qr_jax.methods.advantages.gfpo import gfpo
from qr_jax.methods.advantages.pods import pods

JITTED = {keep: jax.jit(lambda grades, keep=keep: pods(grades, keep=keep)) for keep in (2, 4)}


def grades_of(*rewards, valid=None):
    reward_QG = np.array(rewards, np.float32)
    return records.grades(reward_QG, np.ones(reward_QG.shape, bool) if valid is None else valid)


def lengths(*tokens):
    """turn_NL of episodes of one turn with so many tokens."""
    return jnp.where(np.arange(max(tokens)) < np.array(tokens)[:, None], 0, -1)


@pytest.mark.thorough
def test_pods_keeps_as_many_right_as_wrong_answers_where_there_are_enough():
    adv_QG = np.asarray(pods(grades_of([1, 1, 1, 0, 0, 0, 0, 0]), keep=4))
    half = 0.5 / np.sqrt(1 / 3)  # the kept are 1, 1, 0, 0: mean 1/2, std with n - 1 sqrt(1/3)
    np.testing.assert_allclose(adv_QG, [[half, half, 0, 0, 0, 0, -half, -half]], atol=1e-5)
    one = np.asarray(pods(grades_of([0, 0, 1, 0, 0, 0]), keep=4))
    np.testing.assert_allclose(one, [[0, 0, 1.5, -0.5, -0.5, -0.5]], atol=1e-5)  # of 1, 0, 0, 0: std 1/2


def test_pods_of_a_constant_group_is_empty():
    for group in ([1] * 8, [0] * 8, [1 / 3] * 8):
        np.testing.assert_array_equal(JITTED[4](grades_of(group)), 0)


@pytest.mark.thorough
def test_pods_of_a_small_group_is_grpo():
    graded = grades_of([1, 0, 0.5, 0, 9], valid=np.array([[True, True, True, True, False]]))
    np.testing.assert_allclose(pods(graded, keep=4), grpo(graded), atol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=7, max_size=7), st.integers(1, 127), st.sampled_from([2, 4]))
def test_no_other_subset_of_the_group_varies_more(rewards, valid_bits, keep):
    valid = np.array([[valid_bits >> at & 1 for at in range(7)]], bool)
    graded = grades_of(rewards, valid=valid)
    there = np.array(rewards, float)[valid[0]]
    adv_G = np.asarray(JITTED[keep](graded))[0]
    if len(set(there)) < 2:
        assert not adv_G.any()
        return
    best = max(np.var(part) for part in itertools.combinations(there, min(keep, len(there))))
    kept = np.array(rewards, float)[(adv_G != 0) & valid[0]]
    # samples whose reward is the mean have advantage 0, and may be among the kept
    wanted = [part for part in itertools.combinations(there, min(keep, len(there))) if np.var(part) > best - 1e-9]
    assert any(sorted(r for r in part if abs(r - np.mean(part)) > 1e-9) == sorted(kept) for part in wanted)


def test_gfpo_learns_from_the_shortest():
    graded, turn_NL = grades_of([1, 0, 1, 0]), lengths(5, 2, 1, 9)
    np.testing.assert_allclose(gfpo(graded, turn_NL, keep=2), [[0, -0.70711, 0.70711, 0]], atol=1e-5)
    third = 1 / np.sqrt(3)  # 1, 0, 1: mean 2/3, std sqrt(1/3)
    np.testing.assert_allclose(gfpo(graded, turn_NL, keep=3), [[third, -2 * third, third, 0]], atol=1e-5)
    np.testing.assert_allclose(gfpo(graded, turn_NL, keep=9), grpo(graded), atol=1e-6)


def test_gfpo_learns_from_the_largest_reward_a_token():
    graded = grades_of([1, 0.5, 0, 0.9])  # of 10, 2, 1 and 3 tokens: .1, .25, 0, .3
    adv_QG = np.asarray(gfpo(graded, lengths(10, 2, 1, 3), keep=2, by="efficiency"))
    np.testing.assert_allclose(adv_QG, [[0, -0.70711, 0, 0.70711]], atol=1e-5)


def test_gfpo_passes_faults_over_and_gives_equal_rewards_nothing():
    valid = np.array([[True, False, True, True]])
    graded = grades_of([1, 0, 1, 0], valid=valid)
    np.testing.assert_array_equal(gfpo(graded, lengths(3, 1, 2, 9), keep=2), 0)
    np.testing.assert_array_equal(np.asarray(gfpo(graded, lengths(3, 1, 2, 9), keep=3))[:, 1], 0)


@pytest.mark.thorough
@pytest.mark.parametrize("keep", [2, 4])
def test_the_advantages_of_a_group_sum_to_zero(keep):
    generator = np.random.Generator(np.random.Philox(3))
    graded = records.grades(generator.integers(0, 4, (20, 7)) / 3, generator.random((20, 7)) < 0.8)
    for adv_QG in (JITTED[keep](graded), gfpo(graded, lengths(*generator.integers(1, 20, 140)), keep=keep)):
        np.testing.assert_allclose(np.asarray(adv_QG).sum(axis=1), 0, atol=1e-5)
