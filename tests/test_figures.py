"""What a step did to the pool, numbers by hand."""

import dataclasses

import numpy as np
import pytest
from settling import settle as settled_step

from qr_jax.pool import figures
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.records import grades

S, H, E = [1, 0], [0, 0], [1, 1]  # groups of two: signal, hard, easy


def step(pool, drawn, rewards, accept, valid=None, number=0, rule="recycle"):
    graded = grades(rewards, np.ones((len(rewards), 2), bool) if valid is None else valid)
    outcome = judge(drawn, graded, step=number, accept=accept)
    return outcome, settled_step(pool, drawn, graded, step=number, accept=accept, rule=rule).pool


def two_steps():
    """Of eight, 0 hard, 1 easy, 2 surplus, 3 accepted; then 0, 1, 2 and 7 signal, 4 easy, 5 hard, 6 a fault."""
    _, before = step(pools.create(8), [0, 1, 3, 2], [H, E, S, S], accept=1)
    valid = [[1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [1, 0], [1, 1]]
    outcome, after = step(before, [0, 1, 2, 4, 5, 6, 7], [S, S, S, E, H, S, S], accept=4, valid=valid, number=1)
    return before, outcome, after


def test_a_step_by_hand():
    row = figures.step_figures(*two_steps(), accept=5)
    assert row["pool/drawn"] == 7 and row["pool/signal"] == 4 and row["pool/accepted"] == 4
    assert row["pool/zero_variance_rate"] == 2 / 7 and row["pool/hard_rate"] == row["pool/easy_rate"] == 1 / 7
    assert row["pool/signal_rate"] == 4 / 7 and row["pool/fault_rate"] == 1 / 7
    assert row["pool/recycled_share"] == 0.5 and row["pool/seen_share"] == 0.75
    assert row["pool/ex_hard"] == row["pool/ex_easy"] == row["pool/ex_surplus"] == row["pool/fresh"] == 0.25
    assert row["pool/ex_consumed"] == 0.0
    assert row["pool/rollouts"] == 14 and row["pool/wasted_rollouts"] == 6
    assert row["pool/wasted_rollout_share"] == 6 / 14 and row["pool/rollouts_per_signal_group"] == 3.5
    assert row["pool/fill"] == 0.8
    assert row["pool/zero_variance_rate_fresh"] == 0.5  # 4 and 5 of 4, 5, 6 and 7
    assert row["pool/zero_variance_rate_ex_hard"] == row["pool/zero_variance_rate_ex_surplus"] == 0.0
    assert row["pool/zero_variance_rate_ex_consumed"] is None  # none was drawn
    assert row["pool/flipped_queries"] == 2 and row["pool/flipped"] == 2 / 7  # 0 and 1; 6 was never graded
    assert row["pool/never_flipped"] == 2  # 4 and 5
    assert row["pool/eligible"] == 3 and row["pool/eligible_share"] == 3 / 8
    assert row["pool/state_consumed"] == 5 and row["pool/state_fresh"] == 1


def test_every_figure_is_a_plain_number_or_none():
    row = figures.step_figures(*two_steps(), accept=5)
    assert all(name.startswith("pool/") and type(value) in (int, float, type(None)) for name, value in row.items())


def test_what_was_trained_on_comes_back_as_ex_consumed():
    _, pool = step(pools.create(2), [0, 1], [S, H], accept=2)
    pool = pools.refresh(pool, below=1.0)
    outcome, after = step(pool, [1, 0], [S, S], accept=2, number=1)
    row = figures.step_figures(pool, outcome, after, accept=2)
    assert row["pool/ex_consumed"] == row["pool/ex_hard"] == 0.5  # a reset does not hide where they came from
    assert row["pool/recycled_share"] == 0.5 and row["pool/epoch"] == 1


def test_the_strict_share_looks_at_the_last_verdict_only():
    """Hard, then surplus, then accepted: flipped, but not recycled in the strict sense."""
    _, pool = step(pools.create(1), [0], [H], accept=1)
    _, pool = step(pool, [0], [S], accept=0, number=1)
    outcome, after = step(pool, [0], [S], accept=1, number=2)
    row = figures.step_figures(pool, outcome, after, accept=1)
    assert row["pool/recycled_share"] == 0.0 and row["pool/ex_surplus"] == 1.0 and row["pool/flipped"] == 1.0


def test_an_empty_step_has_counts_of_zero_and_no_rates():
    pool = pools.create(2)
    outcome, after = step(pool, [], np.ones((0, 2)), accept=2)
    row = figures.step_figures(pool, outcome, after, accept=2)
    assert row["pool/drawn"] == 0 and row["pool/zero_variance_rate"] is None and row["pool/recycled_share"] is None
    assert row["pool/fill"] == 0.0 and row["pool/flipped"] is None
    assert figures.starvation(row) is None


def test_rollouts_may_differ_from_query_to_query():
    before, outcome, after = two_steps()
    row = figures.step_figures(before, outcome, after, accept=5, rollouts_Q=np.array([4, 2, 2, 2, 2, 2, 2]))
    assert row["pool/rollouts"] == 16 and row["pool/wasted_rollout_share"] == 6 / 16


def test_figures_over_steps_are_ratios_of_sums():
    pool = pools.create(6)
    first, pool_1 = step(pool, [0, 1, 2], [S, H, H], accept=2)
    second, pool_2 = step(pool_1, [3], [S], accept=2, number=1)
    rows = [figures.step_figures(*row, accept=2) for row in ((pool, first, pool_1), (pool_1, second, pool_2))]
    both = figures.over_steps(rows)
    assert both["pool/zero_variance_rate"] == 0.5  # 2 of 4, not the mean of 2/3 and 0
    assert both["pool/fill"] == 0.5 and both["pool/eligible"] == 4
    with pytest.raises(ValueError, match="0 steps"):
        figures.over_steps([])


def test_a_rule_after_which_nothing_is_left_to_draw_is_named():
    pool = pools.create(4)
    outcome, after = step(pool, [0, 1], [S, S], accept=2)
    row = figures.step_figures(pool, outcome, after, accept=2)
    reset = [row | {"pool/epoch": epoch} for epoch in range(3)]
    assert "rule 'mine' left too few queries to draw" in figures.warning(reset, "mine")
    assert figures.warning([*reset, reset[-1]], "mine") is None  # the last step drew from what was left


def test_few_groups_with_signal_are_a_warning_with_the_numbers():
    pool = pools.create(8)
    fine, after = step(pool, range(8), [S, S, H, H, H, H, E, E], accept=8)
    assert figures.starvation(figures.step_figures(pool, fine, after, accept=8)) is None
    thin, after = step(pool, range(8), [S, H, H, H, H, H, E, E], accept=8)
    row = figures.step_figures(pool, thin, after, accept=8)
    assert figures.starvation(row) is None  # of two samples at most half of the groups bear signal on average
    warning = figures.starvation(row | {"pool/rollouts": 64})  # of eight, nearly all may
    assert warning is not None and warning.startswith(
        "1 of 8 drawn groups bear signal (hard 5, easy 2, fault 0); 7 queries"
    )


def test_a_soft_weight_counts_as_eligible():
    pool = dataclasses.replace(pools.create(4), weight_P=np.array([0.1, 0, 1, 1]))
    assert figures.pool_figures(pool)["pool/eligible_share"] == 0.75
