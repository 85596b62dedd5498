"""Pruning: who may be left out, by hand; and no gradient is moved on average."""

import itertools

import jax
import numpy as np
import pytest
from test_learner import build, gradient, groups

from qr_jax.learner.pack import pack
from qr_jax.methods import prune
from qr_jax.records import grades


def test_only_what_lies_near_its_group_s_mean_is_left_out():
    """Distances .75, .25, .25, .25 and .5 four times: their mean is .4375, so three may go; a fault never counts."""
    valid_QG = np.ones((3, 4))
    valid_QG[2] = [1, 1, 0, 0]
    graded = grades([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], valid_QG)  # the third: .5 and .5
    every = np.array([prune.weights(graded, 0.5, 3, step) for step in range(400)])
    small_QG = np.zeros((3, 4), bool)
    small_QG[0, 1:] = True
    assert (every[:, ~small_QG] == 1).all() and set(every[:, small_QG].flat) == {0, 2}
    np.testing.assert_allclose(every.mean(axis=0), 1, atol=0.2)  # 400 draws of 0 or 2: a standard error of .05
    np.testing.assert_array_equal(prune.weights(graded, 0.5, 3, 7), every[7])  # a function of seed and step


def test_equal_distances_are_not_small():
    assert (prune.weights(grades([[1, 0], [1, 0], [0.3, 0]], np.ones((3, 2))), 0.9, 0, 0)[:2] == 1).all()
    assert (prune.weights(grades([[0.1, 0.4], [0.4, 0.1]], np.ones((2, 2))), 0.9, 0, 0) == 1).all()


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean"])
def test_the_expected_gradient_of_pruned_batches_is_that_of_the_whole_batch(mode):
    """Two of 24 episodes are left out with a chance of 1/4 each: all four cases, weighed by how likely they are."""
    bound, state = build(reduce=mode)
    episodes, graded = groups()
    shape = {"rows": 8, "row_tokens": 48, "per_row": 8, "queries": 8, "samples": 4}
    whole = gradient(bound, state, pack(episodes, graded, **shape))
    expected, loss = None, 0.0
    for first, second in itertools.product((0.0, 4 / 3), repeat=2):
        weight_QG = np.ones((6, 4), np.float32)
        weight_QG[0, 1], weight_QG[3, 2] = first, second
        pruned = pack(episodes, graded, **shape, weight_QG=weight_QG)
        assert int(pruned.beside_episodes) == (first == 0) + (second == 0)
        value, part = gradient(bound, state, pruned)
        chance = (3 / 4 if first else 1 / 4) * (3 / 4 if second else 1 / 4)
        part, loss = jax.tree.map(lambda leaf, chance=chance: leaf * chance, part), loss + chance * value
        expected = part if expected is None else jax.tree.map(np.add, expected, part)
    assert loss == pytest.approx(whole[0], abs=1e-6)
    for mean, wanted in zip(jax.tree.leaves(expected), jax.tree.leaves(whole[1]), strict=True):
        assert np.linalg.norm(mean - wanted) <= 1e-5 * max(np.linalg.norm(wanted), 1e-6)
