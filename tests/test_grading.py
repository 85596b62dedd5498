"""A query's episodes are graded once; what comes of it, and of what could not be graded, by hand."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from qr_jax import plugins
from qr_jax.config import Config
from qr_jax.interfaces import check_reward
from qr_jax.pool import pool
from qr_jax.records import Episode, Grades, Query, Scores
from qr_jax.rollout.engine import Statistics
from qr_jax.settings.settings import use
from qr_jax.step import grading
from qr_jax.step.rollout_and_grade import check_graded
from qr_jax.step.runtime import Drawing, Grading, RunState, Runtime, advanced, costs, from_host

QUERY = Query("q", "Where?", ("here",))


def episode(sample: int, *, answer: str | None = None, valid: bool = True, turns: int = 1) -> Episode:
    """A prompt of one token, then two tokens a turn."""
    turn_L = np.concatenate([[-1], np.repeat(np.arange(turns), 2)])
    mask_L, ids_L = turn_L >= 0, np.arange(len(turn_L), dtype=np.int32)
    fault = None if valid else "the retriever is down"
    stop = "answered" if valid else "fault"
    return Episode(QUERY, sample, 0, ids_L, mask_L, -1.0 * mask_L, turn_L, (), answer, stop, valid, fault)


def graded(scores, episodes, *, index=0):
    return grading.grade(lambda query, group: check_reward(scores, query, group), "mine", index, 0, QUERY, episodes)


def test_a_score_that_is_no_finite_number_is_a_fault_and_never_a_zero():
    group = graded(np.array([np.nan, 1, 0, 1]), [episode(g) for g in range(4)])
    assert group.grades.valid_QG.tolist() == [[False, True, True, True]]
    assert [one.valid for one in group.episodes] == [False, True, True, True]
    assert group.episodes[0].fault == "reward 'mine' gave nan for sample 0 of query 'q'" == group.spent.fault
    assert (group.spent.invalid, group.spent.ungraded, group.spent.valid_tokens) == (1, 1, 6)
    for value in (np.inf, -np.inf, 1e39):
        assert not graded(np.array([value, 0.0]), [episode(0), episode(1)]).grades.valid_QG[0, 0]


def test_a_fault_of_the_rollout_keeps_its_own_reason():
    group = graded(np.array([1.0, 0.0]), [episode(0, valid=False), episode(1)])
    assert group.grades.valid_QG.tolist() == [[False, True]] and group.grades.reward_QG[0, 0] == 0
    assert group.spent.fault == "the retriever is down" and group.spent.ungraded == 0


def test_a_group_that_grows_is_graded_anew_with_the_episodes_that_had_no_grade():
    """A judge that is down in two rounds left 8 of 8 ungraded, and one that is back in the second leaves none."""
    first = graded(np.full(4, np.nan), [episode(g, answer="here") for g in range(4)])
    grown = [*grading.before_grading(first), *(episode(g, answer="here") for g in range(4, 8))]
    assert graded(np.full(8, np.nan), grown).spent.ungraded == 8
    again = graded(np.ones(8), grown)
    assert again.spent.ungraded == 0 and again.grades.valid_QG.all()


def test_the_reward_says_what_is_correct_or_else_exact_match_does():
    group = [episode(0, answer="here"), episode(1, answer="there")]
    assert graded(np.array([0.2, 0.7]), group).grades.outcome_QG.tolist() == [[1, 0]]
    assert graded(Scores([0.2, 0.7], outcome_G=[0, 1]), group).grades.outcome_QG.tolist() == [[0, 1]]


def test_ragged_turn_rewards_are_padded_and_masked():
    group = graded(Scores([1, 0], turn_GT=[[0.5], [0.1, 0.2, 0.3]]), [episode(0), episode(1, turns=3)])
    grades = grading.joined([group], 3)
    assert grades.turn_reward_QGT.shape == (1, 3, 8)
    assert grades.turn_valid_QGT.sum(axis=2).tolist() == [[1, 3, 0]]
    np.testing.assert_allclose(grades.turn_reward_QGT[0, 1, :4], [0.1, 0.2, 0.3, 0])
    many = graded(Scores([1], turn_GT=[np.arange(9)]), [episode(0, turns=9)])
    assert grading.joined([group, many], 2).turn_reward_QGT.shape == (2, 2, 16)
    assert grading.joined([], 2, turns=4).turn_reward_QGT.shape == (0, 2, 4)
    assert grading.joined([graded(np.zeros(1), [episode(0)])], 2).turn_reward_QGT is None
    assert not graded(Scores([1], turn_GT=[[np.nan]]), [episode(0)]).grades.valid_QG.any()
    assert "gave a turn reward of nan for" in str(graded(Scores([1], turn_GT=[[np.nan]]), [episode(0)]).spent.fault)
    assert "gave an outcome of nan for" in str(graded(Scores([1], [np.nan]), [episode(0)]).spent.fault)
    lost = graded(Scores([np.nan, 1], turn_GT=[[0.5], [0.7]]), [episode(0), episode(1)]).grades
    assert lost.turn_valid_QGT.tolist() == [[[False], [True]]] and lost.turn_reward_QGT[0, 0, 0] == 0


def test_groups_of_different_sizes_are_joined_as_wide_as_the_widest():
    three, one = graded(np.array([1, 0, 1]), [episode(g) for g in range(3)]), graded(np.array([1]), [episode(0)])
    grades = grading.joined([three, one], 2)
    assert grades.reward_QG.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert grades.valid_QG.tolist() == [[True] * 3, [True, False, False]]


def test_a_group_survives_a_checkpoint_whole():
    group = graded(Scores([1, np.nan], turn_GT=[[0.5], [0.1, 0.2]]), [episode(0), episode(1, turns=2)], index=7)
    progress = RunState(pool.create(9), waiting=(group,), left_out=(3, 1), rollouts=2)
    (back,) = from_host(progress.to_host()).waiting
    assert (back.index, back.process, back.spent) == (7, 0, group.spent)
    for field in fields(Grades):
        np.testing.assert_array_equal(getattr(back.grades, field.name), getattr(group.grades, field.name))
    assert [one.valid for one in back.episodes] == [True, False]
    assert group.to_plain(episodes=False)["episodes"] == []


def test_what_is_drawn_and_not_kept_is_left_out_of_the_next_batch():
    kept = graded(np.array([1, 0]), [episode(0), episode(1)], index=0)
    left = graded(np.array([1, 1, np.nan]), [episode(g) for g in range(3)], index=1)
    before = RunState(pool.create(3), left_out=(10, 5), rollouts=4)
    after = advanced(before, [kept, left], [kept], Statistics(tokens=30, searches=2), np.zeros(3, int))
    assert after.waiting == (kept,) and after.left_out == (10 + 4, 5 + 2)  # two valid episodes of two tokens
    assert (after.rollouts, after.tokens, after.searches, after.cost_F.tolist()) == (9, 30, 2, [3.0])
    assert costs(np.array([5.0]), [kept], np.zeros(3, int)).tolist() == [4.0]


def test_a_batch_counts_what_was_left_out_and_does_not_train_on_what_was_cut():
    settings = replace(Config(), rollout=replace(Config().rollout, overlong="mask"))
    room = Drawing(None, None, "chance", max_rounds=None, max_groups=2, max_samples=4)
    parts = SimpleNamespace(settings=settings, drawing=room, grading=Grading(None, False, None), gold_logp=None)
    for stop, trained in (("answered", [0, 1]), ("turns", [0, 1]), ("length", [1]), ("context", [1])):
        group = graded(np.array([1, 0]), [replace(episode(0), stop=stop), episode(1)])
        packed = Runtime.batch(parts, None, [group], (40, 4), (0, 0))
        assert packed.episode_ME[packed.episode_ME >= 0].tolist() == trained
        assert packed.grades.valid_QG[0].tolist() == [True, True, False, False]
        assert (packed.drawn_tokens, packed.drawn_episodes) == (40, 4)


def test_a_reward_that_can_grade_nothing_is_said_after_the_first_step():
    lost = graded(np.array([np.nan, np.inf]), [episode(0), episode(1)])
    with pytest.raises(
        ValueError, match=r"no episode of the first step .*\(2 were tried\).* 'mine' gave nan for sample 0"
    ):
        check_graded([lost])
    check_graded([lost, graded(np.array([np.nan, 0]), [episode(0), episode(1)])])
    check_graded([graded(np.zeros(1), [episode(0, valid=False)])])  # a retriever that is down may come back


def test_a_bound_reward_is_called_once_for_a_group():
    calls = []

    def reward(query, episodes):
        calls.append(query.id)
        return plugins.bind("reward", use("exact_match"))(query, episodes)

    group = grading.grade(reward, "mine", 0, 0, QUERY, [episode(0, answer="here"), episode(1)])
    assert calls == ["q"] and group.grades.reward_QG.tolist() == [[1, 0]]
    assert replace(group, index=3).grades is group.grades
