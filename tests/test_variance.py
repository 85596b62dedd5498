"""The group-variance mask: exact on the device, and the same as numpy's comparison on the host."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import records
from qr_jax.learner.variance import group_variance_mask

QUERIES, SAMPLES = 64, 33  # one shape: smaller groups are padded with valid False


def by_numpy(reward_QG, valid_QG):
    groups = [reward[valid] for reward, valid in zip(reward_QG, valid_QG)]
    return np.array([group.size >= 2 and group.max() > group.min() for group in groups])


def test_variance_mask_by_hand():
    reward_QG = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    valid_QG = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    assert group_variance_mask(reward_QG, valid_QG).tolist() == [True, False, False, False, False, False]


def test_equal_rewards_of_any_size_have_no_variance():
    """Where a float std errs: k/n in float32, all siblings equal."""
    for samples in range(2, SAMPLES + 1):
        value_Q = np.resize(np.array([k / n for n in range(1, 34) for k in range(n + 1)], np.float32), 640)
        reward_QG = np.pad(np.repeat(value_Q[:, None], samples, axis=1), [(0, 0), (0, SAMPLES - samples)])
        valid_QG = np.broadcast_to(np.arange(SAMPLES) < samples, reward_QG.shape)
        assert not group_variance_mask(reward_QG, valid_QG).any()


def test_the_neighbouring_float_is_variance():
    value = np.float32(1 / 3)
    reward_QG = np.full((1, 4), value)
    reward_QG[0, 2] = np.nextafter(value, np.float32(1))
    assert group_variance_mask(reward_QG, np.ones((1, 4), bool)).tolist() == [True]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, SAMPLES), st.sampled_from(["normal", "fraction", "bits", "subnormal"]))
def test_device_and_host_agree_on_cleaned_rewards(seed, samples, kind):
    generator = np.random.Generator(np.random.Philox(seed))
    shape = (QUERIES, SAMPLES)
    if kind == "normal":
        reward_QG = generator.standard_normal(shape).astype(np.float32)
    elif kind == "fraction":
        reward_QG = generator.integers(0, 3, shape) / generator.integers(1, 34, (QUERIES, 1))
    elif kind == "bits":
        reward_QG = generator.integers(0, 2**32, shape, np.uint32).view(np.float32)
    else:
        reward_QG = generator.integers(0, 3, shape) * np.float32(1e-39)
    same_Q = generator.random(QUERIES) < 0.5
    reward_QG = np.where(same_Q[:, None], reward_QG[:, :1], reward_QG)
    valid_QG = (generator.random(shape) < 0.8) & (np.arange(SAMPLES) < samples)
    with np.errstate(over="ignore", invalid="ignore"):
        grades = records.grades(reward_QG, valid_QG)
    signal_Q = np.asarray(group_variance_mask(grades.reward_QG, grades.valid_QG))
    np.testing.assert_array_equal(signal_Q, by_numpy(grades.reward_QG, grades.valid_QG))
    if kind == "subnormal":
        assert not signal_Q.any()


def test_grades_enter_jitted_functions_with_and_without_outcomes():
    reward_QG, valid_QG = np.array([[1.0, 0.0]], np.float32), np.ones((1, 2), bool)
    double = jax.jit(lambda grades: jax.tree.map(lambda leaf: leaf, grades))
    without = double(records.grades(reward_QG, valid_QG))
    assert without.outcome_QG is None and without.reward_QG.tolist() == [[1.0, 0.0]]
    assert double(records.grades(reward_QG, valid_QG, reward_QG)).outcome_QG.tolist() == [[1.0, 0.0]]
