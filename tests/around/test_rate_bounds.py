"""Bounds over all distributions of pass rates that counts of right answers allow."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom

from qr_jax.lab import rate_bounds
from qr_jax.lab.rate_bounds import RATE_A


def counts(rate_N, samples, seed=0):
    """Right answers of one group a query, and the groups' sizes."""
    right_N = np.random.default_rng(seed).binomial(samples, rate_N)
    return right_N, np.full(len(rate_N), samples)


def expected(rate_N, samples, many=100_000):
    """Counts as near to their expectation as whole numbers are: no sampling noise."""
    right = np.arange(samples + 1)
    share = binom.pmf(right[:, None], samples, rate_N).mean(axis=1)
    times = np.round(share * many).astype(int)
    return np.repeat(right, times), np.full(times.sum(), samples)


def test_one_sample_a_query_says_nothing_but_the_mean():
    """Half of the queries right once: all are coins, or half impossible. All wrong twice: a quarter, or a half."""
    right_N, valid_N = np.repeat([0, 1], 5000), np.ones(10_000, int)
    hard_A = rate_bounds.filed(1)["hard"]
    again = [float(hard_A**2 @ weight_A) for weight_A in rate_bounds.edges(right_N, valid_N, 1, 1e-3)]
    assert (min(again), max(again)) == (pytest.approx(0.25, abs=0.005), pytest.approx(0.5, abs=0.005))


@pytest.mark.parametrize("samples", [2, 4, 8])
def test_edges_are_those_of_a_linear_program(samples):
    """Without sampling noise the bounds of all-wrong-again are those of a linear program under the same counts."""
    rate_N = np.random.default_rng(1).beta(0.6, 0.6, 20_000)
    right_N, valid_N = expected(rate_N, samples)
    cells = np.array([RATE_A**s * (1 - RATE_A) ** (samples - s) for s in range(samples + 1)])
    share = np.array([((rate_N**s) * (1 - rate_N) ** (samples - s)).mean() for s in range(samples + 1)])
    hard_A = rate_bounds.filed(samples)["hard"]
    again = [float(hard_A**2 @ weight_A) for weight_A in rate_bounds.edges(right_N, valid_N, samples, 0.05)]
    for sign, found in ((1, min(again)), (-1, max(again))):
        exact = linprog(sign * hard_A**2, A_eq=cells / share[:, None], b_eq=np.ones(samples + 1), bounds=(0, None))
        assert exact.success and found == pytest.approx(sign * exact.fun, rel=0.02)


@pytest.mark.parametrize("name", ["hard", "easy"])
def test_the_true_chance_lies_within_the_bounds_which_narrow_with_more_samples(name):
    rate_N = np.where(np.arange(20_000) % 3 == 0, 0.0, np.random.default_rng(2).beta(0.6, 0.6, 20_000))
    widths = []
    for samples in (2, 4, 8):
        filed_N = {"hard": (1 - rate_N) ** samples, "easy": rate_N**samples}[name]
        signal_N = 1 - (1 - rate_N) ** samples - rate_N**samples
        known = [
            rate_bounds.signal_after(rate_bounds.filed(samples)[name], weight_A, samples)
            for weight_A in rate_bounds.edges(*counts(rate_N, samples), samples, 2.7)
        ]
        assert min(known) <= (filed_N * signal_N).mean() / filed_N.mean() <= max(known)
        widths.append(max(known) - min(known))
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_the_likeliest_distribution_gives_the_counts_back():
    right_N, valid_N = expected(np.random.default_rng(3).random(20_000), 4)
    weight_A = rate_bounds._likeliest(*rate_bounds._cells(right_N, valid_N))
    assert weight_A.sum() == pytest.approx(1)
    for right, times in enumerate([1, 4, 6, 4, 1]):
        assert times * (RATE_A**right * (1 - RATE_A) ** (4 - right)) @ weight_A == pytest.approx(0.2, abs=0.003)


def test_an_edge_stays_within_its_slack_also_where_groups_have_unlike_sizes():
    random = np.random.default_rng(4)
    valid_N = random.choice([3, 4, 8], 3000)
    right_N = random.binomial(valid_N, random.beta(0.5, 0.5, 3000))
    middle_A, *edges = rate_bounds.edges(right_N, valid_N, 4, 2.7)
    cells, count_C = np.unique(np.stack([right_N, valid_N], axis=1), axis=0, return_counts=True)
    for edge_A in edges:
        share_C = [RATE_A**s * (1 - RATE_A) ** (n - s) @ np.stack([edge_A, middle_A], axis=1) for s, n in cells]
        off = sum(count * (edge / middle - 1) ** 2 for count, (edge, middle) in zip(count_C, share_C, strict=True))
        assert off <= 2.7 * 1.01 and edge_A.sum() == pytest.approx(1) and edge_A.min() >= 0


def test_draws_are_cut_where_their_counts_change_and_only_there():
    random = np.random.default_rng(5)
    still = random.binomial(4, np.full(1600, 0.3))
    assert rate_bounds.split(still, np.full(1600, 4), few=200) == [slice(0, 1600)]
    moved = np.concatenate([still[:800], random.binomial(4, np.full(800, 0.6))])
    assert rate_bounds.split(moved, np.full(1600, 4), few=200) == [slice(0, 800), slice(800, 1600)]
    assert rate_bounds.split(moved[:300], np.full(300, 4), few=200) == [slice(0, 300)]


def test_a_mixture_of_allowed_distributions_by_hand():
    one, other = np.eye(len(RATE_A))[[0, -1]]
    assert rate_bounds.mixed([one, other], np.array([1.0, 3.0])) @ RATE_A == pytest.approx(0.75)
    assert rate_bounds.quantile(0.5 * (one + other), np.array([0.2, 0.8])).tolist() == [0.0, 1.0]
    assert rate_bounds.signal_after(rate_bounds.filed(2)["hard"], other, 2) is None  # nothing is ever filed hard
