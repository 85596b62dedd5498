"""The pool's laws, against an outcome oracle: conservation, no repetition, exact resume, weights that mean odds."""

import dataclasses
import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Run, beta_rates, one_step, play, roll
from settling import settle as settled_step

from qr_jax.lab.probe_figures import recycled
from qr_jax.pool import figures
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.pool.rules.recycle import recycle
from qr_jax.pool.rules.soft_recycle import soft_recycle
from qr_jax.records import grades

quick = settings(max_examples=25)
many = settings(max_examples=200)

PLAIN = ("recycle", "soft_recycle", "grpo", "bounded_dapo")  # they touch the weights of what was drawn alone
RULES = (*PLAIN, "greso", "mopps", "difficulty_pools", "foresee")
CURVES = ("static", "improving", "drifting", "flipping")


@st.composite
def runs(draw, rules=RULES, faults=(0.0, 0.3)):
    rates_P = beta_rates(draw(st.integers(5, 60)), 0.4, 0.4, seed=draw(st.integers(0, 999)))
    return Run(
        rates_P,
        draw(st.sampled_from(rules)),
        draw(st.sampled_from(CURVES)),
        steps=draw(st.integers(1, 15)),
        queries=draw(st.integers(1, 6)),
        samples=draw(st.integers(2, 5)),
        oversample=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**70)),
        fault_rate=draw(st.sampled_from(faults)),
        below=draw(st.sampled_from([0.0, 0.3])),
    )


@quick
@given(runs())
def test_every_query_is_in_one_state_and_none_is_lost(run):
    for before, drawn_Q, _, settled in play(run):
        states = figures.pool_figures(settled.pool)
        assert sum(states[f"pool/state_{name}"] for name in pools.STATES) == settled.pool.size == len(run.rates_P)
        untouched = np.setdiff1d(np.arange(before.size), drawn_Q)
        for name in pools.ARRAYS:
            if name != "weight_P" or run.rule in PLAIN:
                assert (getattr(before, name)[untouched] == getattr(settled.pool, name)[untouched]).all()


@quick
@given(runs())
def test_accepted_are_signal_and_signal_were_drawn_once(run):
    for before, drawn_Q, graded, settled in play(run):
        assert len(set(drawn_Q.tolist())) == len(drawn_Q) <= run.oversample * run.queries
        assert (before.weight_P[drawn_Q] > 0).all()
        assert (settled.verdict_Q[settled.accepted_at] == "signal").all()
        assert settled.accepted.tolist() == drawn_Q[settled.accepted_at].tolist()
        assert len(settled.accepted) == min(run.queries, np.count_nonzero(settled.verdict_Q == "signal"))
        success_Q = (graded.reward_QG * graded.valid_QG).sum(axis=1)
        valid_Q = graded.valid_QG.sum(axis=1)
        assert ((settled.verdict_Q == "signal") == ((success_Q > 0) & (success_Q < valid_Q))).all()


@quick
@given(runs(rules=PLAIN))
def test_each_rule_lowers_the_weight_of_whom_it_says(run):
    for before, drawn_Q, _, settled in play(run):
        lowered = set(np.flatnonzero(settled.pool.weight_P < before.weight_P).tolist())
        graded = set(drawn_Q[settled.verdict_Q != "fault"].tolist())
        accepted = set(settled.accepted.tolist())
        if run.rule == "recycle":
            assert lowered == accepted
        elif run.rule == "soft_recycle":
            assert lowered == {query for query in accepted if before.weight_P[query] > 0.1}
        else:
            assert lowered == graded


@quick
@given(runs(rules=("recycle", "grpo", "bounded_dapo")))
def test_without_a_reset_no_query_is_trained_on_twice(run):
    run = dataclasses.replace(run, below=0.0)
    accepted = [query for _, _, _, settled in play(run) for query in settled.accepted.tolist()]
    assert len(accepted) == len(set(accepted)) <= len(run.rates_P)


@quick
@given(runs())
def test_a_run_repeats_itself(run):
    first, second = play(run), play(run)
    for one, other in zip(first, second, strict=True):
        assert one[1].tolist() == other[1].tolist() and one[3].accepted.tolist() == other[3].accepted.tolist()
        assert pools.digest(one[3].pool) == pools.digest(other[3].pool)


@quick
@given(runs(), st.randoms(use_true_random=False))
def test_settling_does_not_depend_on_the_order_in_which_rollouts_end(run, random):
    """Episodes come in one by one, in any order, and are written where their query and sample belong."""
    pool = pools.create(len(run.rates_P))
    drawn_Q = pools.draw(pool, 8, seed=run.seed, step=0)
    graded = roll(run.rates_P, drawn_Q, run.samples, seed=run.seed, step=0, fault_rate=run.fault_rate)
    reward_QG, valid_QG = np.zeros_like(graded.reward_QG), np.zeros_like(graded.valid_QG)
    arrivals = list(np.ndindex(reward_QG.shape))
    random.shuffle(arrivals)
    for query, sample in arrivals:
        alone = roll(run.rates_P, drawn_Q[[query]], run.samples, seed=run.seed, step=0, fault_rate=run.fault_rate)
        reward_QG[query, sample] = alone.reward_QG[0, sample]
        valid_QG[query, sample] = alone.valid_QG[0, sample]
    late = grades(reward_QG, valid_QG)
    one, other = (settled_step(pool, drawn_Q, g, step=0, accept=3, rule=run.rule) for g in (graded, late))
    assert pools.digest(one.pool) == pools.digest(other.pool) and one.accepted.tolist() == other.accepted.tolist()


@settings(max_examples=8)
@given(runs())
def test_a_run_resumes_exactly_from_every_step_even_between_draw_and_settle(run):
    whole = play(run)
    for stop in range(run.steps):
        pool = whole[stop - 1][3].pool if stop else pools.create(len(run.rates_P))
        saved = {name: array.copy() for name, array in pools.to_arrays(pool).items()}
        lost = one_step(run, pool, stop)  # drawn and rolled out, then killed: nothing of it was saved
        resumed = play(run, pools.from_arrays(saved), start=stop)
        assert resumed[0][1].tolist() == lost[1].tolist() == whole[stop][1].tolist()
        assert pools.digest(resumed[-1][3].pool) == pools.digest(whole[-1][3].pool)


@quick
@given(runs(rules=("recycle",)))
def test_soft_recycling_at_zero_is_recycling(run):
    soft = dataclasses.replace(run, rule=functools.partial(soft_recycle, consumed_weight=0.0))
    assert pools.digest(play(run)[-1][3].pool) == pools.digest(play(soft)[-1][3].pool)


@quick
@given(st.integers(4, 60), st.integers(1, 8), st.integers(0, 2**40))
def test_when_all_bear_signal_recycle_draws_what_grpo_draws(size, queries, seed):
    draws = {}
    for rule in ("recycle", "grpo", "bounded_dapo"):
        pool, draws[rule] = pools.create(size), []
        for step in range(5):
            drawn_Q = pools.draw(pool, queries, seed=seed, step=step)
            graded = grades(np.tile([1.0, 0.0], (len(drawn_Q), 1)), np.ones((len(drawn_Q), 2)))
            pool = settled_step(pool, drawn_Q, graded, step=step, accept=queries, rule=rule).pool
            draws[rule].append(drawn_Q.tolist())
    assert draws["recycle"] == draws["grpo"] == draws["bounded_dapo"]
    seen = sum(draws["recycle"], [])
    assert len(set(seen)) == len(seen) == min(size, 5 * queries)


weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=50)


@many
@given(weights, st.integers(-60, 60), st.integers(0, 60), st.sampled_from(["chance", "largest"]))
def test_scaling_all_weights_by_a_power_of_two_changes_no_draw(weight_P, power, count, by):
    pool = dataclasses.replace(pools.create(len(weight_P)), weight_P=np.array(weight_P))
    scaled = dataclasses.replace(pool, weight_P=pool.weight_P * 2.0**power)
    drawn = pools.draw(pool, count, seed=1, step=2, by=by)
    assert drawn.tolist() == pools.draw(scaled, count, seed=1, step=2, by=by).tolist()
    assert (pool.weight_P[drawn] > 0).all() and len(drawn) == min(count, np.count_nonzero(pool.weight_P))


def test_scaling_by_any_number_changes_no_draw_of_a_large_pool():
    weight_P = 0.1 + np.arange(5000) % 7
    pool = dataclasses.replace(pools.create(5000), weight_P=weight_P)
    for scale in (0.1, 3.0, 1e-9, 7.7e12):
        scaled = dataclasses.replace(pool, weight_P=weight_P * scale)
        assert (pools.draw(pool, 64, seed=0, step=0) == pools.draw(scaled, 64, seed=0, step=0)).all()


def test_a_single_draw_is_proportional_to_weight():
    """Chi-square with 4 degrees of freedom: above 18.5 once in a thousand; the seed is fixed."""
    weight_P = np.array([0.1, 0.0, 1.0, 2.0, 0.5, 4.0])
    pool = dataclasses.replace(pools.create(6), weight_P=weight_P)
    count_P = np.bincount([pools.draw(pool, 1, seed=5, step=step)[0] for step in range(6000)], minlength=6)
    expected_P = 6000 * weight_P / weight_P.sum()
    assert count_P[1] == 0
    drawn = weight_P > 0
    assert ((count_P - expected_P)[drawn] ** 2 / expected_P[drawn]).sum() < 18.5


def test_a_draw_of_two_includes_each_query_as_often_as_sequential_draws_would():
    """P(i) = w_i / W + sum over j of (w_j / W) * w_i / (W - w_j), for weights 1, 2, 3."""
    pool = dataclasses.replace(pools.create(3), weight_P=np.array([1.0, 2.0, 3.0]))
    included_P = np.zeros(3)
    for step in range(8000):
        included_P[pools.draw(pool, 2, seed=9, step=step)] += 1 / 8000
    expected_P = [
        1 / 6 + 2 / 6 * 1 / 4 + 3 / 6 * 1 / 3,
        2 / 6 + 1 / 6 * 2 / 5 + 3 / 6 * 2 / 3,
        3 / 6 + 1 / 6 * 3 / 5 + 2 / 6 * 3 / 4,
    ]
    assert abs(sum(expected_P) - 2) < 1e-12
    assert np.abs(included_P - expected_P).max() < 4 * np.sqrt(0.25 / 8000)


@many
@given(weights, st.data())
def test_draw_noise_belongs_to_the_query_whatever_the_others_do(weight_P, data):
    """Of two queries that stay eligible with their weights, the same one is drawn first whoever else leaves."""
    pool = dataclasses.replace(pools.create(len(weight_P)), weight_P=np.array(weight_P))
    order = pools.draw(pool, pool.size, seed=0, step=0).tolist()
    gone = set(data.draw(st.lists(st.integers(0, pool.size - 1), max_size=8)))
    left = [query for query in order if query not in gone]
    assert pools.draw(pool, pool.size, seed=0, step=0, exclude=gone).tolist() == left
    larger = dataclasses.replace(pools.create(pool.size + 3), weight_P=np.array([*weight_P, 0.0, 0.0, 0.0]))
    assert pools.draw(larger, pool.size, seed=0, step=0).tolist() == order


@quick
@given(runs(faults=(0.0, 0.3, 1.0)))
def test_an_exhausted_pool_never_raises(run):
    run = dataclasses.replace(run, steps=40, below=0.0, rates_P=run.rates_P[:5])
    for before, drawn_Q, _, _ in play(run):
        assert len(drawn_Q) == min(run.oversample * run.queries, np.count_nonzero(before.weight_P))


@quick
@given(runs())
def test_the_figures_identities_hold(run):
    rows, rollouts = [], 0
    for step, (before, drawn_Q, graded, settled) in enumerate(play(run)):
        outcome = judge(drawn_Q, graded, step=step, accept=run.queries)
        rows.append(figures.step_figures(before, outcome, settled.pool, accept=run.queries))
        rollouts += len(drawn_Q) * run.samples
    for row in [*rows, figures.over_steps(rows)]:
        if row["pool/accepted"]:
            assert abs(sum(row[f"pool/{origin}"] for origin in figures.ORIGINS) - 1) < 1e-12
            assert abs(row["pool/ex_hard"] + row["pool/ex_easy"] - row["pool/recycled_share"]) < 1e-12
            assert abs(row["pool/seen_share"] + row["pool/fresh"] - 1) < 1e-12
        if row["pool/drawn"]:
            rates = ("zero_variance_rate", "signal_rate", "fault_rate")
            assert abs(sum(row[f"pool/{name}"] for name in rates) - 1) < 1e-12
            assert abs(row["pool/wasted_rollout_share"] - (1 - row["pool/accepted"] / row["pool/drawn"])) < 1e-12
        assert sum(row[f"pool/drawn_{origin}"] for origin in figures.ORIGINS) == row["pool/drawn"]
    assert figures.over_steps(rows)["pool/rollouts"] == rollouts


@quick
@given(runs())
def test_flips_are_what_a_history_kept_by_hand_says(run):
    dead, flipped, attempted = set(), set(), set()
    for _, drawn_Q, _, settled in play(run):
        flipped |= set(settled.accepted.tolist()) & dead
        for query, verdict in zip(drawn_Q.tolist(), settled.verdict_Q.tolist(), strict=True):
            if verdict != "fault":
                attempted.add(query)
            if verdict in ("hard", "easy"):
                dead.add(query)
        now = figures.pool_figures(settled.pool)
        assert now["pool/flipped_queries"] == len(flipped) and now["pool/never_flipped"] == len(dead - flipped)
        assert now["pool/flipped"] == (len(flipped) / len(attempted) if attempted else None)


@quick
@given(runs())
def test_the_probe_asks_the_queries_that_the_pool_calls_flipped(run):
    draws, pool = [], None
    for step, (_, drawn_Q, _, settled) in enumerate(play(run), 1):
        pool, accepted = settled.pool, settled.accepted.tolist()
        draws += [
            {
                "step": step,
                "index": query,
                "verdict": verdict,
                "accepted": query in accepted,
                "successes": 0,
                "valid": 2,
            }
            for query, verdict in zip(drawn_Q.tolist(), settled.verdict_Q.tolist(), strict=True)
        ]
    filed, never = recycled(draws, pool.size if pool else 0)
    assert sorted(one.index for one in filed) == ([] if pool is None else np.flatnonzero(pool.flipped_P).tolist())
    assert all(one.filed < one.accepted for one in filed) and not {*never} & {draw["index"] for draw in draws}


@many
@given(st.integers(2, 33), st.data())
def test_signal_is_max_over_min_on_any_float32(samples, data):
    """Equal rewards k/n are where a float standard deviation goes wrong; one unit in the last place is signal."""
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
    fraction = st.builds(lambda k, n: float(np.float32(min(k, n) / n)), st.integers(0, 33), st.integers(1, 33))
    value = np.float32(data.draw(st.one_of(finite, fraction)))
    valid_G = np.array(data.draw(st.lists(st.booleans(), min_size=samples, max_size=samples)))
    reward_QG = np.full((3, samples), value, np.float32)
    reward_QG[1, data.draw(st.integers(0, samples - 1))] = np.nextafter(value, np.float32(0 if value else 1))
    reward_QG[2] = data.draw(st.lists(st.one_of(finite, fraction), min_size=samples, max_size=samples))
    graded = grades(reward_QG, np.tile(valid_G, (3, 1)))
    verdict_Q = judge(np.arange(3), graded, step=0, accept=3).verdict_Q
    for reward_G, verdict in zip(graded.reward_QG, verdict_Q, strict=True):
        valid = reward_G[valid_G]
        expected = "fault" if len(valid) < 2 else "signal" if valid.max() > valid.min() else None
        assert verdict == expected or (expected is None and verdict in ("easy", "hard"))
    assert verdict_Q[0] != "signal"


def test_equal_fractions_are_never_signal_at_any_group_size():
    for samples in range(2, 34):
        reward_QG = np.tile(np.float32([k / samples for k in range(samples + 1)])[:, None], (1, samples))
        verdict_Q = judge(
            np.arange(samples + 1), grades(reward_QG, np.ones_like(reward_QG, bool)), step=0, accept=9
        ).verdict_Q
        assert verdict_Q.tolist() == ["hard"] * samples + ["easy"]


def test_a_policy_that_never_changes_looks_as_if_it_recovered_queries():
    """The null control (10,000 queries of Beta(.35, .35), 84,480 rollouts, K 4, k 2): no learning, and still about .73
    of the last tenth's batch is recycled and .18 of the queries flip, by sampling noise alone."""
    run = Run(beta_rates(10_000, 0.35, 0.35, seed=0), recycle, steps=330, queries=32, samples=4, oversample=2)
    rows = []
    for step, (before, drawn_Q, graded, settled) in enumerate(play(run)):
        outcome = judge(drawn_Q, graded, step=step, accept=32)
        rows.append(figures.step_figures(before, outcome, settled.pool, accept=32))
    first, last = figures.over_steps(rows[:33]), figures.over_steps(rows[-33:])
    assert figures.over_steps(rows)["pool/rollouts"] == 84_480
    assert abs(first["pool/zero_variance_rate"] - 0.64) < 0.03
    assert abs(last["pool/zero_variance_rate"] - 0.85) < 0.03
    assert abs(last["pool/accepted"] / 33 - 9.5) < 1.0
    assert abs(last["pool/recycled_share"] - 0.73) < 0.05
    assert abs(last["pool/flipped"] - 0.18) < 0.02
    assert figures.starvation(first) is None and figures.starvation(last) is not None
