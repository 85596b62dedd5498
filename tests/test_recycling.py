"""Recycling rules, numbers by hand: who leaves the pool, who stays."""

import functools

import numpy as np
import pytest
from oracle import Run, play
from settling import settle as settled_step

from qr_jax.methods.rules.bounded_dapo import bounded_dapo
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.pool.rounds.once import once
from qr_jax.pool.rules.grpo import grpo
from qr_jax.pool.rules.recycle import recycle
from qr_jax.pool.rules.soft_recycle import soft_recycle
from qr_jax.records import grades

# Queries 5, 1, 4, 0, 2 of six are drawn, and two groups accepted: 5 signal, 1 hard, 4 easy, 0 signal, 2 a fault.
REWARDS = grades(
    [[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]], [[True, True], [True, True], [True, True], [True, True], [True, False]]
)


def settled_by(rule, accept=2):
    return settled_step(pools.create(6), [5, 1, 4, 0, 2], REWARDS, step=3, accept=accept, rule=rule)


def test_recycle_takes_out_what_was_accepted_and_nothing_else():
    settled = settled_by(recycle)
    assert settled.accepted.tolist() == [5, 0] and settled.accepted_at.tolist() == [0, 3]
    assert settled.pool.weight_P.tolist() == [0, 1, 1, 1, 1, 0]


def test_recycle_keeps_a_surplus_query_eligible():
    settled = settled_by(recycle, accept=1)
    assert settled.pool.weight_P.tolist() == [1, 1, 1, 1, 1, 0]
    assert pools.STATES[settled.pool.state_P[0]] == "surplus"


def test_soft_recycle_leaves_a_tenth_and_does_not_compound():
    settled = settled_by("soft_recycle")
    assert settled.pool.weight_P.tolist() == [0.1, 1, 1, 1, 1, 0.1]
    again = settled_step(settled.pool, [5], grades([[1, 0]], [[True, True]]), step=4, accept=1, rule="soft_recycle")
    assert again.pool.weight_P[5] == 0.1


@pytest.mark.parametrize("rule", [grpo, bounded_dapo])
def test_single_pass_rules_take_out_all_drawn_but_the_faults(rule):
    settled = settled_by(rule, accept=1)
    assert settled.pool.weight_P.tolist() == [0, 0, 1, 1, 0, 0]
    assert [pools.STATES[state] for state in settled.pool.state_P] == [
        "surplus", "hard", "fresh", "fresh", "easy", "consumed",
    ]  # fmt: skip


@pytest.mark.parametrize("rule", [recycle, soft_recycle, grpo, bounded_dapo])
def test_a_rule_changes_neither_the_pool_it_is_given_nor_the_memory(rule):
    pool = pools.create(3)
    outcome = judge([0, 1], grades([[1, 0], [0, 0]], np.ones((2, 2))), step=0, accept=1)
    weight_P, memory = rule(pool, outcome)
    assert pool.weight_P.tolist() == [1, 1, 1] and weight_P.dtype == np.float64
    assert memory is pool.memory


def test_soft_recycle_of_zero_is_recycle():
    rates_P = np.linspace(0, 1, 40)
    one = play(Run(rates_P, "recycle"))
    other = play(Run(rates_P, functools.partial(soft_recycle, consumed_weight=0.0)))
    assert pools.digest(one[-1][3].pool) == pools.digest(other[-1][3].pool)


def test_recycle_equals_grpo_when_every_group_bears_signal():
    """With oversampling 1 nothing is recycled and nothing is surplus, so both make the same single pass."""
    half = [[1, 0, 1, 0]] * 4
    drawn = {}
    for rule in ("recycle", "grpo"):
        pool, drawn[rule] = pools.create(24), []
        for step in range(6):
            drawn_Q = pools.draw(pool, 4, seed=2, step=step)
            pool = settled_step(pool, drawn_Q, grades(half, np.ones((4, 4))), step=step, accept=4, rule=rule).pool
            drawn[rule].extend(drawn_Q.tolist())
        assert sorted(drawn[rule]) == list(range(24)) and not pool.weight_P.any()
    assert drawn["recycle"] == drawn["grpo"]


def test_once_asks_for_k_times_b_queries_and_then_ends():
    pool = pools.create(100)
    ask = once(pool, [], queries=32, oversample=2)
    assert ask is not None and ask.draw == 64 and not ask.more
    outcome = judge([], grades(np.ones((0, 4)), np.ones((0, 4))), step=0, accept=32)
    assert once(pool, [outcome], queries=32, oversample=2) is None
