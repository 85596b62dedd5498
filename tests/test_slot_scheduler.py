"""Who sits where: shared beginnings enter the cache once, and the longest begin first."""

import numpy as np
import pytest
import rollouts
from rollouts import engine, flat, near_ties, random_params, roll, with_system, words_env, world

from qr_jax.records import Say
from qr_jax.rollout.engine import PURPOSES
from qr_jax.rollout.live import Statistics
from qr_jax.rollout.slot_scheduler import SlotScheduler, common


def test_common_beginnings_by_hand():
    assert [common([1, 2, 3], other) for other in ([1, 2, 4], [1, 2, 3, 4], [2], [])] == [2, 3, 0, 0]


@pytest.mark.thorough
def test_what_all_prompts_share_enters_the_cache_once_and_changes_no_token():
    made, alone = engine(slots=4, buckets=(64,)), engine(slots=4, store=2, buckets=(64,))  # a store of 2 spares no row
    queries, params = world().train[:6], random_params()
    shared = flat(roll(made, params, queries, 2, env=with_system))
    apart = flat(roll(alone, params, queries, 2, env=with_system))
    key_N2 = made.rows.keys(0, PURPOSES["train"], 0, np.repeat(range(6), 2).tolist(), [0, 1] * 6)
    near_ties(made, params, key_N2, shared, apart)
    prompts = [len(made.chat.open(with_system(query, []))) for query in queries]
    prefix = 30
    assert alone.statistics.prompt_tokens == sum(prompts)
    assert made.statistics.prompt_tokens <= sum(prompts) - 5 * prefix
    for episode in shared:
        rollouts.assert_whole(episode, made, with_system)
        np.testing.assert_allclose(episode.logp_L, rollouts.logp(params, episode), atol=1e-4, rtol=0)


def test_what_all_prompts_share_is_computed_with_each_where_that_takes_no_more_tiles():
    whole = engine(slots=4, tile=64, buckets=(64,))
    queries = world().train[:6]
    roll(whole, random_params(), queries, 2, env=with_system)
    assert whole.statistics.prompt_tokens == sum(len(whole.chat.open(with_system(query, []))) for query in queries)


def test_where_the_store_has_no_row_to_spare_the_first_new_prompt_lends_what_all_share():
    """Four slots, four rows, a sample each: the prompts take every row, and each was computed whole."""
    made, alone = engine(slots=4, buckets=(64,)), engine(slots=4, store=2, buckets=(64,))
    queries, params = world().train[:6], random_params()
    shared, apart = (flat(roll(one, params, queries, 1, env=with_system)) for one in (made, alone))
    near_ties(made, params, made.rows.keys(0, PURPOSES["train"], 0, list(range(6)), [0] * 6), shared, apart)
    assert made.statistics.prompt_tokens <= alone.statistics.prompt_tokens - 4 * 30
    for episode in shared:
        rollouts.assert_whole(episode, made, with_system)
        np.testing.assert_allclose(episode.logp_L, rollouts.logp(params, episode), atol=1e-4, rtol=0)


def test_the_longest_begin_first_and_results_come_in_the_order_asked():
    made, begun = engine(slots=4, buckets=(64,)), []

    def env(query, turns):
        if not turns:
            begun.append(query.id)
        return words_env(query, turns)

    queries = list(world().train[:6])
    plain = roll(made, random_params(), queries, 1, env=env)
    begun.clear()
    sorted_by = roll(made, random_params(), queries, 1, env=env, expected_tokens=[3, 9, 1, 9, 2, 8])
    assert list(dict.fromkeys(begun)) == [queries[at].id for at in (1, 3, 5, 0, 4, 2)]
    assert [group[0].query.id for group in sorted_by] == [query.id for query in queries]
    key_N2 = made.rows.keys(0, PURPOSES["train"], 0, list(range(6)), [0] * 6)
    near_ties(made, random_params(), key_N2, flat(plain), flat(sorted_by))


def test_prompts_that_share_nothing_take_no_row_for_it():
    made = engine(slots=4, buckets=(64,))
    prompts = {0: list(range(40)), 1: list(range(100, 140))}
    seats = SlotScheduler(made.rows, None, [(0, 0), (1, 0)], lambda query: (prompts[query], Say("x")), Statistics())
    assert seats.prefix == [] and seats.all_free()
    prompts[1] = [*range(20), 7, 7]
    for queries, prefix in ((2, []), (4, list(range(20)))):  # two tiles: it saves each prompt one
        order = [(query, 0) for query in range(queries)]
        seats = SlotScheduler(made.rows, None, order, lambda query: (prompts[query], Say("x")), Statistics())
        assert seats.prefix == prefix
