"""Advantages: numbers by hand, and the laws all three share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import records
from qr_jax.advantages.dr_grpo import dr_grpo
from qr_jax.advantages.grpo import grpo
from qr_jax.advantages.max_rl import max_rl
from qr_jax.advantages.rl_zvp import rl_zvp
from qr_jax.advantages.rloo import rloo
from qr_jax.advantages.turn_returns import turn_returns

ALL = [grpo, dr_grpo, rloo, max_rl]
JITTED = {function: jax.jit(function) for function in ALL}
QUERIES, SAMPLES = 32, 9


def grades_of(*rewards, valid=None):
    reward_QG = np.array(rewards, np.float32)
    return records.grades(reward_QG, np.ones(reward_QG.shape, bool) if valid is None else valid)


def random_grades(seed, *, constant=False):
    generator = np.random.Generator(np.random.Philox(seed))
    reward_QG = generator.integers(0, 34, (QUERIES, SAMPLES)) / generator.integers(1, 34, (QUERIES, 1))
    if constant:
        reward_QG = np.repeat(reward_QG[:, :1], SAMPLES, axis=1)
    return records.grades(reward_QG, generator.random((QUERIES, SAMPLES)) < 0.7)


def test_grpo_by_hand():
    np.testing.assert_allclose(grpo(grades_of([1, 0])), [[0.70711, -0.70711]], atol=2e-5)  # std with n - 1: 0.70711
    np.testing.assert_allclose(grpo(grades_of([1, 0, 0, 0])), [[1.5, -0.5, -0.5, -0.5]], atol=1e-5)  # mean 1/4, std 1/2
    np.testing.assert_allclose(grpo(grades_of([1, 0, 0, 0]), eps=0.5), [[0.75, -0.25, -0.25, -0.25]], atol=1e-6)


def test_dr_grpo_by_hand():
    np.testing.assert_array_equal(dr_grpo(grades_of([1, 0, 0, 0])), [[0.75, -0.25, -0.25, -0.25]])


def test_rloo_is_the_reward_less_the_siblings_mean():
    np.testing.assert_allclose(rloo(grades_of([1, 0, 0, 0])), [[1, -1 / 3, -1 / 3, -1 / 3]], atol=1e-6)
    np.testing.assert_allclose(rloo(grades_of([3, 1, 0.5])), [[2.25, -0.75, -1.5]], atol=1e-6)


def test_max_rl_divides_by_the_pass_rate():
    np.testing.assert_allclose(max_rl(grades_of([1, 0, 0, 0])), [[3, -1, -1, -1]], atol=2e-5)
    np.testing.assert_allclose(max_rl(grades_of([1, 1, 1, 0])), [[1 / 3, 1 / 3, 1 / 3, -1]], atol=2e-5)
    right = np.array([1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(max_rl(grades_of(right, 1 - right))[:, 0], [7, -1], atol=1e-4)


def test_rl_zvp_gives_groups_of_equal_rewards_what_entropy_says():
    """Two samples each of a group with signal, one all right and one all wrong; the last token is not sampled."""
    entropy_NL = jnp.tile(jnp.array([0.5, 2.0, 4.0]), (6, 1))
    mask_NL = jnp.tile(jnp.array([True, True, False]), (6, 1))
    graded = grades_of([1, 0], [1, 1], [0, 0])
    adv_NL = np.asarray(rl_zvp(graded, entropy_NL, mask_NL, alpha=0.1))
    wanted = [[0.70711] * 2, [-0.70711] * 2, *[[0.05, 0.2]] * 2, *[[-0.15, 0.0]] * 2]
    np.testing.assert_allclose(adv_NL[:, :2], wanted, atol=2e-5)
    np.testing.assert_array_equal(adv_NL[:, 2], 0)
    bounded = np.asarray(rl_zvp(graded, entropy_NL, mask_NL, alpha=0.1, most=0.1))
    np.testing.assert_allclose(bounded[2:, :2], [*[[0.05, 0.1]] * 2, *[[-0.1, 0.0]] * 2], atol=1e-6)
    half = records.grades([[1, 1]], np.array([[True, False]]))
    assert not np.asarray(rl_zvp(half, entropy_NL[:2], mask_NL[:2]))[1].any()


def test_invalid_samples_count_for_nothing():
    valid_QG = np.array([[True, False, True]])
    for function, wanted in [(grpo, 0.70711), (dr_grpo, 0.5), (rloo, 1.0)]:
        adv_QG = function(grades_of([1, 7, 0], valid=valid_QG))
        np.testing.assert_allclose(adv_QG, [[wanted, 0, -wanted]], atol=2e-5)
        assert np.asarray(adv_QG)[0, 1] == 0


@pytest.mark.parametrize("function", ALL)
def test_a_group_with_fewer_than_two_valid_samples_gets_zero(function):
    valid_QG = np.array([[True, False], [False, False]])
    assert np.asarray(function(grades_of([1, 0], [1, 0], valid=valid_QG))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_advantages_of_a_constant_group_are_zero_bit_by_bit(function, seed):
    adv_QG = np.asarray(JITTED[function](random_grades(seed, constant=True)))
    assert not adv_QG.view(np.uint32).any()


@pytest.mark.parametrize("function", ALL)
def test_a_constant_group_of_any_size_and_any_fraction_gets_exact_zeros(function):
    for samples in range(2, 34):
        reward_Q = np.array([k / n for n in range(1, samples + 1) for k in range(n + 1)], np.float32)
        graded = grades_of(*np.repeat(reward_Q[:, None], samples, axis=1))
        assert not np.asarray(JITTED[function](graded)).view(np.uint32).any(), samples


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_advantages_sum_to_zero_over_a_group_and_keep_the_order_of_its_rewards(function, seed):
    grades = random_grades(seed)
    adv_QG = np.asarray(JITTED[function](grades))
    assert np.isfinite(adv_QG).all() and not adv_QG[~grades.valid_QG].any()
    np.testing.assert_allclose(adv_QG.sum(1), 0, atol=1e-5 * (1 + np.abs(adv_QG).max()))
    for adv_G, reward_G, valid_G in zip(adv_QG, grades.reward_QG, grades.valid_QG):
        order = np.argsort(reward_G[valid_G], kind="stable")
        assert (np.diff(adv_G[valid_G][order]) >= 0).all()


@pytest.mark.parametrize("function", ALL)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_group_does_not_depend_on_its_neighbours(function, seed):
    grades = random_grades(seed)
    alone = records.Grades(grades.reward_QG[::-1], grades.valid_QG[::-1])
    np.testing.assert_array_equal(np.asarray(JITTED[function](alone))[::-1], np.asarray(JITTED[function](grades)))


def test_turn_returns_by_hand():
    """Three samples of 2, 2 and 1 turns: returns [1, 1], [.5, 0], [0]; means .5 and .5; the second turn has two."""
    turn_QGT = np.array([[[0.0, 1.0], [0.5, 0.0], [0.0, 9.0]]])
    there_QGT = np.array([[[True, True], [True, True], [True, False]]])
    graded = records.grades([[1, 0.5, 0]], np.ones((1, 3), bool), None, turn_QGT, there_QGT)
    std = np.sqrt((0.5**2 + 0 + 0.5**2 + 0.5**2 + 0.5**2) / 4)
    wanted = np.array([[[0.5, 0.5], [0, -0.5], [-0.5, 0]]]) / std
    np.testing.assert_allclose(turn_returns(graded), wanted, atol=1e-5)
    now = np.asarray(turn_returns(graded, gamma=0.0))  # returns [0, 1], [.5, 0], [0]
    np.testing.assert_allclose(now[0, :, 0] * 6, (np.array([0, 0.5, 0]) * 6 - 1) / np.sqrt(2 / 12), atol=1e-4)
    equal = records.grades([[1, 1, 1]], np.ones((1, 3), bool), None, turn_QGT, there_QGT)
    assert not np.asarray(turn_returns(equal)).any()


def test_turn_returns_of_episodes_of_one_turn_are_grpos():
    reward_QG = np.array([[1, 0, 0, 1], [0.5, 0, 0, 0]])
    ones = np.ones((2, 4, 1), bool)
    graded = records.grades(reward_QG, np.ones((2, 4), bool), None, reward_QG[..., None], ones)
    np.testing.assert_allclose(np.asarray(turn_returns(graded))[..., 0], grpo(graded), atol=1e-5)
