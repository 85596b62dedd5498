"""Decoding: log-probabilities are the learner's own, tokens follow their keys, and caches hold what was put there."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import killed_run
import numpy as np
import pytest
import rollouts
from rollouts import CFG, SETTINGS, WORDS, flat, random_params, roll, trained_params, words_env, world

from qr_jax import config
from qr_jax.data.world.generate import vocabulary
from qr_jax.learner.pack import pack
from qr_jax.models import cached_attention
from qr_jax.models.cached_attention import Turned
from qr_jax.models.tokenizer import WordTokenizer
from qr_jax.records import Query, grades
from qr_jax.rollout import cache, decode, on_cpu
from qr_jax.rollout.engine import PURPOSES, Engine
from qr_jax.rollout.kv_cache import KVCache, views_up_to
from qr_jax.rollout.sampling import choose
from qr_jax.run import begin, runs
from qr_jax.settings import checks
from qr_jax.step import runtime
from qr_jax.step.runtime import bind


@pytest.mark.parametrize(
    ("qk_norm", "qkv_bias", "chunk", "temperature"),
    [(True, False, 8, 1.0), (False, True, 3, 0.7), (False, False, 1, 1.0), (True, False, 3, 0.7), (True, True, 8, 1.0)],
)
def test_log_probabilities_are_those_of_a_forward_pass_without_a_cache(qk_norm, qkv_bias, chunk, temperature):
    """Over several turns, with observations between and with tokens dropped that were decoded past a turn's end."""
    cfg = replace(CFG, qk_norm=qk_norm, qkv_bias=qkv_bias)
    params = random_params(cfg)
    made = Engine(cfg, WORDS, replace(SETTINGS, chunk=chunk, buckets=(64,)))
    episodes = flat(roll(made, params, world().train[:6], 2, env=words_env, temperature=temperature))
    assert max(episode.turn_L.max() for episode in episodes) == 3
    for episode in episodes:
        rollouts.assert_whole(episode, made, words_env)
        expected_L = rollouts.logp(params, episode, temperature=temperature, cfg=cfg)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)


def test_in_bfloat16_they_are_near_those_of_float32_on_every_platform():
    made = Engine(CFG, WORDS, replace(SETTINGS, chunk=8, buckets=(64,)), compute="bfloat16")
    for episode in flat(roll(made, random_params(), world().train[:3], 2, env=words_env)):
        rollouts.assert_whole(episode, made, words_env)
        np.testing.assert_allclose(episode.logp_L, rollouts.logp(random_params(), episode), atol=0.15, rtol=0)


@pytest.mark.parametrize("words", [130, 137, 144, 145])
def test_log_probabilities_behind_a_prompt_just_past_a_view(words):
    """Of its tokens all but the last are appended to the store: 129 to 144, where a view of 128 would be too short."""
    made = rollouts.engine(slots=4, buckets=(64,))
    text = " ".join(question.question for question in world().train).split()
    prompts = [Query(str(at), " ".join(text[at : at + words]), ("x",)) for at in (0, 500)]
    for episode in flat(roll(made, random_params(), prompts, 2, env=words_env)):
        assert np.argmax(episode.mask_L) == words
        expected_L = rollouts.logp(random_params(), episode)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)


@pytest.mark.thorough
def test_the_learner_measures_a_gap_below_1e_4_between_its_log_probabilities_and_the_samplers(tmp_path):
    """Engine and learner as training binds them, at a temperature that is not 1."""
    settings = killed_run.tiny(tmp_path)
    settings = replace(
        settings,
        model=replace(settings.model, vocab_block=200),
        rollout=replace(SETTINGS, chunk=8, buckets=(64,), temperature=0.7),
        learner=config.Learner(),
    )
    run = runs.Run(tmp_path / "run", settings, stage="train", say=lambda text: None)
    parts = bind(settings, run)
    run.close()
    assert parts.agent.cfg == CFG
    bound, params = parts.learner, random_params()
    groups = roll(parts.agent.engine, params, world().train[:4], 4, env=words_env)
    reward_QG = np.tile([0.0, 1.0], (4, 2))
    batch = pack(groups, grades(reward_QG, np.ones((4, 4), bool)), rows=4, row_tokens=160, queries=4, samples=4)
    _, _, metrics = bound.gradient(bound.init(params), batch)
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
        key_L2 = np.tile(key_2, (len(position_L), 1))
        chosen_L = np.asarray(choose(logits_LV.T, key_L2, position_L, np.float32(1)).token_S)
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


def test_the_largest_seed_that_a_config_may_have_makes_keys_after_every_rollback():
    assert config.LARGEST_SEED == 2**32 - 1 - begin.MOST_ROLLBACKS * runtime.ROLLBACK_SEEDS
    made = rollouts.engine(slots=4, buckets=(64,)).rows
    assert made.keys(config.LARGEST_SEED + 3 * 65536, 0, 0, [1], [2]).shape == (1, 2)
    assert checks.problems(config.Config(seed=config.LARGEST_SEED)) == []
    for seed in (-1, 4294770688, 2**32):
        (line,) = checks.problems(config.Config(seed=seed))
        assert line.startswith(f"seed is {seed}; wanted 0 to 4294770687")


def test_a_chunk_ends_when_every_slot_has_stopped(monkeypatch):
    """What was not decoded is still 0; tokens and log-probabilities of steps that were are not."""
    made = rollouts.engine(slots=4, buckets=(64,))
    laid, none_S, key_S2 = (
        made.rows.to_decode_params(random_params()),
        np.zeros(4, np.int32),
        np.zeros((4, 2), np.uint32),
    )
    slots, room_S = np.arange(4), np.int32([2, 1, 0, 2])
    made.rows.begin()
    for stop, counts, steps in [(False, [2, 1, 0, 2], 2), (True, [1, 1, 0, 1], 1)]:
        monkeypatch.setattr(made.rows, "stop_V", jnp.full(CFG.vocab, stop))
        chunk, at_S = made.rows.decode(laid, slots, none_S + 5, none_S, room_S, key_S2, 1.0)
        assert at_S.tolist() == [0, 1, 2, 3]
        assert chunk.count_S.tolist() == counts and chunk.token_SC.shape == (4, 4)
        assert np.asarray(chunk.logp_SC)[:, :steps].all()
        assert not np.asarray(chunk.logp_SC)[:, steps:].any() and not np.asarray(chunk.token_SC)[:, steps:].any()


def test_a_chunk_ends_when_few_of_its_slots_are_left_and_what_was_decoded_stays():
    """Of nine slots one has room for more: it is not waited for, and goes on in the next chunk."""
    made = rollouts.engine(slots=9, chunk=6, buckets=(64,))
    laid, zeros_S, key_S2 = (
        made.rows.to_decode_params(random_params()),
        np.zeros(9, np.int32),
        np.zeros((9, 2), np.uint32),
    )
    made.rows.begin()
    for last, counts in ((1, [2] * 8 + [2]), (2, [2] * 7 + [4, 4])):  # an eighth of nine is one: two are waited for
        room_S = np.int32([2] * (9 - last) + [4] * last)
        chunk, _ = made.rows.decode(laid, np.arange(9), zeros_S + 5, zeros_S, room_S, key_S2, 1.0)
        assert chunk.count_S.tolist() == counts


@pytest.mark.thorough
def test_some_slots_decode_alone_as_they_do_among_all(monkeypatch):
    """64 slots, 3 of which decode: a program of 8 slots gives the same tokens, and writes what all of them would.

    Where the rows of 8 would be large to copy out, all 64 take part.
    """
    made = rollouts.engine(slots=64, store=4, buckets=(64,))
    laid = made.rows.to_decode_params(trained_params())
    assert made.rows.decode_sizes == [8, 32, 64]
    slot_N, key_N2 = np.array([50, 3, 21]), np.arange(6, dtype=np.uint32).reshape(3, 2)
    found = []
    for taking_part, largest_part in ((8, on_cpu.LARGEST_PART), (64, 1000)):
        monkeypatch.setattr(on_cpu, "LARGEST_PART", largest_part)
        made.rows.begin()
        prompts = [(slot, [5 + slot % 7] * 9, 0) for slot in range(64)]
        made.rows.append(laid, "slots", prompts)
        numbers = (np.int32([6, 7, 8]), np.int32([9, 9, 9]), np.int32([4, 1, 3]))
        chunk, at_N = made.rows.decode(laid, slot_N, *numbers, key_N2, 1.0)
        assert len(chunk.count_S) == taking_part
        cache = [np.asarray(part)[:, :, :13] for part in jax.tree.leaves(made.rows.caches["slots"])]
        found.append(([np.asarray(part)[at_N] for part in chunk], cache))
    (part, part_cache), (whole, whole_cache) = found
    assert part[0].tolist() == whole[0].tolist() and part[2].tolist() == whole[2].tolist() == [4, 1, 3]
    np.testing.assert_allclose(part[1], whole[1], atol=1e-5, rtol=0)
    for a, b in zip(part_cache, whole_cache, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


def numbered(rows, positions, first=0):
    """A cache of one layer, one head and one channel in which each entry is its own number."""
    part = jnp.arange(first, first + rows * positions, dtype=jnp.float32).reshape(rows, 1, positions, 1)
    return ((part, -part),)


def test_write_and_move_by_hand():
    held = cache.write(numbered(2, 4), numbered(2, 3, first=50), np.int32([1, 0]), np.int32([2, 0]), np.int32([2, 0]))
    assert np.array_equal(held[0][0][:, 0, :, 0], [[0, 1, 2, 3], [4, 5, 50, 51]])
    past_the_end = cache.write(numbered(1, 4), numbered(1, 3, first=50), np.int32([0]), np.int32([3]), np.int32([3]))
    assert np.array_equal(past_the_end[0][1][0, 0, :, 0], [0, -1, -2, -50])
    # row 1 of the other cache, of which 3 positions are in use, over row 0; the second move goes past the end
    moved = cache.move(numbered(2, 4), numbered(3, 4, first=20), np.int32([1, 0]), np.int32([0, 2]), np.int32([3, 4]))
    assert np.array_equal(moved[0][0][:, 0, :, 0], [[24, 25, 26, 0], [4, 5, 6, 7]])
    # to a longer cache and to a shorter one
    longer = cache.move(numbered(1, 6), numbered(1, 4, first=20), np.int32([0]), np.int32([0]), np.int32([4]))
    assert np.array_equal(longer[0][0][0, 0, :, 0], [20, 21, 22, 23, 0, 0])
    shorter = cache.move(numbered(1, 2), numbered(1, 4, first=20), np.int32([0]), np.int32([0]), np.int32([1]))
    assert np.array_equal(shorter[0][0][0, 0, :, 0], [20, 0])


@pytest.mark.thorough
def test_turned_keys_hold_what_plain_keys_hold():
    """Written, moved, resized and read: the positions alone lie last. Other key/value heads have other numbers."""
    key = jax.random.key(0)

    def pair(rows, positions, number, turned):
        plain = jax.random.normal(jax.random.fold_in(key, number), (2, rows, 3, positions, 4))
        return ((Turned(jnp.swapaxes(plain[0], 2, 3)) if turned else plain[0], plain[1]),)

    def held(turned):
        rows, used, count = np.int32([1, 0]), np.int32([2, 0]), np.int32([2, 1])
        written = cache.write(pair(2, 5, 1, turned), pair(2, 3, 2, False), rows, used, count)
        moved = cache.move(written, pair(3, 4, 3, turned), np.int32([1, 0]), np.int32([0, 2]), np.int32([3, 4]))
        keys, values = (cache.resize(part, 7) for part in moved[0])
        taken = cache.rows_of(keys, np.int32([1, 0, 1]), 5)
        assert keys.shape == (2, 3, 7, 4) and taken.shape == (3, 3, 5, 4) and cache.size(moved) == (2, 5)
        query = jax.random.normal(key, (3, 6, 4))
        out = cached_attention.one_token(query, taken, taken_values(values), np.int32([5, 3, 4]), *new, 1)
        return [jnp.swapaxes(part.array, 2, 3) if turned else part for part in (keys, taken)], values, out

    def taken_values(values):
        return cache.rows_of(values, np.int32([1, 0, 1]), 5)

    new = jax.random.normal(jax.random.fold_in(key, 4), (2, 3, 3, 2, 4))
    for one, other in zip(jax.tree.leaves(held(False)), jax.tree.leaves(held(True)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_a_cache_grows_and_shrinks_by_hand():
    part = numbered(2, 3)[0][0]
    assert np.array_equal(cache.resize(part, 5)[:, 0, :, 0], [[0, 1, 2, 0, 0], [3, 4, 5, 0, 0]])
    assert np.array_equal(cache.resize(part, 2)[:, 0, :, 0], [[0, 1], [3, 4]])
    assert views_up_to(160) == [64, 96, 128, 160] and views_up_to(30) == [30]
    assert views_up_to(1280) == [64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280]


@pytest.mark.parametrize(("tiles", "sizes"), [(1, [2]), (2, [2]), (3, [2, 2]), (4, [8]), (8, [8]), (21, [8, 8, 8])])
def test_tiles_go_in_the_smallest_calls_that_are_not_mostly_padding(tiles, sizes):
    rows, found = KVCache(CFG, replace(SETTINGS, tile=16, buckets=(32, 128)), WORDS.eos_ids, compute="float32"), []
    while tiles > 0:
        found.append(rows._call_size(tiles))
        tiles -= found[-1]
    assert found == sizes


@pytest.mark.thorough
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
