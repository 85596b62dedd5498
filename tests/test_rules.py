"""GRESO, MoPPS, difficulty pools, foresee and refill, numbers by hand; and what they must be equal to."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Run, beta_rates, play
from rule_protocol import draws
from settling import settle_rewards

from qr_jax import plugins
from qr_jax.methods.rules.difficulty_pools import difficulty_pools
from qr_jax.methods.rules.greso import GRESO, greso
from qr_jax.methods.rules.mopps import MOPPS, mopps
from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import judge
from qr_jax.pool.rounds.refill import refill
from qr_jax.pool.rules.foresee import foresee
from qr_jax.records import grades
from qr_jax.settings.settings import use

EASY, HARD, SIGNAL = [1, 1], [0, 0], [1, 0]


def settle(pool, drawn, rewards, rule, valid=None, **settings):
    return settle_rewards(pool, drawn, rewards, rule, valid, **settings).pool


def test_difficulty_pools_weigh_by_the_first_threshold_that_is_not_exceeded():
    rule = functools.partial(difficulty_pools, thresholds=(0.0, 0.5, 0.9), weights=(0.5, 2.0, 0.0))
    rewards, valid = [HARD, SIGNAL, EASY, [1, 0]], [[True] * 2] * 3 + [[True, False]]
    pool = settle(pools.create(5), [0, 1, 2, 3], rewards, rule, valid)
    assert pool.weight_P.tolist() == [0.5, 2, 0, 1, 1]  # 1 is above .9: the last pool takes it; a fault changes nothing
    assert settle(pool, [0], [SIGNAL], rule).weight_P.tolist() == [2, 2, 0, 1, 1]


def test_difficulty_pools_thresholds_are_inclusive_for_rewards_that_float32_rounds_up():
    for reward in (0.1, 0.2, 0.3, 0.6, 0.7):
        rule = functools.partial(difficulty_pools, thresholds=(reward, 1.0), weights=(0.25, 1.0))
        assert settle(pools.create(1), [0], [[reward, reward]], rule).weight_P.tolist() == [0.25]


def test_difficulty_pools_leave_invalid_samples_out_of_the_mean():
    rewards, valid = [[1, 1, 0, 0], [0.5, 0.25, 9, 9]], [[True, True, True, False], [True, True, False, False]]
    rule = functools.partial(difficulty_pools, thresholds=(0.375, 2 / 3, 1.0), weights=(3.0, 4.0, 5.0))
    assert settle(pools.create(2), [0, 1], rewards, rule, valid).weight_P.tolist() == [4, 3]


def test_mopps_keeps_a_decayed_posterior_and_draws_the_nearest_to_one_half():
    pool = settle(pools.create(4), [2], [EASY], "mopps", step=6, seed=5)
    assert pool.memory["a"].tolist() == [1, 1, 3, 1] and pool.memory["b"].tolist() == [1, 1, 1, 1]
    rate_P = uniforms(4, MOPPS, 5, 6)
    rate_P[2] **= 1 / 3  # the distribution function of Beta(3, 1) is r^3
    assert pool.weight_P == pytest.approx(np.exp(-np.abs(rate_P - 0.5) / 1e-3), rel=1e-9)
    order = np.argsort(np.abs(rate_P - 0.5))
    assert pools.draw(pool, 4, seed=0, step=7, by="largest").tolist() == order.tolist()
    assert (
        pools.draw(pool, 4, seed=0, step=7).tolist() == order.tolist()
    )  # by chance too, hundreds of temperatures apart
    again = settle(pool, [2], [SIGNAL], "mopps", step=7)
    assert again.memory["a"][2] == 0.5 * 3 + 0.5 + 1 and again.memory["b"][2] == 0.5 * 1 + 0.5 + 1


def test_mopps_with_a_band_does_not_tell_apart_what_lies_in_it():
    pool = settle(pools.create(400), [0], [SIGNAL], functools.partial(mopps, band=0.2), step=1)
    rate_P = uniforms(400, MOPPS, 0, 1)
    inside_P = np.abs(rate_P - 0.5) <= 0.2
    inside_P[0] = pool.weight_P[0] == 1  # its rate is of Beta(2, 2)
    assert ((pool.weight_P == 1) == inside_P).all() and 100 < inside_P.sum() < 220


def test_greso_passes_over_the_pool_and_then_skips_by_its_coin():
    """Pass 0 knows no skips; in pass 1 a query once easy or hard is kept with probability .5 (p is not moved yet)."""
    pool = settle(
        pools.create(4), [0, 1, 2, 3], [EASY, HARD, SIGNAL, SIGNAL], "greso", [[True] * 2] * 3 + [[True, False]]
    )
    assert pool.weight_P.tolist() == [0, 0, 0, 1]  # the fault was not visited
    pool = settle(pool, [3], [SIGNAL], "greso", seed=8)
    coin_P = uniforms(4, GRESO, 8, 1)
    assert pool.memory["pass"].tolist() == [1] and not pool.memory["visited"].any()
    assert pool.weight_P.tolist() == [float(coin_P[0] < 0.5), float(coin_P[1] < 0.5), 1, 1]
    assert pool.memory["p_easy"][0] == pool.memory["p_hard"][0] == 0.5


def test_greso_moves_its_probabilities_by_the_shares_of_a_step_after_the_first_pass():
    first = settle(pools.create(12), range(12), [EASY] * 2 + [SIGNAL] * 10, "greso")
    assert first.memory["pass"][0] == 1
    pool = settle(first, range(12), [EASY] + [SIGNAL] * 11, "greso")  # 1 of 12 easy: exactly a third of .25; 0 hard
    assert pool.memory["p_easy"][0] == pytest.approx(0.49) and pool.memory["p_hard"][0] == pytest.approx(0.51)
    pool = settle(first, range(12), [HARD] * 2 + [SIGNAL] * 10, "greso")  # 2 of 12 hard: exactly two thirds of it
    assert pool.memory["p_easy"][0] == pytest.approx(0.51) and pool.memory["p_hard"][0] == pytest.approx(0.49)
    for _ in range(100):
        pool = settle(pool, [0], [HARD], "greso")
    assert pool.memory["p_easy"][0] == 0.95 and pool.memory["p_hard"][0] == 0.05
    assert pool.memory["streak_hard"][0] == 101


def test_greso_never_loses_a_query_for_good():
    """100 trailing easy visits still leave the floor of 1 %: over 2,000 coins 20 +- 4.4 are kept."""
    pool = settle(pools.create(2000), [0], [SIGNAL], "greso")
    memory = dict(pool.memory) | {"streak_easy": np.full(2000, 100, np.int32), "visited": np.ones(2000, bool)}
    pool = settle(dataclasses.replace(pool, memory=memory), [0], [EASY], "greso")
    assert 5 < pool.weight_P.sum() < 36


def test_a_reset_from_outside_begins_a_pass():
    pool = settle(pools.create(4), [0, 1], [EASY, HARD], "greso")
    pool = settle(pools.refresh(pool, below=1.0), [2], [SIGNAL], "greso")
    assert pool.memory["pass"].tolist() == [1] and pool.memory["visited"].tolist() == [False, False, True, False]


def test_foresee_by_hand():
    """K 2, one family: fa = fb = .98 + 1, so m = 1/2. Query 0, one of two right: A = B = 2, and P = 1 - 2 (2 3)/(4 5) =
    .4; trained once, .4 * 1/2 * .6. The others: A = B = 1, P = 1 - 2 (1 2)/(2 3) = 1/3, times 1/2."""
    pool = settle(pools.create(3), [0, 2], [SIGNAL, [1, 0]], "foresee", [[True, True], [True, False]])
    assert pool.weight_P == pytest.approx([0.12, 1 / 6, 1 / 6], rel=1e-12)
    pool = settle(pool, [0], [EASY], "foresee")
    a, b, m = 0.3 * 0.97 + 2, 0.3 * 0.97, (0.98 * 1.98 + 2) / (2 * 0.98 * 1.98 + 2)
    A, B = a + 2 * m, b + 2 * (1 - m)
    signal = 1 - (A * (A + 1) + B * (B + 1)) / ((A + B) * (A + B + 1))
    assert pool.weight_P[0] == pytest.approx(signal * B / (A + B) * 0.6, rel=1e-12)  # easy: not trained on again


def test_foresee_learns_of_a_query_from_its_family():
    pool = settle(pools.create(4, family_P=[0, 0, 3, 3]), [0], [EASY], "foresee")
    m = 2.98 / 3.96
    A, B = 2 * m, 2 * (1 - m)
    assert pool.weight_P[1] == pytest.approx((1 - (A * (A + 1) + B * (B + 1)) / 6) * B / 2, rel=1e-12)
    assert pool.weight_P[2] == pool.weight_P[3] == pytest.approx(1 / 6, rel=1e-12)


def test_foresee_lives_through_any_number_of_steps():
    pool = settle(pools.create(3, family_P=[0, 1, 1]), [0], [EASY], "foresee")
    memory = dict(pool.memory) | {name: np.full(2, 1e-300) for name in ("family_a", "family_b")}
    weight_P = settle(dataclasses.replace(pool, memory=memory), [0], [EASY], "foresee").weight_P
    assert np.isfinite(weight_P).all() and (weight_P[1:] > 0.1).all()


ZERO = functools.partial(foresee, gamma=0.0, head=0.0, rho=0.0, floor=0.0)


@settings(max_examples=25)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.3]))
def test_foresee_without_its_exponents_is_recycle(seed, fault_rate, below):
    run = Run(beta_rates(40, 0.4, 0.4, seed=seed), "recycle", steps=15, seed=seed, fault_rate=fault_rate, below=below)
    for one, other in zip(play(run), play(dataclasses.replace(run, rule=ZERO)), strict=True):
        assert one[1].tolist() == other[1].tolist()
        assert one[3].pool.weight_P.tolist() == other[3].pool.weight_P.tolist()


def test_recycling_is_two_difficulty_pools():
    """Consumed 0, else 1 (when no group is surplus): mean rewards at 0 and 1 weigh 1, all between weigh 0."""
    run = Run(beta_rates(60, 0.4, 0.4, seed=1), "recycle", steps=15, oversample=1)
    rule = functools.partial(difficulty_pools, thresholds=(0.0, 0.999, 1.0), weights=(1.0, 0.0, 1.0))
    for one, other in zip(play(run), play(dataclasses.replace(run, rule=rule)), strict=True):
        assert one[1].tolist() == other[1].tolist()


def test_greso_in_its_first_pass_is_grpo():
    run = Run(beta_rates(60, 0.4, 0.4, seed=2), "grpo", steps=7)
    for one, other in zip(play(run), play(dataclasses.replace(run, rule="greso")), strict=True):
        assert one[1].tolist() == other[1].tolist()


def test_refill_asks_until_the_batch_is_full_and_never_raises():
    pool = pools.create(100)
    empty = judge([0, 1, 2], grades([HARD] * 3, np.ones((3, 2))), step=0, accept=2)
    full = judge([0, 1, 2], grades([SIGNAL, HARD, SIGNAL], np.ones((3, 2))), step=0, accept=2)
    ask = refill(pool, [], queries=2, oversample=3)
    assert ask is not None and ask.draw == 6 and not ask.more
    assert refill(pool, [empty] * 9, queries=2, oversample=3) == ask
    assert refill(pool, [empty] * 10, queries=2, oversample=3) is None
    assert refill(pool, [empty] * 2, queries=2, max_rounds=2) is None
    assert refill(pool, [empty, full], queries=2, oversample=3) is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (functools.partial(difficulty_pools, thresholds=(0.5, 0.5), weights=(1.0, 1.0)), "growing thresholds"),
        (functools.partial(difficulty_pools, weights=(1.0,)), "a weight for each"),
        (functools.partial(greso, bounds=(0.9, 0.1)), "bounds"),
        (functools.partial(foresee, rho=1.5), r"rho and the fades in \[0, 1\]"),
        (functools.partial(foresee, nu=0.0), "nu above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        settle(pools.create(3), [0], [SIGNAL], rule)


def test_a_family_that_is_no_index_is_refused():
    with pytest.raises(ValueError, match="families go from -1 to 9"):
        settle(pools.create(3, family_P=[-1, 0, 9]), [0], [SIGNAL], "foresee")


@pytest.mark.parametrize("rule", plugins.names("rule"))
def test_every_rule_of_the_folder_draws_the_same_queries_again_and_none_twice(rule):
    first = draws(rule, by=plugins.draws_by(use(rule), None), steps=40)
    assert all(len(set(drawn)) == len(drawn) > 0 and set(drawn) <= set(range(60)) for drawn in first)
    assert draws(rule, by=plugins.draws_by(use(rule), None), steps=40) == first


RECORDED = Path(__file__).parent / "data" / "rule_draws.json"


@pytest.mark.parametrize("rule", sorted(json.loads(RECORDED.read_text(encoding="utf-8"))))
def test_draws_over_200_steps_are_those_of_a_second_implementation(rule):
    """Recorded from one that was written from the papers' formulas, without sight of this one (make_rule_draws.py)."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    name = rule.removesuffix("_largest")
    assert draws(name, by="chance" if name == rule else "largest") == recorded[rule]
