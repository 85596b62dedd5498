"""Kimi's priorities, retirement, review and replay of queries: weights by hand, and what the simulated pool shows."""

import functools

import numpy as np
import pytest
from settling import settle_rewards

from qr_jax.lab import oracle
from qr_jax.methods.rules.kimi import kimi
from qr_jax.methods.rules.prompt_replay import prompt_replay
from qr_jax.methods.rules.remind import REMIND, remind
from qr_jax.methods.rules.retire import RETIRE, retire
from qr_jax.methods.rules.search_gym import search_gym
from qr_jax.methods.rules.vcrl import vcrl
from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.records import Query
from qr_jax.step.runtime import hops

EASY, HARD, HALF, ONE, THREE = [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]


def settle(pool, drawn, rewards, rule, valid=None, **settings):
    return settle_rewards(pool, drawn, rewards, rule, valid, **settings).pool


def test_kimi_weighs_by_the_share_of_wrong_answers_of_all_attempts():
    pool = settle(pools.create(5), [0, 1, 2], [EASY, ONE, HARD], "kimi")
    assert pool.weight_P.tolist() == [0, 0.75, 1, 1, 1]
    pool = settle(pool, [1, 2], [THREE, [1, 9, 9, 9]], "kimi", [[True] * 4, [True, True, False, False]])
    assert pool.weight_P.tolist() == [0, 0.5, 1 - 1 / 6, 1, 1]  # 4 of 8, and 1 of 6: a reward of 9 is not right
    fault = [[True, False, False, False]]
    assert settle(pool, [3], [EASY], "kimi", fault).weight_P.tolist() == pool.weight_P.tolist()


def test_retire_passes_over_the_pool_without_those_nearly_always_right():
    rule = functools.partial(retire, at=0.75)
    pool = settle(pools.create(4), [0, 1, 2], [EASY, THREE, HALF], rule)
    assert pool.weight_P.tolist() == [0, 0, 0, 1]
    pool = settle(pool, [3], [HARD], rule)
    assert pool.weight_P.tolist() == [0, 0, 1, 1] and pool.memory["pass"].tolist() == [1]
    pool = settle(pool, [2], [EASY], rule)  # 6 of 8 are right now: it is retired too
    assert pool.weight_P.tolist() == [0, 0, 0, 1]
    assert settle(pool, [3], [EASY], rule).weight_P.tolist() == [0, 0, 0, 1]  # 4 of 8


def test_retirement_with_review_visits_by_a_coin_and_takes_back_whose_rate_fell():
    rule = functools.partial(retire, review=0.5)
    pool = settle(pools.create(40), range(40), [EASY] * 39 + [HALF], rule, seed=3)
    reviewed_P = uniforms(40, RETIRE, 3, 1) < 0.5
    assert pool.weight_P.tolist() == [float(coin) for coin in reviewed_P[:39]] + [1] and 8 < reviewed_P.sum() < 32
    first = int(np.flatnonzero(reviewed_P)[0])
    rest = np.setdiff1d(np.flatnonzero(pool.weight_P), [first])
    pool = settle(pool, [first, *rest], [HARD] + [EASY] * len(rest), rule, seed=3)
    assert pool.memory["right"][first] == 4 and pool.memory["valid"][first] == 8
    assert pool.weight_P[first] == 1  # 1/2 by now: no coin of this pass decides


def test_a_reset_from_outside_begins_a_pass_that_still_knows_the_retired():
    pool = settle(pools.create(4), [0, 1], [EASY, HALF], "retire")
    assert pool.weight_P.tolist() == [0, 0, 1, 1]
    pool = settle(pools.refresh(pool, below=1.0), [2], [HALF], "retire")
    assert pool.weight_P.tolist() == [0, 1, 0, 1]


def test_remind_reviews_in_every_fifth_step_who_waits_longest():
    rule, coins = functools.partial(remind, chance=1.0, share=0.5), np.ones(12)
    pool = pools.create(12)
    for step, drawn in enumerate(([0, 1], [2, 3], [4, 5])):  # steps 1 to 3 of 5
        pool = settle(pool, drawn, [EASY, HARD], rule, step=step)
        coins[drawn] = 0
        assert pool.weight_P.tolist() == coins.tolist()
    pool = settle(pool, [6, 7], [EASY, HALF], rule, step=3)
    assert pool.weight_P.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]  # one place of two for 0, the oldest of four
    assert pools.draw(pool, 2, seed=0, step=4, by="largest")[0] == 0
    pool = settle(pool, [0, 8], [HALF, HALF], rule, step=4)
    assert pool.memory["since"].tolist() == [0, 0, 2, 0, 3, 0, 4, 0, 0, 0, 0, 0] and pool.weight_P.max() == 1


def test_solved_queries_enter_the_review_queue_by_a_coin():
    pool = settle(pools.create(400), range(400), [EASY] * 400, "remind", step=6, seed=2)
    enters_P = uniforms(400, REMIND, 2, 6) < 0.25
    assert ((pool.memory["since"] == 7) == enters_P).all() and 70 < enters_P.sum() < 130


def test_prompt_replay_fills_three_quarters_with_those_nearest_to_one_half_after_a_pause():
    rewards = [EASY, ONE, HALF, THREE, HARD, HALF, HALF]
    pool = settle(pools.create(10), range(7), rewards, functools.partial(prompt_replay, pause=3))
    assert pool.weight_P.tolist() == [0] * 7 + [1] * 3  # they rest
    rule = functools.partial(prompt_replay, pause=3)
    pool = settle(pool, [7], [EASY], rule, step=2)
    assert pool.weight_P.tolist() == [0] * 8 + [1] * 2
    pool = settle(pool, [8], [EASY], rule, step=3)
    assert pool.weight_P.tolist() == [0] * 9 + [1]  # 3/4 of a batch of one is no place
    pool = settle(pool, [7, 8, 9, 0], [EASY] * 4, rule, step=4)
    assert pool.weight_P[[2, 5, 6]].tolist() == [2, 2, 2] and pool.weight_P[[1, 3]].tolist() == [1, 1]
    pool = settle(pool, [2, 5, 6, 0], [HARD, HALF, HALF, EASY], rule, step=5)
    assert pool.weight_P[[1, 3]].tolist() == [1.75, 1.75] and pool.weight_P[[2, 5, 6]].tolist() == [0, 0, 0]


def test_prompt_replay_lets_so_many_whole_steps_go_by():
    rule, pool, replayed = functools.partial(prompt_replay, pause=3, share=1.0), pools.create(4), []
    for step in range(4):
        pool = settle(pool, [step], [EASY if step else HALF], rule, step=step)
        replayed.append(pool.weight_P[0] > 1)
    assert replayed == [False, False, False, True]  # visited at step 0, again at step 4 at the earliest


def test_prompt_replay_replays_a_query_only_so_often():
    rule, pool = functools.partial(prompt_replay, pause=0, most=2, share=1.0), pools.create(2)
    weights = []
    for step in range(4):
        pool = settle(pool, [0], [HALF], rule, step=step)
        weights.append(pool.weight_P[0])
    assert weights == [2, 2, 0, 0]  # its first visit and two replays; 1 has still to be visited


def test_vcrl_banks_what_varies_and_fills_the_places_of_what_does_not():
    """Of 4 samples k right: p = k (4 - k) / 4, so 3/4, 1 and 0."""
    rule = functools.partial(vcrl, momentum=0.5)
    pool = settle(pools.create(8), [0, 1, 2, 3], [ONE, HALF, EASY, THREE], rule)
    assert pool.memory["priority"].tolist() == [0.75, 1, 0, 0.75, 0, 0, 0, 0]
    assert pool.weight_P.tolist() == [0, 2, 0, 0, 1, 1, 1, 1]  # one place is free: that of the easy one
    assert pools.draw(pool, 4, seed=0, step=1, by="largest")[0] == 1
    pool = settle(pool, [1, 4, 5, 6], [ONE, HARD, HARD, EASY], rule, step=1)
    assert pool.memory["priority"][1] == 0.875 and pool.weight_P.tolist() == [1.75, 1.875, 0, 1.75, 0, 0, 0, 1]
    pool = settle(pool, [0, 1], [THREE, HALF], rule, step=20)  # .8 from there on: 3/4 varies too little
    assert pool.memory["priority"].tolist() == [0, 0.9375, 0, 0.75, 0, 0, 0, 0]
    odd = settle(pools.create(2), [0], [[1, 1, 0]], rule)
    assert odd.memory["priority"][0] == 1  # 2 (3 - 2) / (1 * 2)


def test_a_band_without_a_pass_rate_is_refused():
    with pytest.raises(ValueError, match="low=0.8 above high=0.75"):
        settle(pools.create(3), [0], [HALF], functools.partial(prompt_replay, low=0.8))


def test_in_a_pool_of_easy_hard_and_mixed_queries_each_rule_draws_what_it_says():
    """200 queries always right, 200 never, 200 half the time; three passes' worth of draws, 8 a step."""
    rate_P = np.repeat([1.0, 0.0, 0.5], 200)
    shares = {}
    for name in ("grpo", "kimi", "retire", "prompt_replay", "vcrl"):
        plan = oracle.Sampler(rule=oracle.sampler(name).rule, queries=8, oversample=1, rollouts=600 * 3 * 4)
        run = oracle.play(plan, lambda done, drawn_Q, *_: rate_P[drawn_Q], size=600, seed=0)
        shares[name] = np.bincount(run.draws.query_D // 200, minlength=3) / len(run.draws.query_D)
    assert shares["grpo"] == pytest.approx([1 / 3] * 3, abs=0.01)
    assert shares["retire"][0] == pytest.approx(1 / 9, abs=0.01)  # in the first of three passes alone
    assert shares["kimi"][0] == pytest.approx(1 / 9, abs=0.01) and shares["kimi"][1] > 1.5 * shares["kimi"][2]
    assert shares["prompt_replay"][2] > 0.7 and shares["vcrl"][2] > 0.42


def test_kimi_leaves_the_memory_it_was_given_as_it_was():
    pool = settle(pools.create(3), [0], [HALF], kimi)
    before = {name: array.copy() for name, array in pool.memory.items()}
    settle(pool, [0, 1], [EASY, HARD], kimi)
    assert all((pool.memory[name] == array).all() for name, array in before.items())


def test_search_gym_passes_over_the_simple_ones_and_from_its_second_stage_over_all():
    """Hops 1, 2, 1, 4; two steps of the first stage, whose second draws the last simple one: a new pass."""
    rule = functools.partial(search_gym, steps=3)
    pool = settle(pools.create(4, hops_P=[1, 2, 1, 4]), [3], [HALF], rule)  # the first step drew from all
    assert pool.weight_P.tolist() == [1, 0, 1, 0]
    pool = settle(pool, [0], [EASY], rule, step=1)
    assert pool.weight_P.tolist() == [0, 0, 1, 0]
    again = settle(pool, [2], [EASY], rule, step=1)
    assert again.weight_P.tolist() == [1, 0, 1, 0] and again.memory["pass"].tolist() == [1]
    pool = settle(pool, [2], [EASY], rule, step=2)  # for step 3, the first of the second stage
    assert pool.weight_P.tolist() == [0, 1, 0, 0] and pool.memory["pass"].tolist() == [0]
    assert settle(pool, [1], [HARD], rule, step=3).weight_P.tolist() == [1, 1, 1, 1]
    more = functools.partial(search_gym, simple=2)
    assert settle(pools.create(4, hops_P=[1, 2, 1, 4]), [0], [HARD], more).weight_P.tolist() == [0, 1, 1, 0]


def test_search_gym_without_a_simple_question_is_refused():
    with pytest.raises(ValueError, match="0 to 0 hops"):
        settle(pools.create(2, hops_P=[0, 0]), [0], [EASY], "search_gym")
    with pytest.raises(ValueError, match="2 to 3 hops"):
        settle(pools.create(2, hops_P=[2, 3]), [0], [EASY], "search_gym")


def test_hops_are_what_a_question_s_meta_says_and_stay_with_the_pool():
    meta = ({"hops": 2}, {"hops": "3"}, {"hops": "many"}, {})
    assert hops([Query(str(at), "?", ("a",), meta=each) for at, each in enumerate(meta)]).tolist() == [2, 3, 0, 0]
    pool = pools.create(2, hops_P=[2, 0])
    kept = pools.from_arrays(pools.to_arrays(pool))
    assert kept.hops_P.tolist() == [2, 0] and kept.family_P is None and pools.digest(kept) == pools.digest(pool)
    assert pools.digest(pools.create(2)) != pools.digest(pool)
