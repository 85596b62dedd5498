"""Packing: every sampled token once, whole episodes, fixed shapes."""

from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qr_jax import records
from qr_jax.learner.pack import pack, packing_efficiency
from qr_jax.learner.reduce import token_weights


def episode(tokens, *, prompt=1, first_id=1, sample=0, valid=True, name="q"):
    """Ids first_id, first_id + 1, ...; a prompt, then sampled tokens, every third of them an observation."""
    at_L = np.arange(tokens)
    mask_L = (at_L >= prompt) & ((at_L - prompt) % 3 != 2)
    return records.Episode(
        query=records.Query(name, "?", ("!",)),
        sample=sample,
        step=0,
        ids_L=(first_id + at_L).astype(np.int32),
        mask_L=mask_L,
        logp_L=np.where(mask_L, -0.5 - at_L, 99.0).astype(np.float32),
        turn_L=np.where(mask_L, (at_L - prompt) // 3, -1).astype(np.int32),
        turns=(),
        answer=None,
        stop="answered" if valid else "fault",
        valid=valid,
    )


def grades_of(groups):
    """The reward of an episode is its place in [Q, G], so that it can be recognised."""
    samples = max((len(group) for group in groups), default=1)
    valid_QG = np.zeros((len(groups), samples), bool)
    for q, group in enumerate(groups):
        valid_QG[q, : len(group)] = [one.valid for one in group]
    return records.grades(np.arange(valid_QG.size, dtype=float).reshape(valid_QG.shape), valid_QG)


def groups_of(lengths_by_group, **settings):
    groups, first_id = [], 1
    for q, lengths in enumerate(lengths_by_group):
        group = []
        for g, tokens in enumerate(lengths):
            group.append(episode(tokens, first_id=first_id, sample=g, name=f"q{q}", **settings))
            first_id += tokens
        groups.append(group)
    return groups


def trained_tokens(batch):
    """Read as the learner reads: (grade index, predecessor id, id, log-probability, turn) of each trained token."""
    found = []
    for m, e, l in zip(*np.nonzero(batch.mask_MEL)):  # noqa: E741
        at = batch.source_MEL[m, e, l]
        predecessor, target = batch.ids_MRC[m].reshape(-1)[at], batch.target_MRC[m].reshape(-1)[at]
        logp, turn = batch.rollout_logp_MEL[m, e, l], batch.turn_MEL[m, e, l]
        found.append((int(batch.episode_ME[m, e]), int(predecessor), int(target), float(logp), int(turn)))
    return Counter(found)


def sampled_tokens(groups, samples):
    found = []
    for q, group in enumerate(groups):
        for g, one in enumerate(group):
            for at in np.flatnonzero(one.mask_L) if one.valid else ():
                ids = int(one.ids_L[at - 1]), int(one.ids_L[at])
                found.append((q * samples + g, *ids, float(one.logp_L[at]), int(one.turn_L[at])))
    return Counter(found)


def test_pack_by_hand():
    """Lengths 3, 4, 2, 5 in rows of 6: 5 | 4 + 2 | 3, dealt to micro-batches of two rows."""
    groups = groups_of([[3, 4], [2, 5]])
    batch = pack(groups, grades_of(groups), rows=2, row_tokens=6, per_row=2, queries=3, samples=2)
    assert batch.ids_MRC.tolist() == [
        [[10, 11, 12, 13, 14, 0], [4, 5, 6, 7, 8, 9]],
        [[1, 2, 3, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[0] * 6, [0] * 6],
    ]
    assert batch.position_MRC[0, 1].tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.segment_MRC[0].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 2, 2]]
    assert batch.target_MRC[0].tolist() == [[11, 12, 13, 14, 0, 0], [5, 6, 7, 0, 9, 0]]
    assert batch.episode_ME.tolist() == [[3, -1, 1, 2], [0, -1, -1, -1], [-1] * 4]
    assert batch.source_MEL[0].tolist() == [[0, 0, 1, 2, 3, 0], [0] * 6, [0, 6, 7, 8, 0, 0], [0, 10, 0, 0, 0, 0]]
    assert batch.mask_MEL[0].tolist()[0] == [False, True, True, False, True, False]
    assert batch.turn_MEL[0].tolist()[0] == [-1, 0, 0, -1, 1, -1]
    assert batch.rollout_logp_MEL[0].tolist()[0] == [0, -1.5, -2.5, 0, -4.5, 0]
    assert batch.used_M.tolist() == [True, True, False]
    assert batch.grades.valid_QG.tolist() == [[True, True], [True, True], [False, False]]
    assert packing_efficiency(batch) == 14 / 24  # the empty row of the second micro-batch is computed too


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 24), min_size=0, max_size=4), max_size=5),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_each_sampled_token_appears_once_with_all_that_belongs_to_it(lengths, rows, per_row, seed):
    generator = np.random.Generator(np.random.Philox(seed))
    groups = groups_of(lengths)
    groups = [[one if generator.random() < 0.9 else episode(5, valid=False) for one in group] for group in groups]
    grades = grades_of(groups)
    sizes = dict(rows=rows, row_tokens=24, per_row=per_row, queries=6, samples=4)
    batch = pack(groups, grades, **sizes)
    assert trained_tokens(batch) == sampled_tokens(groups, samples=4)
    for m, e in zip(*np.nonzero(batch.episode_ME >= 0)):  # whole, in one row, positions from 0
        q, g = divmod(int(batch.episode_ME[m, e]), 4)
        row, segment = e // per_row, e % per_row + 1
        here = batch.segment_MRC[m, row] == segment
        assert batch.ids_MRC[m, row, here].tolist() == groups[q][g].ids_L.tolist()
        assert batch.position_MRC[m, row, here].tolist() == list(range(len(groups[q][g].ids_L)))
        assert batch.grades.reward_QG[q, g] == grades.reward_QG[q, g]
    assert not (np.diff(batch.used_M.astype(int)) > 0).any()
    np.testing.assert_array_equal(batch.used_M, (batch.segment_MRC > 0).any((1, 2)))

    order = generator.permutation(len(groups))
    shuffled = pack(
        [groups[q] for q in order], records.Grades(grades.reward_QG[order], grades.valid_QG[order]), **sizes
    )
    without_place = [Counter(key[1:] for key in trained_tokens(one).elements()) for one in (batch, shuffled)]
    assert without_place[0] == without_place[1]


def test_shapes_do_not_depend_on_the_episodes_and_nothing_compiles_anew():
    sizes = dict(rows=2, row_tokens=8, per_row=3, queries=4, samples=3)
    compiled = []
    count = jax.jit(lambda batch: compiled.append(1) or batch.mask_MEL.sum())
    for lengths in ([], [[8, 8, 8]] * 4, [[2], [3, 4]]):
        groups = groups_of(lengths)
        batch = pack(groups, grades_of(groups), drawn_tokens=7, drawn_episodes=2, **sizes)
        assert int(count(batch)) == sum(sampled_tokens(groups, 3).values())
        assert batch.ids_MRC.shape == (6, 2, 8) and batch.source_MEL.shape == (6, 6, 8)
        assert batch.drawn_tokens == 7 and batch.drawn_episodes == 2
    assert len(compiled) == 1


def test_an_empty_batch_is_all_padding():
    batch = pack([], records.grades(np.zeros((0, 2)), np.zeros((0, 2))), rows=2, row_tokens=8, queries=4, samples=2)
    assert not batch.used_M.any() and not batch.mask_MEL.any() and (batch.episode_ME == -1).all()
    assert not batch.grades.valid_QG.any() and packing_efficiency(batch) == 0


@pytest.mark.thorough
def test_one_episode_a_row_is_the_padded_layout_with_the_same_tokens_and_weights():
    groups = groups_of([[2, 7], [5, 2], [8, 8]])  # 32 tokens: two full rows
    packed = pack(groups, grades_of(groups), rows=2, row_tokens=16, queries=3, samples=2)
    padded = pack(groups, grades_of(groups), rows=2, row_tokens=16, per_row=1, queries=3, samples=2)
    assert trained_tokens(packed) == trained_tokens(padded)
    assert set(padded.segment_MRC.reshape(-1).tolist()) == {0, 1} and padded.used_M.all()
    assert packed.used_M.tolist() == [True, False, False]
    for mode in ("token_mean", "sequence_mean", "fixed_length"):
        weights = [
            np.asarray(token_weights(jax.numpy.array(batch.mask_MEL), mode=mode, horizon_tokens=16))
            for batch in (packed, padded)
        ]
        np.testing.assert_array_equal(*[np.sort(weight[weight > 0]) for weight in weights])


def test_episodes_taken_out_of_the_loss_keep_their_grades():
    groups = groups_of([[4, 6]])
    settings = dict(rows=1, row_tokens=10, queries=1, samples=2)
    batch = pack(groups, grades_of(groups), drop_loss=[[True, False]], **settings)
    assert batch.grades.valid_QG.all()
    assert {key[0] for key in trained_tokens(batch)} == {1}


def test_an_episode_without_a_sampled_token_takes_no_room():
    groups = [[episode(4, prompt=4), episode(3)]]
    batch = pack(groups, grades_of(groups), rows=1, row_tokens=4, queries=1, samples=2)
    assert batch.episode_ME.max(1).tolist() == [1, -1] and batch.grades.valid_QG.all()


def test_turn_rewards_and_outcomes_are_padded_with_the_groups():
    groups = groups_of([[3, 3]])
    grades = records.grades([[1, 0]], [[True, True]], [[1, 0]], [[[1, 0, 0], [0, 0, 0]]])
    batch = pack(groups, grades, rows=1, row_tokens=6, queries=2, samples=3)
    assert batch.grades.outcome_QG.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert batch.grades.turn_reward_QGT.shape == (2, 3, 3)


def test_longer_rows_hold_more_episodes():
    """Twelve episodes of 300 tokens: eight are all that a short row may hold, a row of 4,096 takes all twelve."""
    groups = groups_of([[300] * 4] * 3)
    batch = pack(groups, grades_of(groups), rows=1, row_tokens=4096, queries=3, samples=4)
    assert (batch.episode_ME >= 0).sum(-1).tolist()[0] == 12
    batch = pack(groups_of([[4] * 4] * 3), grades_of(groups), rows=1, row_tokens=256, queries=3, samples=4)
    assert (batch.episode_ME >= 0).sum(-1).tolist()[:2] == [8, 4]


def test_rows_are_filled_longest_first():
    """Lengths 6, 5, 5, 4, 3, 3, 2, 2 fill three rows of ten; from the shortest up they would take four."""
    groups = groups_of([[2, 2, 3, 3], [4, 5, 5, 6]])
    batch = pack(groups, grades_of(groups), rows=1, row_tokens=10, queries=2, samples=4)
    assert packing_efficiency(batch) == 1 and int(batch.used_M.sum()) == 3


def branched(lengths_by_group):
    """Groups of episodes whose ids are drawn from two, so that many begin alike."""
    groups = groups_of(lengths_by_group)
    rng = np.random.default_rng(sum(map(sum, lengths_by_group)))
    return [
        [replace(one, ids_L=rng.integers(1, 3, len(one.ids_L)).astype(np.int32)) for one in group] for group in groups
    ]


@given(st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(9, 30))
@settings(max_examples=60, deadline=None)
def test_in_trees_every_token_sees_what_it_sees_in_its_episode_and_no_column_is_there_twice(lengths, row_tokens):
    groups = branched(lengths)
    sizes = dict(rows=2, queries=len(groups), samples=4)
    batch = pack(groups, grades_of(groups), row_tokens=row_tokens, share=True, **sizes)
    assert trained_tokens(batch) == sampled_tokens(groups, 4)
    assert (batch.segment_MRC > 0).sum() <= sum(map(sum, lengths))
    at_C = np.arange(row_tokens)
    for m, e in zip(*np.nonzero(batch.episode_ME >= 0), strict=True):
        one = groups[batch.episode_ME[m, e] // 4][batch.episode_ME[m, e] % 4]
        row, columns = divmod(batch.source_MEL[m, e, 1 : len(one.ids_L)], row_tokens)
        assert len(set(row)) == 1
        ids_C, last_C = batch.ids_MRC[m, row[0]], batch.last_MRC[m, row[0]]
        for depth, column in enumerate(columns):
            seen = at_C[(at_C <= column) & (column <= last_C)]
            assert ids_C[seen].tolist() == one.ids_L[: depth + 1].tolist()
            assert batch.position_MRC[m, row[0], seen].tolist() == list(range(depth + 1))
    for m, r in zip(*np.nonzero((batch.segment_MRC > 0).any(-1)), strict=True):  # one column for one way from a root
        used = np.flatnonzero(batch.segment_MRC[m, r])
        ways = [tuple(batch.ids_MRC[m, r][at_C[(at_C <= at) & (at <= batch.last_MRC[m, r])]]) for at in used]
        ways = [
            (batch.segment_MRC[m, r, at], way, batch.target_MRC[m, r, at]) for at, way in zip(used, ways, strict=True)
        ]
        assert len(set(ways)) == len(ways)


def test_a_tree_by_hand():
    """5 6 7 8 and 5 6 9: behind 5 both go on with 6; 6 predicts 7 in one and 9 in the other, so each has its own."""
    groups = groups_of([[4, 3]])
    for one, ids in zip(groups[0], ([5, 6, 7, 8], [5, 6, 9]), strict=True):
        one.ids_L[:] = ids
    batch = pack(groups, grades_of(groups), rows=1, row_tokens=8, queries=1, samples=2, share=True)
    assert batch.ids_MRC[0, 0].tolist() == [5, 6, 7, 8, 6, 9, 0, 0]
    assert batch.position_MRC[0, 0].tolist() == [0, 1, 2, 3, 1, 2, 0, 0]
    assert batch.target_MRC[0, 0].tolist() == [6, 7, 8, 0, 9, 0, 0, 0]
    assert batch.last_MRC[0, 0].tolist() == [5, 3, 3, 3, 5, 5, -1, -1]
    assert batch.source_MEL[0, :2, 1:4].tolist() == [[0, 1, 2], [0, 4, 0]] and not batch.used_M[1:].any()
