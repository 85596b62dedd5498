"""The engine: episodes depend on their keys alone, not on slots, store, schedule or company; nothing compiles late."""

import functools
import gc
import random
import re
import threading
import time
import weakref
from concurrent.futures import wait
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
import rollouts
from jax.sharding import NamedSharding, PartitionSpec
from rollouts import (
    CFG,
    ENV,
    SETTINGS,
    WORDS,
    assert_whole,
    default_search,
    engine,
    flat,
    logp,
    near_ties,
    random_params,
    roll,
    trained_params,
    with_system,
    words_env,
    world,
)
from settling import settle as settled_step

from qr_jax import assemble, config, plugins
from qr_jax.cli.overrides import override
from qr_jax.config import load
from qr_jax.errors import Interrupted
from qr_jax.logging import terminal
from qr_jax.models.hf import load_tokenizer
from qr_jax.parallel import compiles
from qr_jax.parallel import mesh as meshes
from qr_jax.pool import pool
from qr_jax.records import Passage, Query, Say, Search, Stop, grades
from qr_jax.rewards.exact_match import exact_match
from qr_jax.rollout import cache as caches
from qr_jax.rollout import slot_scheduler
from qr_jax.rollout.engine import PURPOSES, Engine, RolloutState
from qr_jax.rollout.kv_cache import KVCache
from qr_jax.rollout.lanes import Lanes
from qr_jax.rollout.live import EpisodeState
from qr_jax.run.kept_thread import KeptThread
from qr_jax.settings import checks

FIXTURES = Path(__file__).parent / "fixtures"


def keys(made, queries, samples, seed=0, step=0):
    pairs = [(q, g) for q in range(queries) for g in range(samples)]
    return made.rows.keys(seed, PURPOSES["train"], step, *map(list, zip(*pairs, strict=True)))


def slow(seed, longest_s=0.02):
    """The world's search, some of its calls late."""
    times, found = random.Random(seed), default_search()

    def search(queries, k):
        time.sleep(times.uniform(0, longest_s))
        return found(queries, k)

    return search


@pytest.fixture(scope="module")
def few():
    """24 episodes of a random model on many slots: what other engines are held against."""
    made = engine(slots=64, chunk=8, buckets=(64,))
    return made, flat(roll(made, random_params(), world().train[:8], 3, env=words_env))


@pytest.mark.thorough
def test_128_episodes_are_the_same_on_4_and_on_64_slots_but_at_near_ties(record_property):
    queries, params = world().train[:32], trained_params()
    four, many = engine(), engine(slots=64, chunk=8, buckets=(64,))
    one, other = flat(roll(four, params, queries, 4)), flat(roll(many, params, queries, 4))
    assert sum(any(turn.queries for turn in episode.turns) for episode in one) > 64, "the model hardly searches"
    different = near_ties(many, params, keys(many, 32, 4), one, other)
    record_property("episodes that differ at a near tie", different)
    assert different <= 4
    for episode in one:
        assert_whole(episode, four, ENV)


def test_what_an_evaluation_restricts_the_next_training_rollout_samples_again():
    made, params, queries = engine(), random_params(), world().train[:4]
    whole = flat(roll(made, params, queries, 3, env=words_env))
    greedy = flat(roll(made, params, queries, 1, env=words_env, temperature=0.0))
    likeliest = flat(roll(made, params, queries, 3, env=words_env, top_k=1))
    assert [one.ids_L.tolist() for one in likeliest[::3]] == [one.ids_L.tolist() for one in greedy]
    assert [one.ids_L.tolist() for one in whole[::3]] != [one.ids_L.tolist() for one in greedy]
    more_than_there_are = roll(made, params, queries, 3, env=words_env, top_k=10**6)
    for again in (more_than_there_are, roll(made, params, queries, 3, env=words_env)):
        for one, other in zip(whole, flat(again), strict=True):
            np.testing.assert_array_equal(one.ids_L, other.ids_L)
            np.testing.assert_array_equal(one.logp_L, other.logp_L)


@pytest.mark.thorough
@pytest.mark.parametrize("store", [1, 3, 9])
def test_parked_episodes_come_back_as_they_were(store, few):
    """Slow searches, 4 slots, a store smaller or larger: rows go out and in, and episodes are those of many slots."""
    made = engine(slots=4, store=store, buckets=(64,))
    episodes = flat(roll(made, random_params(), world().train[:8], 3, env=words_env, search=slow(store)))
    near_ties(few[0], random_params(), keys(few[0], 8, 3), few[1], episodes)
    assert (made.statistics.rows_moved > len(episodes)) == (store > 1), "one row of the store is the prompt's"


@pytest.mark.parametrize(("store", "slots"), [(None, 24), (3, 6)])
def test_samples_that_hold_the_same_compute_what_they_are_shown_once(monkeypatch, store, slots):
    """Rather cold samples of a model that searches: some ask alike, and each goes on as if it had computed all."""
    made, cold = engine(slots=slots, store=store, buckets=(64,)), {"temperature": 0.3, "search": slow(2)}
    queries, params = world().train[:6], trained_params()
    alone = flat(roll(made, params, queries, 4, **cold))
    shown = made.statistics.observation_tokens
    assert made.statistics.observation_lent == 0, "a copy costs more than so small a model's sums"
    monkeypatch.setattr(slot_scheduler, "LENT_SUMS", 0)
    lent = flat(roll(made, params, queries, 4, **cold))
    assert 0.1 * shown < made.statistics.observation_lent <= 0.75 * shown  # of each four at most three
    assert near_ties(made, params, keys(made, 6, 4), alone, lent, 0.3) <= 2
    for episode in lent:
        np.testing.assert_allclose(episode.logp_L, logp(params, episode, temperature=0.3), atol=1e-3)


def test_greedy_samples_are_one_and_three_of_four_are_lent_all(monkeypatch):
    made, queries = engine(slots=24, buckets=(64,)), world().train[:6]
    monkeypatch.setattr(slot_scheduler, "LENT_SUMS", 0)
    fours = roll(made, trained_params(), queries, 4, temperature=0.0)
    assert all(np.array_equal(one.ids_L, other.ids_L) for four in fours for one, other in pairwise(four))
    assert made.statistics.observation_lent == 0.75 * made.statistics.observation_tokens > 0


def test_results_taken_as_they_arrive_change_no_token(few):
    made = engine(slots=4, buckets=(64,), schedule="arrival")
    episodes = flat(roll(made, random_params(), world().train[:8], 3, env=words_env, search=slow(1)))
    near_ties(few[0], random_params(), keys(few[0], 8, 3), few[1], episodes)


def test_passages_cut_to_the_observation_s_budget_are_counted():
    made = engine(slots=64, chunk=8, buckets=(64,))

    def search(queries, k):
        return [[Passage("1", "", "the " * 100), Passage("2", "", "who")] for _ in queries]

    roll(made, random_params(), world().train[:2], 1, env=words_env, search=search)
    assert made.statistics.passages_cut == 2 * made.statistics.searches > 0


class Done(KeptThread):
    """A thread whose calls are over before anyone can look."""

    def submit(self, *arguments, **settings):
        call = super().submit(*arguments, **settings)
        wait([call])
        return call


def test_a_result_that_has_arrived_is_taken_at_the_next_tick(monkeypatch):
    """With searches that take no time, what is taken as it arrives is taken when an ordered rollout takes it."""
    monkeypatch.setattr("qr_jax.rollout.engine.KeptThread", Done)
    made = [engine(slots=4, buckets=(64,), schedule=schedule) for schedule in ("ordered", "arrival")]
    one, other = (flat(roll(each, random_params(), world().train[:8], 3, env=words_env)) for each in made)
    assert all(a.ids_L.tobytes() == b.ids_L.tobytes() for a, b in zip(one, other, strict=True))
    ticks = [each.statistics.ticks for each in made]
    assert ticks[0] == ticks[1]


@pytest.mark.parametrize(("calls", "schedule"), [(1, "arrival"), (4, "arrival"), (4, "ordered")])
def test_as_many_searches_run_at_once_as_are_allowed_and_change_no_token(calls, schedule, few):
    made = engine(slots=4, buckets=(64,), schedule=schedule, search_calls=calls, search_ticks=1000)
    under_way, most, counted, late = [], [], threading.Lock(), slow(1)

    def search(queries, k):
        with counted:
            under_way.append(queries)
            most.append(len(under_way))
        found = late(queries, k)
        with counted:
            under_way.pop()
        return found

    episodes = flat(roll(made, random_params(), world().train[:8], 3, env=words_env, search=search))
    near_ties(few[0], random_params(), keys(few[0], 8, 3), few[1], episodes)
    assert max(most) == 1 if calls == 1 else 1 < max(most) <= 4


def test_a_search_that_is_done_does_not_wait_for_an_earlier_one():
    """By arrival: the first search does not end before the results of a later one have been taken."""
    made, begun, taken, found = (
        engine(slots=4, buckets=(64,), schedule="arrival"),
        [],
        threading.Event(),
        default_search(),
    )

    def search(queries, k):
        begun.append(queries)
        assert len(begun) > 1 or taken.wait(60)
        return found(queries, k)

    def env(query, turns):
        if turns and turns[-1].author == "env":
            taken.set()
        return words_env(query, turns)

    assert len(flat(roll(made, random_params(), world().train[:8], 3, env=env, search=search))) == 24


@pytest.mark.parametrize("ticks", [1, 3])
def test_an_ordered_search_is_waited_for_after_as_many_chunks_as_are_set(ticks, few, monkeypatch):
    made, asked, waits = engine(slots=4, buckets=(64,), search_ticks=ticks), {}, []
    ask, observe = RolloutState.ask, RolloutState.observe

    def noted(state, wishes):
        asked.update((id(live), state.statistics.ticks) for live, _ in wishes)
        ask(state, wishes)

    def taken(state, live, by_query):
        waits.append(state.statistics.ticks - asked[id(live)])
        observe(state, live, by_query)

    monkeypatch.setattr(RolloutState, "ask", noted)
    monkeypatch.setattr(RolloutState, "observe", taken)
    episodes = flat(roll(made, random_params(), world().train[:8], 3, env=words_env, search=slow(1)))
    near_ties(few[0], random_params(), keys(few[0], 8, 3), few[1], episodes)
    assert max(waits) == ticks and waits.count(ticks) > 3


class Noted:
    """A part of a chunk that notes when the host reads it, and so waits for the device."""

    def __init__(self, part, notes):
        self.part, self.notes = part, notes

    def __array__(self, dtype=None, copy=None):
        self.notes.append("read")
        return np.asarray(self.part)


def test_results_are_taken_while_the_device_decodes(monkeypatch):
    made, notes = engine(slots=4, buckets=(64,)), []
    dispatch = made.rows.decode

    def decode(*arguments):
        notes.append("decode")
        chunk, at_N = dispatch(*arguments)
        return [Noted(part, notes) for part in chunk], at_N

    def env(query, turns):
        if turns and turns[-1].author == "env":
            notes.append("result")
        return words_env(query, turns)

    monkeypatch.setattr(made.rows, "decode", decode)
    roll(made, random_params(), world().train[:8], 3, env=env)
    pairs, idle = list(pairwise(notes)), made.statistics.ticks - notes.count("decode")
    assert pairs.count(("decode", "result")) > 5 and ("decode", "decode") not in pairs
    assert pairs.count(("read", "result")) <= idle


def test_after_a_rollout_the_slots_cache_is_short_again(few):
    made, episodes = few
    assert max(len(episode.ids_L) for episode in episodes) > made.rows.views[0]
    assert caches.size(made.rows.caches["slots"])[1] == made.rows.views[0]


def test_a_finished_rollout_holds_no_weights(few, monkeypatch):
    made, _ = few
    to_decode_params, held = made.rows.to_decode_params, []

    def noted(params):
        laid = to_decode_params(params)
        held.append(weakref.ref(laid.layers[0]["qkv"]))
        return laid

    monkeypatch.setattr(made.rows, "to_decode_params", noted)
    gc.collect()
    gc.disable()  # nothing but the last reference may have to let go
    try:
        roll(made, random_params(), world().train[:2], 2, env=words_env)
    finally:
        gc.enable()
    assert held and all(one() is None for one in held)


def test_statistics_by_hand():
    made = Engine(CFG, WORDS, replace(SETTINGS, slots=4, buckets=(64,)))  # its own: it watches for no stop string yet
    assert made.settings.chunk == 4 and made.settings.turn_tokens == 20

    def counted(env, *questions):
        queries = [Query(question, question, ("x",)) for question in questions]
        episodes = flat(roll(made, random_params(), queries, 1, env=env, temperature=0.0))
        found = made.statistics
        rows = (found.prompt_tokens, found.observation_tokens, found.tokens, found.ticks, found.decode_steps)
        return [len(episode.ids_L) for episode in episodes], rows, found.cache_positions, found.searches

    def to_the_end(query, turns):
        return Say(query.question)

    # prompts of 3 and 5 words: 2 and 4 are cached; 20 steps find 2, 3, ... 21 and 4, 5, ... 23 positions in use
    assert counted(to_the_end, "who is the", "who is the who is") == ([23, 25], (8, 0, 40, 5, 20), 230 + 270, 0)

    def a_word_a_turn(query, turns):
        if len(turns) == 1:
            return Search(("who",))
        return Stop("turns") if len(turns) == 3 else Say("is the who is the" if turns else query.question, stop=(" ",))

    # 2 positions in use, then 8 behind 3 + 1 + 5 ids; between, a tick without decoding, in which the search is answered
    assert counted(a_word_a_turn, "who is the") == ([10], (3, 5, 2, 3, 2), 2 + 8, 1)


def test_an_ordered_rollout_is_bitwise_the_same_however_long_searches_take():
    made = engine(slots=4, buckets=(64,))
    runs = [flat(roll(made, trained_params(), world().train[:12], 2, search=slow(seed), seed=3)) for seed in (1, 2)]
    for a, b in zip(*runs, strict=True):
        assert a.ids_L.tobytes() == b.ids_L.tobytes() and a.logp_L.tobytes() == b.logp_L.tobytes()
        assert (a.turns, a.stop, a.answer) == (b.turns, b.stop, b.answer)


def test_a_sample_does_not_depend_on_its_place_or_its_company(few):
    made, whole = few
    queries = world().train
    part = roll(
        made, random_params(), [queries[6], queries[2]], [2, 1], env=words_env, query_keys=[6, 2], first_sample=1
    )
    assert [[episode.sample for episode in group] for group in part] == [[1, 2], [1]]
    expected = [whole[6 * 3 + 1], whole[6 * 3 + 2], whole[2 * 3 + 1]]
    key_N2 = keys(made, 8, 3)[[19, 20, 7]]
    near_ties(made, random_params(), key_N2, expected, flat(part))
    assert roll(made, random_params(), [], 3) == [] and roll(made, random_params(), queries[:1], [0]) == [[]]


@pytest.mark.thorough
def test_what_a_rollout_needs_is_compiled_once():
    """Parameters laid out as a learner's, prompts of 1 to 280 tokens, with a common beginning or without, one query or
    many, sampled and greedy: done again in any order, they compile nothing."""
    made = Engine(CFG, WORDS, replace(SETTINGS, slots=6, store=5, context_tokens=300, chunk=5))
    mesh = meshes.make_mesh(config.Mesh(devices=1))
    params = jax.device_put(random_params(), NamedSharding(mesh, PartitionSpec()))
    compiles.count()  # the first call begins to count
    rollouts.logits(params, [1], longest=300)  # the test's own program

    def every_kind(order):
        for at in order:
            count, samples = [(1, 1), (3, 5), (17, 1), (2, 9)][at]
            queries = list(world().train[:count])
            queries[0] = Query("long", " ".join(["who"] * (1, 17, 150, 280)[at]), ("x",))
            for temperature in (1.0, 0.0):
                groups = roll(
                    made, params, queries, samples, env=words_env, temperature=temperature, step=at, first_sample=at
                )
                for episode in flat(groups):
                    assert_whole(episode, made, words_env)
                    expected_L = rollouts.logp(params, episode, longest=300)
                    np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)
        roll(made, params, world().train[:20], [1, 2] * 10, env=words_env)
        roll(made, params, world().train[:3], 7, env=words_env, search=slow(0))
        roll(made, params, world().train[:3], 2, env=with_system)

    every_kind(range(4))
    before = compiles.count()
    every_kind(reversed(range(4)))
    assert compiles.count() == before


def recorded(monkeypatch) -> list[tuple[int, int | None, str]]:
    """What the live line says from now on: how much is done, of how much, and what comes next."""
    said, phase = [], terminal.Phase

    def noted(shown, name, value):
        object.__setattr__(shown, name, value)
        if name == "note" and value:
            said.append((shown.done, shown.total, value))

    monkeypatch.setattr(phase, "__setattr__", noted)
    return said


@pytest.mark.parametrize(("lanes", "slots"), [(1, 6), (2, 7)])  # of a lane; other sizes are other programs
def test_warming_up_compiles_what_the_first_tokens_need_and_says_what_comes(lanes, slots, monkeypatch):
    sizes = {"slots": slots * lanes, "store": 5 * lanes, "context_tokens": 300, "chunk": 5}
    made = (Lanes if lanes > 1 else Engine)(CFG, WORDS, replace(SETTINGS, lanes=lanes, **sizes))
    said = recorded(monkeypatch)
    params, queries = random_params(), [Query("long", " ".join(["who"] * 100), ("x",))]
    before, prompt_tokens = compiles.count(), made.prompt_tokens(queries, words_env)
    assert 100 <= prompt_tokens < 120 and made.warm_up(params, prompt_tokens=prompt_tokens) > 0
    assert not made.rows.caches  # nothing was allocated
    count = len(said)
    assert [(done, total) for done, total, _ in said] == [(done, count) for done in range(count)]
    assert said[0][2].startswith("prompts")
    assert [what for _, _, what in said[-2:]] == ["copies of prompts", f"decoding, {slots} slots of 128 positions"]
    needed = compiles.count()
    assert needed > before
    made.settings = replace(made.settings, turn_tokens=5)
    env = lambda query, turns: Stop("turns") if turns else Say(query.question, stop=(" ",))  # noqa: E731
    each = [replace(queries[0], id=f"long {at}") for at in range(lanes)]
    roll(made, params, each, slots, env=env)
    assert compiles.count() == needed, compiles.told(needed)
    roll(
        made, params, [replace(query, question="who") for query in each], 6, env=env
    )  # needs no programs for shorter caches
    assert compiles.count() == needed, compiles.told(needed)


@pytest.mark.thorough
@pytest.mark.parametrize("turned", [True, False])  # a CPU's cache, and the one that accelerators have
def test_warming_up_for_a_length_leaves_nothing_of_decoding_and_observations_to_compile(turned):
    made = Engine(CFG, WORDS, replace(SETTINGS, slots=16, store=4, context_tokens=150, chunk=7, buckets=(48, 96)))
    if not turned:
        made.rows = KVCache(CFG, made.settings, WORDS.eos_ids, compute="float32")
    params = random_params()
    made.warm_up(params, prompt_tokens=8, positions=150)
    before = compiles.count()
    env = functools.partial(words_env, searches=9)
    episodes = flat(roll(made, params, world().train[:6], 5, env=env))
    names = compiles.told(before)
    assert max(len(episode.ids_L) for episode in episodes) > 128 and made.rows.grown
    for name in ("decode", "append", "resize"):
        assert name not in names, names


def test_what_was_compiled_late_is_said_from_a_second_on(monkeypatch):
    said, before = [], compiles.count()
    compiles.tell_late(before, "step 1", said.append)
    jax.jit(lambda x: x * 3 + 1)(np.ones(5)).block_until_ready()
    assert compiles.count() > before and compiles.LATE_S == 1
    for least_s, lines in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(compiles, "LATE_S", least_s)
        compiles.tell_late(before, "step 1", said.append)
        assert len(said) == lines
    assert re.fullmatch(r"step 1: compiled <lambda> 1.* in \d+\.\d s", said[0])


def test_a_prompt_that_does_not_fit_is_not_the_warm_up_s_to_refuse():
    made = Engine(CFG, WORDS, replace(SETTINGS, slots=3, store=2, context_tokens=40))
    query = Query("long", " ".join(["who"] * 100), ("x",))
    made.warm_up(random_params(), prompt_tokens=made.prompt_tokens([query], words_env))
    with pytest.raises(ValueError, match="the prompt of query 'long' has .* tokens; wanted .* less than"):
        roll(made, random_params(), [query], 1)
    fits = Query("short", "who", ("x",))
    made.check_prompts([fits] * 2, words_env)
    with pytest.raises(ValueError, match="the prompt of query 'long' has .* tokens; wanted .* less than"):
        made.check_prompts([fits, query], words_env)


def test_warming_up_can_be_stopped_between_programs():
    made, asked = Engine(CFG, WORDS, replace(SETTINGS, slots=3, store=2, context_tokens=290)), []

    def third():
        asked.append(compiles.count())
        return len(asked) == 3

    compiles.count()
    with pytest.raises(Interrupted):
        made.warm_up(random_params(), stop_now=third)
    assert len(asked) == 3 and asked[2] > asked[0]
    assert len(flat(roll(made, random_params(), world().train[:2], 2))) == 4  # the engine can be used


def test_the_counter_of_compilations_counts():
    compiles.count()  # the first call begins to count
    before = compiles.count()
    jax.jit(lambda x: x * 3.0 + 0.125)(np.float32(2))
    assert compiles.count() == before + 1


@pytest.mark.thorough
def test_episodes_end_where_context_or_turn_tokens_end():
    made = engine(slots=4, buckets=(64,))
    env = functools.partial(words_env, searches=20, letter="a")
    episodes = flat(roll(made, random_params(), world().train[:10], 3, env=env, step=2))
    env_last = [episode for episode in episodes if episode.stop == "context" and episode.turns[-1].author == "env"]
    full = [episode for episode in episodes if episode.stop == "context" and episode.turns[-1].author == "model"]
    cut = [episode for episode in episodes if episode.stop == "length"]
    assert env_last and full and cut
    assert all(len(episode.ids_L) == made.settings.context_tokens for episode in full)
    assert all(episode.mask_L[-1] and episode.answer is None and episode.valid for episode in env_last + full + cut)
    for episode in episodes:
        assert_whole(episode, made, env)


@pytest.mark.parametrize(("total", "more"), [(159, 1), (160, 0)])
def test_an_observation_must_leave_room_for_one_token(total, more):
    def env(query, turns):
        written = len(turns[-1].text.split()) if turns else 0
        return Say(
            " ".join(["who"] * (total - 1 - written)) if turns else "who", "inline" if turns else "user", ("e ",)
        )

    made = engine(slots=4, buckets=(64,))
    episodes = roll(made, random_params(), world().train[:1], 12, env=env)[0]
    shown = [e for e in episodes if len(e.turns) > 1 and 1 not in e.ids_L]  # <eos> is no word of the text
    assert shown
    for episode in shown:
        assert (episode.stop, episode.valid) == ("context", True) and episode.turn_L.max() == more
        assert len(episode.ids_L) == (160 if more else 1 + episode.mask_L.sum())


def test_observations_and_prompts_may_be_nearly_nothing():
    """An empty observation, a prompt of one token, a search without queries: sampling goes on where it stood."""

    def silent(query, turns):
        said = sum(turn.author == "model" for turn in turns)
        if not turns:
            return Say(query.question, stop=("e ",))
        if turns[-1].author == "env":
            return Say("", "inline", ("e ",))
        return [Search(("who",)), Say("", "inline", ("e ",)), Search(()), Stop("turns")][said - 1]

    made = engine(slots=4, buckets=(64,))
    queries = [Query("one", "who", ("x",)), *world().train[:3]]
    for episode in flat(roll(made, random_params(), queries, 6, env=silent)):
        assert_whole(episode, made, silent)
        expected_L = rollouts.logp(random_params(), episode)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)


def test_a_turn_ends_at_the_token_that_completes_a_stop_string():
    pieces = [b"<s", b"top", b">", b"a", b"top>x", b"<stop", b"<end>"]

    def taken(stop, *chunks):
        live = EpisodeState(0, 0)
        live.show([7], Say("", stop=stop))
        counts = [live.take(list(chunk), [-1.0] * len(chunk), pieces, (6,)) for chunk in chunks]
        return counts, live.complete, live.by_eos, live.text(pieces), live.cached

    stop = ("<stop>", "aa")
    assert taken(stop, [3, 0, 1, 2, 3, 3]) == ([4], True, False, "a<stop>", 4)
    assert taken(stop, [3, 0], [1], [2, 0]) == ([2, 1, 1], True, False, "a<stop>", 4)
    assert taken(stop, [0, 4, 3]) == ([2], True, False, "<stop>x", 2)  # the token is kept whole
    assert taken(stop, [0, 0, 1], [3, 3]) == ([3, 2], True, False, "<s<stopaa", 5)
    assert taken(stop, [3, 6]) == ([2], True, True, "a", 2)
    assert taken(stop, [5, 3], [2]) == ([2, 1], False, False, "<stopa>", 3)
    assert taken((), [0, 1, 2]) == ([3], False, False, "<stop>", 3)


@pytest.mark.thorough
def test_stop_strings_of_a_byte_level_tokenizer_end_turns_across_tokens():
    """Pairs of small letters end a turn; the model's ids are more than the tokenizer's, as Qwen3's are."""
    tokenizer = load_tokenizer(FIXTURES / "qwen3")
    cfg = replace(CFG, vocab=336)
    params = rollouts.decoder.init(cfg, jax.random.key(2))
    made = Engine(cfg, tokenizer, replace(SETTINGS, turn_tokens=60, chunk=8, buckets=(64,)))
    letters = "abcdefghijklmnopqrstuvwxyz"
    stop = tuple(a + b for a in letters for b in letters)

    def env(query, turns):
        said = sum(turn.author == "model" for turn in turns)
        return Stop("turns") if said == 3 else Say("go on <|im_end|>", "tool" if said else "user", stop)

    episodes = flat(roll(made, params, [Query("q", "Who?", ("x",))] * 3, 16, env=env))
    across = unknown = 0
    for episode in episodes:
        assert_whole(episode, made, env)
        expected_L = rollouts.logp(params, episode, cfg=cfg)
        np.testing.assert_allclose(episode.logp_L, expected_L, atol=1e-4, rtol=0)
        unknown += int((episode.ids_L >= tokenizer.size).sum())
        for number in range(episode.turn_L.max() + 1):
            written = [made.pieces[token] for token in episode.ids_L[episode.turn_L == number]]
            complete = [
                any(text.encode() in b"".join(written[:end]) for text in stop) for end in range(len(written) + 1)
            ]
            assert not any(complete[:-1]), "something is kept past the stop string"
            across += complete[-1] and not any(text.encode() in written[-1] for text in stop)
    assert across > 0 and unknown > 0


def test_a_retriever_that_is_down_makes_faults_and_the_pool_counts_no_attempt():
    def down(queries, k):
        raise ConnectionError("refused")

    made = engine(slots=4, buckets=(64,), search_retries=0)
    queries = world().train[:3]
    groups = roll(made, random_params(), queries, 4, env=words_env, search=down)
    searched = [episode for episode in flat(groups) if any(turn.author == "env" for turn in episode.turns)]
    assert len(searched) > 6 and made.statistics.searches_failed > 0
    for episode in searched:
        assert not episode.valid and episode.stop == "fault" and "refused" in episode.fault and episode.answer is None
    reward_QG = np.stack([exact_match(*pair) for pair in zip(queries, groups, strict=True)])
    reward_QG[:, 0] = 1  # it would make a signal, were it counted
    valid_QG = np.array([[episode.valid and episode not in searched for episode in group] for group in groups])
    fresh = pool.create(3)
    settled = settled_step(fresh, [0, 1, 2], grades(reward_QG, valid_QG), step=0, accept=3, rule="recycle")
    faulty = valid_QG.sum(1) < 2
    assert faulty.any() and (settled.verdict_Q[faulty] == "fault").all()
    assert not settled.pool.attempts_P[faulty].any() and (settled.pool.weight_P[faulty] == 1).all()


def test_one_search_that_fails_makes_one_fault():
    made = engine(slots=4, buckets=(64,), search_retries=1)
    whole = flat(roll(made, random_params(), world().train[:4], 2, env=words_env))
    first = next(turn.queries for turn in whole[0].turns if turn.author == "env")

    def search(queries, k):
        if set(first) & set(queries):
            raise ValueError("not that one")
        return default_search()(queries, k)

    for a, b in zip(
        whole, flat(roll(made, random_params(), world().train[:4], 2, env=words_env, search=search)), strict=True
    ):
        hit = any(set(first) & set(turn.queries) for turn in a.turns)
        assert b.valid != hit
        assert hit or np.array_equal(a.ids_L, b.ids_L)
    assert not b.valid or b.fault is None


def test_weights_that_are_not_finite_make_faults_and_spoil_no_later_rollout():
    made = engine(slots=4, buckets=(64,))
    before = flat(roll(made, random_params(), world().train[:6], 2, env=words_env))
    broken = jax.tree.map(lambda leaf: leaf * np.float32("nan"), random_params())
    for episode in flat(roll(made, broken, world().train[:6], 2, env=words_env)):
        assert not episode.valid and episode.stop == "fault" and "not finite" in episode.fault
    for a, b in zip(before, flat(roll(made, random_params(), world().train[:6], 2, env=words_env)), strict=True):
        assert a.ids_L.tobytes() == b.ids_L.tobytes() and a.logp_L.tobytes() == b.logp_L.tobytes()


def test_what_an_environment_raises_or_does_wrong_is_said_and_leaves_the_engine_usable():
    def env(query, turns, *, answers):
        at = 0 if not turns else 1 if turns[-1].author == "model" else 2
        if isinstance(answers[at], Exception):
            raise answers[at]
        return answers[at]

    made, say = engine(slots=4, buckets=(64,)), Say("who", stop=("e ",))
    queries = [replace(world().train[0], id="the query")]
    for answers, message in [
        ([ValueError("the template has no question")], "no question"),
        ([Stop("turns")], "^env 'mine' returned Stop.* to open an episode, which begins with a Say"),
        ([Say("")], "'the query' has 0 tokens"),
        ([Say("who " * 160)], "has 160 tokens.*less than rollout.context_tokens=160"),
        ([say, None], "^env 'mine' returned None; wanted Say"),
        ([say, Search(("who",)), Search(("who",))], "^env 'mine' returned Search.* when it was shown passages"),
    ]:
        with pytest.raises(ValueError, match=message):
            checked = plugins.checked("env", "mine", functools.partial(env, answers=answers))
            roll(made, random_params(), queries, 4, env=checked)
    stopped = roll(
        made, random_params(), queries, 4, env=functools.partial(env, answers=[say, Search(("who",)), Stop("turns")])
    )
    assert {episode.stop for episode in stopped[0]} <= {"turns", "length"}
    with pytest.raises(ValueError, match="ids, the model's vocabulary 10"):
        Engine(replace(CFG, vocab=10), WORDS, SETTINGS)


def test_an_interrupt_stops_between_ticks_and_leaves_the_engine_usable():
    made = engine(slots=4, buckets=(64,))
    before = flat(roll(made, random_params(), world().train[:8], 2, env=words_env))
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        roll(made, random_params(), world().train[:8], 2, env=words_env, stop_now=lambda: next(asked) == 5)
    for a, b in zip(before, flat(roll(made, random_params(), world().train[:8], 2, env=words_env)), strict=True):
        assert a.ids_L.tobytes() == b.ids_L.tobytes()


def test_an_interrupt_does_not_wait_for_the_other_observations(monkeypatch):
    made, observed, whole = engine(slots=4, buckets=(64,)), [], RolloutState.observe
    monkeypatch.setattr(RolloutState, "observe", lambda self, live, found: observed.append(whole(self, live, found)))
    with pytest.raises(Interrupted):
        roll(made, random_params(), world().train[:8], 3, env=words_env, stop_now=lambda: bool(observed))
    assert len(observed) == 1


def test_an_interrupt_does_not_wait_for_a_search_that_hangs():
    made, over = engine(slots=4, buckets=(64,)), threading.Event()
    started = threading.Event()

    def search(queries, k):
        started.set()
        over.wait(20)
        return [[] for _ in queries]

    start = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            roll(made, random_params(), world().train[:2], 1, env=words_env, search=search, stop_now=started.is_set)
        assert time.monotonic() - start < 10
    finally:
        over.set()


def test_decoding_stops_on_the_device_where_a_stop_string_may_be_complete():
    """ab> may end at a piece that holds it, or that begins with "b>" or ">" after pieces that held the rest."""

    class Pieces(type(WORDS)):
        def piece(self, token):
            return [b"<pad>", b"<eos>", b"?", b"x", b"ab> ", b"b>", b">>", b"a>", b"ab", b"b"][min(token, 9)]

    made = Engine(CFG, Pieces(WORDS.words[3:]), replace(SETTINGS, slots=2, store=2))
    before = np.flatnonzero(np.asarray(made.rows.stop_at_V)).tolist()
    made.watch(("ab>",))
    assert before == [1] and np.flatnonzero(np.asarray(made.rows.stop_at_V)).tolist() == [1, 4, 5, 6]


def test_lanes_give_the_same_episodes_each_time_and_count_both(few):
    made, slow_search = engine(slots=8, store=4, lanes=2, buckets=(64,), search_calls=2), slow(2)
    found, two, asked = [], threading.BoundedSemaphore(2), []

    def search(queries, k):
        asked.append(two.acquire(blocking=False))
        assert asked[-1], "of both lanes together two calls run at once"
        try:
            return slow_search(queries, k)
        finally:
            two.release()

    for _ in range(2):
        found.append(flat(roll(made, random_params(), world().train[:8], 3, env=words_env, search=search)))
        assert made.progress() == (24, 24)
        assert made.statistics.tokens == sum(int(episode.mask_L.sum()) for episode in found[-1])
        assert 0 < made.statistics.decode_s < made.statistics.total_s
    assert all(asked)
    for one, other in zip(*found, strict=True):
        assert one.ids_L.tobytes() == other.ids_L.tobytes() and one.logp_L.tobytes() == other.logp_L.tobytes()
    near_ties(few[0], random_params(), keys(few[0], 8, 3), few[1], found[0])


def test_what_fails_in_one_lane_ends_both_and_is_what_is_told():
    made = engine(slots=4, lanes=2, buckets=(64,), search_deadline_s=300.0)
    over, asked = threading.Event(), threading.Event()

    def env(query, turns):
        if turns and query in world().train[1:8:2]:
            assert asked.wait(60), "the first lane did not search"
            raise ValueError("of the second lane")
        return words_env(query, turns)

    def search(queries, k):
        asked.set()
        over.wait(120)
        return [[] for _ in queries]

    start = time.monotonic()
    with pytest.raises(ValueError, match="of the second lane"):
        roll(made, random_params(), world().train[:8], 1, env=env, search=search)
    assert time.monotonic() - start < 100, "the first lane went on waiting for its search"
    over.set()
    with pytest.raises(Interrupted):
        asked = iter(range(1000))
        roll(made, random_params(), world().train[:8], 2, env=words_env, stop_now=lambda: next(asked) > 5)
    assert len(flat(roll(made, random_params(), world().train[:8], 2, env=words_env))) == 16


def test_lanes_are_one_where_devices_share_a_rollout_and_must_divide_the_slots():
    two = load(str(FIXTURES.parents[1] / "configs/quickstart.py"), ["rollout.lanes=2"])
    for emulated in ([], ["mesh.data=2"], ["mesh.devices=2"]):  # one of them decodes
        assert len(assemble.agent(override(two, emulated)).engine.others) == 1
    assert type(assemble.agent(override(two, ["mesh.data=2", "mesh.rollout=slots"])).engine) is Engine
    with pytest.raises(ValueError, match=r"rollout.slots=5 and rollout.store=64 do not divide over rollout.lanes=2"):
        checks.check(override(two, ["rollout.slots=5"]))


def test_a_rollout_does_not_depend_on_what_the_engine_ran_before():
    def other_stops(query, turns):
        move = words_env(query, turns)
        return replace(move, stop=("e ", "a ")) if turns and isinstance(move, Say) else move

    made, found = Engine(CFG, WORDS, replace(SETTINGS, buckets=(64,))), []
    for _ in range(2):
        episodes = flat(roll(made, random_params(), world().train[:8], 3, env=other_stops))
        found.append((made.statistics.ticks, [episode.logp_L.tobytes() for episode in episodes]))
    assert found[0] == found[1]
