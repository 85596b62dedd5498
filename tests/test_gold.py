"""The gold answer's log-probability before each turn: one direct pass a sequence, cut histories, one program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_learner import CFG, MODEL, SETTINGS, groups

from qr_jax import config
from qr_jax.learner import learner
from qr_jax.methods import gold
from qr_jax.models import decoder
from qr_jax.parallel import compiles
from qr_jax.parallel import mesh as meshes
from qr_jax.records import Query

PREFIX, GOLDS = (3, 2), ((5, 6, 7), (9,))
TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def bound():
    on = meshes.make_mesh(config.Mesh(devices=1))
    bound = learner.make(CFG, MODEL, SETTINGS, on, temperature=TEMPERATURE)
    return bound, bound.init(decoder.init(CFG, jax.random.key(0)))


def score(bound, episodes, **changes):
    given = dict(prefix_ids=PREFIX, golds=lambda query: GOLDS, samples=4, queries=3, rows=2, row_tokens=24)
    return gold.gold_logp(*bound, episodes, **given | changes)


def directly(state, history, gold_ids):
    """The mean log-probability of a gold by one forward pass of its sequence, unpacked and unpadded."""
    ids_1L = np.concatenate([history, PREFIX, gold_ids]).astype(np.int32)[None]
    hidden = decoder.forward(CFG, state.params, ids_1L, np.arange(ids_1L.size)[None], np.ones_like(ids_1L))
    table_LV = jax.nn.log_softmax(decoder.logits(CFG, state.params, hidden)[0] / TEMPERATURE)
    predicted_by = jnp.arange(ids_1L.size - len(gold_ids), ids_1L.size) - 1
    return float(table_LV[predicted_by, np.array(gold_ids)].mean())


def short(**changes):
    """Two groups of episodes of 14 to 20 tokens whose turns begin at 4 and 11."""
    episodes, _ = groups(queries=2, samples=4)

    def cut(episode):
        return {name: getattr(episode, name)[:20] for name in ("ids_L", "mask_L", "logp_L", "turn_L")}

    return [[replace(episode, **cut(episode), **changes) for episode in group] for group in episodes]


def test_a_value_is_the_direct_forward_pass_of_the_better_gold(bound):
    episodes = short()
    gold_logp_NT = score(bound, episodes)
    assert gold_logp_NT.shape == (12, 8) and gold_logp_NT.dtype == np.float32
    for n, t, first in ((0, 0, 4), (0, 1, 11), (6, 1, 11)):
        history = episodes[n // 4][n % 4].ids_L[:first]
        values = [directly(bound[1], history, gold_ids) for gold_ids in GOLDS]
        assert gold_logp_NT[n, t] == pytest.approx(max(values), rel=1e-5) and abs(values[0] - values[1]) > 1e-3
    assert not gold_logp_NT[8:].any() and not gold_logp_NT[:, 2:].any() and (gold_logp_NT[:8, :2] < 0).all()


def test_of_a_sequence_longer_than_a_row_the_left_of_the_history_is_lost(bound):
    """11 tokens of history, 2 of prefix, 13 of gold: a row of 24 keeps the last 9 of the history."""
    episodes, long_gold = short(), tuple(range(2, 15))
    gold_logp_NT = score(bound, episodes, golds=lambda query: (long_gold,))
    wanted = directly(bound[1], episodes[0][0].ids_L[2:11], long_gold)
    assert gold_logp_NT[0, 1] == pytest.approx(wanted, rel=1e-5)
    assert gold_logp_NT[0, 1] != pytest.approx(directly(bound[1], episodes[0][0].ids_L[:11], long_gold), rel=1e-5)


def test_a_fault_and_a_turn_that_is_not_there_are_0(bound):
    (first, second), nothing = short(), np.zeros(20, bool)
    first[1] = replace(first[1], valid=False)
    one_turn = {name: getattr(first[2], name)[:8] for name in ("ids_L", "mask_L", "logp_L", "turn_L")}
    first[2] = replace(first[2], **one_turn)
    no_turn = replace(second[0], mask_L=nothing[: len(second[0].ids_L)])
    gold_logp_NT = score(bound, [first, [no_turn, second[1]]])
    there_NT = np.zeros((12, 8), bool)
    there_NT[[0, 3, 5], :2] = there_NT[2, 0] = True
    np.testing.assert_array_equal(gold_logp_NT != 0, there_NT)


def test_one_program_scores_any_number_of_episodes_and_an_empty_call_compiles_it(bound):
    compiles.count()
    assert score(bound, [], rows=3).shape == (12, 8)
    before, episodes = compiles.count(), short()
    for some_groups in (episodes, episodes[:1], [episodes[0][:1], episodes[1]]):
        score(bound, some_groups, rows=3)
    assert compiles.count() == before


def test_sequences_fill_batches_of_one_shape_and_a_shared_prompt_is_scored_once():
    group, _ = short()
    same = [replace(episode, ids_L=np.concatenate([group[0].ids_L[:4], episode.ids_L[4:]])) for episode in group]
    sequences, numbers_of = gold._sequences([same], 4, PREFIX, lambda query: GOLDS, 24)
    assert len(sequences) == 2 + 4 * 2 and {t for _, t in numbers_of} == {0, 1}  # the prompt's two, then each episode's
    assert numbers_of[0, 0] == numbers_of[3, 0] and numbers_of[0, 1] != numbers_of[3, 1]
    numbers, batches = zip(*gold._batches(sequences, 2, 24), strict=True)
    assert sorted(np.concatenate(numbers).tolist()) == list(range(10))
    assert len(batches) == 4  # 16 x 4, 14 x 4, 9 and 7 tokens fill eight rows of 24: 16 + 7, 16, 16, 16, 14 + 9, ...
    assert {batch.mask_MEL.shape for batch in batches} == {(1, 16, 24)}


def test_the_axis_of_turns_is_a_power_of_two():
    assert [gold.turns_axis(turns) for turns in (0, 1, 8, 9, 16, 17)] == [8, 8, 8, 16, 16, 32]


def test_what_cannot_be_scored_is_refused_with_the_numbers(bound):
    episodes = short()
    episodes[0] = [replace(episode, query=Query("q7", "?", ("a",))) for episode in episodes[0]]
    with pytest.raises(ValueError, match="'q7' has no gold answer"):
        score(bound, episodes, golds=lambda query: [])
    with pytest.raises(ValueError, match=r"gold answer of query 'q7' has no token; answers: \('a',\)"):
        score(bound, episodes, golds=lambda query: [[]])
    with pytest.raises(ValueError, match="has 23 tokens behind a prefix of 2, and a row holds 24"):
        score(bound, episodes, golds=lambda query: [range(23)])
