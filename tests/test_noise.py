"""Races on raw numbers: the few that are run give the order of all."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qr_jax.pool.noise import first, race, unit, words


def test_the_first_by_hand():
    """u = 1/8, 1/2, 3/4, 1/2 at weights 8, 1, 1, 0: times .26, .69 and .29; the last does not run."""
    word_P = np.array([1 << 61, 1 << 63, 3 << 62, 1 << 63], np.uint64)
    weight_P = np.array([8.0, 1, 1, 0])
    assert np.round(race(word_P[:3], weight_P[:3], 0), 2).tolist() == [0.26, 0.69, 0.29]
    assert first(word_P, weight_P, 0, 2).tolist() == [0, 2]
    assert first(word_P, weight_P, -4, 3).tolist() == [0, 2, 1]
    assert first(word_P, weight_P, 0, 0).dtype == np.int64


def test_equal_times_go_by_index():
    assert first(np.full(9, 1 << 60, np.uint64), np.ones(9), 0, 4).tolist() == [0, 1, 2, 3]


def test_a_larger_word_gives_a_larger_number():
    word = np.sort(words(1000, 1, 2))
    assert (np.diff(unit(word)) >= 0).all() and unit(np.uint64(0)) > 0 and unit(np.uint64(2**64 - 1)) < 1


@settings(max_examples=300)
@given(
    st.integers(0, 2**60),
    st.lists(st.floats(0, 1e300) | st.sampled_from([0.0, 1.0, 0.1, 1e-300]), min_size=1, max_size=300),
    st.integers(0, 12),
)
@example(3, [1e300] + [1.0] * 250, 12)  # one so heavy that a thousandth of the numbers never suffices
def test_who_is_first_is_who_is_first_among_all(seed, weights, count):
    weight_P, word_P = np.array(weights), words(len(weights), seed)
    count = min(count, np.count_nonzero(weight_P))
    power = -int(np.frexp(weight_P.max())[1])
    runners = np.flatnonzero(weight_P > 0)
    order = runners[np.argsort(race(word_P[runners], weight_P[runners], power), kind="stable")]
    assert first(word_P, weight_P, power, count).tolist() == order[:count].tolist()
