"""DUPO's copies: who is copied, by hand; and weights give the gradient of the batch with the copies in it."""

import jax
import numpy as np
import pytest
from test_learner import assert_close, build, gradient, groups

from qr_jax.learner.pack import pack
from qr_jax.methods import fill
from qr_jax.pool.noise import uniforms
from qr_jax.records import grades


def test_each_empty_place_repeats_a_group_by_chance():
    drawn = np.floor(3 * uniforms(5, fill.FILL, 7, 2))  # one of three for each of five places
    assert fill.copies(3, 8, 7, 2).tolist() == [1 + np.count_nonzero(drawn == group) for group in range(3)]
    every = np.array([fill.copies(3, 8, 7, step) for step in range(600)])
    assert (every >= 1).all() and (every.sum(axis=1) == 8).all() and len(np.unique(every, axis=0)) > 10
    np.testing.assert_allclose(every.mean(axis=0), 8 / 3, atol=0.2)  # a standard error of .04: all are as likely


@pytest.mark.parametrize(("groups", "places", "copies"), [(4, 4, [1] * 4), (5, 4, [1] * 5), (1, 4, [4]), (0, 4, [])])
def test_a_full_batch_has_no_copies_and_an_empty_one_nothing_to_copy(groups, places, copies):
    assert fill.copies(groups, places, 0, 0).tolist() == copies


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "fixed_length"])
def test_weights_give_the_gradient_of_the_batch_with_the_copies_in_it(mode):
    """Groups 0, 1 and 2 stand there 3 times, once and twice; an episode of the second was over-long."""
    bound, state = build(reduce=mode, over="drawn", kl_weight=0.1, entropy_weight=0.1)
    moved = jax.tree.map(lambda leaf: leaf + 0.01, state.params)  # away from the reference, or the KL has no gradient
    state = state.__class__(**{**vars(state), "params": moved})
    (episodes, graded), copies_Q = groups(queries=3), np.array([3, 1, 2])
    drop = [[False] * 4, [False, True, False, False], [False] * 4]
    shape = {"rows": 8, "row_tokens": 48, "queries": 8, "samples": 4, "drawn_tokens": 50, "drawn_episodes": 2}
    weighed = pack(episodes, graded, **shape, drop_loss=drop, copies_Q=copies_Q)
    at = np.repeat(np.arange(3), copies_Q)
    literal = pack(
        [episodes[q] for q in at], grades(graded.reward_QG[at], graded.valid_QG[at]), **shape,
        drop_loss=[drop[q] for q in at],
    )  # fmt: skip
    assert int(weighed.beside_episodes) == 4 * 2 + 4 and int(literal.beside_episodes) == 0
    assert_close(gradient(bound, state, weighed), gradient(bound, state, literal))
    plain = gradient(bound, state, pack(episodes, graded, **shape, drop_loss=drop))
    assert plain[0] != pytest.approx(gradient(bound, state, literal)[0], rel=1e-2)
