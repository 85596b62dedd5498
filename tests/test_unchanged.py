"""A run's questions are compared whole: a column of one's own that a reward reads counts too."""

import pytest

from qr_jax.data import unchanged
from qr_jax.records import Query

BEGAN = Query("a", "Where?", ("Oslo",), (), {"hops": 2, "supporting": ["p1"], "own": {"weight": 1}})


def data(**meta):
    return {"data.train": unchanged.of_questions([Query("a", "Where?", ("Oslo",), (), {**BEGAN.meta, **meta})])}


@pytest.mark.parametrize("meta", [{"supporting": ["p2"]}, {"own": {"weight": 2}}, {"new": None}])
def test_a_column_that_a_reward_may_read_is_part_of_a_question(meta):
    """Dataset, kind, type and hops alone were compared, and gold passages changed unnoticed."""
    host = {unchanged.KEPT: unchanged.kept(data())}
    unchanged.check(host, data())
    with pytest.raises(ValueError, match="data.train is not what the run began with: other columns differ in 1 of 1"):
        unchanged.check(host, data(**meta))


def test_hops_are_a_part_of_their_own():
    with pytest.raises(ValueError, match="entities or groups differ in 1 of 1"):
        unchanged.check({unchanged.KEPT: unchanged.kept(data())}, data(hops=3))
