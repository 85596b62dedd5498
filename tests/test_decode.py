"""Decoding: log-probabilities are the learner's own, tokens follow their keys, and caches hold what was put there."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rollouts
from rollouts import CFG, SETTINGS, WORDS, flat, random_params, roll, words_env, world

from qr_jax import config, learner
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.pack import pack
from qr_jax.parallel import mesh as meshes
from qr_jax.queries.world import vocabulary
from qr_jax.records import grades
from qr_jax.rollout import cache, decode
from qr_jax.rollout.engine import PURPOSES, Engine


@pytest.mark.parametrize(
    ("family", "chunk", "temperature"), [("qwen3", 8, 1.0), ("qwen2", 3, 0.7), ("llama", 1, 1.0), ("qwen3", 3, 0.7)]
)
def test_log_probabilities_are_those_of_a_forward_pass_without_a_cache(family, chunk, temperature):
    """Over several turns, with observations between and with tokens dropped that were decoded past a turn's end."""
    cfg, params = replace(CFG, family=family), random_params(family)
    made = Engine(cfg, WORDS, replace(SETTINGS, chunk=chunk, buckets=(64,)))
    episodes = flat(roll(made, params, world().train[:6], 2, env=words_env, temperature=temperature))
    assert max(episode.turn_L.max() for episode in episodes) == 3
    for episode in episodes:
        rollouts.assert_whole(episode, made, words_env)
        expected_L = rollouts.logp(params, episode, temperature=temperature, cfg=cfg)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)


def test_the_learner_measures_a_gap_below_1e_4_between_its_log_probabilities_and_the_samplers():
    made = Engine(CFG, WORDS, replace(SETTINGS, chunk=8, buckets=(64,)))
    groups = roll(made, random_params(), world().train[:4], 4, env=words_env, temperature=0.7)
    reward_QG = np.tile([0.0, 1.0], (4, 2))
    batch = pack(groups, grades(reward_QG, np.ones((4, 4), bool)), rows=4, row_tokens=160, queries=4, samples=4)
    mesh = meshes.make_mesh(config.Mesh(devices=1))
    bound = learner.make(CFG, config.Model(vocab_block=200), config.Learner(), mesh, steps=1, temperature=0.7)
    _, _, metrics = bound.gradient(bound.init(random_params()), batch)
    assert int(metrics["tokens"]) == sum(episode.mask_L.sum() for episode in flat(groups))
    assert 0 < float(metrics["gap_max"]) < 1e-4


def test_every_token_is_the_one_its_key_and_position_choose():
    made = Engine(CFG, WORDS, replace(SETTINGS, chunk=8, buckets=(64,)))
    queries, params = world().train[:3], random_params()
    groups = roll(made, params, queries, 2, env=words_env, seed=5, step=7, purpose="pass", query_keys=[30, 10, 20])
    key_N2 = made.rows.keys(5, PURPOSES["pass"], 7, [30, 30, 10, 10, 20, 20], [0, 1] * 3)
    for episode, key_2 in zip(flat(groups), key_N2, strict=True):
        logits_LV = rollouts.logits(params, episode.ids_L)[:-1]
        position_L = np.arange(1, len(episode.ids_L))
        score_LV, _ = decode.perturbed(
            logits_LV, np.tile(key_2, (len(position_L), 1)), position_L, np.float32(1), decode.Sampling()
        )
        chosen_L = np.argmax(np.asarray(score_LV), axis=-1)
        assert np.array_equal(chosen_L[episode.mask_L[1:]], episode.ids_L[1:][episode.mask_L[1:]])


def test_greedy_takes_the_most_probable_token_and_needs_no_key():
    made = Engine(CFG, WORDS, replace(SETTINGS, chunk=8, buckets=(64,)))
    params = random_params()
    one, other = (
        flat(roll(made, params, world().train[:2], 1, env=words_env, temperature=0.0, seed=s)) for s in (0, 1)
    )
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.ids_L, b.ids_L)
        best_L = rollouts.logits(params, a.ids_L)[:-1].argmax(-1)
        assert np.array_equal(best_L[a.mask_L[1:]], a.ids_L[1:][a.mask_L[1:]])


def test_keys_differ_by_seed_purpose_step_query_and_sample():
    base = (1, 2, 3)
    keys = [tuple(np.asarray(decode.episode_keys(*map(np.uint32, base), *np.uint32([[4], [5]])))[0])]
    for changed in (
        (9, 2, 3, 4, 5),
        (1, 9, 3, 4, 5),
        (1, 2, 9, 4, 5),
        (1, 2, 3, 9, 5),
        (1, 2, 3, 4, 9),
        (1, 2, 3, 5, 4),
    ):
        numbers = [np.uint32(number) for number in changed]
        keys.append(tuple(np.asarray(decode.episode_keys(*numbers[:3], numbers[3][None], numbers[4][None]))[0]))
    assert len(set(keys)) == 7


LOGP = np.log(np.array([[0.4, 0.1, 0.3, 0.2]], np.float32))


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [
        (1.0, 0, [0, 1, 2, 3]),
        (1.0, 2, [0, 2]),
        (0.39, 0, [0]),
        (0.5, 0, [0, 2]),
        (0.71, 0, [0, 2, 3]),
        (0.55, 2, [0]),  # of what top_k leaves, 0.4 / 0.7 = 0.571 is the first's
        (0.6, 2, [0, 2]),
        (1.0, 4, [0, 1, 2, 3]),
    ],
)
def test_top_p_and_top_k_by_hand(top_p, top_k, kept):
    sampling = decode.Sampling(top_p, top_k)
    score_SV, logp_SV = decode.perturbed(LOGP, np.zeros((1, 2), np.uint32), np.int32([0]), np.float32(0), sampling)
    assert np.flatnonzero(np.isfinite(np.asarray(score_SV)[0])).tolist() == kept
    np.testing.assert_allclose(logp_SV, LOGP, atol=1e-6)  # what is reported is the distribution before the cut


def test_tokens_are_drawn_as_often_as_they_are_probable():
    draws = 4000
    key_S2 = np.asarray(
        decode.episode_keys(*np.uint32([0, 0, 0]), np.zeros(draws, np.uint32), np.arange(draws, dtype=np.uint32))
    )
    logits_SV = np.tile(np.log(np.float32([[0.5, 0.3, 0.15, 0.05]])), (draws, 1))
    token_S, logp_S = decode.sample(logits_SV, key_S2, np.zeros(draws, np.int32), np.float32(2), decode.Sampling())
    flattened = np.sqrt([0.5, 0.3, 0.15, 0.05]) / np.sqrt([0.5, 0.3, 0.15, 0.05]).sum()  # temperature 2
    share_V = np.bincount(token_S, minlength=4) / draws
    np.testing.assert_allclose(share_V, flattened, atol=4 * np.sqrt(0.25 / draws))
    np.testing.assert_allclose(logp_S, np.log(flattened)[token_S], atol=1e-5)


def numbered(rows, positions, first=0):
    """A cache of one layer, one head and one channel in which each entry is its own number."""
    part = jnp.arange(first, first + rows * positions, dtype=jnp.float32).reshape(1, rows, 1, positions, 1)
    return part, -part


def test_write_and_move_by_hand():
    held = cache.write(numbered(2, 4), numbered(2, 3, first=50), np.int32([1, 0]), np.int32([2, 0]), np.int32([2, 0]))
    assert np.array_equal(held[0][0, :, 0, :, 0], [[0, 1, 2, 3], [4, 5, 50, 51]])
    past_the_end = cache.write(numbered(1, 4), numbered(1, 3, first=50), np.int32([0]), np.int32([3]), np.int32([3]))
    assert np.array_equal(past_the_end[1][0, 0, 0, :, 0], [0, -1, -2, -50])
    # row 1 of the other cache, of which 3 positions are in use, over row 0; the second move goes past the end
    moved = cache.move(numbered(2, 4), numbered(3, 4, first=20), np.int32([1, 0]), np.int32([0, 2]), np.int32([3, 4]))
    assert np.array_equal(moved[0][0, :, 0, :, 0], [[24, 25, 26, 0], [4, 5, 6, 7]])


def test_what_is_not_finite_stays_with_the_episodes_that_hold_it():
    """One word's embedding is not a number (heads untied): its episodes are faults, and rows they had serve others."""
    words = WordTokenizer([*vocabulary(), "spoilt"])
    spoilt = words.size - 1
    cfg = replace(CFG, tied=False, vocab=words.size)
    params = dict(rollouts.decoder.init(cfg, jax.random.key(1)))
    params["head"] = params["head"].at[spoilt].set(0)  # never the most probable word
    made = Engine(cfg, words, replace(SETTINGS, slots=2, store=2, buckets=(64,)))
    queries = [
        replace(query, question="spoilt " * (at % 2) + query.question) for at, query in enumerate(world().train[:8])
    ]
    before = flat(roll(made, params, queries, 1, env=words_env, temperature=0.0))
    broken = params | {"embed": params["embed"].at[spoilt].set(jnp.nan)}
    after = flat(roll(made, broken, queries, 1, env=words_env, temperature=0.0))
    again = flat(roll(made, params, queries, 1, env=words_env, temperature=0.0))
    for number, (a, b, c) in enumerate(zip(before, after, again, strict=True)):
        assert (spoilt in a.ids_L) == bool(number % 2) and a.valid
        assert np.array_equal(a.ids_L, c.ids_L)
        if number % 2:
            assert (b.stop, b.valid) == ("fault", False) and "not finite" in b.fault
        else:
            assert b.valid and np.array_equal(a.ids_L, b.ids_L)
