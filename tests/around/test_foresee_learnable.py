"""Foresee without coins: what never moves is drawn less, by evidence that can be checked by hand."""

import numpy as np
import pytest
from scipy.stats import norm

from qr_jax.lab import oracle, pass_rates
from qr_jax.methods.rules import foresee_learnable as rule
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.pool.rules.foresee import foresee
from qr_jax.records import grades


def step(pool, right, *, number, samples=4, how=rule.foresee_learnable, **settings):
    """The pool after a step in which each query of `right` (index -> right answers) was drawn."""
    drawn_Q = np.array([*right])
    reward_QG = (np.arange(samples) < np.array([*right.values()])[:, None]).astype(float)
    outcome = judge(drawn_Q, grades(reward_QG, reward_QG >= 0), step=number, accept=len(drawn_Q), seed=0)
    return pools.settle(pool, outcome, lambda pool, outcome: how(pool, outcome, **settings))


def test_two_draws_by_hand():
    """Query 0 goes from 1 to 3 of 4, query 1 from 2 to 2; each was trained on once between, as was the mean of two."""
    pool = pools.create(2)
    for number, right in enumerate([{0: 1, 1: 2}, {0: 3, 1: 2}]):
        pool = step(pool, right, number=number)
    # exposures: 0 at first; then 1 (its own) + 1 (the mean query's) = 2
    kept = {name: pool.memory[f"slope_{name}"] for name in rule.SUMS}
    np.testing.assert_array_equal([kept[name] for name in rule.SUMS], [[8, 8], [4, 4], [8, 8], [16, 16], [6, 4]])
    score, information = [6 - 4 / 8 * 8, 0.0], 0.25 * (16 - 64 / 8)
    mean = sum(score) / (2 * information + 1)
    chances = [norm.sf((0.1 - (own + mean) / (information + 1)) * (information + 1) ** 0.5) for own in score]
    plain = step(step(pools.create(2), {0: 1, 1: 2}, number=0, how=foresee), {0: 3, 1: 2}, number=1, how=foresee)
    np.testing.assert_allclose(pool.weight_P, plain.weight_P * chances, rtol=1e-12)


def test_the_slope_is_that_of_a_logistic_fit_where_there_is_much_evidence():
    """Newton's step from 0 is a fit's slope if that is small: 1,000 draws of 8 at slope .05."""
    random, pool = np.random.default_rng(0), pools.create(1)
    for number in range(40):
        right = random.binomial(200, 1 / (1 + np.exp(0.2 - 0.05 * number)))
        pool = step(pool, {0: int(right)}, number=number, samples=200)
    k, s, kx, kxx, sx = (pool.memory[f"slope_{name}"][0] for name in rule.SUMS)
    rate = (s + 1) / (k + 2)
    slope = (sx - s / k * kx) / (rate * (1 - rate) * (kxx - kx * kx / k))
    assert slope == pytest.approx(0.05 / 2, rel=0.15)  # an exposure is the query's own and the mean query's, here one


def test_with_power_0_it_is_foresee_and_a_fault_teaches_nothing():
    plain = ours = pools.create(3)
    for number, right in enumerate([{0: 1, 2: 0}, {1: 4, 0: 2}]):
        plain = step(plain, right, number=number, how=foresee)
        ours = step(ours, right, number=number, power=0.0)
    np.testing.assert_array_equal(ours.weight_P, plain.weight_P)
    faulty = grades(np.full((1, 4), np.nan), np.zeros((1, 4), bool))
    outcome = judge(np.array([0]), faulty, step=2, accept=1, seed=0)
    after = pools.settle(ours, outcome, rule.foresee_learnable)
    assert all((after.memory[f"slope_{name}"] == ours.memory[f"slope_{name}"]).all() for name in rule.SUMS)


def test_of_a_pool_that_is_half_coins_it_draws_more_of_what_moves():
    """Coins stay at one half; the others' log-odds rise by 1 each time that they are trained on."""
    size, learns = 200, pass_rates.world("memorising:1,1,0,1", 200, seed=0)

    def world(done, drawn_Q, *trained):
        return np.where(drawn_Q < size // 2, 0.5, learns(done, drawn_Q, *trained))

    shares = {}
    for name in ("foresee", "foresee_learnable"):
        plan = oracle.sampler(name, queries=16, samples=4, oversample=1, rollouts=16_000)
        drawn = oracle.play(plan, world, size=size, seed=0).draws.query_D
        shares[name] = np.mean(drawn[len(drawn) // 2 :] < size // 2)
    assert shares["foresee_learnable"] < 0.8 * shares["foresee"]
