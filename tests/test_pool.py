"""The pool, numbers by hand: draws, verdicts, records, resets and what a checkpoint keeps."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from settling import settle as settled_step
from settling import settle_rewards

from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import judge
from qr_jax.records import Grades, grades


def with_weights(*weights):
    return dataclasses.replace(pools.create(len(weights)), weight_P=np.array(weights, float))


def settle(pool, drawn, rewards, valid=None, **settings):
    return settle_rewards(pool, drawn, rewards, valid_QG=valid, **settings)


def test_a_new_pool_is_fresh_and_read_only():
    pool = pools.create(3, family_P=[1, 2, 2])
    assert pool.size == 3 and pool.epoch == 0 and pool.memory == {}
    assert pool.weight_P.tolist() == [1, 1, 1] and pool.weight_P.dtype == np.float64
    assert pool.state_P.tolist() == [0, 0, 0] and pool.state_P.dtype == np.int8
    assert pool.last_successes_P.tolist() == pool.last_step_P.tolist() == [-1, -1, -1]
    assert pool.family_P.tolist() == [1, 2, 2]
    for name in [*pools.ARRAYS, "family_P"]:
        with pytest.raises(ValueError, match="read-only"):
            getattr(pool, name)[0] = 1


def test_the_noise_is_a_raw_philox_stream_under_a_folded_key():
    """SplitMix64 seeded with 0 gives 0xE220A8397B1DCDAF first (its published test vector)."""
    raw = np.random.Philox(key=0xE220A8397B1DCDAF).random_raw(5).tolist()
    assert uniforms(5, 0).tolist() == [((word >> 12) + 0.5) / 2**52 for word in raw]
    values = uniforms(5, 1, 2, 3)
    assert values.tolist() == uniforms(9, 1, 2, 3)[:5].tolist()
    assert ((values > 0) & (values < 1)).all()
    assert values.tolist() != uniforms(5, 1, 3, 2).tolist()
    assert uniforms(3, 1, -1).tolist() == uniforms(3, 1, 2**64 - 1).tolist()


def test_draws_stay_what_they_were_over_versions():
    pool = pools.create(1000)
    assert pools.draw(pool, 6, seed=0, step=0).tolist() == [607, 500, 134, 926, 965, 405]
    assert pools.draw(pool, 6, seed=1, step=2, round=3).tolist() == [427, 752, 342, 122, 16, 854]


def test_a_draw_is_distinct_eligible_and_short_when_few_are_left():
    pool = with_weights(0, 1, 1, 0, 1)
    assert sorted(pools.draw(pool, 9, seed=0, step=0).tolist()) == [1, 2, 4]
    assert sorted(pools.draw(pool, 9, seed=0, step=0, exclude=[2]).tolist()) == [1, 4]
    assert pools.draw(with_weights(0, 0), 2, seed=0, step=0).tolist() == []
    assert pools.draw(pool, 0, seed=0, step=0).dtype == np.int64


def test_an_exclusion_or_a_weight_does_not_disturb_the_other_queries():
    pool = pools.create(50)
    order = pools.draw(pool, 50, seed=3, step=1).tolist()
    gone = set(order[:5])
    assert pools.draw(pool, 50, seed=3, step=1, exclude=gone).tolist() == order[5:]
    weight_P = pool.weight_P.copy()
    weight_P[order[0]] = 0.0
    assert pools.draw(dataclasses.replace(pool, weight_P=weight_P), 49, seed=3, step=1).tolist() == order[1:]


def test_another_step_round_or_seed_draws_others():
    pool = pools.create(1000)
    draws = [
        pools.draw(pool, 20, **{"seed": 0, "step": 0} | change).tolist()
        for change in ({}, {"seed": 1}, {"step": 1}, {"round": 1})
    ]
    assert len({tuple(draw) for draw in draws}) == 4


def test_by_largest_goes_by_weight_and_breaks_ties_by_the_races():
    pool = with_weights(2, 1, 3, 1, 1, 2, 0)
    drawn = pools.draw(pool, 4, seed=0, step=0, by="largest").tolist()
    assert drawn[0] == 2 and sorted(drawn[1:3]) == [0, 5] and drawn[3] in (1, 3, 4)
    equal = pools.create(30)
    assert (pools.draw(equal, 7, seed=4, step=4, by="largest") == pools.draw(equal, 7, seed=4, step=4)).all()
    assert len(pools.draw(pool, 9, seed=0, step=0, by="largest")) == 6


def test_extreme_weights_neither_overflow_nor_lose_their_order():
    pool = with_weights(5e-324, 1e308, 1e308, 1e-300)
    drawn = pools.draw(pool, 4, seed=0, step=0).tolist()
    assert sorted(drawn[:2]) == [1, 2] and sorted(drawn) == [0, 1, 2, 3]
    huge, plain = with_weights(*[1e308] * 40), pools.create(40)
    assert (pools.draw(huge, 9, seed=0, step=0) == pools.draw(plain, 9, seed=0, step=0)).all()


def test_a_million_queries_draw_and_settle_at_once():
    pool = pools.create(1_000_000)
    started = time.perf_counter()
    drawn_Q = pools.draw(pool, 1024, seed=0, step=0)
    settled = settle(pool, drawn_Q, np.arange(1024)[:, None] % [2, 3], accept=512)
    assert len(drawn_Q) == 1024 and len(settled.accepted) == 512
    assert time.perf_counter() - started < 1.0  # about 0.01 s on an idle core


@pytest.mark.parametrize(
    "rule, digest",
    [
        ("recycle", "d438b9e632629078"),
        ("soft_recycle", "f7b1316fcce7fc64"),
        ("grpo", "9aa481e1686951c8"),
        ("bounded_dapo", "9aa481e1686951c8"),
    ],
)
def test_steps_of_each_rule_stay_what_they_were_over_versions(rule, digest):
    """Draws by chance and by weight, with exclusions and faults; written down before draws looked only at few races."""
    pool, chance = pools.create(3000), np.random.Philox(key=5)
    for step in range(20):
        exclude = np.arange(step, 3000, 97) if step % 3 == 0 else ()
        by = "largest" if step % 4 == 3 else "chance"
        drawn_Q = pools.draw(pool, 128, seed=7, step=step, exclude=exclude, by=by)
        word_QG = chance.random_raw(len(drawn_Q) * 4).reshape(-1, 4) >> np.uint64(60)
        pool = settle(pool, drawn_Q, word_QG % 2, valid=word_QG < 14, step=step, accept=64, rule=rule).pool
    assert pools.digest(pool)[:16] == digest


def test_draw_says_what_is_wrong():
    with pytest.raises(ValueError, match="from 3 to 3; the pool's go from 0 to 2"):
        pools.draw(pools.create(3), 1, seed=0, step=0, exclude=[3])
    with pytest.raises(ValueError, match="at least 1 query"):
        pools.create(0)
    with pytest.raises(ValueError, match=r"shape \(3,\), found shape \(2,\)"):
        pools.create(3, family_P=[1, 2])


def test_verdicts_by_hand():
    rewards = [[1, 0, 0], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    valid = [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    outcome = judge(np.arange(7), grades(rewards, valid), step=0, accept=9)
    assert outcome.verdict_Q.tolist() == ["signal", "easy", "hard", "hard", "fault", "easy", "fault"]


def test_the_channel_decides_signal_and_the_outcome_names_easy_and_hard():
    graded = grades([[1.5, 1.0], [1.5, 1.5]], np.ones((2, 2)), outcome_QG=[[1, 1], [1, 1]])
    assert judge([0, 1], graded, step=0, accept=9).verdict_Q.tolist() == ["signal", "easy"]
    assert judge([0, 1], graded, step=0, accept=9, channel="outcome").verdict_Q.tolist() == ["easy", "easy"]
    split = grades([[0.2, 0.2]], np.ones((1, 2)), outcome_QG=[[1, 0]])
    assert judge([0], split, step=0, accept=9).verdict_Q.tolist() == ["hard"]
    assert judge([0], split, step=0, accept=9, channel="outcome").verdict_Q.tolist() == ["signal"]


def test_grades_that_nobody_cleaned_are_cleaned():
    """A NaN is a fault of its episode, a subnormal is 0: raw grades are judged as `records.grades` would have them."""
    raw = Grades(np.float32([[np.nan, 0, 0], [1e-40, 0, 0], [np.nan, 1, np.inf]]), np.ones((3, 3), bool))
    assert judge([0, 1, 2], raw, step=0, accept=9).verdict_Q.tolist() == ["hard", "hard", "fault"]


def test_settle_writes_down_what_a_step_showed():
    pool = settle(pools.create(5), [3, 0, 4, 1], [[1, 0], [0, 0], [1, 1], [0, 1]], step=7, accept=1).pool
    assert [pools.STATES[state] for state in pool.state_P] == ["hard", "surplus", "fresh", "consumed", "easy"]
    assert [pools.LAST[last] for last in pool.last_P] == ["hard", "surplus", "none", "accepted", "easy"]
    assert pool.attempts_P.tolist() == [1, 1, 0, 1, 1]
    assert pool.last_successes_P.tolist() == [0, 1, -1, 1, 2]
    assert pool.last_valid_P.tolist() == [2, 2, 0, 2, 2]
    assert pool.last_step_P.tolist() == [7, 7, -1, 7, 7]
    assert pool.accepted_P.tolist() == [0, 0, 0, 1, 0]
    assert pool.zero_variance_P.tolist() == [1, 0, 0, 0, 1]


def test_a_query_flips_when_it_is_accepted_after_a_dead_group():
    pool = settle(pools.create(3), [0, 1], [[0, 0], [1, 0]]).pool
    pool = settle(pool, [0, 2], [[1, 0], [1, 0]], step=1, accept=0).pool
    assert not pool.flipped_P.any()  # signal, but surplus
    pool = settle(pool, [0, 2], [[1, 0], [1, 0]], step=2).pool
    assert pool.flipped_P.tolist() == [True, False, False]


def test_a_faulty_group_leaves_its_query_as_it_was():
    pool = settle(pools.create(2), [0, 1], [[0, 0], [0, 0]]).pool
    settled = settle(pool, [0, 1], [[1, 1], [1, 1]], valid=[[1, 0], [0, 0]], step=1, rule="grpo")
    assert settled.verdict_Q.tolist() == ["fault", "fault"]
    assert pools.digest(settled.pool) == pools.digest(pool)


def test_several_rounds_of_a_step_settle_at_once():
    """The first B signal groups are counted over both rounds, in the order they were drawn."""
    pool = pools.create(8)
    first = pools.draw(pool, 2, seed=0, step=0)
    second = pools.draw(pool, 2, seed=0, step=0, round=1, exclude=first)
    drawn_Q = np.concatenate([first, second])
    settled = settle(pool, drawn_Q, [[0, 0], [1, 0], [1, 0], [0, 1]], accept=2)
    assert settled.accepted_at.tolist() == [1, 2] and settled.accepted.tolist() == [first[1], second[0]]


def test_an_empty_draw_settles():
    pool = with_weights(0, 0)
    settled = settled_step(pool, [], grades(np.ones((0, 4)), np.ones((0, 4))), step=0, accept=2, rule="recycle")
    assert settled.accepted.tolist() == [] and pools.digest(settled.pool) == pools.digest(pool)


def test_settle_says_what_is_wrong():
    pool = pools.create(4)
    with pytest.raises(ValueError, match=r"3 queries, 2 distinct: \[1\] come twice"):
        settle(pool, [1, 1, 2], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="from -1 to 2; the pool's go from 0 to 3"):
        settle(pool, [-1, 2], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="from 2 to 4"):
        settle(pool, [2, 4], np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"2 queries were drawn, but the grades hold rewards \(3, 2\)"):
        settle(pool, [0, 1], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="float64"):
        settle(pool, [0.5, 1], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="there is no rule 'recycel'; did you mean recycle"):
        settle(pool, [0], np.zeros((1, 2)), rule="recycel")


@pytest.mark.parametrize(
    "weight_P, message",
    [
        (np.ones(3), r"shape \(4,\), found shape \(3,\)"),
        (np.array([1, np.nan, 1, 1]), "1 are not, the first nan at query 1"),
        (np.array([1, 1, -0.5, 1]), "the first -0.5 at query 2"),
        (np.array([np.inf, 1, 1, 1]), "the first inf at query 0"),
    ],
)
def test_a_rule_with_bad_weights_is_named(weight_P, message):
    with pytest.raises(ValueError, match="the rule's weights.*" + message):
        settle(pools.create(4), [0], [[0, 0]], rule=lambda pool, outcome: (weight_P, {}))


def test_a_rule_sees_the_step_in_the_pool_and_keeps_its_memory():
    def by_successes(pool, outcome):
        seen = pool.memory.get("seen", np.zeros(pool.size)) + (pool.last_step_P == outcome.step)
        return 1.0 + pool.last_successes_P.clip(0), {"seen": seen}

    pool = settle(pools.create(3), [0, 1], [[1, 1], [0, 1]], rule=by_successes).pool
    assert pool.weight_P.tolist() == [3, 2, 1] and pool.memory["seen"].tolist() == [1, 1, 0]
    assert not pool.memory["seen"].flags.writeable


def test_refresh_resets_under_the_bound_and_not_at_it():
    pool = settle(pools.create(4), [0, 1, 2], [[1, 0], [1, 0], [0, 0]]).pool
    assert pools.refresh(pool, below=0.5) is pool  # 2 of 4 are eligible
    fresh = pools.refresh(pool, below=0.51)
    assert fresh.weight_P.tolist() == [1, 1, 1, 1] and fresh.epoch == 1
    assert {pools.STATES[state] for state in fresh.state_P} == {"reset"}
    assert fresh.attempts_P.tolist() == [1, 1, 1, 0]
    assert [pools.LAST[last] for last in fresh.last_P] == ["accepted", "accepted", "hard", "none"]


def test_an_empty_pool_is_reset_by_any_bound_but_zero():
    empty = with_weights(0, 0)
    assert pools.refresh(empty, below=0.0) is empty
    assert pools.refresh(empty, below=1e-9).weight_P.tolist() == [1, 1]


def test_arrays_through_a_file_give_the_same_pool(tmp_path):
    pool = settle(pools.create(3, family_P=[0, 1, 1]), [0, 2], [[1, 0], [0, 0]]).pool
    pool = dataclasses.replace(pool, epoch=2, memory={"belief": np.array([[0.1, 0.2]]), "count": np.array(3)})
    np.savez(tmp_path / "pool.npz", **pools.to_arrays(pool))
    with np.load(tmp_path / "pool.npz", allow_pickle=False) as stored:
        back = pools.from_arrays(dict(stored))
    assert pools.digest(back) == pools.digest(pool)
    assert back.epoch == 2 and back.memory["count"].shape == () and back.family_P.tolist() == [0, 1, 1]
    assert all(type(array) is np.ndarray for array in pools.to_arrays(back).values())


def test_stored_arrays_that_do_not_fit_are_refused():
    arrays = pools.to_arrays(pools.create(3))
    with pytest.raises(ValueError, match=r"missing \['last_P'\], unknown \['lost_P'\]"):
        pools.from_arrays({("lost_P" if name == "last_P" else name): value for name, value in arrays.items()})
    with pytest.raises(ValueError, match="state_P holds values outside 0..5"):
        pools.from_arrays(arrays | {"state_P": np.array([0, 6, 0])})
    with pytest.raises(ValueError, match="plain types"):
        dataclasses.replace(pools.create(2), memory={"what": np.array([object()])})


def test_a_digest_sees_every_array():
    pool = pools.create(3)
    seen = {pools.digest(pool), pools.digest(dataclasses.replace(pool, epoch=1))}
    for name, dtype in pools.ARRAYS.items():
        changed = getattr(pool, name).copy()
        changed[1] = dtype(1) if not changed[1] else dtype(0)
        seen.add(pools.digest(dataclasses.replace(pool, **{name: changed})))
    seen.add(pools.digest(dataclasses.replace(pool, memory={"a": np.zeros(2)})))
    seen.add(pools.digest(dataclasses.replace(pool, memory={"a": np.zeros((2, 1))})))
    seen.add(pools.digest(dataclasses.replace(pool, memory={"a": np.zeros(2, np.float32)})))
    assert len(seen) == 5 + len(pools.ARRAYS)


def test_a_query_list_hash_depends_on_order_and_on_where_ids_end():
    hashes = {pools.query_list_hash(ids) for ids in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], [])}
    assert len(hashes) == 5 and all(len(value) == 64 for value in hashes)


def test_the_pool_and_its_rules_import_no_jax():
    program = (
        "import sys; from qr_jax.pool import figures, noise, pool; from qr_jax.pool.rounds import once\n"
        "from qr_jax.methods.rules import bounded_dapo; from qr_jax.pool.rules import recycle, soft_recycle, grpo\n"
        "found = [name for name in sys.modules if name.split('.')[0] in ('jax', 'jaxlib', 'flax')]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
