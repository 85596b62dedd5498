"""The gradient of a batch does not depend on the order of its groups, nor on dead groups that were left out of it."""

import jax
import numpy as np
import pytest
from test_learner import assert_close, build, gradient, groups

from qr_jax.learner.pack import pack
from qr_jax.records import grades

SHAPE = {"rows": 8, "row_tokens": 48, "per_row": 8, "queries": 8, "samples": 4}


@pytest.fixture(scope="module")
def learner():
    return build()


def test_the_order_of_groups_and_the_dead_ones_left_out_change_no_gradient(learner):
    """Over accepted groups: 9 dead episodes of 200 sampled tokens leave no trace in the denominator."""
    episodes, graded = groups()
    reference = gradient(*learner, pack(episodes, graded, **SHAPE))
    order = [4, 0, 5, 2, 1, 3]
    turned = grades(graded.reward_QG[order], graded.valid_QG[order])
    assert_close(gradient(*learner, pack([episodes[q] for q in order], turned, **SHAPE)), reference)
    left_out = pack(episodes, graded, **SHAPE, drawn_tokens=200, drawn_episodes=9)
    assert_close(gradient(*learner, left_out), reference)


def test_a_dead_group_in_the_batch_changes_the_gradient_by_the_denominator_alone(learner):
    """With `keep_zero_variance` it counts as tokens: the gradient is the live groups' times live / all tokens."""
    episodes, graded = groups()
    live, reward_QG = grades(graded.reward_QG[:5], graded.valid_QG[:5]), graded.reward_QG.copy()
    reward_QG[5] = 0.1
    alone = gradient(*learner, pack(episodes[:5], live, **SHAPE))
    both = gradient(*learner, pack(episodes, grades(reward_QG, graded.valid_QG), **SHAPE))
    tokens = [sum(int(one.mask_L.sum()) for one in group) for group in episodes]
    share = sum(tokens[:5]) / sum(tokens)
    assert both[0] == pytest.approx(alone[0] * share, abs=1e-6)  # terms of size 1 that nearly cancel
    for a, b in zip(jax.tree.leaves(both[1]), jax.tree.leaves(alone[1]), strict=True):
        assert np.linalg.norm(a - b * share) <= 1e-5 * np.linalg.norm(b)
