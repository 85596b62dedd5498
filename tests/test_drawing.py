"""Which queries a round rolls out: new ones, none drawn before, and further samples as far as a group may grow."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qr_jax.config import Config
from qr_jax.pool import pool
from qr_jax.records import Ask, grades
from qr_jax.step import grading, rollout_and_grade
from qr_jax.step.runtime import Drawing, RunState


def drawing_with(settings=None, **room):
    room = {"max_rounds": None, "max_groups": 32, "max_samples": 6} | room
    return SimpleNamespace(settings=settings or Config(), drawing=Drawing(None, None, "chance", **room))


PARTS = drawing_with()


def group(index, samples=4):
    spent = replace(grading.spent(()), episodes=samples)
    ones = np.ones((1, samples))
    return grading.Group(index, 0, (), grades(ones, ones > 0, ones), spent)


def test_a_round_draws_new_queries_and_adds_samples_to_those_it_asks_for():
    progress = RunState(pool.create(5))
    groups = [group(1), group(3)]
    drawn = rollout_and_grade.draw(PARTS, progress, Ask(9, {3: 2}), groups, step=0, number=1)
    assert sorted(drawn) == [0, 2, 3, 4] and drawn[3] == 2  # 1 and 3 are not drawn again
    assert all(drawn[index] == PARTS.settings.pool.samples for index in (0, 2, 4))
    assert list(drawn)[-1] == 3 and rollout_and_grade.draw(
        PARTS, progress, Ask(0, {1: 1}), groups, step=0, number=1
    ) == {1: 1}


def test_a_group_that_would_outgrow_its_rounds_constant_is_refused():
    with pytest.raises(
        ValueError, match=r"'once' asked for 3 more samples of query 3, which has 4; .* Write MAX_GROUP_SIZE = 7 in"
    ):
        rollout_and_grade.draw(PARTS, RunState(pool.create(5)), Ask(0, {3: 3}), [group(3)], step=0, number=1)


def test_more_rounds_than_the_file_declares_are_refused():
    once = drawing_with(max_rounds=1)
    with pytest.raises(ValueError, match=r"'once' asked for round 2, and its file has MAX_ROUNDS = 1"):
        rollout_and_grade.draw(once, RunState(pool.create(5)), Ask(2), [group(1)], step=0, number=1)


def test_rounds_that_may_never_end_are_told_once_a_step(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(rollout_and_grade, "draw", lambda *args: {1: 4})
    monkeypatch.setattr(rollout_and_grade, "roll_out", lambda *args: ({}, rollout_and_grade.Statistics()))
    monkeypatch.setattr(rollout_and_grade, "graded", lambda *args: [group(1)])
    for asked, times in ((24, 0), (60, 1)):
        parts = drawing_with()
        parts.run = SimpleNamespace(say=said.append)
        parts.drawing = replace(
            parts.drawing, rounds=lambda _, so_far, asked=asked: Ask(1) if len(so_far) < asked else None
        )
        rollout_and_grade.collect(parts, None, RunState(pool.create(5)), 6)
        assert len(said) == times
    assert said[0].startswith("step 7: rounds 'once' has asked for 25 rounds; a step ends where it returns None")


def test_more_groups_than_a_step_has_room_for_are_refused_where_all_are_kept():
    settings = replace(Config(), learner=replace(Config().learner, keep_zero_variance=True))
    kept = drawing_with(settings, max_groups=2)
    with pytest.raises(ValueError, match=r"asked for 3 queries; with learner.keep_zero_variance a step has room for 2"):
        rollout_and_grade.draw(kept, RunState(pool.create(5)), Ask(3), [], step=0, number=0)


def test_a_pool_that_is_used_up_is_reset_or_ends_the_run():
    used_up = replace(pool.create(3), weight_P=np.zeros(3))
    assert pool.drawable(used_up, reset_below=0.0, on_exhausted="stop") is None
    assert pool.drawable(used_up, reset_below=0.0, on_exhausted="reset").weight_P.tolist() == [1, 1, 1]
    half = replace(pool.create(4), weight_P=np.array([1.0, 0, 0, 0]))
    assert pool.drawable(half, reset_below=0.5, on_exhausted="stop").epoch == 1


def test_the_groups_as_the_pool_sees_them():
    groups = [group(4), group(1, samples=2)]
    outcome = rollout_and_grade.judged(PARTS, RunState(pool.create(5)), groups, step=3)
    assert outcome.drawn_Q.tolist() == [4, 1] and outcome.verdict_Q.tolist() == ["easy", "easy"] and outcome.step == 3
    assert outcome.grades.valid_QG.sum(axis=1).tolist() == [4, 2]
