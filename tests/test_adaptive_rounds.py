"""Rounds that spend samples where they teach: who gets more by hand, and no step that costs more than its budget."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import plugins
from qr_jax.config import use
from qr_jax.lab import oracle
from qr_jax.methods.rounds.ar3po import ar3po
from qr_jax.methods.rounds.knapsack import knapsack
from qr_jax.methods.rounds.pilot_commit import pilot_commit
from qr_jax.methods.rounds.reinforce_ada import reinforce_ada
from qr_jax.methods.rounds.speed import speed
from qr_jax.pool import pool
from qr_jax.pool.pool import judge
from qr_jax.records import Ask, grades

POOL = pool.create(100)


def groups(*rewards, accept=2, valid=None):
    """What a step showed of queries 10, 11, ...; rows of unlike length are padded with samples that are not there."""
    widest = max(map(len, rewards))
    valid_QG = np.array([np.arange(widest) < len(row) for row in rewards]) if valid is None else valid
    reward_QG = np.array([list(row) + [0] * (widest - len(row)) for row in rewards])
    return judge(10 + np.arange(len(rewards)), grades(reward_QG, valid_QG), step=0, accept=accept)


def test_speed_screens_until_the_batch_is_full_and_goes_on_with_those_that_bear_signal():
    plan = {"queries": 2, "samples": 4, "oversample": 3, "further": 20}
    easy, hard, mixed = [1] * 4, [0] * 4, [1, 0, 0, 0]
    first, second = groups(easy, mixed, hard), groups(easy, mixed, hard, mixed, mixed)
    assert speed(POOL, [], **plan) == speed(POOL, [first], **plan) == Ask(draw=6)
    assert speed(POOL, [first, second], **plan) == Ask(0, {11: 20, 13: 20})  # 14 bears signal too, beyond the batch
    assert speed(POOL, [first], **plan, max_rounds=1) == Ask(0, {11: 20})
    grown = groups(easy, mixed + [0] * 20, hard, mixed + [0] * 20)
    assert speed(POOL, [first, second, grown], **plan) is None
    assert speed(POOL, [groups(easy, hard)], **plan, max_rounds=1) is None


def test_speed_goes_on_with_what_it_has_where_no_query_is_left_to_screen():
    used_up = dataclasses.replace(pool.create(3), weight_P=np.array([1.0, 1, 0]))
    assert speed(used_up, [groups([1, 0], [0, 0])], queries=2, samples=2) == Ask(0, {10: 20})


def test_pilot_commit_spends_further_samples_inside_its_band_alone():
    """Means 1/16, 2/16, 12/16 and 13/16: the band [.125, .75] has the second and the third; easy and hard have none."""
    pilots = [[1] * count + [0] * (16 - count) for count in (1, 2, 12, 13, 16, 0)]
    plan = {"queries": 4, "samples": 16}
    asked = pilot_commit(POOL, [groups(*pilots, accept=4)], **plan)
    assert asked == Ask(0, {11: 48, 12: 48})
    assert pilot_commit(POOL, [groups(*pilots, accept=4)], **plan, low=0.0, high=1.0).more.keys() == {10, 11, 12, 13}
    assert pilot_commit(POOL, [groups(*pilots[:2], accept=4)], **plan) == Ask(draw=4)
    assert pilot_commit(POOL, [groups(pilots[1] + [0] * 48, pilots[2])], **plan) is None


def test_reinforce_ada_lets_a_query_go_with_two_right_and_two_wrong_answers():
    one, two, three = [1] + [0] * 7, [1, 1] + [0] * 6, [1] * 7 + [0]
    plan = {"queries": 4, "samples": 8}
    step = [groups(one, two, three, [0] * 8)]
    assert reinforce_ada(POOL, step, **plan) == Ask(0, {10: 8, 12: 8, 13: 8})
    assert reinforce_ada(POOL, step, **plan, enough="positive") == Ask(0, {13: 8})
    assert reinforce_ada(POOL, step, **plan, keep=2) == Ask(0, {13: 8})  # one right and one wrong
    assert reinforce_ada(POOL, step * 4, **plan) is None
    assert reinforce_ada(POOL, [groups(two)], **plan) is None
    partly = [groups([0.7] * 4 + [0.71] * 2 + [0] * 2)]  # rewards count as right above .7
    assert reinforce_ada(POOL, partly, **plan) is None and reinforce_ada(POOL, partly, **plan, right=0.9) is not None


def test_a_fault_is_neither_a_right_nor_a_wrong_answer():
    valid = np.array([[True, True, True, False]])
    step = [groups([1, 1, 0, 0], valid=valid)]
    assert reinforce_ada(POOL, step, queries=1, samples=4) == Ask(0, {10: 4})
    assert ar3po(POOL, [groups([0, 0, 0, 1], valid=valid)], queries=1, samples=4) == Ask(0, {10: 4})


def test_ar3po_gives_another_stage_to_queries_without_a_right_answer():
    step = [groups([0, 0], [1, 0], [1, 1], [0.5, 0])]
    assert ar3po(POOL, [], queries=2, samples=2, oversample=2) == Ask(draw=4)
    assert ar3po(POOL, step, queries=2, samples=2) == Ask(0, {10: 2, 13: 2})
    assert ar3po(POOL, step * 2, queries=2, samples=2) is None
    assert ar3po(POOL, step * 2, queries=2, samples=2, stages=3) is not None
    assert ar3po(POOL, [groups([1, 0])], queries=2, samples=2) is None


def test_knapsack_deals_the_rest_where_another_sample_is_worth_most():
    """Rates 1/4, 1/2, 1 and 0 at the last attempt, and a query never drawn. At N = 2 a third sample gains p (1 - p)^2
    (p^2 (1 - p) + (1 - p)^2 p): .02637 at 1/4 and .03125 at 1/2; at N = 3 it is .01813 and .01563."""
    known = dataclasses.replace(
        POOL, attempts_P=np.array([1] * 13 + [0, 1] + [0] * 85), last_valid_P=np.full(100, 4),
        last_successes_P=np.array([0] * 10 + [1, 2, 4, -1, 0] + [0] * 85),
    )  # fmt: skip
    step = [groups(*[[1, 0]] * 5)]
    plan = {"queries": 5, "samples": 2}
    assert knapsack(known, [], **plan) == Ask(draw=5)
    fresh = 13
    assert knapsack(known, step, **plan, budget=3).more == {10: 2, 11: 2, fresh: 1}  # 15 in all: .031, .026, .018, .016
    assert knapsack(known, [groups([1, 0], [1, 0])], **plan, budget=3).more == {10: 1, 11: 1}
    assert knapsack(known, [groups([1, 0], [1, 0], [1, 0])], **plan, budget=3).more == {10: 2, 11: 1}
    assert knapsack(known, step, **plan, budget=3, most=3).more == {10: 1, 11: 1, fresh: 1}  # the rest is not spent
    assert knapsack(known, step * 2, **plan) is None


RATES = {"none": 0.0, "all": 1.0, "some": None}
PLANS = {  # settings, and the most rollouts of a step of 4 queries x 2 drawn of each, with 3 samples
    "speed": ({"further": 5, "max_rounds": 3}, 3 * 8 * 3 + 4 * 5),
    "pilot_commit": ({"further": 5, "max_rounds": 3}, 3 * 8 * 3 + 4 * 5),
    "reinforce_ada": ({"max_rounds": 3}, 8 * 3 * 3),
    "ar3po": ({"stages": 3}, 8 * 3 * 3),
    "knapsack": ({"budget": 5}, 8 * 5),
}


@settings(max_examples=10)
@given(name=st.sampled_from(sorted(PLANS)), seed=st.integers(0, 99), kind=st.sampled_from(sorted(RATES)))
def test_no_step_costs_more_than_its_budget(name, seed, kind):
    rate_P = np.random.Generator(np.random.Philox(seed)).random(60) if RATES[kind] is None else np.full(60, RATES[kind])
    chosen, budget = PLANS[name]
    plan = oracle.Sampler(
        rule=use("grpo"), rounds=use(name, **chosen), queries=4, samples=3, oversample=2, rollouts=600
    )
    run = oracle.play(plan, lambda done, drawn_Q, *_: rate_P[drawn_Q], size=60, seed=seed)
    costs = [row["pool/rollouts"] for row in run.rows]
    assert max(costs) <= budget and sum(costs) >= 600
    most = plugins.constants("rounds", name)["MAX_GROUP_SIZE"]
    assert run.draws.valid_D.max() <= most and run.draws.valid_D.min() >= 3


@pytest.mark.parametrize(
    ("rounds", "wrong", "said"),
    [
        (pilot_commit, {"low": 0.8}, "low=0.8 above high=0.75"),
        (knapsack, {"budget": 1}, "samples <= budget <= most"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rounds, wrong, said):
    with pytest.raises(ValueError, match=said):
        rounds(POOL, [], queries=2, samples=4, **wrong)


@pytest.mark.parametrize(
    ("rounds", "samples", "grows"),
    [
        (use("speed"), 4, 24), (use("speed"), 8, 28), (use("pilot_commit"), 16, 64), (use("pilot_commit"), 32, 80),
        (use("reinforce_ada"), 8, 32), (use("reinforce_ada"), 16, 64), (use("ar3po"), 16, 32),
        (use("ar3po", stages=3), 16, 48),
    ],
)  # fmt: skip
def test_groups_that_would_outgrow_their_room_are_refused_before_any_episode(rounds, samples, grows):
    """The first call comes before a run's model is loaded; the growth itself would end the run in its first step."""
    ask = plugins.bind("rounds", rounds, provided={"queries": 4, "samples": samples, "oversample": 1})
    most = plugins.constants("rounds", rounds.name)["MAX_GROUP_SIZE"]
    if grows <= most:
        assert ask(POOL, ()) == Ask(draw=4)
        return
    with pytest.raises(ValueError, match=rf"{rounds.name} lets a group grow to {grows} episodes: .*room for {most}\b"):
        ask(POOL, ())
